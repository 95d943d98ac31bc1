// A block of sliders, or of lists, that shows one of several frames. This text becomes an attribute of the block: attributes
// live in HTML that a page puts in later, and scripts do not.

// The number of the frame that belongs to the places of all sliders; the places of the last one follow each other.
function frameAt(places, counts) {
  return places.reduce((at, place, k) => at * counts[k] + place, 0);
}

function choose(block) {
  const inputs = Array.from(block.querySelectorAll("[data-names]"));
  const names = inputs.map((input) => JSON.parse(input.dataset.names));
  const at = frameAt(inputs.map((input) => Number(input.value)), names.map((all) => all.length));
  inputs.forEach((input, k) => {
    const said = input.parentElement.nextElementSibling; // a list has none: it says by itself where it stands
    if (!said) return;
    said.textContent = names[k][input.value];
    input.setAttribute("aria-valuetext", names[k][input.value]);
  });
  Array.from(block.lastElementChild.children).forEach((frame, k) => { frame.hidden = k !== at; });
}

if (typeof module === "object") module.exports = { frameAt, choose };
