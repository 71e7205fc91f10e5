// Enough of a browser to run the script of a map, click in it, and say what it shows. Reads the page from a file.
"use strict";
const page = require("fs").readFileSync(process.argv[2], "utf-8");
const scripts = [...page.matchAll(/<script[^>]*>([^]*?)<\/script>/g)].map(found => found[1]);
const made = new Map();
class Element {
  constructor(name) { this.name = name; this.children = []; this.style = {}; this.attributes = {}; this.text = ""; this.value = ""; }
  set textContent(value) { this.text = String(value); this.children = []; }
  get textContent() { return this.text + this.children.map(each => each.textContent ?? String(each)).join(""); }
  set innerHTML(value) { throw new Error("texts must never be read as HTML: " + value); }
  append(...others) { this.children.push(...others); }
  replaceChildren(...others) { this.text = ""; this.children = others; }
  add(option) { this.children.push(option); if (!this.value) this.value = option.value; }
  setAttribute(name, value) { this.attributes[name] = value; }
  addEventListener(name, heard) { this["on" + name] = heard; }
  getBoundingClientRect() { return { width: 10, height: 10 }; }
  setPointerCapture() {}
  getContext() { return new Proxy({}, { get: (at, name) => at[name] ?? (() => undefined), set: (at, name, value) => (at[name] = value, true) }); }
}
const element = key => made.get(key) ?? made.set(key, new Element(key)).get(key);
element("data").textContent = scripts[0];
element("canvas").parentElement = { clientWidth: 800, clientHeight: 600 };
element("colour").parentElement = new Element("label");
globalThis.document = { getElementById: element, querySelector: element, createElement: name => new Element(name), body: element("body") };
globalThis.Option = class { constructor(name) { this.value = name; this.textContent = name; } };
globalThis.devicePixelRatio = 2;
globalThis.getComputedStyle = () => ({ color: "black" });
globalThis.ResizeObserver = class { constructor(heard) { this.heard = heard; } observe() { this.heard(); } };
const shown = {};
(0, eval)(scripts[1] + `
;globalThis.seen = { place, paint, count: () => colours.length };`);
shown.title = element("h1").textContent;
shown.note = element("note").textContent;
shown.colours = element("colour").children.map(each => each.value);
shown.legend = element("legend").children.map(each => each.textContent);
const [offsetX, offsetY] = seen.place(Number(process.argv[3]));
element("canvas").onpointermove({ offsetX, offsetY });
shown.tip = element("tip").textContent;
element("canvas").onpointerdown({ offsetX, offsetY, pointerId: 1 });
element("canvas").onpointerup({ offsetX, offsetY });
shown.chosen = element("found").textContent;
shown.near = element("near").children.map(each => each.textContent);
element("near").children[0].onclick();
shown.next = element("found").textContent;
element("search").oninput({ target: { value: " TEXT 1 " } });
shown.search = element("note").textContent;
element("canvas").onwheel({ preventDefault() {}, deltaY: -100, offsetX, offsetY });
element("legend").children[0].children[0].onclick();
element("whole").onclick();
element("colour").value = shown.colours.at(-1);
element("colour").onchange();
shown.recoloured = element("legend").children.map(each => each.textContent);
console.log(JSON.stringify(shown));
