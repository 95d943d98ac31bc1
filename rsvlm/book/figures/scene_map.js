// A scene, a layer of confidence for each text, outlines of regions, and a panel that switches them. All text is set as text,
// so that neither a query nor a file can be markup.

// A ring of pixels, [x, y] from the upper left, as places of the map, whose second axis points upwards.
const corners = (ring) => ring.map(([x, y]) => [-y, x]);

// Whether the panel and the scene have room beside each other.
const isWide = (map) => map.getSize().x > 640;

function put(parent, tag, text) {
  const made = parent.appendChild(document.createElement(tag));
  made.textContent = text;
  made.dir = "auto";
  return made;
}

function choice(parent, type, text, name) {
  const label = put(parent, "label", "");
  const input = label.appendChild(document.createElement("input"));
  input.type = type;
  input.name = name;
  label.appendChild(document.createElement("bdi")).textContent = ` ${text}`;
  return input;
}

function polygonOf(region, colour) {
  const box = document.createElement("div");
  for (const line of region.t) put(box, "div", line);
  const shape = region.p.map((polygon) => polygon.map(corners));
  return L.polygon(shape, { color: colour, weight: 2, fillOpacity: 0.05 }).bindTooltip(box, { sticky: true });
}

function drawScene(map, scene) {
  const bounds = [[-scene.h, 0], [0, scene.w]];
  L.imageOverlay(scene.image, bounds, { alt: `The scene ${scene.scene}` }).addTo(map);
  const heat = scene.texts.map((entry) => L.imageOverlay(entry.heat, bounds, { alt: `Confidence of ${entry.text}` }));
  const regions = scene.texts.map((entry) => L.layerGroup(entry.regions.map((region) => polygonOf(region, scene.colour))));

  const panel = L.control({ position: "topright" });
  const box = L.DomUtil.create("details", "rsvlm-scene");
  box.setAttribute("aria-label", "Texts and layers");
  box.open = isWide(map); // on a phone it would hide the scene
  L.DomEvent.disableClickPropagation(box);
  L.DomEvent.disableScrollPropagation(box);
  panel.onAdd = () => box;
  panel.addTo(map);

  let at = 0;
  put(box, "summary", scene.scene);
  scene.texts.forEach((entry, i) => {
    const input = choice(box, "radio", entry.text, "text");
    input.checked = i === 0;
    input.onchange = () => show(i);
    put(box, "small", entry.note);
  });
  const opacity = put(box, "label", "Opacity of confidence").appendChild(document.createElement("input"));
  Object.assign(opacity, { type: "range", min: 0, max: 100, value: 60 });
  put(box, "i", "").style.background = scene.scale;
  put(box, "small", `0 to 1; outlined from ${scene.threshold} on`);
  const outlined = choice(box, "checkbox", "Regions", "regions");
  outlined.checked = true;
  put(box, "small", scene.note);

  function show(i) {
    map.removeLayer(heat[at]).removeLayer(regions[at]);
    at = i;
    heat[at].addTo(map).setOpacity(opacity.value / 100);
    if (outlined.checked) regions[at].addTo(map);
  }
  opacity.oninput = () => heat[at].setOpacity(opacity.value / 100);
  outlined.onchange = () => show(at);

  map.setMinZoom(-8).setMaxZoom(8);
  const fit = () => map.fitBounds(bounds, { animate: false, paddingBottomRight: [isWide(map) ? box.offsetWidth + 20 : 0, 0] });
  map.on("resize", fit);
  fit();
  show(0);
}

if (typeof module === "object") module.exports = { corners, isWide, drawScene };
