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
for (const box of document.querySelectorAll(".chart")) {
  const spec = JSON.parse(document.getElementById(box.dataset.spec).textContent);
  vegaEmbed(box, spec, { actions: false, renderer: "svg", ast: true, config }).catch((error) => {
    box.textContent = `This chart cannot be drawn: ${error.message}`;
    console.error(error);
  });
}
