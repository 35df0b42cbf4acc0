/* Draws the plots of the page from the JSON beside them, and fits them to the paper when it is printed. */
(function () {
  "use strict";
  const CONFIG = {
    displaylogo: false,
    responsive: true,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };
  const PAPER_WIDTH = 700; // CSS pixels between the margins of an upright A4 page

  const plots = [];
  for (const script of document.querySelectorAll("script[data-plot]")) {
    const place = document.getElementById(script.dataset.plot);
    const drawn = JSON.parse(script.textContent);
    plots.push(place);
    Plotly.newPlot(place, drawn.data, drawn.layout, CONFIG);
  }

  window.addEventListener("beforeprint", function () {
    for (const place of plots) Plotly.relayout(place, { width: PAPER_WIDTH, autosize: false });
  });
  window.addEventListener("afterprint", function () {
    for (const place of plots) Plotly.relayout(place, { width: null, autosize: true });
  });
  document.documentElement.dataset.drawn = String(plots.length);
})();
