// What was found, in figures: legend, warnings, threshold, table, and what is saved under which name.

import { at, digits, element, swatch } from "./elements.js";

const FEW = 5; // structures; of more the rows are lower

export function showFigures(found) {
  showLegend(found);
  at("warnings").replaceChildren(
    ...found.warnings.map((warning) => Object.assign(element("p", `${warning[0].toUpperCase()}${warning.slice(1)}.`), { className: "warning" })),
  );
  showThreshold(found);
  showTable(found.labels);
}

export function inShort({ labels, legend }) {
  return legend.length > FEW ? `${legend.length} structures` : labels.map((label) => `${label.name} ${digits(label.ml)} ml`).join(", ");
}

// A row for each structure; both sides of one share it, in columns
function showLegend({ legend, labels }) {
  const sided = legend.some((row) => row.sides.length > 1), few = legend.length <= FEW;
  const ml = (label, unit) => element("strong", digits(labels[label - 1].ml) + unit);
  const row = ({ name, sides }) => {
    const swatches = element("td", "", ...sides.map(([, label]) => swatch(labels[label - 1].colour)));
    const volume = (label) => Object.assign(element("td", "", ml(label, " ml")), { colSpan: sided ? 2 : 1 });
    const volumes = sides.length > 1 ? ["left", "right"].map((side) => element("td", "", ml(sides.find(([at]) => at === side)[1], ""))) : [volume(sides[0][1])];
    return element("tr", "", swatches, element("th", name), ...volumes);
  };
  const heads = ["", "ml", "left", "right"].map((text) => element("th", text));
  at("legend").className = few ? "" : "many";
  at("legend").replaceChildren(...(sided ? [element("tr", "", ...heads)] : []), ...legend.map(row));
}

function showThreshold(found) {
  at("threshold-choice").hidden = !found.thresholds;
  if (!found.thresholds) return;
  const { low, high, own } = found.thresholds;
  Object.assign(at("threshold"), { min: logOdds(low), max: logOdds(high) });
  placeThreshold(found.threshold);
  at("own").textContent = `the model's own, ${own}`;
}

// A slider of log odds: a model's own threshold may be 0.04, where another hundredth is more than it is at 0.5
const logOdds = (probability) => Math.log(probability / (1 - probability));

// As fine as a key moves the slider: of two decimals it would never leave 0.04
export const chosenThreshold = () => Math.round(1000 / (1 + Math.exp(-at("threshold").value))) / 1000;

export function placeThreshold(probability) {
  at("threshold").value = logOdds(probability);
  nameThreshold(probability);
}

export function nameThreshold(probability) {
  const text = probability.toFixed(probability < 0.1 || probability > 0.9 ? 3 : 2);
  at("threshold-text").textContent = text;
  at("threshold").setAttribute("aria-valuetext", text);
}

const ROWS = {
  name: "label", voxels: "voxels", ml: "ml", box_first: "first voxel", box_last: "last voxel", centroid_mm: "centroid (R, A, S), mm",
  mean: "mean intensity", sd: "SD", minimum: "minimum", maximum: "maximum", touches: "reaches the scan's end",
  expected_dice: "expected Dice", expected_low: "at least", expected_high: "at most",
};

const COLUMNS = 4; // more labels would have no room: then each has a row

function showTable(labels) {
  const cell = (value) => (value === null || value.length === 0 ? "–" : Array.isArray(value) ? value.join(", ") : String(value));
  const heads = Object.values(ROWS).map((title) => element("th", title));
  const columns = [heads, ...labels.map((label) => Object.keys(ROWS).map((key) => element("td", cell(label[key]))))];
  const rows = labels.length > COLUMNS ? columns : heads.map((_, row) => columns.map((column) => column[row]));
  at("table").replaceChildren(...rows.map((cells) => element("tr", "", ...cells)));
}

// Names for the results at an address, after their scan's
export function showLinks(results, scan, endings) {
  const ending = endings.find((one) => scan.toLowerCase().endsWith(one)) ?? "";
  const stem = scan.slice(0, scan.length - ending.length);
  const kind = at("kind").value;
  const links = { "save-mask": [`mask${kind}`, kind.startsWith(".seg.") ? stem + kind : `${stem}_seg${kind}`], "save-page": ["report.html", `${stem}_report.html`], "save-table": ["table.csv", `${stem}_table.csv`] };
  for (const [id, [result, name]] of Object.entries(links)) Object.assign(at(id), { href: `${results}/${result}`, download: name });
}
