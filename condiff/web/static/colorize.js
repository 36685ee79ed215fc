// Photos: their colours, strokes, alternatives and files.
import { Controls, grouped, newSeed, seedField } from "./controls.js";
import { Divider } from "./divider.js";
import { $, make, press, showIf, table, text } from "./page.js";
import { recall, remember } from "./remembered.js";
import { Task, fileOf, known, path, remove, save, stream, upload } from "./server.js";
import { StrokeList, Strokes, toBase64, toPng } from "./strokes.js";
import { Swatches, useColor } from "./swatches.js";
import { Zoom } from "./zoom.js";

const STROKE_SIDE = 1600; // longest side of pictures of strokes, as of the preview
const MASK_COLOR = "#808080"; // of areas that stay grey
const MASK_BLUR = 0.002; // softness of the mask's edges, as a share of the long side

const photos = []; // {upload, name, file, state, failed, seed, look, values, strokes, mask, results, chosen, …}
let current = null;
let controls, seedInput, strokes, zoom, divider;
let mode = "compare"; // or "paint", or "mask"
let erases = false;
let task, zipTask;
const stage = $("#stage");
const canvas = $("canvas", stage);

/** Build the part of the page that colours photos. */
export function buildColorize() {
  task = new Task("");
  zipTask = new Task("zip-");
  buildSettings();
  buildStage();
  connect();
  $("#drop-hint").textContent = text("drop_hint", { formats: "JPEG, PNG, TIFF, WebP, HEIC" });
  for (const id of ["#files", "#more-files", "#reference"]) $(id).accept = ["image/*", ...known.suffixes].join(",");
  showSettings();
}

function buildSettings() {
  const main = new Set(["prompt", ...known.colorize.edits.filter((control) => control.kind === "number").map((control) => control.name)]);
  controls = new Controls(grouped("colorize"), (control) => $(main.has(control.name) ? "#main-controls" : "#more-controls"), changeSettings);
  controls.recall("colorize");
  seedInput = seedField($("#more-controls"), "seed", (seed) => { if (current) { current.seed = seed; recolor(); } });
  const last = recall("look", "natural");
  const chosen = last in known.colorize.looks ? last : "natural";
  for (const name of Object.keys(known.colorize.looks)) {
    const input = make("input", { type: "radio", name: "look", value: name, checked: name === chosen });
    input.addEventListener("change", changeSettings);
    $("#looks").append(make("label", {}, input, table.looks[name] ?? name));
  }
}

function buildStage() {
  const color = $("#color"), size = $("#brush-size");
  color.value = recall("color", color.value);
  size.value = recall("brush", size.value);
  size.addEventListener("change", () => remember("brush", size.value));
  color.addEventListener("change", () => remember("color", color.value));
  new Swatches($("#swatches"), color, table.swatches);
  strokes = new Strokes(canvas, {
    begun: () => stage.classList.remove("settled"),
    style: () => ({
      color: mode === "mask" ? MASK_COLOR : color.value, erases,
      width: Math.max(1.5, size.value / 160 * Math.min(canvas.width, canvas.height) / zoom.zoom),
    }),
    ended: () => {
      if (mode === "paint" && !erases) { useColor(color.value); remember("color", color.value); }
      recolor();
      show(current);
    },
    moved: (x, y) => zoom.reveal(x, y),
    fineness: () => zoom.zoom,
  });
  zoom = new Zoom(stage, $("#zoom"), {
    changed: () => divider?.apply(),
    interrupted: () => { strokes.abandon(); divider.release(); },
  });
  divider = new Divider(stage, $("#divide"), zoom, () => mode === "compare");
  showIf($("#mode-paint"), known.colorize.hints);
}

const look = () => $("#looks input:checked").value;
const list = () => (mode === "mask" ? current.mask : current.strokes);

/** After a change of the current photo's settings: colour it again, and remember them. */
function changeSettings() {
  showSettings();
  remember("look", look());
  controls.remember("colorize");
  if (!current) return;
  current.look = look();
  current.values = { ...controls.values };
  recolor();
}

/** Add a reference photo to the current photo. */
async function addReference(file) {
  const photo = current;
  if (!file || !photo) return;
  const trouble = $("#reference-trouble");
  showIf(trouble, false);
  try {
    const read = await upload("reference", file, file.name);
    if (!photos.includes(photo)) { remove(read.upload); return; } // removed meanwhile
    photo.references.push({ upload: read.upload, before: read.before, name: file.name });
    if (photo !== current) return;
    showReferences();
    recolor();
  } catch (error) {
    trouble.textContent = error.message;
    showIf(trouble, true);
  }
}

function showReferences() {
  const { references } = current;
  $("#references").replaceChildren(...references.map((reference) => {
    const name = text("remove_reference", { name: reference.name });
    const button = make("button", { "aria-label": name, title: name },
      make("img", { src: fileOf(reference.upload, reference.before), alt: "" }), "×");
    button.addEventListener("click", () => {
      references.splice(references.indexOf(reference), 1);
      dropReference(reference);
      showReferences();
      recolor();
    });
    return button;
  }));
  $("#reference-mode").value = current.mode;
  showIf($("#reference-mode-label"), references.length > 0);
}

/** Delete a reference on the server if no photo uses it any more. */
function dropReference(reference) {
  if (!photos.some((photo) => photo.references.includes(reference))) remove(reference.upload);
}

/** Show the current photo's settings, or those for the next one. */
function showSettings() {
  if (current) showReferences();
  controls.show({ ...known.colorize.looks[look()], ...(current?.varied ? { variety: 1 } : {}) });
  if (current) seedInput.value = current.seed;
  showIf($("#everywhere"), photos.filter((photo) => photo.upload).length > 1);
}

/** Add photos, and colour them one after the other. */
export async function addPhotos(files) {
  const added = [...files].map((file) => ({
    file, name: file.name || "photo.png", seed: newSeed(), look: look(), values: controls.forOthers(controls.values),
    strokes: new StrokeList(), mask: new StrokeList(), swapped: false,
    references: [], mode: "places", varied: false, results: [], chosen: null, remarks: [], state: "",
  }));
  photos.push(...added);
  showIf($("#drop"), photos.length === 0);
  showIf($("#work"), photos.length > 0);
  showList();
  for (const photo of added) await addPhoto(photo);
  showList();
}

async function addPhoto(photo) {
  const { file } = photo;
  if (!photos.includes(photo)) return; // removed meanwhile
  try {
    photo.state = text("reading", { name: photo.name });
    showList();
    const read = await upload("photo", file, photo.name, (event) => {
      if (event.waiting) { photo.state = text("waiting", { count: event.waiting }); showList(); }
    });
    Object.assign(photo, { upload: read.upload, before: read.before, width: read.width, height: read.height, remarks: read.remarks, state: "", file: null });
    if (!photos.includes(photo)) { remove(photo.upload); return; }
    if (!current) { select(photo); await photo.busy; }
    if (!photo.chosen && !photo.failed) await color(photo);
  } catch (error) {
    photo.failed = error.message;
    photo.state = "";
    if (!current) { $("#trouble").textContent = error.message; showIf($("#trouble"), true); }
  }
  showList();
}

function select(photo) {
  current = photo;
  task.leave();
  $(`#looks input[value="${CSS.escape(photo.look)}"]`).checked = true;
  controls.values = { ...photo.values };
  showSettings();
  showIf($("#trouble"), false);
  zoom.fit();
  fitStage(photo);
  divider.move(0.5);
  $("#unsure").checked = false;
  show(photo);
  showList();
  if (!photo.results.length && !photo.busy) recolor();
}

/** Show the photo that is `by` places further among the photos read. */
function turn(by) {
  const ready = photos.filter((photo) => photo.upload);
  const next = ready[ready.indexOf(current) + by];
  if (next) select(next);
}

/** Set the stage to a photo's shape, and show its original. */
function fitStage(photo) {
  Object.assign(canvas, strokeSize(photo));
  strokes.use(list());
  stage.style.setProperty("--aspect", photo.width / photo.height);
  $(".before", stage).src = fileOf(photo.upload, photo.before);
  $(".before", stage).alt = `${photo.name}, ${text("before")}`;
}

/** Width and height of the picture of a photo's strokes. */
function strokeSize({ width, height }) {
  const scale = Math.min(1, STROKE_SIDE / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

/** Colour the current photo again, with the task's progress; a later call cancels an earlier one. */
function recolor(samples = 1) {
  const photo = current;
  if (!photo?.upload) return;
  const busy = task.run(text("coloring"), (hear, signal) => color(photo, { samples, hear, signal }))
    .finally(() => { if (photo.busy === busy) photo.busy = null; showList(); });
  photo.busy = busy;
}

async function color(photo, { samples = 1, hear = () => {}, signal } = {}) {
  const { varied } = photo;
  const order = await orderOf(photo, samples);
  const results = [];
  let unsure = null;
  try {
    await stream(path("make", photo.upload), order, (event) => {
      hear(event);
      if (event.before) {
        Object.assign(photo, { before: event.before, width: event.width, height: event.height });
        if (photo === current) fitStage(photo);
      }
      if (event.draft && photo === current) showAfter(fileOf(photo.upload, event.draft) + `?${Date.now()}`);
      if (event.uncertainty) unsure = { source: `${fileOf(photo.upload, event.uncertainty)}?${Date.now()}`, most: event.most };
      if (event.result) {
        results.push({ ...event, varied: results.length ? Boolean(order.others) : varied });
        photo.results = [...results];
        if (results.length === 1) Object.assign(photo, { chosen: results[0], unsure: null });
        photo.failed = null;
        if (photo === current) stage.classList.add("settled");
        show(photo);
      }
    }, signal);
    photo.unsure = unsure;
    show(photo);
  } catch (error) {
    if (error.name !== "AbortError" && !photo.chosen) photo.failed = error.message;
    throw error;
  }
}

/** The order to colour a photo, for the server. */
async function orderOf(photo, samples) {
  const { values, references } = photo;
  const order = {
    kind: "photo", seed: photo.seed, samples, look: photo.look,
    sampling: pick(values, "sampling"), edits: pick(values, "edits"), ...pick(values, "reading"),
  };
  const taken = references.map((reference) => reference.upload);
  if (photo.mode === "places") order.references = taken;
  else if (taken.length) order.palette = taken.at(-1);
  if (photo.varied) order.sampling = { variety: 1, ...order.sampling };
  if (samples > 1 && !("variety" in values)) order.others = { variety: 1 }; // further apart
  if (!photo.strokes.isEmpty) order.strokes = await toBase64(await toPng(photo.strokes, strokeSize(photo)));
  if (!photo.mask.isEmpty) order.mask = await toBase64(await maskOf(photo));
  return order;
}

const pick = (values, group) => {
  const names = known.colorize[group].map((control) => control.name);
  return Object.fromEntries(Object.entries(values).filter(([name]) => names.includes(name)));
};

/** The PNG of a photo's mask: white where colours apply, black where it stays grey, with soft edges. */
async function maskOf(photo) {
  const [paper, color] = photo.swapped ? ["#000", "#fff"] : ["#fff", "#000"];
  const size = strokeSize(photo);
  const hard = await createImageBitmap(await toPng(photo.mask, size, { color }));
  const context = make("canvas", size).getContext("2d");
  context.fillStyle = paper;
  context.fillRect(0, 0, size.width, size.height);
  if ("filter" in context) context.filter = `blur(${MASK_BLUR * Math.max(size.width, size.height)}px)`;
  context.drawImage(hard, 0, 0);
  hard.close();
  return new Promise((resolve) => context.canvas.toBlob(resolve, "image/png"));
}

function showAfter(source) {
  const after = $(".after", stage);
  after.src = source;
  after.alt = `${current.name}, ${text("after")}`;
  showIf(after, true);
  stage.classList.add("done");
}

/** Show a photo's results, if it is the current one. */
function show(photo) {
  if (photo !== current) return;
  const { chosen } = photo;
  stage.classList.toggle("done", Boolean(chosen));
  if (chosen) showAfter(fileOf(photo.upload, chosen.preview));
  else showIf($(".after", stage), false);
  $("#remarks").replaceChildren(...[...photo.remarks, ...(chosen?.remarks ?? [])].map((remark) => make("li", {}, remark)));
  $("#download").disabled = $("#more-samples").disabled = !chosen;
  showUnsure(photo);
  $("#samples").replaceChildren(...(photo.results.length > 1 ? photo.results : []).map((result, i) => {
    const image = make("img", { src: fileOf(photo.upload, result.preview), alt: text("alternative", { number: i + 1 }) });
    const button = make("button", { "aria-pressed": result === chosen }, image);
    button.addEventListener("click", () => { choose(photo, result); $("#samples").children[i].focus(); });
    return button;
  }));
  $("#undo").disabled = !list().made.length;
  $("#redo").disabled = !list().undone.length;
  $("#clear").disabled = list().isEmpty;
  press($("#swap"), photo.swapped);
}

/** Go on with an alternative: later changes keep its seed and its variety. */
function choose(photo, result) {
  Object.assign(photo, { chosen: result, seed: result.seed, varied: result.varied });
  showSettings();
  show(photo);
}

function showUnsure({ unsure }) {
  const shown = Boolean(unsure) && $("#unsure").checked;
  showIf($("#unsure-label"), Boolean(unsure));
  if (unsure) {
    $(".unsure", stage).src = unsure.source;
    $("#unsure-hint").textContent = text("uncertainty_hint", unsure);
  }
  showIf($("#unsure-hint"), shown);
  showIf($(".unsure", stage), shown);
}

function showList() {
  const focused = document.activeElement?.dataset?.key;
  $("#work").classList.toggle("empty", !current);
  const done = photos.filter((photo) => photo.chosen).length;
  $("#count").textContent = photos.length > 1 ? text("counted", { done, all: photos.length }) : "";
  $("#list").replaceChildren(...photos.map(buildItem));
  if (focused) $(`[data-key="${focused}"]`)?.focus();
  showIf($("#zip"), done > 1);
  const ready = photos.filter((photo) => photo.upload);
  showIf($("#everywhere"), ready.length > 1);
  showIf($("#turn"), ready.length > 1);
  const at = ready.indexOf(current);
  $("#turned").textContent = text("turned", { at: at + 1, all: ready.length });
  $("#previous").disabled = at <= 0;
  $("#next").disabled = at === ready.length - 1;
}

function buildItem(photo, i) {
  const shown = photo.chosen?.preview ?? (photo.upload ? photo.before : null);
  const item = make("li");
  const button = make("button", { className: "pick", disabled: !photo.upload, "aria-pressed": photo === current },
    shown ? make("img", { src: fileOf(photo.upload, shown), alt: "", loading: "lazy" }) : "",
    make("span", { className: "name" }, photo.name));
  button.dataset.key = `pick-${i}`;
  button.addEventListener("click", () => select(photo));
  const dropped = make("button", { className: "remove", "aria-label": `${text("remove")}: ${photo.name}` }, text("remove"));
  dropped.dataset.key = `remove-${i}`;
  dropped.addEventListener("click", () => removePhoto(photo));
  item.append(button);
  if (photo.failed) item.append(make("span", { className: "state failed" }, photo.failed));
  else if (photo.state) item.append(make("span", { className: "state" }, photo.state));
  item.append(dropped);
  return item;
}

function removePhoto(photo) {
  photos.splice(photos.indexOf(photo), 1);
  if (photo.upload) remove(photo.upload);
  for (const reference of photo.references) dropReference(reference);
  if (photo === current) {
    task.cancel();
    current = null;
    const next = photos.find((each) => each.upload);
    if (next) select(next);
  }
  showIf($("#drop"), photos.length === 0);
  showIf($("#work"), photos.length > 0);
  showList();
}

/** Compare before and after, paint colours, or paint what stays grey. */
function setMode(chosen) {
  mode = chosen;
  const painting = mode !== "compare";
  stage.classList.toggle("paint", painting);
  stage.classList.toggle("mask", mode === "mask");
  for (const name of ["compare", "paint", "mask"]) press($(`#mode-${name}`), name === mode);
  showIf($("#brush"), painting);
  showIf($("#paint-hint"), mode === "paint");
  showIf($("#mask-hint"), mode === "mask");
  showIf($("#colors"), mode === "paint");
  showIf($("#swap"), mode === "mask");
  canvas.tabIndex = painting ? 0 : -1;
  setEraser(false);
  if (!current) return;
  strokes.use(list());
  show(current);
}

function setEraser(wanted) {
  erases = wanted;
  press($("#brush-paint"), !erases);
  press($("#brush-erase"), erases);
}

/** Change the list of strokes by a function, and colour the photo again. */
function changeStrokes(change) {
  strokes.change(change);
  recolor();
  show(current);
}

/** The buttons for Ctrl-Z and Ctrl-Shift-Z; null when not painting. */
export const undoButtons = () => ($("#brush").hidden ? null : { undo: $("#undo"), redo: $("#redo") });

function connect() {
  for (const id of ["#files", "#more-files"]) $(id).addEventListener("change", (event) => { addPhotos(event.target.files); event.target.value = ""; });
  for (const name of ["compare", "paint", "mask"]) $(`#mode-${name}`).addEventListener("click", () => setMode(name));
  $("#brush-paint").addEventListener("click", () => setEraser(false));
  $("#brush-erase").addEventListener("click", () => setEraser(true));
  $("#undo").addEventListener("click", () => changeStrokes((each) => each.undo()));
  $("#redo").addEventListener("click", () => changeStrokes((each) => each.redo()));
  $("#clear").addEventListener("click", () => changeStrokes((each) => each.clear()));
  $("#swap").addEventListener("click", () => changeStrokes(() => { current.swapped = !current.swapped; }));
  $("#previous").addEventListener("click", () => turn(-1));
  $("#next").addEventListener("click", () => turn(1));
  $("#unsure").addEventListener("change", () => show(current));
  $("#more-samples").addEventListener("click", () => recolor(4));
  $("#reference").addEventListener("change", (event) => { addReference(event.target.files[0]); event.target.value = ""; });
  $("#reference-mode").append(...Object.entries(table.reference_modes).map(([value, name]) => make("option", { value }, name)));
  $("#reference-mode").addEventListener("change", (event) => { current.mode = event.target.value; recolor(); });
  $("#reset").addEventListener("click", resetSettings);
  $("#everywhere").addEventListener("click", useEverywhere);
  $("#download").addEventListener("click", download);
  $("#zip").addEventListener("click", downloadAll);
}

function resetSettings() {
  if (current) {
    const { references } = current;
    Object.assign(current, { references: [], mode: "places", varied: false });
    references.forEach(dropReference);
  }
  controls.values = {};
  $('#looks input[value="natural"]').checked = true;
  changeSettings();
}

/** Colour all other photos with the current one's settings, except those of a single file. */
async function useEverywhere() {
  const { look, values, references, mode } = current;
  for (const photo of photos.filter((each) => each.upload && each !== current)) {
    Object.assign(photo, { look, values: controls.forOthers(values, photo.values), references: [...references], mode });
    if (!(await zipTask.run(`${text("coloring")}: ${photo.name}`, (hear, signal) => color(photo, { hear, signal })))) return;
    showList();
  }
}

async function download() {
  const photo = current;
  await photo.busy; // so that the file includes the last stroke
  if (photo !== current || !photo.chosen) return;
  const { upload, chosen } = photo;
  task.run(text("writing"), async (hear, signal) => {
    const made = await stream(path("write", upload, chosen.result), {}, hear, signal);
    save(upload, made.file, made.name);
  });
}

function downloadAll() {
  const results = photos.filter((photo) => photo.chosen).map((photo) => [photo.upload, photo.chosen.result]);
  const failed = photos.filter((photo) => photo.failed && !photo.chosen).map((photo) => `${photo.name}: ${photo.failed}`);
  zipTask.run(text("packing"), async (hear, signal) => {
    const made = await stream(path("zip"), { results, failed }, hear, signal);
    save(made.upload, made.file, made.name);
  });
}
