// Pictures of chips where they lie, outlines of landmarks over them, and a panel that tells about one chip. All text is set as
// text, so that neither a name nor a caption can be markup.

// [[south, west], [north, east]] of a chip.
const boundsOf = ({ b }) => [[b[1], b[0]], [b[3], b[2]]];

// The number of the chip that follows another, forwards or backwards; after the last comes the first.
const turned = (at, step, count) => (at + step + count) % count;

// Pixels left free at the right of a chip: those of the panel, where there is room for both.
const roomFor = (mapWidth, panelWidth) => (mapWidth > 700 ? panelWidth + 20 : 10);

function put(parent, tag, text, kind) {
  const made = parent.appendChild(document.createElement(tag));
  made.textContent = text;
  made.dir = "auto";
  if (kind) made.className = kind;
  return made;
}

function outline(landmark, colours, map) {
  const shape = {
    color: landmark.v ? colours[0] : colours[1], weight: 2, dashArray: landmark.v ? null : "4 4", fillOpacity: 0.12,
  };
  const text = document.createElement("div");
  for (const line of landmark.t) put(text, "div", line);
  L.geoJSON(landmark.g, { style: shape, pointToLayer: (_, place) => L.circleMarker(place, { radius: 5, ...shape }) })
    .bindTooltip(text, { sticky: true })
    .addTo(map);
}

function drawChips(map, chips, colours) {
  const panel = L.control({ position: "topright" });
  const box = L.DomUtil.create("div", "rsvlm-panel");
  box.dir = "ltr";
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", "The chip and its captions");
  L.DomEvent.disableClickPropagation(box);
  L.DomEvent.disableScrollPropagation(box);
  panel.onAdd = () => box;
  panel.addTo(map);

  function fit(chip) {
    const room = roomFor(map.getSize().x, box.offsetWidth);
    map.fitBounds(boundsOf(chip), { animate: false, paddingTopLeft: [10, 10], paddingBottomRight: [room, 10] });
  }

  function show(at) {
    const chip = chips[at];
    box.textContent = "";
    for (const [sign, step, name] of [["\u2039", -1, "Previous chip"], ["\u203a", 1, "Next chip"]]) {
      const button = put(box, "button", sign);
      button.setAttribute("aria-label", name);
      button.onclick = () => {
        const next = turned(at, step, chips.length);
        show(next);
        fit(chips[next]);
      };
    }
    put(box, "span", ` ${at + 1} of ${chips.length}`);
    put(box, "b", chip.k);
    put(box, "small", chip.h);
    for (const [kind, text] of chip.c) {
      put(box, "b", kind);
      put(box, "span", text);
    }
    put(box, "b", "landmarks");
    const list = box.appendChild(document.createElement("ul"));
    for (const landmark of chip.l) put(list, "li", landmark.t.join(", "), landmark.v ? "" : "off");
    put(box, "small", chip.a);
  }

  chips.forEach((chip, at) => {
    L.imageOverlay(chip.i, boundsOf(chip), { alt: `Chip ${chip.k}`, interactive: true }).on("click", () => show(at)).addTo(map);
    const frame = { color: colours[3], weight: 1, fill: false, interactive: false };
    (chip.o ? L.polygon(chip.o, frame) : L.rectangle(boundsOf(chip), frame)).addTo(map);
    for (const landmark of chip.l) if (landmark.g) outline(landmark, colours, map);
  });
  fit(chips[0]); // the panel has no width before the map has a place
  show(0);
  fit(chips[0]);
}

if (typeof module === "object") module.exports = { boundsOf, turned, roomFor, drawChips };
