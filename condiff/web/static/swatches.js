// Quick colours: fixed ones by name, and the last used ones.
import { make, press, text } from "./page.js";
import { recall, remember } from "./remembered.js";

const RECENT = 8;
const SVG = "http://www.w3.org/2000/svg";
const groups = [];
let recent = recall("colors", []).filter((color) => /^#[0-9a-f]{6}$/.test(color)).slice(0, RECENT);

/** Buttons beside a colour input. `named` are names by colour. */
export class Swatches {
  constructor(place, input, named) {
    Object.assign(this, { place, input, named });
    input.addEventListener("input", () => this.mark());
    groups.push(this);
    this.show();
  }

  show() {
    const own = Object.entries(this.named).map(([color, name]) => this.button(color, text("swatch", { name })));
    const used = recent.filter((color) => !(color in this.named)).map((color) => this.button(color, text("swatch_used", { color })));
    this.place.replaceChildren(...own, ...(used.length ? [make("span", { className: "gap" }), ...used] : []));
    this.mark();
  }

  button(color, name) {
    const button = make("button", { title: name, "aria-label": name }, dot(color));
    button.dataset.color = color;
    button.addEventListener("click", () => {
      this.input.value = color;
      this.mark();
    });
    return button;
  }

  mark() {
    for (const button of this.place.querySelectorAll("button")) press(button, button.dataset.color === this.input.value);
  }
}

/** Remember a used colour as the newest. */
export function useColor(color) {
  if (recent[0] === color) return;
  recent = [color, ...recent.filter((each) => each !== color)].slice(0, RECENT);
  remember("colors", recent);
  for (const group of groups) group.show();
}

/** A round spot of a colour; no inline style in markup, which the page's policy forbids. */
function dot(color) {
  const icon = document.createElementNS(SVG, "svg");
  const spot = document.createElementNS(SVG, "circle");
  icon.setAttribute("viewBox", "0 0 10 10");
  icon.setAttribute("aria-hidden", "true");
  for (const [key, value] of Object.entries({ cx: 5, cy: 5, r: 4.5, fill: color, stroke: "currentColor", "stroke-width": 0.4 })) spot.setAttribute(key, value);
  icon.append(spot);
  return icon;
}
