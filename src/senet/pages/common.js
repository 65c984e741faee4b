"use strict";
// Shared by all pages: nodes, figures as text, the tooltip #tip, and the button #theme.
const $ = (id) => document.getElementById(id);

// A node: make("p", {class: "x"}, "text", child, ...); in SVG's name space where the tag is SVG's.
const SVG = new Set(["svg", "path", "line", "text", "circle", "rect", "g", "title"]);
function make(tag, attributes = {}, ...children) {
  const node = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}
const percent = (value) => `${(100 * value).toFixed(1)}%`;
const count = (value) => value.toLocaleString("en-US");

function tip(left, top, head, rows) {
  const box = $("tip");
  box.replaceChildren(make("b", {}, head), ...rows.map(([name, value, colour]) =>
    make("div", {}, make("span", { style: colour ? `color:var(${colour})` : "" }, name), make("span", {}, value))));
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  box.style.left = `${Math.max(4, Math.min(innerWidth - width - 4, left + 14))}px`;
  box.style.top = `${top + 18 + height > innerHeight ? top - height - 12 : top + 18}px`;
}

const root = document.documentElement;
root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
$("theme").onclick = () => { root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"; };
