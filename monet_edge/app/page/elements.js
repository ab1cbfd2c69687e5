// The page's elements: found, made, and a number as it stands in them. Text is set as text, never as HTML.

export const at = (id) => document.getElementById(id);

export function digits(value) {
  return value === 0 ? "0" : Math.abs(value) >= 10 ? value.toFixed(1) : value.toPrecision(3);
}

export function element(tag, text, ...children) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

export function swatch([red, green, blue]) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const box = document.createElementNS(space, "rect");
  for (const [name, value] of Object.entries({ width: 16, height: 16, "aria-hidden": true })) svg.setAttribute(name, value);
  for (const [name, value] of Object.entries({ width: 16, height: 16, rx: 4, fill: `rgb(${red},${green},${blue})` })) box.setAttribute(name, value);
  svg.append(box);
  return svg;
}
