// Footprints of chips as rectangles on the Earth. All text is set as text, so that no caption can be markup.

const WORLD = [[-90, -180], [90, 180]];

// Lines of text, one below the other.
function linesOf(texts) {
  const box = document.createElement("div");
  for (const text of texts) box.appendChild(document.createElement("div")).textContent = text;
  return box;
}

// What a colour stands for: [colour, text] each; an entry without a colour is a remark.
function legendOf(entries) {
  const box = L.DomUtil.create("div");
  box.style.cssText = "background:#000a;color:#fff;padding:5px 9px;border-radius:4px;font:12px/1.5 sans-serif";
  for (const [colour, text] of entries) {
    const line = box.appendChild(document.createElement("div"));
    const mark = line.appendChild(document.createElement("span"));
    mark.style.cssText = colour ? `display:inline-block;width:10px;height:10px;margin-right:7px;background:${colour}` : "";
    line.appendChild(document.createTextNode(text));
  }
  return box;
}

function drawFootprints(map, footprints, colours, entries) {
  L.geoJSON(footprints, {
    renderer: L.canvas(),
    style: (footprint) => ({ color: colours[footprint.properties.s], weight: 1.5, opacity: 0.9, fillOpacity: 0.15 }),
    onEachFeature(footprint, layer) {
      const box = linesOf(footprint.properties.t);
      box.style.cssText = "max-width:260px;white-space:normal";
      if (footprint.properties.t.length) layer.bindTooltip(box, { sticky: true });
    },
  }).addTo(map);
  const legend = L.control({ position: "bottomleft" });
  legend.onAdd = () => legendOf(entries);
  legend.addTo(map);
  const fit = () => map.setMinZoom(0).fitBounds(WORLD, { animate: false }).setMinZoom(map.getZoom());
  map.setMaxBounds(WORLD).on("resize", fit);
  fit();
}

if (typeof module === "object") module.exports = { linesOf, legendOf, drawFootprints };
