const list = document.getElementById("responses"), cards = [...list.children];
const value = (id) => document.getElementById(id).value;
const orders = {
  first: (a, b) => a.dataset.n - b.dataset.n,
  best: (a, b) => b.dataset.gain - a.dataset.gain,
  worst: (a, b) => a.dataset.gain - b.dataset.gain,
  length: (a, b) => Math.abs(b.dataset.words) - Math.abs(a.dataset.words),
};
function sort(name) {
  list.append(...cards.sort((a, b) => orders[name](a, b) || a.dataset.n - b.dataset.n));
  for (const button of document.querySelectorAll("[data-sort]"))
    button.setAttribute("aria-pressed", button.dataset.sort === name);
}
function filter() {
  const text = value("text").toLowerCase();
  let shown = 0;
  for (const card of cards) {
    card.hidden = (value("outcome") && card.dataset.outcome !== value("outcome"))
      || (value("kind") && card.dataset.kind !== value("kind"))
      || !card.textContent.toLowerCase().includes(text);
    shown += !card.hidden;
  }
  document.getElementById("shown").textContent = `${shown} of ${cards.length}`;
}
for (const button of document.querySelectorAll("[data-sort]"))
  button.addEventListener("click", () => sort(button.dataset.sort));
for (const id of ["outcome", "kind", "text"])
  document.getElementById(id).addEventListener("input", filter);
sort("best");
filter();
