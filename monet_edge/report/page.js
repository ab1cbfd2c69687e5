"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const [slice, level, width, mask] = ["slice", "level", "width", "mask"].map(at);
const range = data.high - data.low;

slice.max = data.slices.length - 1;
Object.assign(level, { min: data.low, max: data.high });
Object.assign(width, { min: range / 100, max: range });

function text(value) {
  return Math.abs(value) >= 100 || range >= 200 ? value.toFixed(0) : value.toPrecision(3);
}

function show() {
  const one = data.slices[slice.value];
  at("scan").src = one.image;
  at("outline").hidden = !(mask.checked && one.outline);
  if (one.outline) at("outline").src = one.outline;
  at("slice-text").textContent = `${one.number} of ${data.count}`;
  const here = at("here");
  if (here) here.setAttribute("x", slice.value);
}

function shade() {
  const slope = range / width.value;
  const intercept = 0.5 - (slope * (level.value - data.low)) / range;
  for (const part of document.querySelectorAll("#window feComponentTransfer > *")) {
    part.setAttribute("slope", slope);
    part.setAttribute("intercept", intercept);
  }
  at("level-text").textContent = text(+level.value);
  at("width-text").textContent = text(+width.value);
}

function reset() {
  level.value = (data.window[0] + data.window[1]) / 2;
  width.value = data.window[1] - data.window[0];
  shade();
}

function move(input, step) {
  input.value = +input.value + step;
  input === slice ? show() : shade();
}

const keys = {
  ArrowRight: () => move(slice, 1), ArrowUp: () => move(slice, 1), PageUp: () => move(slice, 10),
  ArrowLeft: () => move(slice, -1), ArrowDown: () => move(slice, -1), PageDown: () => move(slice, -10),
  m: () => { mask.checked = !mask.checked; show(); },
  l: () => { slice.value = data.largest; show(); },
  "[": () => move(width, -range / 50), "]": () => move(width, range / 50),
  "-": () => move(level, -range / 50), "+": () => move(level, range / 50), "=": () => move(level, range / 50),
  r: reset,
};
addEventListener("keydown", (event) => {
  const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.type === "range" && event.key.length > 1) return; // a slider moves by its own keys
  event.preventDefault();
  action();
});
at("screen").addEventListener("wheel", (event) => {
  event.preventDefault();
  move(slice, event.deltaY < 0 ? 1 : -1);
}, { passive: false });
slice.addEventListener("input", show);
mask.addEventListener("change", show);
level.addEventListener("input", shade);
width.addEventListener("input", shade);
at("largest").addEventListener("click", keys.l);
at("reset").addEventListener("click", reset);

slice.value = data.largest;
show();
reset();
