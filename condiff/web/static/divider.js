// The line between before and after, moved by pointer or arrow keys.
const NEAR = 28; // pixels: a pointer this near drags the line of a zoomed picture
const STILL = 4; // pixels that a tap may move

/** A range input over a frame. In a zoomed picture, a pointer away from the line moves the picture.
 * Pointers are handled only while `active()`.
 */
export class Divider {
  constructor(frame, input, zoom, active) {
    Object.assign(this, { frame, input, zoom, active, held: null });
    input.addEventListener("input", () => this.apply());
    this.listen();
  }

  get share() { return this.input.value / 100; }

  move(share) {
    this.input.value = 100 * share;
    this.apply();
  }

  /** Align the line with the edge of the after-picture, which is in the zoomed layer. */
  apply() {
    const [edge] = this.zoom.toPicture([this.share, 0]);
    this.frame.style.setProperty("--x", `${100 * this.share}%`);
    this.frame.style.setProperty("--clip", `${100 * Math.min(1, Math.max(0, edge))}%`);
  }

  listen() {
    const { frame, zoom } = this;
    frame.addEventListener("pointerdown", (event) => {
      if (event.button || !this.active()) return;
      const at = zoom.locate(event);
      const near = Math.abs(at[0] - this.share) * frame.clientWidth < NEAR;
      this.held = { pointer: event.pointerId, from: at, last: at, divides: near || zoom.zoom === 1, moved: false };
      frame.setPointerCapture(event.pointerId);
      // A finger may be about to scroll the page: the line waits until it moves sideways.
      if (event.pointerType !== "touch" && this.held.divides) this.move(at[0]);
      event.preventDefault();
      this.input.focus({ preventScroll: true });
    });
    frame.addEventListener("pointermove", (event) => {
      const { held } = this;
      if (held?.pointer !== event.pointerId) return;
      const at = zoom.locate(event);
      held.moved ||= Math.hypot((at[0] - held.from[0]) * frame.clientWidth, (at[1] - held.from[1]) * frame.clientHeight) > STILL;
      if (held.divides && held.moved) this.move(at[0]);
      else if (!held.divides) zoom.pan(held.last[0] - at[0], held.last[1] - at[1]);
      held.last = at;
    });
    frame.addEventListener("pointerup", (event) => {
      const { held } = this;
      if (held?.pointer !== event.pointerId) return;
      if (held.divides && !held.moved) this.move(held.from[0]);
      this.release();
    });
    frame.addEventListener("pointercancel", () => this.release());
    frame.addEventListener("dblclick", (event) => {
      if (!this.active()) return;
      if (zoom.zoom > 1) zoom.fit();
      else zoom.by(3, zoom.locate(event));
    });
  }

  /** Release the line or the picture. */
  release() { this.held = null; }
}
