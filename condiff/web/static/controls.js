// Inputs built from the server's description of the settings.
import { formatNumber, make, table, text } from "./page.js";
import { recall, remember } from "./remembered.js";
import { known } from "./server.js";

const SLIDERS = { // the useful part of the allowed range
  saturation: { min: 0, max: 2.5, step: 0.05 },
  temperature: { min: -60, max: 60, step: 1 },
  variety: { min: 0, max: 1, step: 0.05 },
  guidance_eta: { min: 0, max: 1, step: 0.05 },
  coherence: { min: 0, max: 1, step: 0.05 },
  vividness: { min: 0.5, max: 2, step: 0.05 },
  flat: { min: 0, max: 1, step: 0.05 },
};

/** The controls of photos or of drawings, each with its group. */
export const grouped = (kind) => ["edits", "sampling", "reading"].flatMap((group) =>
  (known[kind][group] ?? []).map((control) => ({ ...control, tab: kind, group })));

export const newSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;

/** The inputs of one list of controls. `values` contains what the user set; the rest are the model's defaults. */
export class Controls {
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

  /** Show the values that are set, otherwise the names of the defaults. */
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

  /** The values that hold for other files, too, with those of one file from `own`. */
  forOthers(values, own = {}) {
    const single = this.rows.map(({ control }) => control).filter(ofOneFile).map((control) => control.name);
    const pick = (all, wanted) => Object.fromEntries(Object.entries(all).filter(([name]) => single.includes(name) === wanted));
    return { ...pick(values, false), ...pick(own, true) };
  }

  /** Restore the values of the last visit if they are still allowed. */
  recall(name) {
    const last = recall(name, {});
    for (const { control } of this.rows) {
      if (rememberable(control) && isAllowed(control, last[control.name])) this.values[control.name] = last[control.name];
    }
  }

  /** Remember the values, except words and settings of a single file. */
  remember(name) {
    const own = this.rows.map(({ control }) => control).filter(rememberable).map((control) => control.name);
    remember(name, Object.fromEntries(Object.entries(this.values).filter(([key]) => own.includes(key))));
  }
}

const ofOneFile = (control) => control.group === "reading" || control.name === "invert";
const rememberable = (control) => control.kind !== "text" && !ofOneFile(control);

function isAllowed({ kind, min, max, choices }, value) {
  if (kind === "switch") return typeof value === "boolean";
  if (kind === "choice") return choices.includes(value);
  return typeof value === "number" && value >= (min ?? -Infinity) && value <= (max ?? Infinity);
}

/** A number field for the seed. */
export function seedField(parent, id, changed) {
  const input = make("input", { type: "number", id, min: 0, step: 1 });
  parent.append(make("div", { className: "control" }, make("label", { for: id }, text("seed")), input,
    make("p", { className: "hint" }, text("seed_text"))));
  input.addEventListener("change", () => changed(Math.max(0, Math.floor(Number(input.value)) || 0)));
  return input;
}
