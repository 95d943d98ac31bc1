// A table or code block that scrolls inside itself can be reached, and so scrolled, with the keyboard.
(() => {
  const reach = () => {
    for (const box of document.querySelectorAll(".bd-article :is(table, pre, .math-block > div, .cell_output .output)")) {
      if (box.scrollWidth > box.clientWidth + 1 && !box.querySelector("a[href], button, input, select, [tabindex]")) box.tabIndex = 0;
      else if (box.dataset.reach) box.removeAttribute("tabindex");
      box.dataset.reach = "1";
    }
  };
  addEventListener("DOMContentLoaded", reach);
  addEventListener("load", reach);
  addEventListener("resize", reach);
})();
