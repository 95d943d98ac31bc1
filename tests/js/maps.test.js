"use strict";
const assert = require("node:assert/strict");
const test = require("node:test");
const { FakeMap, install } = require("./fakes.js");
const { drawFootprints, legendOf, linesOf } = require("../../rsvlm/book/figures/world_map.js");
const { boundsOf, drawChips, roomFor, turned } = require("../../rsvlm/book/figures/chips_map.js");
const { corners, drawScene, isWide } = require("../../rsvlm/book/figures/scene_map.js");

const HOSTILE = "<img src=x onerror=alert(1)>";
install();

// Text that was set as text has no elements in it.
const isText = (element, text) => element.textContent === text && element.children.length === 0;

test("footprints have the colour of their split, and their texts as text", () => {
  const map = new FakeMap(900);
  const feature = (s, t) => ({ type: "Feature", properties: { s, t }, geometry: null });
  const footprints = { type: "FeatureCollection", features: [feature("train", [HOSTILE, "b"]), feature("test", [])] };
  drawFootprints(map, footprints, { train: "#1", test: "#2" }, [["#1", "train: 1"], ["", "2 of 9 chips shown"]]);
  const [layer] = map.of("geoJSON");
  assert.deepEqual(layer.parts.map((part) => part.shape.color), ["#1", "#2"]);
  assert.ok(isText(layer.parts[0].tooltip.children[0], HOSTILE));
  assert.equal(layer.parts[1].tooltip, null);
  const [legend] = map.of("control");
  assert.deepEqual(legend.box.children.map((line) => line.textContent), ["train: 1", "2 of 9 chips shown"]);
});

test("the whole Earth fits, and cannot be made smaller", () => {
  const map = new FakeMap(900);
  drawFootprints(map, { features: [] }, {}, []);
  assert.deepEqual([map.maxBounds, map.fits[0].bounds], [[[-90, -180], [90, 180]], [[-90, -180], [90, 180]]]);
  assert.equal(map.minZoom, 3);
  map.zoom = 1;
  map.handlers.resize();
  assert.deepEqual([map.fits.length, map.minZoom], [2, 1]);
});

test("a legend marks what has a colour", () => {
  const [coloured, remark] = legendOf([["#123456", HOSTILE], ["", "b"]]).children;
  assert.match(coloured.children[0].style.cssText, /background:#123456/);
  assert.equal(remark.children[0].style.cssText, "");
  assert.ok(isText(coloured.children[1], HOSTILE));
  assert.deepEqual(linesOf(["a", "b"]).children.map((line) => line.textContent), ["a", "b"]);
});

test("chips follow each other in a ring", () => {
  assert.deepEqual([turned(0, -1, 3), turned(2, 1, 3), turned(1, 1, 3)], [2, 0, 2]);
  assert.deepEqual(boundsOf({ b: [1, 2, 3, 4] }), [[2, 1], [4, 3]]);
  assert.deepEqual([roomFor(701, 300), roomFor(700, 300)], [320, 10]);
});

const landmark = (name, visible, geometry) => ({ t: [name, "lake"], v: visible, g: geometry });
const chip = (k, l = []) => ({ k, b: [0, 0, 1, 1], h: "test", i: "data:,", c: [["short", `about ${k}`]], a: "by us", l });
const point = { type: "Point", coordinates: [0, 0] };

test("a panel tells about one chip, and its buttons go to the others", () => {
  const map = new FakeMap(900);
  drawChips(map, [chip(HOSTILE), chip("b"), chip("c")], ["#0", "#1", "#2", "#3"]);
  const { box } = map.of("control")[0];
  assert.ok(isText(box.all("b")[0], HOSTILE) && box.textContent.includes("1 of 3") && box.textContent.includes("by us"));
  box.all("button")[0].onclick();
  assert.ok(box.textContent.includes("3 of 3") && box.textContent.includes("about c"));
  box.all("button")[1].onclick();
  assert.ok(box.textContent.includes("1 of 3"));
  const fits = map.fits.length;
  map.of("imageOverlay")[1].handlers.click();
  assert.ok(box.textContent.includes("2 of 3"));
  assert.equal(map.fits.length, fits); // what is clicked is in sight
  assert.deepEqual(map.fits[fits - 1].paddingBottomRight, [320, 10]);
});

test("hidden landmarks have a broken line, and those without a place are only listed", () => {
  const map = new FakeMap(400);
  const marks = [landmark(HOSTILE, true, point), landmark("b", false, [point, point]), landmark("c", false, null)];
  drawChips(map, [chip("a", marks)], ["#0", "#1", "#2", "#3"]);
  const drawn = map.of("geoJSON");
  assert.deepEqual(drawn.map((layer) => [layer.made[1].style.color, layer.made[1].style.dashArray]), [["#0", null], ["#1", "4 4"]]);
  assert.deepEqual(drawn[0].made[1].pointToLayer(null, "place").made, ["place", { radius: 5, ...drawn[0].made[1].style }]);
  assert.ok(isText(drawn[0].tooltip.children[0], HOSTILE));
  const listed = map.of("control")[0].box.all("li");
  assert.deepEqual(listed.map((line) => [line.textContent, line.className]), [[`${HOSTILE}, lake`, undefined], ["b, lake", "off"], ["c, lake", "off"]]);
});

test("a chip that is turned has its outline, and not the box around it", () => {
  const map = new FakeMap(400);
  const ring = [[1, 0.1], [0.9, 1], [0, 0.9], [0.1, 0]];
  drawChips(map, [{ ...chip("a"), o: ring }, chip("b")], ["#0", "#1", "#2", "#3"]);
  assert.deepEqual(map.of("polygon").map((layer) => layer.made[0]), [ring]);
  assert.equal(map.of("rectangle").length, 1);
});

const region = { t: [HOSTILE], p: [[[[1, 2], [3, 2], [3, 4]]]] };
const scene = {
  scene: HOSTILE, image: "data:,", h: 10, w: 20, threshold: 0.5, colour: "#0", scale: "none", note: "here",
  texts: [{ text: HOSTILE, note: "1 region", heat: "data:,1", regions: [region] }, { text: "b", note: "", heat: "data:,2", regions: [] }],
};

test("rows of pixels go down, and places of the map up", () => {
  assert.deepEqual(corners([[1, 2], [3, 4]]), [[-2, 1], [-4, 3]]);
  assert.deepEqual([640, 641].map((width) => isWide(new FakeMap(width))), [false, true]);
});

test("one text is shown at a time, as opaque as the slider says", () => {
  const map = new FakeMap(900);
  drawScene(map, scene);
  const { box } = map.of("control")[0];
  const [first, second, slider, outlined] = box.all("input");
  const seen = () => map.of("imageOverlay").map((layer) => [layer.made[0], layer.opacity]);
  assert.deepEqual(seen(), [["data:,", 1], ["data:,1", 0.6]]);
  assert.deepEqual([first.checked, second.checked, outlined.checked], [true, false, true]);
  slider.value = 25;
  slider.oninput();
  second.onchange();
  assert.deepEqual(seen(), [["data:,", 1], ["data:,2", 0.25]]);
  first.onchange();
  assert.equal(map.of("layerGroup")[0].made[0].length, 1);
  outlined.checked = false;
  outlined.onchange();
  assert.deepEqual([seen()[1][0], map.of("layerGroup").length], ["data:,1", 0]);
});

test("names of a scene and its texts are text, and a phone sees the scene first", () => {
  const [wide, phone] = [new FakeMap(900), new FakeMap(390)];
  [wide, phone].forEach((map) => drawScene(map, scene));
  const [box, folded] = [wide, phone].map((map) => map.of("control")[0].box);
  assert.deepEqual([box.open, folded.open], [true, false]);
  assert.ok(isText(box.all("summary")[0], HOSTILE) && isText(box.all("bdi")[0], ` ${HOSTILE}`));
  const [polygon] = wide.of("layerGroup")[0].made[0];
  assert.deepEqual(polygon.made[0], [[[[-2, 1], [-2, 3], [-4, 3]]]]);
  assert.ok(isText(polygon.tooltip.children[0], HOSTILE));
  assert.deepEqual([wide, phone].map((map) => map.fits[0].paddingBottomRight[0]), [320, 0]);
});
