"use strict";
// node drawing.js SCRIPT WIDTH: runs a script of a page on a map of that width, and prints what lies on the map.
const fs = require("node:fs");
const vm = require("node:vm");
const { FakeMap, install } = require("./fakes.js");

const [script, width] = process.argv.slice(2);
install();
const map = new FakeMap(Number(width));
// As in a browser: what the script declares is its own, and there is no `module`.
const { L, document } = globalThis;
vm.runInNewContext(fs.readFileSync(script, "utf8"), { L, document, THE_MAP: map });
const texts = map.of("control").map((control) => control.box.textContent);
process.stdout.write(JSON.stringify({ kinds: map.layers.map((layer) => layer.kind), texts }));
