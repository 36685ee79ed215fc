// The page of `condiff web`. Photos go to the server as they are; what is seen here are previews.
import { STRINGS } from "./strings.js";

const language = [...navigator.languages].map((l) => l.split("-")[0]).find((l) => STRINGS[l]) || "en";
const table = { ...STRINGS.en, ...STRINGS[language] };
document.documentElement.lang = language;

/** The text of a key; {name} is replaced by values.name, and {one, other} chosen by values.count. */
function text(key, values = {}) {
  let found = table[key] ?? key;
  if (typeof found === "object") found = found[new Intl.PluralRules(language).select(values.count)] ?? found.other;
  return found.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}
const $ = (selector, root = document) => root.querySelector(selector);
for (const node of document.querySelectorAll("[data-text]")) node.textContent = text(node.dataset.text);
for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", text(node.dataset.label));
document.title = text("title");
if (!/^(localhost|127\..*|\[::1\])$/.test(location.hostname)) $(".private").textContent = text("shared", { host: location.host });

/** An element with properties and children; text is never markup. */
function make(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-") || key === "for") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}
const showIf = (node, wanted) => { node.hidden = !wanted; };
const megabytes = (bytes) => new Intl.NumberFormat(language, { maximumFractionDigits: 1 }).format(bytes / 1e6) + " MB";
const formatNumber = (value) => new Intl.NumberFormat(language, { maximumFractionDigits: 2 }).format(value);

// --- the server -------------------------------------------------------------------------------
let session = "";
let known; // what /api/settings says

const path = (...parts) => ["/api", ...[session, ...parts].map(encodeURIComponent)].join("/");
const fileOf = (upload, name) => path("files", upload, name);

/** POST JSON or a file; the Response, or an Error with the server's sentence. */
async function post(where, body = {}, signal) {
  const isFile = body instanceof Blob;
  let response;
  try {
    response = await fetch(where, {
      method: "POST", signal,
      headers: { "Content-Type": isFile ? "application/octet-stream" : "application/json" },
      body: isFile ? body : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(text("lost"));
  }
  if (response.ok) return response;
  const answer = await response.text();
  let sentence = answer;
  try { sentence = JSON.parse(answer).error ?? answer; } catch { /* a plain sentence */ }
  throw new Error(sentence);
}

/** POST, and hand every event of the answer to `hear`; resolves to all events joined into one. */
async function stream(where, body, hear = () => {}, signal) {
  const response = await post(where, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", all = {};
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    rest += value;
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      if (event.error) throw new Error(event.error);
      if (event.canceled) throw new DOMException("canceled", "AbortError");
      all = { ...all, ...event };
      hear(event);
    }
  }
  return all;
}

/** What runs for one part of the page: its progress, its message, its Cancel. */
class Task {
  constructor(prefix) {
    this.progress = $(`#${prefix}progress`);
    this.message = $(`#${prefix}message`);
    this.cancelButton = $(`#${prefix}cancel`);
    this.trouble = $(`#${prefix}trouble`);
    this.running = null;
    this.cancelButton.addEventListener("click", () => this.cancel(true));
  }

  /** Run `work(hear, signal)`; false if it failed or was canceled. `doing` says what it is. */
  async run(doing, work) {
    this.cancel();
    const running = { abort: new AbortController(), job: null };
    this.running = running;
    showIf(this.trouble, false);
    this.show(doing);
    const hear = (event) => {
      if (this.running !== running) return;
      if (event.job) running.job = event.job;
      if (event.waiting) this.show(text("waiting", { count: event.waiting }));
      if (event.steps) {
        this.progress.value = event.step / event.steps;
        this.show(doing, event);
      }
    };
    let ok = false;
    try {
      await work(hear, running.abort.signal);
      ok = true;
      if (this.running === running) this.message.textContent = text("ready");
    } catch (error) {
      if (this.running === running) {
        if (error.name === "AbortError") this.message.textContent = text("canceled");
        else { this.message.textContent = ""; this.trouble.textContent = error.message; showIf(this.trouble, true); }
      }
    }
    if (this.running === running) {
      this.running = null;
      showIf(this.progress, false);
      showIf(this.cancelButton, false);
    }
    showQueue();
    return ok;
  }

  show(doing, event) {
    showIf(this.progress, true);
    showIf(this.cancelButton, true);
    if (!event) this.progress.removeAttribute("value");
    this.message.textContent = event ? `${doing} · ${text("thinking", event)}` : doing;
  }

  /** Let what runs go on unseen, as the page turns to something else. */
  leave() {
    this.running = null;
    this.message.textContent = "";
    showIf(this.progress, false);
    showIf(this.cancelButton, false);
  }

  /** End what runs: on the server at the sampler's next step. */
  cancel(byUser = false) {
    const running = this.running;
    if (!running) return;
    if (running.job) post(path("cancel", running.job)).catch(() => {});
    if (byUser && running.job) return; // the server's answer ends the stream
    running.abort.abort();
  }
}

// --- tabs -------------------------------------------------------------------------------------
const tabs = [$("#tab-colorize"), $("#tab-draw")];
function openTab(tab) {
  for (const each of tabs) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", chosen);
    each.tabIndex = chosen ? 0 : -1;
    showIf($(`#${each.getAttribute("aria-controls")}`), chosen);
  }
}
tabs.forEach((tab, i) => {
  tab.addEventListener("click", () => openTab(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const next = tabs[1 - i];
    next.focus();
    openTab(next);
  });
});
const drawing = () => !$("#draw").hidden;

// --- controls, made of what the server says -----------------------------------------------------
/** The inputs of one list of controls. `values` holds what the user set; the rest is the model's. */
class Controls {
  constructor(controls, place, changed) {
    this.rows = controls.map((control) => this.build(control, place(control), changed));
    this.values = {};
  }

  build(control, parent, changed) {
    const id = `${control.tab}-${control.name}`;
    const [label, help] = table.controls[control.name] ?? [control.name, null];
    const hint = help ?? control.text;
    const row = { control, output: make("output") };
    const slider = control.kind === "number" && control.name in SLIDERS;
    if (control.kind === "switch") {
      row.input = make("input", { type: "checkbox", id });
    } else if (control.kind === "choice") {
      row.input = make("select", { id }, ...control.choices.map((choice) => make("option", { value: choice }, choice)));
    } else if (control.kind === "number") {
      row.input = make("input", { type: slider ? "range" : "number", id, min: control.min ?? "", max: control.max ?? "", step: control.step });
      if (slider) Object.assign(row.input, SLIDERS[control.name]);
    } else {
      row.input = make("input", { type: "text", id });
    }
    if (hint) row.input.setAttribute("aria-describedby", `${id}-hint`);
    const named = make("label", { for: id }, control.kind === "switch" ? row.input : "", make("span", {}, label), row.output);
    if (control.kind === "switch") named.className = "switch";
    parent.append(make("div", { className: "control" }, named, control.kind === "switch" ? "" : row.input,
      hint ? make("p", { className: "hint", id: `${id}-hint` }, hint) : ""));
    row.input.addEventListener("input", () => { if (slider) row.output.textContent = formatNumber(row.input.value); });
    row.input.addEventListener("change", () => {
      const value = this.read(row);
      if (value === undefined) delete this.values[control.name];
      else this.values[control.name] = value;
      this.show(this.defaults);
      changed();
    });
    return row;
  }

  read({ control, input }) {
    if (control.kind === "switch") return input.checked === Boolean(control.default) ? undefined : input.checked;
    if (input.value.trim() === "") return undefined;
    if (control.kind === "number") return Number(input.value);
    return input.value.trim();
  }

  /** Show the values that are set, and else the defaults by name. */
  show(defaults = {}) {
    this.defaults = defaults;
    for (const { control, input, output } of this.rows) {
      const usual = defaults[control.name] ?? control.default;
      const value = this.values[control.name];
      if (control.kind === "switch") input.checked = value ?? usual;
      else if (input.type === "range" || control.kind === "choice") input.value = value ?? usual;
      else { input.value = value ?? ""; input.placeholder = usual ?? (control.group === "sampling" ? text("default") : ""); }
      output.textContent = input.type === "range" ? formatNumber(input.value) : "";
    }
  }

  group(name) {
    const own = this.rows.filter(({ control }) => control.group === name).map(({ control }) => control.name);
    return Object.fromEntries(own.filter((key) => key in this.values).map((key) => [key, this.values[key]]));
  }
}
const SLIDERS = { // the range that is useful, within what is allowed
  saturation: { min: 0, max: 2.5, step: 0.05 },
  temperature: { min: -60, max: 60, step: 1 },
  variety: { min: 0, max: 1, step: 0.05 },
  flat: { min: 0, max: 1, step: 0.05 },
};
const grouped = (kind) => [
  ...known[kind].edits.map((control) => ({ ...control, tab: kind, group: "edits" })),
  ...known[kind].sampling.map((control) => ({ ...control, tab: kind, group: "sampling" })),
  ...(kind === "colorize" ? known[kind].reading : []).map((control) => ({ ...control, tab: kind, group: "reading" })),
];
const newSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;

/** A number field for the seed. */
function seedField(parent, id, changed) {
  const input = make("input", { type: "number", id, min: 0, step: 1 });
  parent.append(make("div", { className: "control" }, make("label", { for: id }, text("seed")), input,
    make("p", { className: "hint" }, text("seed_text"))));
  input.addEventListener("change", () => changed(Math.max(0, Math.floor(Number(input.value)) || 0)));
  return input;
}

// --- strokes ------------------------------------------------------------------------------------
/** Strokes on a canvas, drawn anew from their points, so that undo is exact. */
class Strokes {
  constructor(canvas, { style, ended, begun = () => {} }) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.strokes = [];
    let current = null;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.x) / box.width * canvas.width, (event.clientY - box.y) / box.height * canvas.height];
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      begun();
      current = { ...style(), points: [at(event)], pointer: event.pointerId };
      this.strokes.push(current);
      this.paint();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!current || current.pointer !== event.pointerId) return;
      const events = event.getCoalescedEvents?.() ?? [];
      current.points.push(...(events.length ? events : [event]).map(at));
      this.paint();
    });
    const end = () => { if (current) { current = null; ended(); } };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);

    // The same by keys: arrows move a pen, Space or Enter puts it down and lifts it.
    const pen = make("span", { className: "pen-mark", hidden: true });
    canvas.after(pen);
    let x = 0.5, y = 0.5;
    const place = () => {
      pen.style.setProperty("--pen-x", `${100 * x}%`);
      pen.style.setProperty("--pen-y", `${100 * y}%`);
    };
    canvas.addEventListener("focus", () => { place(); showIf(pen, canvas.matches(":focus-visible")); });
    canvas.addEventListener("blur", () => { showIf(pen, false); end(); });
    canvas.addEventListener("keydown", (event) => {
      const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
      const presses = event.key === " " || event.key === "Enter";
      if (!(dx || dy || presses) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      const step = event.shiftKey ? 0.1 : 0.02;
      x = Math.min(1, Math.max(0, x + step * dx));
      y = Math.min(1, Math.max(0, y + step * dy));
      const point = [x * canvas.width, y * canvas.height];
      if (presses && current) end();
      else if (presses) {
        begun();
        current = { ...style(), points: [point] };
        this.strokes.push(current);
      } else if (current) current.points.push(point);
      pen.classList.toggle("down", Boolean(current));
      place();
      this.paint();
    });
  }

  use(strokes) { this.strokes = strokes; this.paint(); }

  paint() {
    const { context, canvas } = this;
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.lineCap = context.lineJoin = "round";
    for (const { color, width, erases, points } of this.strokes) {
      context.globalCompositeOperation = erases ? "destination-out" : "source-over";
      context.strokeStyle = color;
      context.lineWidth = width;
      context.beginPath();
      points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.lineTo(...points.at(-1));
      context.stroke();
    }
  }

  /** The strokes as a PNG; their edges are opaque, since half a colour is none. */
  async toBlob({ paper = null } = {}) {
    const { canvas } = this;
    const copy = make("canvas", { width: canvas.width, height: canvas.height });
    const context = copy.getContext("2d");
    if (paper) { context.fillStyle = paper; context.fillRect(0, 0, copy.width, copy.height); }
    context.drawImage(canvas, 0, 0);
    return new Promise((resolve) => copy.toBlob(resolve, "image/png"));
  }
}

async function toBase64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let binary = "";
  for (let i = 0; i < bytes.length; i += 32768) binary += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(binary);
}

// --- colorize -----------------------------------------------------------------------------------
const photos = []; // {upload, name, file, state, failed, seed, look, values, strokes, results, chosen, …}
let current = null;
let controls, seedInput, strokes;
const task = new Task(""), zipTask = new Task("zip-");
const stage = $("#stage");
const STROKE_SIDE = 1024; // longest side of the picture of strokes

function buildColorize() {
  const main = new Set(["prompt", ...known.colorize.edits.filter((control) => control.kind === "number").map((control) => control.name)]);
  controls = new Controls(grouped("colorize"), (control) => $(main.has(control.name) ? "#main-controls" : "#more-controls"), changeSettings);
  seedInput = seedField($("#more-controls"), "seed", (seed) => { if (current) { current.seed = seed; recolor(); } });
  for (const name of Object.keys(known.colorize.looks)) {
    const input = make("input", { type: "radio", name: "look", value: name, checked: name === "natural" });
    input.addEventListener("change", changeSettings);
    $("#looks").append(make("label", {}, input, table.looks[name] ?? name));
  }
  for (const [color, name] of Object.entries(table.swatches)) {
    const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    icon.setAttribute("viewBox", "0 0 10 10");
    for (const [key, value] of Object.entries({ cx: 5, cy: 5, r: 4.5, fill: color, stroke: "currentColor", "stroke-width": 0.4 })) dot.setAttribute(key, value);
    icon.append(dot);
    const button = make("button", { title: name, "aria-label": text("swatch", { name }) }, icon);
    button.addEventListener("click", () => { $("#color").value = color; });
    $("#swatches").append(button);
  }
  strokes = new Strokes($("canvas", stage), {
    begun: () => stage.classList.remove("settled"),
    style: () => ({ color: $("#color").value, width: Math.max(2, $("#brush-size").value / 160 * Math.min($("canvas", stage).width, $("canvas", stage).height)) }),
    ended: () => recolor(),
  });
  $("#drop-hint").textContent = text("drop_hint", { formats: "JPEG, PNG, TIFF, WebP, HEIC" });
  for (const id of ["#files", "#more-files"]) $(id).accept = ["image/*", ...known.suffixes].join(",");
  for (const id of ["#drawing", "#reference"]) $(id).accept = $("#files").accept;
}
const look = () => $("#looks input:checked").value;

/** The settings of the current photo changed: colour it anew. */
function changeSettings() {
  showSettings();
  if (!current) return;
  current.look = look();
  current.values = { ...controls.values };
  recolor();
}

/** Add a colour photo whose colours the current photo is to take. */
async function addReference(file) {
  const photo = current;
  if (!file || !photo) return;
  const trouble = $("#reference-trouble");
  showIf(trouble, false);
  try {
    if (file.size > known.max_upload) throw new Error(text("too_large", { name: file.name, size: megabytes(known.max_upload) }));
    const { upload, before } = await stream(`${path("reference", "upload")}?name=${encodeURIComponent(file.name)}`, file);
    photo.references.push({ upload, before, name: file.name });
    if (photo !== current) return;
    showReferences();
    recolor();
  } catch (error) {
    trouble.textContent = error.message;
    showIf(trouble, true);
  }
}

function showReferences() {
  const { references, mode } = current;
  $("#references").replaceChildren(...references.map((reference) => {
    const button = make("button", { "aria-label": text("remove_reference", { name: reference.name }), title: text("remove_reference", { name: reference.name }) },
      make("img", { src: fileOf(reference.upload, reference.before), alt: "" }), "×");
    button.addEventListener("click", () => {
      references.splice(references.indexOf(reference), 1);
      showReferences();
      recolor();
    });
    return button;
  }));
  $("#reference-mode").value = mode;
  showIf($("#reference-mode-label"), references.length > 0);
}

/** Show the current photo's settings, or those for the next one. */
function showSettings() {
  if (current) showReferences();
  controls.show({ ...known.colorize.looks[look()] });
  if (current) seedInput.value = current.seed;
  showIf($("#everywhere"), photos.filter((photo) => photo.upload).length > 1);
}

async function addPhotos(files) {
  const added = [...files].map((file) => ({
    file, name: file.name || "photo.png", seed: newSeed(), look: look(), values: { ...controls.values },
    strokes: [], references: [], mode: "places", results: [], chosen: null, remarks: [], state: "",
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
    if (file.size > known.max_upload) throw new Error(text("too_large", { name: photo.name, size: megabytes(known.max_upload) }));
    photo.state = text("reading", { name: photo.name });
    showList();
    const read = await stream(`${path("photo", "upload")}?name=${encodeURIComponent(photo.name)}`, file, (event) => {
      if (event.waiting) { photo.state = text("waiting", { count: event.waiting }); showList(); }
    });
    Object.assign(photo, { upload: read.upload, before: read.before, width: read.width, height: read.height, remarks: read.remarks, state: "", file: null });
    if (!photos.includes(photo)) return;
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
  fitStage(photo);
  $("#divide").value = 50;
  divide();
  $("#unsure").checked = false;
  show(photo);
  showList();
  if (!photo.results.length && !photo.busy) recolor();
}

/** Give the stage a photo's shape, and show how it was. */
function fitStage(photo) {
  Object.assign(strokes.canvas, strokeSize(photo));
  strokes.use(photo.strokes);
  stage.style.setProperty("--aspect", photo.width / photo.height);
  $(".before", stage).src = fileOf(photo.upload, photo.before);
  $(".before", stage).alt = `${photo.name}, ${text("before")}`;
}

/** Width and height of the picture of a photo's strokes. */
function strokeSize({ width, height }) {
  const scale = Math.min(1, STROKE_SIDE / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

/** Colour the current photo anew, with the task's progress; a later call cancels an earlier one. */
function recolor(samples = 1) {
  const photo = current;
  if (!photo?.upload) return;
  const busy = task.run(text("coloring"), (hear, signal) => color(photo, { samples, hear, signal }))
    .finally(() => { if (photo.busy === busy) photo.busy = null; showList(); });
  photo.busy = busy;
}

async function color(photo, { samples = 1, hear = () => {}, signal } = {}) {
  const order = {
    kind: "photo", seed: photo.seed, samples, look: photo.look,
    sampling: pick(photo.values, "sampling"), edits: pick(photo.values, "edits"),
  };
  Object.assign(order, pick(photo.values, "reading"));
  const taken = photo.references.map((reference) => reference.upload);
  if (photo.mode === "places") order.references = taken;
  else if (taken.length) order.palette = taken.at(-1);
  if (samples > 1 && !("variety" in photo.values)) order.others = { variety: 1 }; // further apart
  if (photo.strokes.length) order.strokes = await toBase64(await strokesOf(photo));
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
        results.push(event);
        photo.results = [...results];
        photo.chosen = results[0];
        if (results.length === 1) photo.unsure = null;
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

const pick = (values, group) => {
  const names = known.colorize[group].map((control) => control.name);
  return Object.fromEntries(Object.entries(values).filter(([name]) => names.includes(name)));
};

/** The PNG of a photo's strokes, whose edges are hard: a colour is there or not. */
function strokesOf(photo) {
  const canvas = make("canvas", strokeSize(photo));
  Strokes.prototype.paint.call({ canvas, context: canvas.getContext("2d"), strokes: photo.strokes });
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
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
  showIf($("#unsure-label"), Boolean(photo.unsure));
  if (photo.unsure) {
    $(".unsure", stage).src = photo.unsure.source;
    $("#unsure-hint").textContent = text("uncertainty_hint", photo.unsure);
  }
  showIf($("#unsure-hint"), Boolean(photo.unsure) && $("#unsure").checked);
  showIf($(".unsure", stage), Boolean(photo.unsure) && $("#unsure").checked);
  $("#samples").replaceChildren(...(photo.results.length > 1 ? photo.results : []).map((result, i) => {
    const image = make("img", { src: fileOf(photo.upload, result.preview), alt: text("alternative", { number: i + 1 }) });
    const button = make("button", { "aria-pressed": result === chosen }, image);
    button.addEventListener("click", () => { photo.chosen = result; show(photo); $("#samples").children[i].focus(); });
    return button;
  }));
  $("#undo").disabled = $("#clear").disabled = !photo.strokes.length;
}

function showList() {
  const focused = document.activeElement?.dataset?.key;
  $("#work").classList.toggle("empty", !current);
  const done = photos.filter((photo) => photo.chosen).length;
  $("#count").textContent = photos.length > 1 ? text("counted", { done, all: photos.length }) : "";
  $("#list").replaceChildren(...photos.map((photo, i) => {
    const shown = photo.chosen?.preview ?? (photo.upload ? photo.before : null);
    const item = make("li");
    const button = make("button", { className: "pick", disabled: !photo.upload, "aria-pressed": photo === current },
      shown ? make("img", { src: fileOf(photo.upload, shown), alt: "", loading: "lazy" }) : "",
      make("span", { className: "name" }, photo.name));
    button.dataset.key = `pick-${i}`;
    button.addEventListener("click", () => select(photo));
    const remove = make("button", { className: "remove", "aria-label": `${text("remove")}: ${photo.name}` }, text("remove"));
    remove.dataset.key = `remove-${i}`;
    remove.addEventListener("click", () => removePhoto(photo));
    item.append(button);
    if (photo.failed) item.append(make("span", { className: "state failed" }, photo.failed));
    else if (photo.state) item.append(make("span", { className: "state" }, photo.state));
    item.append(remove);
    return item;
  }));
  if (focused) $(`[data-key="${focused}"]`)?.focus();
  showIf($("#zip"), photos.filter((photo) => photo.chosen).length > 1);
  showIf($("#everywhere"), photos.filter((photo) => photo.upload).length > 1);
}

function removePhoto(photo) {
  photos.splice(photos.indexOf(photo), 1);
  if (photo.upload) post(path("remove", photo.upload)).catch(() => {});
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

/** Hand a file that the server wrote to the browser's downloads. */
function save(upload, file, name) {
  const link = make("a", { href: `${fileOf(upload, file)}?name=${encodeURIComponent(name)}`, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

function divide() { stage.style.setProperty("--x", `${$("#divide").value}%`); }

function setMode(painting) {
  stage.classList.toggle("paint", painting);
  $("#mode-paint").setAttribute("aria-pressed", painting);
  $("#mode-compare").setAttribute("aria-pressed", !painting);
  showIf($("#brush"), painting);
  showIf($("#paint-hint"), painting);
  $("canvas", stage).tabIndex = painting ? 0 : -1;
}

function connectColorize() {
  for (const id of ["#files", "#more-files"]) $(id).addEventListener("change", (event) => { addPhotos(event.target.files); event.target.value = ""; });
  $("#divide").addEventListener("input", divide);
  $("#mode-compare").addEventListener("click", () => setMode(false));
  $("#mode-paint").addEventListener("click", () => setMode(true));
  $("#undo").addEventListener("click", () => { current.strokes.pop(); strokes.paint(); recolor(); show(current); });
  $("#clear").addEventListener("click", () => { current.strokes.length = 0; strokes.paint(); recolor(); show(current); });
  $("#unsure").addEventListener("change", () => show(current));
  $("#more-samples").addEventListener("click", () => recolor(4));
  $("#reference").addEventListener("change", (event) => { addReference(event.target.files[0]); event.target.value = ""; });
  $("#reference-mode").append(...Object.entries(table.reference_modes).map(([value, name]) => make("option", { value }, name)));
  $("#reference-mode").addEventListener("change", (event) => { current.mode = event.target.value; recolor(); });
  $("#reset").addEventListener("click", () => {
    if (current) Object.assign(current, { references: [], mode: "places" });
    controls.values = {};
    $('#looks input[value="natural"]').checked = true;
    changeSettings();
  });
  $("#everywhere").addEventListener("click", async () => {
    const { look, values, references, mode } = current;
    for (const photo of photos.filter((each) => each.upload && each !== current)) {
      Object.assign(photo, { look, values: { ...values }, references: [...references], mode });
      if (!(await zipTask.run(`${text("coloring")}: ${photo.name}`, (hear, signal) => color(photo, { hear, signal })))) return;
      showList();
    }
  });
  $("#download").addEventListener("click", async () => {
    const photo = current;
    await photo.busy; // the last stroke belongs to the file
    if (photo !== current || !photo.chosen) return;
    const { upload, chosen } = photo;
    task.run(text("writing"), async (hear, signal) => {
      const made = await stream(path("write", upload, chosen.result), {}, hear, signal);
      save(upload, made.file, made.name);
    });
  });
  $("#zip").addEventListener("click", () => {
    const results = photos.filter((photo) => photo.chosen).map((photo) => [photo.upload, photo.chosen.result]);
    const failed = photos.filter((photo) => photo.failed && !photo.chosen).map((photo) => `${photo.name}: ${photo.failed}`);
    zipTask.run(text("packing"), async (hear, signal) => {
      const made = await stream(path("zip"), { results, failed }, hear, signal);
      save(made.upload, made.file, made.name);
    });
  });
}

// --- draw -----------------------------------------------------------------------------------------
const padTask = new Task("pad-");
let pad, drawControls, erases = false, drawn = null, pictures = [], pictureChosen = null;

function buildDraw() {
  drawControls = new Controls(grouped("draw"), (control) => $(control.group === "edits" || control.name === "prompt" ? "#draw-main" : "#draw-controls"),
    () => drawControls.show());
  drawControls.show();
  pad = new Strokes($("#pad"), {
    style: () => ({ color: "#000", width: Number($("#thickness").value) * (erases ? 3 : 1), erases }),
    ended: () => { drawn = null; },
  });
  const setPen = (eraser) => {
    erases = eraser;
    $("#pen").setAttribute("aria-pressed", !eraser);
    $("#eraser").setAttribute("aria-pressed", eraser);
  };
  $("#pen").addEventListener("click", () => setPen(false));
  $("#eraser").addEventListener("click", () => setPen(true));
  $("#pad-undo").addEventListener("click", () => { if ($("#paper").hidden) { pad.strokes.pop(); pad.paint(); } usePad(); });
  $("#pad-clear").addEventListener("click", () => { if ($("#paper").hidden) pad.use([]); usePad(); });
  $("#drawing").addEventListener("change", (event) => { openDrawing(event.target.files[0]); event.target.value = ""; });
  $("#render").addEventListener("click", renderDrawing);
  $("#film-step").addEventListener("input", () => showFilm());
  $("#play").addEventListener("click", play);
}

/** Go back from a drawing's photo to the pad. */
function usePad() {
  drawn = null;
  showIf($("#paper"), false);
  showIf($("#pad"), true);
  $("#pad-remarks").replaceChildren();
}

async function sendDrawing(blob, name, hear, signal) {
  if (pictures.length) post(path("remove", pictures[0].upload)).catch(() => {}); // the last drawing
  pictures = [];
  showIf($("#gallery"), false);
  const read = await stream(`${path("drawing", "upload")}?name=${encodeURIComponent(name)}`, blob, hear, signal);
  $("#pad-remarks").replaceChildren(...read.remarks.map((remark) => make("li", {}, remark)));
  return read;
}

function openDrawing(file) {
  if (!file) return;
  padTask.run(text("reading", { name: file.name }), async (hear, signal) => {
    if (file.size > known.max_upload) throw new Error(text("too_large", { name: file.name, size: megabytes(known.max_upload) }));
    drawn = await sendDrawing(file, file.name, hear, signal);
    $("#paper").src = fileOf(drawn.upload, drawn.before);
    $("#paper").alt = file.name;
    showIf($("#paper"), true);
    showIf($("#pad"), false);
  });
}

function renderDrawing() {
  padTask.run(text("coloring"), async (hear, signal) => {
    if (!drawn) {
      if (!pad.strokes.some((stroke) => !stroke.erases)) throw new Error(text("empty_pad"));
      drawn = await sendDrawing(await pad.toBlob({ paper: "#fff" }), "sketch.png", hear, signal);
    }
    const { upload, width, height } = drawn;
    pictures = [1, 2, 3, 4].map((number) => ({ number, upload, frames: [], result: null }));
    pictureChosen = null;
    showPictures(width / height);
    const order = { kind: "drawing", seed: newSeed(), samples: 4, sampling: drawControls.group("sampling"), edits: drawControls.group("edits") };
    let number = 0;
    await stream(path("make", upload), order, (event) => {
      hear(event);
      if (event.frame) {
        number = event.sample;
        const picture = pictures[number];
        picture.frames.push(fileOf(upload, event.frame));
        picture.image.src = picture.frames.at(-1);
      }
      if (event.result) {
        const picture = pictures[number];
        Object.assign(picture, { result: event.result, preview: fileOf(upload, event.preview) });
        picture.image.src = picture.preview;
        picture.pick.disabled = picture.save.disabled = false;
        if (!pictureChosen) choosePicture(picture);
      }
    }, signal);
  });
}

function showPictures(shape) {
  showIf($("#gallery"), true);
  showIf($("#film"), false);
  $("#pictures").style.setProperty("--shape", shape);
  $("#pictures").replaceChildren(...pictures.map((picture) => {
    picture.image = make("img", { alt: text("picture", { number: picture.number }) });
    picture.pick = make("button", { className: "pick", disabled: true, "aria-pressed": false }, picture.image);
    picture.save = make("button", { disabled: true, "aria-label": `${text("download")}: ${text("picture", { number: picture.number })}` }, text("download"));
    picture.pick.addEventListener("click", () => choosePicture(picture));
    picture.save.addEventListener("click", () => padTask.run(text("writing"), async (hear, signal) => {
      const made = await stream(path("write", picture.upload, picture.result), {}, hear, signal);
      save(picture.upload, made.file, made.name);
    }));
    return make("figure", {}, picture.pick, make("div", { className: "bar" }, picture.save));
  }));
}

function choosePicture(picture) {
  stopFilm();
  if (pictureChosen && pictureChosen !== picture) pictureChosen.image.src = pictureChosen.preview;
  pictureChosen = picture;
  for (const each of pictures) each.pick.setAttribute("aria-pressed", each === picture);
  Object.assign($("#film-step"), { max: picture.frames.length, value: picture.frames.length });
  showIf($("#film"), true);
}

function showFilm() {
  const { frames, image, preview } = pictureChosen;
  image.src = frames[Number($("#film-step").value)] ?? preview;
}

let playing = null;
function stopFilm() {
  clearInterval(playing);
  playing = null;
  $("#play").textContent = text("play");
}
function play() {
  if (playing) return stopFilm();
  const step = $("#film-step");
  step.value = 0;
  showFilm();
  $("#play").textContent = text("pause");
  playing = setInterval(() => {
    step.value = Number(step.value) + 1;
    showFilm();
    if (Number(step.value) >= Number(step.max)) stopFilm();
  }, 120);
}

// --- dropping, pasting, keys, the session ------------------------------------------------------------
function take(files) {
  if (!files?.length) return;
  if (drawing()) openDrawing(files[0]);
  else addPhotos(files);
}

function connect() {
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
  addEventListener("drop", (event) => { event.preventDefault(); document.body.classList.remove("over"); take(event.dataTransfer.files); });
  addEventListener("paste", (event) => take(event.clipboardData.files));
  addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key !== "z" || event.target.matches("input[type=text], input[type=number]")) return;
    const button = drawing() ? $("#pad-undo") : $("#brush").hidden ? null : $("#undo");
    if (button && !button.disabled) { event.preventDefault(); button.click(); }
  });
  addEventListener("pagehide", (event) => {
    if (!event.persisted) navigator.sendBeacon(path("end"), new Blob(["{}"], { type: "application/json" }));
  });
  setInterval(showQueue, 5000);
}

/** Show how many jobs the server has; it hears that this page is alive. */
async function showQueue() {
  try {
    const { queue } = await (await post(path("alive"))).json();
    $("#queue").textContent = queue ? text("queue", { count: queue }) : "";
  } catch { /* the next action says so */ }
}

async function start() {
  known = await (await fetch("/api/settings")).json();
  session = (await (await post("/api/session")).json()).session;
  $("#version").textContent = `condiff ${known.version}`;
  buildColorize();
  connectColorize();
  buildDraw();
  connect();
  showSettings();
  document.body.dataset.ready = "yes";
}
start().catch((error) => { $("#drop-hint").textContent = error.message; });
