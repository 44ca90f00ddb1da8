// A map of points in the plane: a pointer, a finger or the arrow keys move over it.
import { row } from "./arrays.js";
import { colourOf, point, shapeOf, theme, viridis } from "./colours.js";
import { MOVE, el, framed, written } from "./elements.js";
import { canvasOf } from "./pixels.js";

const MARGIN = 0.06;
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/** Points (M, 2), coloured by classes or quantities, or drawn as their images. */
export class Map2D {
  /**
   * `onmove([x, y])` is called with each place under the pointer; `onpick(i)` with the nearest
   * point of a click or of Enter.
   */
  constructor({ points, label, onmove, onpick }) {
    this.points = points.data;
    this.n = points.shape[0];
    this.onmove = onmove;
    this.onpick = onpick;
    this.cursor = null;
    this.thumbnails = null;
    this.colouring = null;
    this.hidden = new Set();
    this.recross = framed(() => this.cross());
    this.below = el("canvas", { "aria-hidden": "true" });
    this.above = el("canvas", {
      class: "touch",
      tabIndex: 0,
      role: "application",
      "aria-label": `${label}. Arrow keys move, Enter takes the nearest image.`,
    });
    this.element = el("div", { class: "map" }, this.below, this.above);
    this.bounds();
    this.listen();
    new ResizeObserver(() => this.redraw()).observe(this.element);
    document.addEventListener("themechange", () => this.redraw());
  }

  bounds() {
    const [low, high] = [[Infinity, Infinity], [-Infinity, -Infinity]];
    for (let i = 0; i < 2 * this.n; i++) {
      low[i % 2] = Math.min(low[i % 2], this.points[i]);
      high[i % 2] = Math.max(high[i % 2], this.points[i]);
    }
    for (const k of [0, 1]) {
      const span = high[k] - low[k] || 1;
      low[k] -= MARGIN * span;
      high[k] += MARGIN * span;
    }
    [this.low, this.high] = [low, high];
  }

  /** Colours the points: `{values, classes}`, where classes is null of quantities. */
  colour(colouring) {
    this.colouring = colouring;
    this.hidden.clear();
    if (colouring && !colouring.classes) {
      const known = colouring.values.filter((value) => value !== null);
      this.range = [Math.min(...known), Math.max(...known)];
    }
    this.redraw();
  }

  /** Hides or shows a class. */
  toggle(index) {
    if (!this.hidden.delete(index)) this.hidden.add(index);
    this.redraw();
  }

  /** Draws points as their images, or as points if there are none. */
  images(images) {
    this.thumbnails = images;
    this.redraw();
  }

  listen() {
    const place = (event) => {
      const box = this.above.getBoundingClientRect();
      return this.plane((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    };
    this.above.addEventListener(MOVE, (event) => this.move(place(event)));
    this.above.addEventListener("pointerdown", (event) => {
      this.above.setPointerCapture(event.pointerId);
      this.move(place(event));
    });
    this.above.addEventListener("click", (event) => this.pick(place(event)));
    this.above.addEventListener("keydown", (event) => {
      const middle = this.low.map((low, k) => (low + this.high[k]) / 2);
      if (event.key === "Enter") this.pick(this.cursor ?? middle);
      else if (KEYS[event.key]) {
        const step = event.shiftKey ? 0.1 : 0.02;
        const from = this.cursor ?? middle;
        this.move(from.map((x, k) => x + KEYS[event.key][k] * step * (this.high[k] - this.low[k])));
      } else return;
      event.preventDefault();
    });
  }

  move(place) {
    this.mark(place.map((x, k) => Math.max(this.low[k], Math.min(this.high[k], x))));
    this.onmove(this.cursor);
  }

  pick(place) {
    const i = this.nearest(place);
    if (i === null) return;
    this.mark([this.points[2 * i], this.points[2 * i + 1]]);
    this.onpick(i);
  }

  nearest([x, y]) {
    const scale = [0, 1].map((k) => 1 / (this.high[k] - this.low[k]));
    let [best, least] = [null, Infinity];
    for (let i = 0; i < this.n; i++) {
      if (!this.shown(i)) continue;
      const distance =
        (scale[0] * (this.points[2 * i] - x)) ** 2 + (scale[1] * (this.points[2 * i + 1] - y)) ** 2;
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  shown(i) {
    return !(this.colouring && this.colouring.classes && this.hidden.has(this.colouring.values[i]));
  }

  /** Moves the cross without a call. */
  mark(place) {
    this.cursor = place;
    this.recross();
  }

  plane(u, v) {
    return [
      this.low[0] + u * (this.high[0] - this.low[0]),
      this.high[1] - v * (this.high[1] - this.low[1]),
    ];
  }

  pixel(x, y) {
    const { width, height } = this.below;
    return [
      (width * (x - this.low[0])) / (this.high[0] - this.low[0]),
      (height * (this.high[1] - y)) / (this.high[1] - this.low[1]),
    ];
  }

  redraw() {
    const box = this.element.getBoundingClientRect();
    if (!box.width) return;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    for (const canvas of [this.below, this.above]) {
      [canvas.width, canvas.height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    }
    const context = this.below.getContext("2d");
    if (this.thumbnails) this.drawImages(context);
    else this.drawPoints(context, ratio);
    this.cross();
  }

  drawPoints(context, ratio) {
    const radius = ratio * Math.max(2, Math.min(4.5, (this.below.width / ratio) * 0.006));
    context.globalAlpha = 0.85;
    for (let i = 0; i < this.n; i++) {
      if (!this.shown(i)) continue;
      const [colour, shape] = this.style(i);
      if (colour === null) continue;
      context.fillStyle = context.strokeStyle = colour;
      point(context, shape, ...this.pixel(this.points[2 * i], this.points[2 * i + 1]), radius);
    }
    context.globalAlpha = 1;
  }

  style(i) {
    if (!this.colouring) return [theme("accent"), "disc"];
    const value = this.colouring.values[i];
    if (value === null) return [null, "disc"];
    if (this.colouring.classes) return [colourOf(value), shapeOf(value)];
    const [low, high] = this.range;
    return [viridis((value - low) / (high - low || 1)), "disc"];
  }

  drawImages(context) {
    const side = Math.max(16, this.below.width / 17);
    const [, , height, width] = this.thumbnails.shape;
    const scale = side / Math.max(height, width);
    const taken = new Set();
    context.imageSmoothingQuality = "high";
    for (let i = 0; i < this.n; i++) {
      if (!this.shown(i)) continue;
      const [x, y] = this.pixel(this.points[2 * i], this.points[2 * i + 1]);
      // One image for each cell, as far as there is room.
      const cell = `${Math.round(x / side)} ${Math.round(y / side)}`;
      if (taken.has(cell)) continue;
      taken.add(cell);
      const [w, h] = [width * scale * 0.92, height * scale * 0.92];
      context.drawImage(canvasOf(row(this.thumbnails, i)), x - w / 2, y - h / 2, w, h);
      const [colour] = this.style(i);
      if (this.colouring && colour) {
        context.strokeStyle = colour;
        context.lineWidth = side / 18;
        context.strokeRect(x - w / 2, y - h / 2, w, h);
      }
    }
  }

  cross() {
    const context = this.above.getContext("2d");
    const { width, height } = this.above;
    context.clearRect(0, 0, width, height);
    if (!this.cursor) return;
    const [x, y] = this.pixel(...this.cursor);
    const size = width / 40;
    for (const [colour, line] of [[theme("card"), 6], [theme("text"), 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = (line * width) / this.element.clientWidth / 1.4;
      context.beginPath();
      context.arc(x, y, size / 2, 0, 7);
      for (const [dx, dy] of Object.values(KEYS)) {
        context.moveTo(x + (dx * size) / 2, y + (dy * size) / 2);
        context.lineTo(x + 1.3 * dx * size, y + 1.3 * dy * size);
      }
      context.stroke();
    }
  }
}

/** The names of the colours of a map: classes are buttons that hide them. */
export function legend(map, colouring) {
  if (!colouring) return el("div", { class: "legend" });
  if (!colouring.classes) {
    const known = colouring.values.filter((value) => value !== null);
    const ends = [Math.min(...known), Math.max(...known)].map(written);
    return el(
      "div",
      { class: "legend" },
      el("span", {}, ends[0]),
      el("span", { class: "viridis", role: "img", "aria-label": "from dark to light" }),
      el("span", {}, ends[1]),
    );
  }
  const entries = colouring.classes.map((name, i) => {
    const swatch = el("canvas", { width: 24, height: 24, "aria-hidden": "true" });
    const context = swatch.getContext("2d");
    context.fillStyle = context.strokeStyle = colourOf(i);
    point(context, shapeOf(i), 12, 12, 8);
    const entry = el("button", { type: "button", "aria-pressed": "true" }, swatch, name);
    entry.onclick = () => {
      map.toggle(i);
      entry.setAttribute("aria-pressed", String(!map.hidden.has(i)));
    };
    return entry;
  });
  return el("div", { class: "legend", role: "group", "aria-label": "classes shown" }, ...entries);
}
