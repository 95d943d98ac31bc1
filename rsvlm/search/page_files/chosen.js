// The chosen chip: its picture, what is known of it, and which of its parts fit.

import { element, part } from "./dom.js";
import { drawHeat, loadHeat } from "./heat.js";
import { nameOf } from "./strip.js";

export function makeChosen(root, site) {
  const of = (name) => part(root, name);
  let shown = null; // the question and the chip of the heat that is seen
  of("opacity").addEventListener("input", (event) => (of("heat").style.opacity = event.target.value / 100));

  // Heat is of what is searched for, and not of what labels teach.
  async function showHeat({ start: direction, question }, row) {
    const wanted = site.facts.grid && direction ? { question, row } : null;
    if (wanted && shown?.row === row && shown.question === question) return;
    shown = wanted;
    of("heat").hidden = of("heat-words").hidden = true;
    const heat = wanted && (await loadHeat(site, direction, row).catch(() => null));
    if (!heat || shown !== wanted) return; // another one was chosen meanwhile
    const [low, high] = drawHeat(of("heat"), heat, site.facts.grid);
    of("sum").textContent = (heat.reduce((sum, value) => sum + value, 0) / heat.length).toFixed(3);
    of("low").textContent = low.toFixed(2);
    of("high").textContent = high.toFixed(2);
    of("heat").hidden = of("heat-words").hidden = false;
    root.dataset.heat = row;
  }

  return {
    show(row, answer) {
      of("chip").hidden = row < 0;
      if (row < 0) return;
      const { scores, probabilities, labels, order } = answer;
      const photo = of("photo");
      const address = site.window(row) ?? site.picture(row);
      if (photo.src !== address) photo.src = address;
      photo.alt = nameOf(site, row);
      of("name").textContent = nameOf(site, row);
      const rank = order.indexOf(row) + 1;
      const lines = [
        rank && scores ? `rank ${rank}` : "",
        scores ? `score ${scores[row].toFixed(3)}` : "",
        probabilities ? `confidence ${Math.round(100 * probabilities[row])} %` : "",
        site.extent(row),
        site.file(row),
        site.key(row),
      ];
      of("facts").textContent = lines.filter(Boolean).join(" · ");
      const [first, ...others] = site.captions(row);
      of("said").hidden = !first;
      of("caption").textContent = first ?? "";
      of("captions").replaceChildren(...others.map((caption) => element("li", { textContent: caption })));
      of("captions").parentElement.hidden = !others.length;
      for (const name of ["yes", "no"]) of(name).setAttribute("aria-pressed", labels.get(row) === name);
      showHeat(answer, row);
    },
  };
}
