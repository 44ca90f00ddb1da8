// The view of AIR: a scene to draw, what the model finds in it, and the model's scene to change.
import { lists, pack, row, stack } from "./arrays.js";
import { ask } from "./backend.js";
import { frame, grip } from "./boxes.js";
import { colourOf } from "./colours.js";
import { button, card, column, controls, el, framed, picture, select } from "./elements.js";
import { latest, page } from "./latest.js";
import { say } from "./notice.js";
import { draw, fitted, reserve } from "./pixels.js";
import { box, moved, normal, scaled } from "./places.js";
import { follow, publish } from "./shared.js";
import { Sketch } from "./sketch.js";

const DRAWS = 6;

export class ScenesView {
  constructor(index, about) {
    this.index = index;
    this.about = about;
    this.objects = [];
    this.background = [];
    this.selected = 0;
    this.redetect = latest((image) => this.detected(image));
    this.redraw = latest(() => this.drawn());
    this.frames = framed(() => this.outline());
    this.element = el(
      "div",
      { class: "columns" },
      column(this.sceneCard()),
      column(this.modelCard()),
      column(this.countCard(), this.objectsCard(), this.priorCard()),
    );
    document.addEventListener("themechange", () => this.frames());
    new ResizeObserver(() => this.frames()).observe(this.element);
    follow(this, (image) => this.take(image));
  }

  async load() {
    this.images = (await ask(this.index, "images")).images;
  }

  async start() {
    const { counts } = this.about;
    // The fullest of the first scenes has most to see.
    if (!this.given) this.pick(counts ? counts.indexOf(Math.max(...counts.slice(0, 50))) : 0);
    await this.sample();
  }

  ask(verb, fields, channel) {
    return ask(this.index, verb, fields, `${page}:${this.index}:${channel}`);
  }

  sceneCard() {
    this.sketch = new Sketch({
      shape: this.about.shape,
      label: "Scene",
      brush: Math.max(1.6, Math.min(...this.about.shape.slice(1)) / 24),
      onchange: (image) => {
        this.redetect(image);
        publish(this, image);
      },
    });
    this.sketch.canvas.dataset.name = "scene";
    this.found = el("canvas", { class: "overlay", "aria-hidden": "true" });
    this.told = el("p", { class: "numbers", "aria-live": "polite" }, " ");
    return card(
      "Scene",
      el("div", { class: "stage" }, this.sketch.canvas, this.found),
      this.sketch.tools(
        button("Held-out scene", () => this.pick(Math.floor(Math.random() * this.images.shape[0]))),
      ),
      this.told,
      el("p", { class: "hint" }, "Draw objects, or drop an image. Boxes are what the model finds as you draw."),
    );
  }

  modelCard() {
    this.canvas = reserve(picture("The model's scene"), this.about.shape);
    this.canvas.dataset.name = "model";
    this.handles = el("canvas", {
      class: "overlay touch",
      tabIndex: 0,
      role: "application",
      "aria-label":
        "Objects of the model's scene. Tab between them with the buttons below; arrow keys move " +
        "the chosen one, plus and minus change its size, Delete takes it away.",
    });
    this.handles.dataset.name = "handles";
    grip(this.handles, this.about.shape, {
      boxes: () => this.windows(),
      select: (i) => this.select(i),
      shift: (dx, dy) => this.shift(dx, dy),
      resize: (factor) => this.resize(factor),
      remove: () => this.remove(),
    });
    this.chooser = el("div", { class: "controls", role: "group", "aria-label": "object" });
    return card(
      "The model's scene",
      el("div", { class: "stage" }, this.canvas, this.handles),
      controls(
        button("Add object", () => this.add()),
        button("Remove object", () => this.remove()),
        button("Larger", () => this.resize(1.08)),
        button("Smaller", () => this.resize(1 / 1.08)),
        button("As found", () => this.redetect(this.sketch.image)),
      ),
      this.chooser,
      el("p", { class: "hint" }, "Drag an object: the model draws it elsewhere. An object that is added is a draw from the prior."),
    );
  }

  countCard() {
    this.bars = Array.from({ length: this.about.objects + 1 }, (_, n) => {
      const bar = el("span", { class: "bar" });
      const value = el("span", { class: "value" }, "0%");
      const element = el("li", {}, el("span", {}, String(n)), el("span", { class: "bed" }, bar), value);
      return { element, bar, value };
    });
    return card(
      "How many objects",
      el("ol", { class: "bars", "aria-label": "probability of each count" }, ...this.bars.map(({ element }) => element)),
    );
  }

  objectsCard() {
    this.cuts = Array.from({ length: this.about.objects }, (_, i) => {
      const cut = reserve(picture(`Object ${i + 1}, cut out`), this.about.shape);
      const mask = reserve(picture(`Mask of object ${i + 1}`), [1, ...this.about.shape.slice(1)]);
      cut.dataset.name = `object ${i + 1}`;
      mask.dataset.name = `mask ${i + 1}`;
      const element = el("div", { class: "cut" }, cut, mask);
      element.style.setProperty("--colour", colourOf(i));
      return { element, cut, mask };
    });
    return card(
      "Objects and their masks",
      el("div", { class: "cuts" }, ...this.cuts.map(({ element }) => element)),
    );
  }

  priorCard() {
    this.prior = Array.from({ length: DRAWS }, (_, i) => {
      const canvas = reserve(picture(`Scene ${i + 1} drawn from the prior`, { class: "strip" }), this.about.shape);
      canvas.dataset.name = `prior ${i + 1}`;
      return canvas;
    });
    const counts = [["", "as the prior has it"], ...this.bars.map((_, n) => [n, n === 1 ? "1 object" : `${n} objects`])];
    const choice = select("count", counts, (value) => {
      this.count = value === "" ? null : +value;
      this.sample();
    });
    // The prior of few models has objects in most scenes.
    this.count = Math.min(2, this.about.objects);
    choice.querySelector("select").value = String(this.count);
    return card("Draws from the prior", el("div", { class: "draws" }, ...this.prior), controls(choice, button("Draw again", () => this.sample())));
  }

  pick(i) {
    const image = row(this.images, i);
    this.sketch.show(image, true);
    this.redetect(image);
    publish(this, image);
  }

  take(image) {
    this.given = true;
    const mine = fitted(image, this.about.shape);
    this.sketch.show(mine, true);
    this.redetect(mine);
  }

  async sample() {
    const seed = Math.floor(Math.random() * 2 ** 32);
    const { images } = await this.ask("sample", { n: DRAWS, count: this.count, seed }, "prior");
    this.prior.forEach((canvas, i) => draw(canvas, row(images, i)));
  }

  async detected(image) {
    const found = await this.ask("detect", { images: pack(stack([image])) }, "scene");
    const count = Math.round(found.counts.data[0]);
    const [where, what] = [lists(found.z_where), lists(found.z_what)];
    this.objects = where.slice(0, count).map((place, i) => ({ where: place, what: what[i] }));
    this.background = Array.from(found.z_background.data);
    this.boxes = lists(found.boxes).slice(0, count);
    this.selected = Math.min(this.selected, Math.max(0, count - 1));
    draw(this.canvas, row(found.reconstruction, 0));
    this.posterior(found.probabilities.data, count);
    this.cutOut(image, found.masks, count);
    this.choices();
    this.frames();
  }

  posterior(probabilities, count) {
    this.bars.forEach(({ element, bar, value }, n) => {
      const share = probabilities[n];
      bar.style.width = `${100 * share}%`;
      value.textContent = share < 0.0005 ? "0%" : `${(100 * share).toPrecision(3)}%`;
      element.dataset.most = String(n === count);
    });
    const sure = (100 * probabilities[count]).toPrecision(3);
    this.told.textContent = `${count} ${count === 1 ? "object" : "objects"}, with probability ${sure}%.`;
  }

  cutOut(image, masks, count) {
    const [channels, height, width] = image.shape;
    const plane = height * width;
    this.cuts.forEach(({ element, cut, mask }, i) => {
      element.dataset.present = String(i < count);
      const share = row(masks, i).data;
      const data = image.data.map((value, k) => Math.round((value * share[k % plane]) / 255));
      draw(cut, { shape: [channels, height, width], data });
      draw(mask, { shape: [1, height, width], data: share });
    });
  }

  /** Redraws the model's scene of the objects as they are now. */
  async drawn() {
    const { objects, what } = this.about;
    const empty = new Array(4 + what).fill(0);
    const codes = Array.from({ length: objects }, (_, i) => {
      const object = this.objects[i];
      return object ? [1, ...object.where, ...object.what] : empty;
    });
    const { images } = await this.ask("decode", { codes: [[...codes.flat(), ...this.background]] }, "model");
    draw(this.canvas, row(images, 0));
    this.canvas.setAttribute("aria-label", `The model's scene of ${this.objects.length} objects`);
  }

  /** Draws the boxes: those found on the scene, those of windows on the model's scene. */
  outline() {
    frame(this.found, this.about.shape, this.boxes ?? []);
    frame(this.handles, this.about.shape, this.windows(), this.selected);
  }

  windows() {
    return this.objects.map(({ where }) => box(where, this.about.shape, this.about.aspect));
  }

  select(i) {
    this.selected = i;
    this.choices();
    this.frames();
  }

  change(where) {
    this.objects[this.selected] = { ...this.objects[this.selected], where };
    this.frames();
    this.redraw();
  }

  resize(factor) {
    if (this.objects[this.selected]) this.change(scaled(this.objects[this.selected].where, factor));
  }

  add() {
    if (this.objects.length >= this.about.objects) {
      say(`This model has at most ${this.about.objects} objects in a scene.`);
      return;
    }
    const { loc, scale } = this.about.where;
    // A place of the prior may be outside of the canvas: the middle half is seen.
    const place = (k) => Math.max(-0.5, Math.min(0.5, loc[k] + scale[k] * normal())) * Math.exp(loc[0]);
    this.objects.push({ where: [loc[0], place(1), place(2)], what: Array.from({ length: this.about.what }, normal) });
    this.selected = this.objects.length - 1;
    this.choices();
    this.frames();
    this.redraw();
  }

  remove() {
    if (!this.objects.length) return;
    this.objects.splice(this.selected, 1);
    this.selected = Math.max(0, Math.min(this.selected, this.objects.length - 1));
    this.choices();
    this.frames();
    this.redraw();
  }

  choices() {
    const options = this.objects.map((_, i) => {
      const chosen = button(`object ${i + 1}`, () => this.select(i));
      chosen.setAttribute("aria-pressed", String(i === this.selected));
      chosen.style.setProperty("--colour", colourOf(i));
      return chosen;
    });
    this.chooser.replaceChildren(...(options.length ? options : [el("span", { class: "hint" }, "no objects")]));
  }

  shift(dx, dy) {
    if (!this.objects[this.selected]) return;
    this.change(moved(this.objects[this.selected].where, dx, dy, this.about.shape, this.about.aspect));
  }
}
