// Chips in a row: the ranked ones, and those to look at next.

import { degrees, element } from "./dom.js";

export function nameOf(site, row) {
  return site.placed ? `Chip at ${degrees(...site.centre(row), site.digits)}` : `Chip ${site.key(row)}`;
}

// A strip that shows rows; elements of rows that stay are kept, so that nothing flickers
export function makeStrip(list, site, { onLike, onChoose, onLabel }) {
  const made = new Map();

  function item(row) {
    if (made.has(row)) return made.get(row);
    const name = nameOf(site, row);
    const image = element("img", { src: site.picture(row), alt: name, width: 128, height: 128, loading: "lazy", decoding: "async" });
    const like = element("button", { type: "button", className: "picture", title: `More like this: ${site.key(row)}` }, image);
    like.addEventListener("click", () => onLike(row));
    // By the keyboard alone: with a mouse the page would move under the click.
    like.addEventListener("focus", () => like.matches(":focus-visible") && onChoose(row, list));
    const rank = element("span", { className: "rank" });
    const score = element("span", { className: "score" });
    const buttons = ["yes", "no"].map((label) => {
      const button = element("button", { type: "button", className: label, textContent: label === "yes" ? "✓" : "✕", tabIndex: -1 });
      button.setAttribute("aria-label", `${label === "yes" ? "Yes" : "No"}: ${name}`);
      button.addEventListener("click", () => onLabel(row, label));
      return button;
    });
    const whole = element("li", {}, like, element("span", { className: "line" }, rank, score, ...buttons));
    whole.dataset.row = row;
    if (made.size > 2000) made.clear();
    made.set(row, whole);
    return whole;
  }

  return {
    rows: [],
    focus(row) {
      const button = this.rows.includes(row) && item(row).querySelector("button");
      if (button) button.focus({ preventScroll: true });
      return Boolean(button);
    },
    // `value` is what stands below each chip; `labels` and `chosen` mark them
    show(rows, { value, title, labels, chosen }) {
      this.rows = rows;
      const items = rows.map((row, i) => {
        const one = item(row);
        const label = labels.get(row) ?? "";
        one.className = row === chosen ? `${label} chosen` : label;
        one.querySelector(".rank").textContent = i + 1;
        one.querySelector(".score").textContent = value(row);
        one.querySelector(".score").title = title;
        one.querySelector(".picture").setAttribute("aria-current", row === chosen);
        for (const name of ["yes", "no"]) one.querySelector(`button.${name}`).setAttribute("aria-pressed", label === name);
        return one;
      });
      const same = items.length === list.children.length && items.every((one, i) => one === list.children[i]);
      if (!same) list.replaceChildren(...items);
    },
  };
}
