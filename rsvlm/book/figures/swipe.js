// Uncovers the upper of two pictures as far as the slider below them stands. This text becomes an attribute of the slider.
function uncover(input) {
  input.previousElementSibling.lastElementChild.style.clipPath = `inset(0 0 0 ${input.value}%)`;
}

if (typeof module === "object") module.exports = { uncover };
