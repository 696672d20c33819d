"use strict";
// Draws each chart from the JSON beside it. Colors are CSS variables: light, dark and print
// are the stylesheet's business. `ast` lets Vega work without eval, which the page forbids.
const ink = "var(--ink)", soft = "var(--soft)", grid = "var(--grid)";
const font = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif";
const config = {
  background: "transparent",
  font,
  padding: 4,
  view: { stroke: null },
  title: { color: ink, anchor: "start", frame: "group", fontSize: 14, fontWeight: 600, offset: 10 },
  axis: {
    labelColor: soft, titleColor: soft, gridColor: grid, domainColor: grid, tickColor: grid,
    labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", titlePadding: 8,
  },
};

function draw(box, unit) {
  const spec = JSON.parse(document.getElementById(box.dataset.spec).textContent);
  if (unit) {
    spec.params[0].value = unit;
    for (const layer of spec.layer) layer.encoding.x.title = unit;
  }
  vegaEmbed(box, spec, { actions: false, renderer: "svg", ast: true, config }).catch((error) => {
    box.textContent = `This chart cannot be drawn: ${error.message}`;
    console.error(error);
  });
}

// The unit that the chart's section has chosen for losses; of other charts nothing.
function chosen(box) {
  if (!("units" in box.dataset)) return "";
  return box.closest("section").querySelector(".units input:checked")?.value ?? "";
}
// An element's matching parts, itself among them.
function all(within, selector) {
  return [within, ...within.querySelectorAll(selector)].filter((each) => each.matches?.(selector));
}

// A chart in a folded part has no width yet, and is drawn when the part is opened.
function drawAll(within) {
  for (const box of all(within, ".chart:empty")) {
    if (!box.closest("details:not([open])")) draw(box, chosen(box));
  }
}
// On paper nothing can be opened: all parts are, and so their charts are drawn.
window.addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
  drawAll(document);
});

// Losses against epochs, updates or seconds: the charts of the section that have a choice.
function choose(choice) {
  choice.addEventListener("change", () => {
    const charts = choice.closest("section").querySelectorAll(".chart[data-units]");
    for (const box of charts) draw(box, choice.value);
  });
}

// Tables that sort by the column that is pressed: numbers as numbers, empty cells last.
function key(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = Number.parseFloat(text);
  return Number.isNaN(number) ? text.toLowerCase() : number;
}
function compare(first, second) {
  if (first === "" || second === "") return (first === "") - (second === "");
  if (typeof first === "number" && typeof second === "number") return first - second;
  return String(first).localeCompare(String(second));
}
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
      const full = rows.filter(([value]) => value !== "");
      full.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
      const empty = rows.filter(([value]) => value === "");
      for (const [, row] of [...full, ...empty]) table.tBodies[0].append(row);
    });
  });
}

// Draw and connect a part of the page, or all of it.
function prepare(within) {
  drawAll(within);
  for (const part of all(within, "details")) {
    part.addEventListener("toggle", () => drawAll(part));
  }
  all(within, ".units input").forEach(choose);
  all(within, "table.sortable").forEach(sortable);
}
prepare(document);
