"use strict";
(() => {
  const stored = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const options = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: false };
  const PRINTED_WIDTH = 640; // the page's width is not known until it is laid out, so this fits A4 and Letter
  let printing = false;

  // The figures hold the colours of the light theme; only values under a key that ends in "color" are replaced.
  const themed = (value, key) => {
    if (Array.isArray(value)) return value.map((inner) => themed(inner, key));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, themed(inner, name)]));
    }
    const isColour = typeof value === "string" && /color$/i.test(key);
    return isColour && dark.matches && !printing && Object.hasOwn(stored.dark, value) ? stored.dark[value] : value;
  };

  const draw = () => {
    for (const place of document.querySelectorAll(".plot")) {
      const figure = stored.figures[place.dataset.chart];
      const layout = themed(figure.layout, "");
      if (printing) layout.width = PRINTED_WIDTH;
      Plotly.react(place, themed(figure.data, ""), layout, options);
    }
  };

  dark.addEventListener("change", draw);
  window.addEventListener("beforeprint", () => {
    printing = true;
    draw();
  });
  window.addEventListener("afterprint", () => { printing = false; draw(); });
  draw();
})();
