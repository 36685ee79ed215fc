// Zoom and pan of a picture in its frame, by wheel, two fingers, keys and buttons.
import { $, make, text } from "./page.js";

const MOST = 12;
const STEP = 1.5; // of a button or a key
const WHEEL = 0.0025; // exponent for each pixel of a wheel
const KEY_PAN = 0.1; // of the frame's width and height

/** A frame with a zoomed `.layer`. `zoom` is 1 if the whole picture is visible; `x` and `y` are the
 * upper left corner of the visible part, as shares of the picture's width and height.
 *
 * `changed()` is called at every change, `interrupted()` when a second finger ends a one-finger action.
 */
export class Zoom {
  constructor(frame, bar, { changed = () => {}, interrupted = () => {} } = {}) {
    Object.assign(this, { frame, changed, interrupted, zoom: 1, x: 0, y: 0 });
    this.layer = $(".layer", frame);
    this.fingers = new Map();
    this.build(bar);
    this.listenToWheel();
    this.listenToFingers();
    this.listenToKeys();
    this.apply();
  }

  /** Zoom by a factor around a point, shares of the frame's width and height. */
  by(factor, at = [0.5, 0.5]) {
    const zoom = Math.min(MOST, Math.max(1, this.zoom * factor));
    const point = this.toPicture(at);
    this.set(zoom, point[0] - at[0] / zoom, point[1] - at[1] / zoom);
  }

  /** Move the visible part, by shares of the frame. */
  pan(dx, dy) { this.set(this.zoom, this.x + dx / this.zoom, this.y + dy / this.zoom); }

  fit() { this.set(1, 0, 0); }

  /** Bring a point of the picture into view. */
  reveal(x, y) {
    const side = 1 / this.zoom, edge = 0.1 * side;
    const within = (from, at) => Math.min(Math.max(from, at + edge - side), at - edge);
    this.set(this.zoom, within(this.x, x), within(this.y, y));
  }

  set(zoom, x, y) {
    const inside = (start) => Math.min(1 - 1 / zoom, Math.max(0, start));
    Object.assign(this, { zoom, x: inside(x), y: inside(y) });
    this.apply();
  }

  apply() {
    const { frame, layer, zoom, x, y } = this;
    layer.style.transform = `translate(${-100 * x * zoom}%, ${-100 * y * zoom}%) scale(${zoom})`;
    frame.style.setProperty("--zoom", zoom);
    frame.classList.toggle("zoomed", zoom > 1);
    this.shown.textContent = text("zoomed", { percent: Math.round(100 * zoom) });
    this.out.disabled = this.whole.disabled = zoom === 1;
    this.in.disabled = zoom === MOST;
    this.changed();
  }

  /** A point of the frame as shares of the picture. */
  toPicture([x, y]) { return [this.x + x / this.zoom, this.y + y / this.zoom]; }

  /** A pointer's place as shares of the frame. */
  locate({ clientX, clientY }) {
    const box = this.frame.getBoundingClientRect();
    return [(clientX - box.x) / box.width, (clientY - box.y) / box.height];
  }

  build(bar) {
    const button = (name, sign, act) => {
      const made = make("button", { className: "sign", "aria-label": text(name), title: text(name) }, sign);
      made.addEventListener("click", act);
      return made;
    };
    this.out = button("zoom_out", "−", () => this.by(1 / STEP));
    this.in = button("zoom_in", "+", () => this.by(STEP));
    this.whole = make("button", {}, text("zoom_fit"));
    this.whole.addEventListener("click", () => this.fit());
    this.shown = make("output", {});
    bar.append(this.out, this.shown, this.in, this.whole);
  }

  listenToWheel() {
    this.frame.addEventListener("wheel", (event) => {
      const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1);
      const before = this.zoom;
      this.by(Math.exp(-pixels * WHEEL * (event.ctrlKey ? 4 : 1)), this.locate(event));
      // At its limits the page scrolls; with Ctrl it never zooms instead.
      if (this.zoom !== before || event.ctrlKey) event.preventDefault();
    }, { passive: false });
  }

  /** Two fingers zoom and move; their events are not passed on. The middle button also moves. */
  listenToFingers() {
    const { frame, fingers } = this;
    const capture = { capture: true };
    let middle = null, gesture = false;
    frame.addEventListener("pointerdown", (event) => {
      if (event.button === 1) {
        event.preventDefault();
        middle = this.locate(event);
        frame.setPointerCapture(event.pointerId);
      }
      if (event.pointerType !== "touch") return;
      fingers.set(event.pointerId, this.locate(event));
      if (fingers.size < 2) return;
      if (!gesture) this.interrupted();
      gesture = true;
      event.stopPropagation();
      event.preventDefault();
    }, capture);
    frame.addEventListener("pointermove", (event) => {
      const at = this.locate(event);
      if (middle) {
        this.pan(middle[0] - at[0], middle[1] - at[1]);
        middle = at;
      }
      if (!fingers.has(event.pointerId)) return;
      const before = spread([...fingers.values()]);
      fingers.set(event.pointerId, at);
      if (!gesture) return;
      event.stopPropagation();
      if (fingers.size < 2) return;
      const after = spread([...fingers.values()]);
      this.pan(before.x - after.x, before.y - after.y);
      this.by(after.distance / Math.max(before.distance, 1e-3), [after.x, after.y]);
    }, capture);
    const lift = (event) => {
      middle = null;
      if (!fingers.delete(event.pointerId) || !gesture) return;
      event.stopPropagation();
      gesture = fingers.size > 0;
    };
    for (const name of ["pointerup", "pointercancel"]) frame.addEventListener(name, lift, capture);
    // Otherwise the browser would scroll or zoom the page.
    for (const name of ["touchstart", "touchmove"]) {
      frame.addEventListener(name, (event) => { if (event.touches.length > 1 && event.cancelable) event.preventDefault(); }, { passive: false });
    }
  }

  listenToKeys() {
    this.frame.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const { key } = event;
      const own = event.target === this.frame; // elsewhere arrows move the divider or the pen
      const [dx, dy] = own ? { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key] ?? [0, 0] : [0, 0];
      if (key === "+" || key === "=") this.by(STEP);
      else if (key === "-") this.by(1 / STEP);
      else if (key === "0") this.fit();
      else if ((dx || dy) && this.zoom > 1) this.pan(KEY_PAN * dx, KEY_PAN * dy);
      else return;
      event.preventDefault();
    });
  }
}

/** The middle of two points, and their distance. */
function spread([a, b]) {
  if (!b) return { x: a[0], y: a[1], distance: 1 };
  return { x: (a[0] + b[0]) / 2, y: (a[1] + b[1]) / 2, distance: Math.hypot(a[0] - b[0], a[1] - b[1]) };
}
