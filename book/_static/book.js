// A table or code block that scrolls inside itself can be reached, and so scrolled, with the keyboard, and shows that it goes on.
// Intervals of a table that is too wide for them may break over lines.
(() => {
  const fade = box => box.classList.toggle("goes-on", box.scrollLeft + box.clientWidth + 1 < box.scrollWidth);
  const reach = () => {
    for (const box of document.querySelectorAll(".bd-article :is(table, pre, .math-block > div, .cell_output .output)")) {
      box.classList.toggle("brief", box.matches("table") && [...box.querySelectorAll("td:last-child")].every(cell => cell.textContent.trim().length < 12));
      box.classList.remove("tight");
      box.classList.toggle("tight", box.matches("table") && box.scrollWidth > box.clientWidth + 1);
      if (box.scrollWidth > box.clientWidth + 1 && !box.querySelector("a[href], button, input, select, [tabindex]")) box.tabIndex = 0;
      else if (box.dataset.reach) box.removeAttribute("tabindex");
      if (!box.dataset.reach) box.addEventListener("scroll", () => fade(box), { passive: true });
      fade(box);
      box.dataset.reach = "1";
    }
  };
  addEventListener("DOMContentLoaded", reach);
  addEventListener("load", reach);
  let width = 0; // that of the text, which follows the window's where the sidebar slides
  const narrower = ([{ contentRect }]) => { if (contentRect.width !== width) { width = contentRect.width; requestAnimationFrame(reach); } };
  addEventListener("DOMContentLoaded", () => new ResizeObserver(narrower).observe(document.querySelector(".bd-article") ?? document.body));
})();
