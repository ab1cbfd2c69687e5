// The page's flow: a scan in, a model, a mask, what is saved. All text that comes from outside is set as text, never as HTML.

import { at, digits, element } from "./elements.js";
import { chosenThreshold, inShort, nameThreshold, placeThreshold, showFigures, showLinks } from "./found.js";
import { Viewer, hasWebGl } from "./viewer.js";

const state = { models: [], scans: [], limit: Infinity, case: null, name: "", found: null };
const POLL = 200; // ms

const viewer = new Viewer(at("canvas"), { onWhere: showWhere, onWindow: showWindow });

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server has ended: start monet-edge app again.");
  }
  const isJson = answer.headers.get("content-type")?.startsWith("application/json");
  const body = isJson ? await answer.json() : await answer.text();
  if (!answer.ok) throw new Error(body.error ?? body);
  return body;
}

const post = (path, body) => ask(path, { method: "POST", body: body === undefined ? undefined : JSON.stringify(body) });

function say(text) {
  at("status").textContent = text;
}

function fail(error) {
  at("error").textContent = error ? error.message : "";
  if (error) at("error").scrollIntoView({ block: "nearest" });
}

function enter(name) {
  document.body.dataset.state = name;
  at("run").disabled = !["ready", "done"].includes(name);
  at("working").hidden = !["receiving", "working"].includes(name);
  at("stop").hidden = name !== "working";
}

// ---- a scan in

async function open(fill, name) {
  fail(null);
  await close();
  state.name = name;
  at("scan-name").textContent = name;
  at("scan-facts").textContent = "";
  at("series-choice").hidden = true;
  enter("receiving");
  try {
    state.case = (await post("cases")).case;
    await fill(`cases/${state.case}`);
    let header = await post(`cases/${state.case}/header`);
    if (header.series) header = await post(`cases/${state.case}/header?series=${await oneOf(header.series)}`);
    const spacing = header.spacing.map((mm) => +mm.toPrecision(3));
    at("scan-facts").textContent = `${header.shape.join(" × ")} voxels of ${spacing.join(" × ")} mm`;
    at("volume-choice").hidden = header.volumes === 1;
    Object.assign(at("volume"), { max: header.volumes - 1, value: 0 });
    at("kind").replaceChildren(...header.masks.map((ending) => Object.assign(element("option", ending), { value: ending })));
    enter("ready");
    say("The scan is there. Choose a model, then Segment.");
    at("run").focus({ preventScroll: true });
    await showScan();
  } catch (error) {
    if (document.body.dataset.state === "receiving") {
      await close();
      enter("empty");
    }
    fail(error);
  }
}

function oneOf(series) { // the number of the one that is chosen
  say("Choose one of the series.");
  const option = (number, text) => Object.assign(element("option", text), { value: number });
  at("series").replaceChildren(option("", "choose one"), ...series.map(({ number, text }) => option(number, text)));
  at("working").hidden = true;
  at("series-choice").hidden = false;
  at("series").focus();
  return new Promise((resolve) => {
    at("series").onchange = () => {
      at("series-choice").hidden = true;
      resolve(at("series").value);
    };
  });
}

async function showScan() {
  if (!hasWebGl()) {
    at("screen-note").textContent = "This browser has no WebGL 2, so nothing can be drawn here. Segmenting and saving work; Save page has pictures.";
    return;
  }
  at("screen-note").textContent = "loading the scan";
  await viewer.showScan(`cases/${state.case}/scan.nii?volume=${+at("volume").value}`);
  at("screen-note").textContent = "";
  choose(viewer.best);
  showWindow();
}

function send(files) {
  const taken = new Set();
  return async (base) => {
    const size = files.reduce((sum, { file }) => sum + file.size, 0);
    if (size > state.limit) throw new Error(`${(size / 1e9).toFixed(1)} GB are too much: ${(state.limit / 1e9).toFixed(1)} GB are taken.`);
    let sent = 0;
    for (const { file } of files) {
      let name = file.name.replace(/[\\/:*?"<>|\p{C}]/gu, "_").replace(/^[.\s]+|\s+$/g, "_").slice(-60); // what every system takes
      while (taken.has(name)) name = `${taken.size}_${name}`; // of one name in several folders
      taken.add(name);
      progress("receiving", sent, size);
      await ask(`${base}/files?name=${encodeURIComponent(name)}`, { method: "POST", body: file });
      sent += file.size;
    }
  };
}

function take(files) {
  const seen = files.filter(({ file }) => !file.name.startsWith("."));
  if (!seen.length) return;
  const scan = seen.find(({ file }) => state.scans.some((ending) => file.name.toLowerCase().endsWith(ending))) ?? seen[0];
  open(send(seen), seen.length > 1 && scan.folder ? scan.folder : scan.file.name);
}

async function dropped(items) {
  const entries = [...items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  const files = [];
  async function walk(entry, folder) {
    if (entry.isFile) {
      files.push({ file: await new Promise((done, failed) => entry.file(done, failed)), folder });
      return;
    }
    const reader = entry.createReader();
    for (;;) { // a reader gives a hundred at a time
      const some = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!some.length) return;
      for (const one of some) await walk(one, folder || entry.name);
    }
  }
  for (const entry of entries) await walk(entry, "");
  take(files);
}

async function close() {
  const name = state.case;
  Object.assign(state, { case: null, found: null });
  viewer.clear();
  if (name) await ask(`cases/${name}`, { method: "DELETE" }).catch(() => {});
}

// ---- the work

function progress(stage, done, total, ahead = 0) {
  const bar = at("progress");
  if (total) Object.assign(bar, { max: total, value: done });
  else bar.removeAttribute("value");
  const words = {
    receiving: "receiving the scan", loading: "loading the model", compiling: `compiling once for this computer, ${done} of ${total}`,
    reading: "reading the scan", segmenting: `segmenting slice ${done} of ${total}`, measuring: "measuring",
  };
  at("progress-text").textContent = ahead ? `waiting, ${ahead} before this one` : words[stage] ?? "waiting";
}

async function run() {
  const name = state.case;
  fail(null);
  enter("working");
  progress("", 0, 0);
  try {
    await post(`cases/${name}/work`, { model: chosen(), volume: +at("volume").value });
    say("Segmenting");
    await follow(name);
  } catch (error) {
    if (state.case !== name) return;
    enter(state.found ? "done" : "ready");
    fail(error);
  }
}

async function follow(name) {
  for (;;) {
    const now = await ask(`cases/${name}`);
    if (state.case !== name) return;
    if (now.state === "failed") throw new Error(now.error);
    if (now.state === "ready") {
      enter("ready");
      return;
    }
    if (now.state === "done") {
      enter("done");
      await showFound(now.found);
      at("result-title").focus({ preventScroll: true });
      at("result").scrollIntoView({ block: "nearest" });
      return;
    }
    progress(now.stage, now.done, now.total, now.state === "waiting" ? now.ahead : 0);
    await new Promise((done) => setTimeout(done, POLL));
  }
}

// ---- what was found

async function showFound(found) {
  state.found = found;
  showFigures(found);
  links();
  say(`Done. ${inShort(found)}. ${found.warnings.join(". ")}`);
  if (!viewer.nv) return;
  const base = `cases/${state.case}`;
  const there = found.labels.filter((label) => label.voxels);
  const surfaces = there.map((label) => ({ address: `${base}/results/surface-${label.label}.mz3`, colour: label.colour }));
  await viewer.showMask(`${base}/mask.nii`, found.labels, surfaces, found.centre);
}

const links = () => showLinks(`cases/${state.case}/results`, state.name, state.scans);

// One change at a time; what was asked for meanwhile comes after it, the last alone
let wanted = null;
async function setThreshold(value) {
  nameThreshold(value);
  const busy = wanted !== null;
  wanted = value;
  if (busy) return;
  try {
    while (wanted !== null) {
      const asked = wanted;
      const now = await post(`cases/${state.case}/threshold`, { threshold: asked });
      if (wanted === asked) {
        await showFound(now.found);
        if (wanted === asked) wanted = null;
      }
    }
  } catch (error) {
    wanted = null;
    fail(error);
  }
}

// ---- the viewer's controls

function showWhere(place) {
  const [value] = place.values ?? [];
  const mm = Array.from(place.mm ?? []).slice(0, 3).map((x) => x.toFixed(0)).join(", ");
  at("where").textContent = value ? `${digits(value.value)} at ${mm} mm` : "";
}

function showWindow() {
  const now = viewer.window;
  if (!now) return;
  const range = now.high - now.low;
  Object.assign(at("level"), { min: now.low, max: now.high, value: now.level });
  Object.assign(at("width"), { min: range / 200, max: range, value: now.width });
}

const slide = (id, share) => {
  const input = at(id);
  input.value = +input.value + share * (input.max - input.min);
  input.dispatchEvent(new Event("input"));
};
const choose = (view) => {
  document.querySelector(`input[name=view][value=${view}]`).checked = true;
  viewer.setView(view);
};
const KEYS = {
  ArrowLeft: () => viewer.move(viewer.view === "solid" || viewer.view === "sagittal" ? -1 : 1, 0, 0), // right of the patient is left on the screen
  ArrowRight: () => viewer.move(viewer.view === "solid" || viewer.view === "sagittal" ? 1 : -1, 0, 0),
  ArrowUp: () => viewer.move(0, 1, 0), ArrowDown: () => viewer.move(0, -1, 0),
  PageUp: () => viewer.move(0, 0, 1), PageDown: () => viewer.move(0, 0, -1),
  1: () => choose("all"), 2: () => choose("axial"), 3: () => choose("coronal"), 4: () => choose("sagittal"), 5: () => choose("solid"),
  m: () => { at("opacity").value = +at("opacity").value ? 0 : 0.5; viewer.setOpacity(+at("opacity").value); },
  "[": () => slide("width", -0.03), "]": () => slide("width", 0.03), "-": () => slide("level", -0.02), "+": () => slide("level", 0.02), "=": () => slide("level", 0.02),
};
addEventListener("keydown", (event) => {
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  const typing = event.target.matches("input, select, textarea") && (event.key.length > 1 || event.target.type === "number");
  if (!action || typing || event.ctrlKey || event.metaKey || event.altKey || !viewer.nv?.volumes.length) return;
  if (event.key.length > 1 && event.target !== at("canvas")) return; // elsewhere arrows and Page keys are the page's
  event.preventDefault();
  action();
}, true);

// ---- the page

function chosen() {
  return document.querySelector("input[name=model]:checked").value;
}

async function showCard() {
  if (at("card").open) at("card-text").textContent = (await ask(`models/${encodeURIComponent(chosen())}`)) || "This model has no card.";
}

async function begin() {
  const about = await ask("models");
  Object.assign(state, { scans: about.scans, limit: about.limit });
  at("disclaimer").textContent = about.disclaimer;
  at("kinds").textContent = `${about.scans.join(", ")}, or DICOM in a folder or .zip. It stays on this computer, and is removed when you close this page.`;
  at("models").replaceChildren(
    ...about.models.map((model, i) => {
      const input = Object.assign(document.createElement("input"), { type: "radio", name: "model", value: model.name, checked: i === 0 });
      const score = element("small", model.dice && `Dice ${model.dice}`);
      const use = [`${model.modality}: ${model.contents}`, model.licence.replace(/ \(.*/, "")].filter(Boolean).join(" · ");
      const parts = [input, element("strong", model.name), score, Object.assign(element("small", use), { className: "use" })];
      return Object.assign(element("label", "", ...parts), { className: "model", title: model.licence });
    }),
  );
  document.body.dataset.usable = "yes";
  if (hasWebGl()) viewer.ready().catch(fail);
}

at("choose").addEventListener("click", () => at("file").click());
at("choose-folder").addEventListener("click", () => at("folder").click());
for (const id of ["file", "folder"]) {
  at(id).addEventListener("change", () => {
    take([...at(id).files].map((file) => ({ file, folder: file.webkitRelativePath.split("/")[0] })));
    at(id).value = "";
  });
}
at("phantom").addEventListener("click", () => open((base) => post(`${base}/phantom`), "phantom.nii.gz"));
at("another").addEventListener("click", async () => { await close(); fail(null); enter("empty"); at("choose").focus(); });
at("run").addEventListener("click", run);
at("stop").addEventListener("click", () => ask(`cases/${state.case}/work`, { method: "DELETE" }).catch(fail));
at("volume").addEventListener("change", () => showScan().catch(fail));
at("models").addEventListener("change", showCard);
at("card").addEventListener("toggle", showCard);
at("kind").addEventListener("change", links);
at("threshold").addEventListener("input", () => setThreshold(chosenThreshold()));
at("own").addEventListener("click", () => { placeThreshold(state.found.thresholds.own); setThreshold(state.found.thresholds.own); });
at("opacity").addEventListener("input", () => viewer.setOpacity(+at("opacity").value));
for (const id of ["level", "width"]) at(id).addEventListener("input", () => viewer.setWindow(+at("level").value, +at("width").value));
for (const input of document.querySelectorAll("input[name=view]")) input.addEventListener("change", () => viewer.setView(input.value));
// Files may be dropped anywhere; caught on their way down, before the viewer sees them
const drag = (name, act) => addEventListener(name, (event) => { event.preventDefault(); event.stopPropagation(); act(event); }, true);
drag("dragenter", () => {});
drag("dragover", () => document.body.classList.add("over"));
drag("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
drag("drop", (event) => {
  document.body.classList.remove("over");
  dropped(event.dataTransfer.items).catch(fail);
});
addEventListener("pagehide", () => { if (state.case) fetch(`cases/${state.case}`, { method: "DELETE", keepalive: true }); });
begin().catch(fail);
