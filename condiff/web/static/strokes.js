// Strokes on a canvas: by mouse, pen, finger and keys, with undo, and as a PNG.
import { make, showIf } from "./page.js";

/** Strokes in their order, and the undone ones. */
export class StrokeList {
  made = [];
  undone = [];

  add(stroke) {
    this.made.push(stroke);
    this.undone.length = 0;
  }

  /** Remove the last stroke without redo. */
  abandon() { this.made.pop(); }

  undo() { if (this.made.length) this.undone.push(this.made.pop()); }
  redo() { if (this.undone.length) this.made.push(this.undone.pop()); }
  clear() { if (!this.isEmpty) this.add({ clears: true }); } // a stroke, so that it can be undone

  /** The strokes since the last clear. */
  get shown() { return this.made.slice(this.made.findLastIndex((stroke) => stroke.clears) + 1); }

  /** Whether nothing is drawn; the effect of erasers is not examined. */
  get isEmpty() { return !this.shown.some((stroke) => !stroke.erases); }
}

/** Draw strokes, all in one colour if given. */
export function paint(context, strokes, color = null) {
  context.globalCompositeOperation = "source-over";
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.globalCompositeOperation = stroke.erases ? "destination-out" : "source-over";
    context.strokeStyle = color ?? stroke.color;
    context.lineWidth = stroke.width;
    context.beginPath();
    stroke.points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.lineTo(...stroke.points.at(-1));
    context.stroke();
  }
  context.globalCompositeOperation = "source-over";
}

/** Strokes as a PNG of that size: on transparency, or in one colour on paper. */
export function toPng(list, { width, height }, { paper = null, color = null } = {}) {
  const context = make("canvas", { width, height }).getContext("2d");
  paint(context, list.shown, color);
  if (paper) {
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = paper;
    context.fillRect(0, 0, width, height);
  }
  return new Promise((resolve) => context.canvas.toBlob(resolve, "image/png"));
}

export async function toBase64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let binary = "";
  for (let i = 0; i < bytes.length; i += 32768) binary += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(binary);
}

/** A canvas for painting; strokes are redrawn from their points.
 *
 * `style()` returns the next stroke's colour, width in pixels of the canvas, and whether it erases.
 * Arrow keys move a pen, Space or Enter puts it down and lifts it; `moved(x, y)` is called with its
 * place, as shares of width and height, and `fineness()` divides the size of its steps.
 */
export class Strokes {
  constructor(canvas, { style, ended, begun = () => {}, moved = () => {}, fineness = () => 1 }) {
    Object.assign(this, { canvas, style, ended, begun, moved, fineness });
    this.context = canvas.getContext("2d");
    this.list = new StrokeList();
    this.current = null;
    this.pen = make("span", { className: "pen-mark", hidden: true });
    canvas.after(this.pen);
    this.listenToPointers();
    this.listenToKeys();
  }

  /** Show and change another list of strokes. */
  use(list) {
    this.end();
    this.list = list;
    this.paint();
  }

  paint() { paint(this.context, this.list.shown); }

  /** Change the list by a function, such as undo; the current stroke ends first. */
  change(by) {
    this.end();
    by(this.list);
    this.paint();
  }

  begin(point, pointer = null) {
    this.begun();
    this.current = { ...this.style(), points: [point], pointer };
    this.list.add(this.current);
    this.paint();
  }

  end() {
    if (!this.current) return;
    this.current = null;
    this.pen.classList.remove("down");
    this.ended();
  }

  /** Drop the current stroke: its finger was the first of two. */
  abandon() {
    if (!this.current) return;
    this.current = null;
    this.list.abandon();
    this.paint();
  }

  /** A pointer's place in pixels of the canvas, at any zoom. */
  locate(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.x) / box.width * this.canvas.width, (event.clientY - box.y) / box.height * this.canvas.height];
  }

  listenToPointers() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button || this.current) return;
      event.preventDefault();
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      this.begin(this.locate(event), event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "touch") this.showPen(...this.locate(event));
      if (this.current?.pointer !== event.pointerId) return;
      const events = event.getCoalescedEvents?.() ?? [];
      this.current.points.push(...(events.length ? events : [event]).map((each) => this.locate(each)));
      this.paint();
    });
    const end = (event) => { if (this.current?.pointer === event.pointerId) this.end(); };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    canvas.addEventListener("pointerleave", () => showIf(this.pen, canvas.matches(":focus-visible")));
  }

  listenToKeys() {
    const { canvas, pen } = this;
    let x = 0.5, y = 0.5;
    const place = () => this.showPen(x * canvas.width, y * canvas.height);
    canvas.addEventListener("focus", () => { if (canvas.matches(":focus-visible")) place(); });
    canvas.addEventListener("blur", () => { showIf(pen, false); this.end(); });
    canvas.addEventListener("keydown", (event) => {
      const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
      const presses = event.key === " " || event.key === "Enter";
      if (!(dx || dy || presses) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      const step = (event.shiftKey ? 0.1 : 0.02) / this.fineness();
      x = Math.min(1, Math.max(0, x + step * dx));
      y = Math.min(1, Math.max(0, y + step * dy));
      const point = [x * canvas.width, y * canvas.height];
      if (presses && this.current) this.end();
      else if (presses) this.begin(point);
      else if (this.current) this.current.points.push(point);
      pen.classList.toggle("down", Boolean(this.current));
      this.moved(x, y);
      place();
      this.paint();
    });
  }

  /** A ring as wide as the next stroke, around a place in pixels of the canvas. */
  showPen(x, y) {
    const { canvas, pen } = this;
    pen.style.setProperty("--pen-x", `${100 * x / canvas.width}%`);
    pen.style.setProperty("--pen-y", `${100 * y / canvas.height}%`);
    pen.style.setProperty("--pen-width", `${100 * this.style().width / canvas.width}%`);
    showIf(pen, true);
  }
}
