// The values of a chart under the pointer: a line across it, names and values beside it.
const AREA = { left: 52, right: 324, top: 12, bottom: 164 }; // as charts.py lays it out

function valueAt(position, start, end, [least, most]) {
  return least + ((position - start) / (end - start)) * (most - least);
}

function shown(value) {
  return Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
}

function hovered(svg, tip, cursor, event) {
  const [xs, ys] = [svg.dataset.x, svg.dataset.y].map((text) => text.split(" ").map(Number));
  const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const rows = [];
  let at = null;
  for (const line of svg.querySelectorAll("polyline[data-name]")) {
    const points = [...line.points];
    const near = points.reduce((a, b) => (Math.abs(b.x - place.x) < Math.abs(a.x - place.x) ? b : a));
    at ??= near.x;
    const row = document.createElement("div");
    row.textContent = `${line.dataset.name} ${shown(valueAt(near.y, AREA.bottom, AREA.top, ys))}`;
    row.style.color = line.style.stroke;
    rows.push(row);
  }
  const head = document.createElement("div");
  head.textContent = Math.round(valueAt(at, AREA.left, AREA.right, xs)).toLocaleString("en");
  tip.replaceChildren(head, ...rows);
  tip.hidden = false;
  tip.classList.toggle("left", at > (AREA.left + AREA.right) / 2);
  cursor.setAttribute("d", `M${at} ${AREA.top}V${AREA.bottom}`);
}

for (const svg of document.querySelectorAll("svg[data-x]")) {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  svg.after(tip);
  const cursor = document.createElementNS(svg.namespaceURI, "path");
  cursor.setAttribute("class", "diagonal");
  svg.append(cursor);
  svg.addEventListener("pointermove", (event) => hovered(svg, tip, cursor, event));
  svg.addEventListener("pointerleave", () => {
    tip.hidden = true;
    cursor.setAttribute("d", "");
  });
}
