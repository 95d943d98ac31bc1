// Before all else: what to do where the page was opened as a file, for from there a browser loads no modules; the answers made in advance
// stay. And where a page of the same site shows this one as a part of itself, in a frame marked data-fits, take its colours, and be as
// high as the content.
(function () {
  const root = document.getElementById("rsvlm-search");
  const top = document.documentElement;
  const framed = window.parent !== window;
  if (location.protocol === "file:") {
    const where = framed ? "the first folder of these pages, that of index.html" : "the folder of this page";
    root.dataset.state = "failed";
    root.querySelector('[data-part="status"]').textContent =
      `A browser searches only in pages that come from a web server. In ${where}, start one with “python -m http.server ` +
      "--bind 127.0.0.1”, and open the address that it prints. Below are answers made in advance.";
  }
  let frame = null;
  try {
    frame = framed ? window.frameElement : null;
  } catch {
    // a page of another site
  }
  if (!frame || !("fits" in frame.dataset)) return;
  globalThis.rsvlmShell = window.parent;
  top.dataset.framed = "";
  const outer = window.parent.document.documentElement;
  const paint = () => (top.dataset.theme = outer.dataset.theme ?? "");
  new MutationObserver(paint).observe(outer, { attributes: true, attributeFilter: ["data-theme"] });
  paint();
  new ResizeObserver(() => (frame.style.height = `${Math.ceil(root.getBoundingClientRect().height) + 8}px`)).observe(root);
})();
