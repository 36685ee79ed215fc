// Drawings: the sketch pad, colours on it, the resulting pictures, and their films.
import { Controls, grouped, newSeed, seedField } from "./controls.js";
import { $, make, press, showIf, table, text } from "./page.js";
import { recall, remember } from "./remembered.js";
import { Task, fileOf, known, path, remove, save, stream, upload } from "./server.js";
import { StrokeList, Strokes, toBase64, toPng } from "./strokes.js";
import { Swatches, useColor } from "./swatches.js";
import { Zoom } from "./zoom.js";

const SAMPLES = 4;
const COLORS_SIDE = 1024; // longest side of the picture of colours
const FRAME_MS = 120; // of a film

let padTask, controls, zoom, pad, colors;
let layer = "ink"; // what is drawn: lines, or "colors"
let erases = false;
let sent = null; // the last drawing's id on the server
let drawn = null; // the server's description of the drawing; null after a change of the pad
let opened = false; // whether the drawing is a file instead of the pad
let seed = newSeed(), keepsSeed = false;
let pictures = [], chosen = null, playing = null;
const frame = $("#pad-frame");

/** Build the part of the page that makes pictures of drawings. */
export function buildDraw() {
  padTask = new Task("pad-");
  buildSettings();
  buildPad();
  connect();
  setLayer("ink");
  showPad();
}

function buildSettings() {
  const main = (control) => control.group === "edits" || control.name === "prompt";
  const changed = () => { controls.show(); controls.remember("draw"); };
  controls = new Controls(grouped("draw"), (control) => $(main(control) ? "#draw-main" : "#draw-controls"), changed);
  controls.recall("draw");
  controls.show();
  const seedInput = seedField($("#draw-controls"), "draw-seed", (value) => { seed = value; keep.checked = keepsSeed = true; });
  const keep = make("input", { type: "checkbox", id: "keep-seed" });
  keep.addEventListener("change", () => { keepsSeed = keep.checked; });
  $("#draw-main").append(make("div", { className: "control" }, make("label", { className: "switch" }, keep, text("keep_seed")),
    make("p", { className: "hint" }, text("keep_seed_text"))));
  $("#render").addEventListener("click", () => {
    if (!keepsSeed) seed = newSeed();
    seedInput.value = seed;
    render();
  });
}

function buildPad() {
  const thickness = $("#thickness"), color = $("#crayon-color");
  thickness.value = recall("thickness", thickness.value);
  thickness.addEventListener("change", () => remember("thickness", thickness.value));
  color.value = recall("crayon", color.value);
  color.addEventListener("change", () => remember("crayon", color.value));
  new Swatches($("#crayons"), color, table.crayons);
  const width = () => Number(thickness.value) * (erases ? 3 : 1) / zoom.zoom;
  const shared = { moved: (x, y) => zoom.reveal(x, y), fineness: () => zoom.zoom };
  pad = new Strokes($("#pad"), {
    ...shared, style: () => ({ color: "#000", width: width(), erases }),
    ended: () => { drawn = null; showPad(); },
  });
  colors = new Strokes($("#pad-colors"), {
    ...shared,
    style: () => ({ color: color.value, width: 3 * width() * colors.canvas.width / 512, erases }),
    ended: () => {
      if (!erases) { useColor(color.value); remember("crayon", color.value); }
      showPad();
    },
  });
  zoom = new Zoom(frame, $("#pad-zoom"), { interrupted: () => { pad.abandon(); colors.abandon(); } });
  showIf($("#crayon"), known.draw.hints);
}

const strokes = () => (layer === "ink" ? pad : colors);

/** Draw lines, or colours. */
function setLayer(name) {
  layer = name;
  frame.classList.toggle("coloring", layer === "colors");
  showIf($("#crayon-box"), layer === "colors");
  showIf($("#crayon-hint"), layer === "colors");
  pad.canvas.tabIndex = layer === "ink" ? 0 : -1;
  colors.canvas.tabIndex = layer === "colors" ? 0 : -1;
  setEraser(false);
  showPad();
}

function setEraser(wanted) {
  erases = wanted;
  press($("#pen"), layer === "ink" && !erases);
  press($("#crayon"), layer === "colors" && !erases);
  press($("#eraser"), erases);
}

/** Show the actions that are possible with the drawing. */
function showPad() {
  const { list } = strokes();
  $("#pad-undo").disabled = !list.made.length;
  $("#pad-redo").disabled = !list.undone.length;
  $("#pad-clear").disabled = list.isEmpty;
  showIf($("#pad"), !opened);
  showIf($("#paper"), opened);
  showIf($("#back-to-pad"), opened);
  showIf($("#pen"), !opened);
}

/** Change the layer's list of strokes by a function. */
function changeStrokes(change) {
  strokes().change(change);
  if (layer === "ink") drawn = null;
  showPad();
}

/** The buttons for Ctrl-Z and Ctrl-Shift-Z. */
export const undoButtons = () => ({ undo: $("#pad-undo"), redo: $("#pad-redo") });

function connect() {
  $("#pen").addEventListener("click", () => setLayer("ink"));
  $("#crayon").addEventListener("click", () => setLayer("colors"));
  $("#eraser").addEventListener("click", () => setEraser(true));
  $("#pad-undo").addEventListener("click", () => changeStrokes((list) => list.undo()));
  $("#pad-redo").addEventListener("click", () => changeStrokes((list) => list.redo()));
  $("#pad-clear").addEventListener("click", () => changeStrokes((list) => list.clear()));
  $("#back-to-pad").addEventListener("click", leaveDrawing);
  $("#drawing").accept = $("#files").accept;
  $("#drawing").addEventListener("change", (event) => { openDrawing(event.target.files[0]); event.target.value = ""; });
  $("#film-step").addEventListener("input", () => showFilm());
  $("#play").addEventListener("click", play);
}

/** Go back from a drawing's file to the pad. */
function leaveDrawing() {
  drawn = null;
  opened = false;
  fitColors({ width: 512, height: 512 });
  $("#pad-remarks").replaceChildren();
  setLayer("ink");
}

/** Start new colours, on a canvas of a drawing's shape. */
function fitColors({ width, height }) {
  const scale = Math.min(1, COLORS_SIDE / Math.max(width, height));
  colors.canvas.width = Math.max(1, Math.round(width * scale));
  colors.canvas.height = Math.max(1, Math.round(height * scale));
  colors.use(new StrokeList());
  zoom.fit();
}

/** Send a drawing; once it is read, it replaces the last one and its pictures. */
async function send(blob, name, hear, signal) {
  const read = await upload("drawing", blob, name, hear, signal);
  if (sent) remove(sent);
  sent = read.upload;
  pictures = [];
  stopFilm();
  showIf($("#gallery"), false);
  $("#pad-remarks").replaceChildren(...read.remarks.map((remark) => make("li", {}, remark)));
  return read;
}

/** Open a drawing's file. */
export function openDrawing(file) {
  if (!file) return;
  padTask.run(text("reading", { name: file.name }), async (hear, signal) => {
    drawn = await send(file, file.name, hear, signal);
    opened = true;
    $("#paper").src = fileOf(drawn.upload, drawn.before);
    $("#paper").alt = file.name;
    fitColors(drawn);
    setLayer(known.draw.hints ? "colors" : "ink");
  });
}

function render() {
  padTask.run(text("coloring"), async (hear, signal) => {
    if (!drawn) {
      if (pad.list.isEmpty) throw new Error(text("empty_pad"));
      drawn = await send(await toPng(pad.list, pad.canvas, { paper: "#fff" }), "sketch.png", hear, signal);
    }
    const { upload, width, height } = drawn;
    pictures = Array.from({ length: SAMPLES }, (_, i) => ({ number: i + 1, upload, frames: [], result: null }));
    chosen = null;
    showPictures(width / height);
    const order = { kind: "drawing", seed, samples: SAMPLES, sampling: controls.group("sampling"), edits: controls.group("edits") };
    if (!colors.list.isEmpty) order.strokes = await toBase64(await toPng(colors.list, colors.canvas));
    let number = 0;
    await stream(path("make", upload), order, (event) => {
      hear(event);
      if (event.frame) {
        number = event.sample;
        addFrame(pictures[number], `${fileOf(upload, event.frame)}?${order.seed}`);
      }
      if (event.result) finish(pictures[number], event);
    }, signal);
  });
}

function addFrame(picture, source) {
  picture.frames.push(source);
  picture.image.src = source;
}

function finish(picture, { result, preview }) {
  // With colours the picture changes under the same name: the browser must not show the old one.
  Object.assign(picture, { result, preview: `${fileOf(picture.upload, preview)}?${Date.now()}` });
  picture.image.src = picture.preview;
  picture.pick.disabled = picture.save.disabled = false;
  if (!chosen) choose(picture);
}

function showPictures(shape) {
  showIf($("#gallery"), true);
  showIf($("#film"), false);
  $("#pictures").style.setProperty("--shape", shape);
  $("#pictures").replaceChildren(...pictures.map((picture) => {
    const name = text("picture", { number: picture.number });
    picture.image = make("img", { alt: name });
    picture.pick = make("button", { className: "pick", disabled: true, "aria-pressed": false }, picture.image);
    picture.save = make("button", { disabled: true, "aria-label": `${text("download")}: ${name}` }, text("download"));
    picture.pick.addEventListener("click", () => choose(picture));
    picture.save.addEventListener("click", () => padTask.run(text("writing"), async (hear, signal) => {
      const made = await stream(path("write", picture.upload, picture.result), {}, hear, signal);
      save(picture.upload, made.file, made.name);
    }));
    return make("figure", {}, picture.pick, make("div", { className: "bar" }, picture.save));
  }));
}

function choose(picture) {
  stopFilm();
  if (chosen && chosen !== picture) chosen.image.src = chosen.preview;
  chosen = picture;
  for (const each of pictures) press(each.pick, each === picture);
  Object.assign($("#film-step"), { max: picture.frames.length, value: picture.frames.length });
  showIf($("#film"), true);
}

function showFilm() {
  const { frames, image, preview } = chosen;
  image.src = frames[Number($("#film-step").value)] ?? preview;
}

function stopFilm() {
  clearInterval(playing);
  playing = null;
  $("#play").textContent = text("play");
}

function play() {
  if (playing) { stopFilm(); return; }
  const step = $("#film-step");
  step.value = 0;
  showFilm();
  $("#play").textContent = text("pause");
  playing = setInterval(() => {
    step.value = Number(step.value) + 1;
    showFilm();
    if (Number(step.value) >= Number(step.max)) stopFilm();
  }, FRAME_MS);
}
