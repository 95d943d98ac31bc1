"use strict";
// As much of a browser's document and of Leaflet as the scripts of the figures use; what was drawn can be read back.

class Element {
  constructor(tag, text = "") {
    Object.assign(this, { tag, children: [], parentElement: null, attributes: {}, dataset: {}, style: {}, offsetWidth: 0, text });
  }

  appendChild(child) {
    this.children.push(child);
    child.parentElement = this;
    return child;
  }

  append(...children) {
    children.forEach((child) => this.appendChild(child));
    return this;
  }

  setAttribute(name, value) { this.attributes[name] = String(value); }

  get textContent() { return this.text + this.children.map((child) => child.textContent).join(""); }

  set textContent(text) {
    this.children = [];
    this.text = String(text);
  }

  get lastElementChild() { return this.children[this.children.length - 1] ?? null; }

  beside(step) {
    const all = this.parentElement ? this.parentElement.children : [];
    return all[all.indexOf(this) + step] ?? null;
  }

  get nextElementSibling() { return this.beside(1); }

  get previousElementSibling() { return this.beside(-1); }

  all(tag) { return this.children.flatMap((child) => [...(child.tag === tag ? [child] : []), ...child.all(tag)]); }

  querySelectorAll(selector) {
    if (selector !== "[data-names]") throw new Error(`no such selector here: ${selector}`);
    return this.children.flatMap((child) => [...("names" in child.dataset ? [child] : []), ...child.querySelectorAll(selector)]);
  }
}

// A layer remembers its kind, what it was made of, and on which map it lies.
class Layer {
  constructor(kind, ...made) { Object.assign(this, { kind, made, handlers: {}, map: null, tooltip: null, opacity: 1 }); }

  addTo(map) {
    map.layers.push(this);
    this.map = map;
    if (this.onAdd) this.box = this.onAdd(map);
    return this;
  }

  bindTooltip(box) {
    this.tooltip = box;
    return this;
  }

  on(name, handler) {
    this.handlers[name] = handler;
    return this;
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    return this;
  }
}

class FakeMap {
  constructor(width) { Object.assign(this, { width, layers: [], fits: [], handlers: {}, zoom: 3 }); }

  getSize() { return { x: this.width, y: 400 }; }

  getZoom() { return this.zoom; }

  setMinZoom(zoom) {
    this.minZoom = zoom;
    return this;
  }

  setMaxZoom(zoom) {
    this.maxZoom = zoom;
    return this;
  }

  setMaxBounds(bounds) {
    this.maxBounds = bounds;
    return this;
  }

  fitBounds(bounds, options) {
    this.fits.push({ bounds, ...options });
    return this;
  }

  removeLayer(layer) {
    this.layers = this.layers.filter((other) => other !== layer);
    return this;
  }

  on(name, handler) {
    this.handlers[name] = handler;
    return this;
  }

  of(kind) { return this.layers.filter((layer) => layer.kind === kind); }
}

const leaflet = {
  canvas: () => "canvas",
  geoJSON(data, options) {
    const layer = new Layer("geoJSON", data, options);
    layer.parts = (data.features ?? []).map((feature) => {
      const part = Object.assign(new Layer("part", feature), { shape: options.style(feature) });
      options.onEachFeature?.(feature, part);
      return part;
    });
    return layer;
  },
  control: (options) => new Layer("control", options),
  DomUtil: { create: (tag, kind) => Object.assign(new Element(tag), { className: kind ?? "", offsetWidth: 300 }) },
  DomEvent: { disableClickPropagation() {}, disableScrollPropagation() {} },
};
for (const kind of ["imageOverlay", "rectangle", "polygon", "layerGroup", "circleMarker"]) {
  leaflet[kind] = (...made) => new Layer(kind, ...made);
}

// Puts both where a browser has them.
function install() {
  globalThis.document = { createElement: (tag) => new Element(tag), createTextNode: (text) => new Element("#text", text) };
  globalThis.L = leaflet;
}

module.exports = { Element, FakeMap, install };
