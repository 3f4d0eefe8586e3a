const list = document.getElementById("responses"), cards = [...list.children];
const PAGE = 24; // cards at a time
let page = 0;
const value = (id) => document.getElementById(id).value;
const orders = {
  random: (a, b) => a.dataset.random - b.dataset.random,
  first: (a, b) => a.dataset.n - b.dataset.n,
  best: (a, b) => b.dataset.gain - a.dataset.gain,
  worst: (a, b) => a.dataset.gain - b.dataset.gain,
  length: (a, b) => Math.abs(b.dataset.words) - Math.abs(a.dataset.words),
};
function sort(name) {
  list.append(...cards.sort((a, b) => orders[name](a, b) || a.dataset.n - b.dataset.n));
  for (const button of document.querySelectorAll("[data-sort]"))
    button.setAttribute("aria-pressed", button.dataset.sort === name);
  turn(0);
}
function matches(card) {
  return (!value("outcome") || card.dataset.outcome === value("outcome"))
    && (!value("kind") || card.dataset.kind === value("kind"))
    && card.textContent.toLowerCase().includes(value("text").toLowerCase());
}
// Show one page of the cards that match.
function turn(to) {
  const found = cards.filter(matches);
  page = Math.max(0, Math.min(to, Math.ceil(found.length / PAGE) - 1));
  const shown = found.slice(page * PAGE, (page + 1) * PAGE);
  for (const card of cards) card.hidden = !shown.includes(card);
  const first = page * PAGE + 1;
  const range = shown.length ? `${first}–${first + shown.length - 1} of ${found.length}` : "0";
  document.getElementById("shown").textContent = range;
  document.getElementById("before").disabled = page === 0;
  document.getElementById("after").disabled = (page + 1) * PAGE >= found.length;
}
for (const button of document.querySelectorAll("[data-sort]"))
  button.addEventListener("click", () => sort(button.dataset.sort));
for (const id of ["outcome", "kind", "text"])
  document.getElementById(id).addEventListener("input", () => turn(0));
document.getElementById("before").addEventListener("click", () => turn(page - 1));
document.getElementById("after").addEventListener("click", () => turn(page + 1));
sort("random");
