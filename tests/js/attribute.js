"use strict";
// node attribute.js CODE: runs the code of an attribute on a block of one slider at its second place, and prints the frames shown.
const fs = require("node:fs");
const vm = require("node:vm");
const { Element } = require("./fakes.js");

const input = Object.assign(new Element("input"), { value: "1", dataset: { names: '["a","b"]' } });
const row = new Element("div").append(new Element("label").append(input), new Element("b", "a"));
const frames = [0, 1].map((k) => Object.assign(new Element("div"), { hidden: k !== 0 }));
const block = new Element("div").append(row, new Element("div").append(...frames));
vm.compileFunction(fs.readFileSync(process.argv[2], "utf8")).call(block);
process.stdout.write(JSON.stringify(frames.map((frame) => frame.hidden)));
