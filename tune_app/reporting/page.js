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

  // A page that is written again while its sweep runs comes back to where it was, with what was open.
  const left = history.state;
  if (left && left.open) {
    for (const part of document.querySelectorAll("details")) part.open = left.open.includes(part.id);
    window.scrollTo(0, left.y);
  }
  const seconds = Number(document.documentElement.dataset.reload || 0);
  function again() {
    if (document.hidden || String(window.getSelection())) return setTimeout(again, 1000);
    const open = [...document.querySelectorAll("details[open]")].map((part) => part.id);
    history.replaceState({ y: window.scrollY, open: open }, "");
    location.reload();
  }
  history.scrollRestoration = "manual";
  if (seconds) setTimeout(again, 1000 * seconds);
})();
