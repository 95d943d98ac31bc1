// Lays the chosen map over the chosen picture. This text becomes an attribute of the form that holds them: attributes live in HTML
// that a page puts in later, and scripts do not.

// The number of a map; views follow each other, then texts, then pictures.
function mapAt(picture, text, view, counts) {
  return (picture * counts.texts + text) * counts.views + view;
}

function show(form) {
  const held = JSON.parse(form.dataset.figure);
  const place = (name) => Number((form.elements[name] || { value: 0 }).value);
  const [picture, text, view] = ["picture", "text", "view"].map(place);
  const of = (number) => held.states[mapAt(picture, text, number, held)];
  const lay = (image, state) => { image.src = `data:image/png;base64,${state.png}`; };
  const one = (name) => form.querySelector(name);
  const state = of(view);
  form.style.setProperty("--rsvlm-opacity", place("opacity") / 100);
  form.querySelectorAll(".rsvlm-stage > div").forEach((base, number) => { base.hidden = number !== picture; });
  const over = one(".rsvlm-over");
  lay(over, state);
  over.alt = state.said;
  one(".rsvlm-stage svg").setAttribute("viewBox", state.box);
  form.querySelectorAll(".rsvlm-stage path").forEach((path) => path.setAttribute("d", state.path));
  const said = one(".rsvlm-said");
  if (said.textContent !== state.said) said.textContent = state.said;
  form.querySelectorAll(".rsvlm-bar span").forEach((end, number) => { end.textContent = number ? state.high : state.low; });
  form.querySelectorAll(".rsvlm-key ul").forEach((legend, number) => { legend.hidden = number !== state.key; });
  form.querySelectorAll(".rsvlm-colours").forEach((bar) => bar.classList.toggle("rsvlm-grey", state.grey));
  form.querySelectorAll(".rsvlm-views label").forEach((label, number) => {
    lay(label.querySelector("img"), of(number));
    label.querySelector("small").textContent = of(number).short;
  });
}

if (typeof module === "object") module.exports = { mapAt, show };
