// A pad to draw on, with a mouse, a finger or the keyboard, or to drop an image on.
import { MOVE, button, controls, el } from "./elements.js";
import { draw, fromFile, read, reserve } from "./pixels.js";
import { report } from "./notice.js";

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Sketch {
  /** `onchange(image)` is called with every stroke. */
  constructor({ shape, label, onchange, brush }) {
    this.shape = shape;
    this.onchange = onchange;
    this.undone = [];
    this.canvas = reserve(
      el("canvas", {
        class: "touch pad",
        tabIndex: 0,
        role: "application",
        "aria-label": `${label}. Draw with a pointer; or arrow keys move a pen that Space puts down.`,
      }),
      shape,
    );
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.pen = { x: shape[2] / 2, y: shape[1] / 2, down: false };
    this.width = brush ?? Math.max(1.6, Math.min(shape[1], shape[2]) / 12);
    this.colour = "#ffffff";
    this.clear(false);
    this.listen();
  }

  /** The buttons of the pad. */
  tools(...others) {
    const file = el("input", { type: "file", accept: "image/*", hidden: true });
    file.onchange = () => this.load(file.files[0]);
    const colour = el("input", { type: "color", value: this.colour, "aria-label": "colour of the pen" });
    colour.oninput = () => (this.colour = colour.value);
    return controls(
      button("Clear", () => this.clear()),
      button("Undo", () => this.undo()),
      button("Open image…", () => file.click()),
      file,
      this.shape[0] === 3 ? colour : null,
      ...others,
    );
  }

  get image() {
    return read(this.canvas, this.shape[0]);
  }

  /** Shows an image; `silent` without a call of onchange. */
  show(image, silent = false) {
    this.remember();
    draw(this.canvas, image);
    if (!silent) this.onchange(this.image);
  }

  clear(tell = true) {
    if (tell) this.remember();
    this.context.fillStyle = "#000000";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (tell) this.onchange(this.image);
  }

  remember() {
    const { width, height } = this.canvas;
    this.undone.push(this.context.getImageData(0, 0, width, height));
    if (this.undone.length > 50) this.undone.shift();
  }

  undo() {
    if (!this.undone.length) return;
    this.context.putImageData(this.undone.pop(), 0, 0);
    this.onchange(this.image);
  }

  async load(file) {
    if (!file) return;
    try {
      this.show(await fromFile(file, this.shape));
    } catch (error) {
      report(error);
    }
  }

  listen() {
    const canvas = this.canvas;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [
        ((event.clientX - box.left) / box.width) * canvas.width,
        ((event.clientY - box.top) / box.height) * canvas.height,
      ];
    };
    let last = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (this.refuses && this.refuses(event)) return;
      canvas.setPointerCapture(event.pointerId);
      this.remember();
      last = place(event);
      this.stroke(last, last);
    });
    canvas.addEventListener(MOVE, (event) => {
      if (!last) return;
      for (const each of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
        const here = place(each);
        this.stroke(last, here, false);
        last = here;
      }
      this.onchange(this.image);
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (last = null));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("dragover", (event) => event.preventDefault());
    canvas.addEventListener("drop", (event) => {
      event.preventDefault();
      this.load(event.dataTransfer.files[0]);
    });
    canvas.addEventListener("paste", (event) => this.load(event.clipboardData.files[0]));
  }

  key(event) {
    const pen = this.pen;
    if (event.key === " ") {
      pen.down = !pen.down;
      if (pen.down) {
        this.remember();
        this.stroke([pen.x, pen.y], [pen.x, pen.y]);
      }
    } else if (KEYS[event.key]) {
      const step = event.shiftKey ? 4 : 1;
      const from = [pen.x, pen.y];
      pen.x = Math.max(0, Math.min(this.canvas.width, pen.x + step * KEYS[event.key][0]));
      pen.y = Math.max(0, Math.min(this.canvas.height, pen.y + step * KEYS[event.key][1]));
      if (pen.down) this.stroke(from, [pen.x, pen.y]);
    } else if (event.key === "Delete" || event.key === "Backspace") this.clear();
    else if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.undo();
    else return;
    event.preventDefault();
  }

  stroke(from, to, tell = true) {
    const context = this.context;
    context.strokeStyle = this.colour;
    context.lineWidth = this.width;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(to[0] + 0.01, to[1]);
    context.stroke();
    if (tell) this.onchange(this.image);
  }
}
