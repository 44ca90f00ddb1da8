// The view of a method that encodes and decodes: a map, an image at each point, sliders, a walk.
import { lists, pack, row, stack } from "./arrays.js";
import { ask } from "./backend.js";
import { button, card, checkbox, column, controls, el, framed, picture, select, slider, written } from "./elements.js";
import { latest, page } from "./latest.js";
import { Map2D, legend } from "./map.js";
import { draw, drawStrip, fitted, reserve } from "./pixels.js";
import { lift, project } from "./planes.js";
import { follow, publish } from "./shared.js";
import { Sketch } from "./sketch.js";
import { linear, spherical, steps } from "./walks.js";

const WALK = 9;

export class CodesView {
  constructor(index, about) {
    this.index = index;
    this.about = about;
    this.codes = lists(about.codes);
    this.z = this.codes[0] ?? new Array(about.size).fill(0);
    this.ends = [0, Math.max(1, this.codes.length >> 1)].map((i) => this.codes[i] ?? this.z);
    this.redecode = latest(() => this.decoded());
    this.rewalk = latest(() => this.walked());
    // Many sliders would take the time in which the next image could be drawn.
    const pause = about.size > 8 ? 100 : 0;
    this.reslide = framed(() => this.sliders.forEach((each, i) => each.set(this.z[i])), pause);
    this.reencode = latest((image) => this.encoded(image));
    this.element = el("div", { class: "columns" }, ...this.columns());
    follow(this, (image) => this.take(image));
  }

  columns() {
    return [
      column(this.mapCard()),
      column(this.imageCard(), this.sliderCard()),
      column(this.sketchCard(), this.walkCard()),
    ];
  }

  /** Asks for the held-out images. */
  async load() {
    this.images = (await ask(this.index, "images")).images;
    if (this.showsImages()) this.map.images(this.images);
  }

  /** Draws what is there at first; another view may have given an image already. */
  async start() {
    if (!this.given) this.pick(0);
    await Promise.all([this.rewalk(), this.redecode()]);
  }

  /** Decodes codes, under the conditions of each if the model has any. */
  decode(codes, channel) {
    return this.ask("decode", { codes, ...this.labels(codes.length) }, channel);
  }

  /** Asks for a verb, of which a later request of this view and channel takes the place. */
  ask(verb, fields, channel) {
    return ask(this.index, verb, fields, `${page}:${this.index}:${channel}`);
  }

  labels() {
    return {};
  }

  mapCard() {
    const { colourings, points } = this.about;
    this.map = new Map2D({
      points,
      label: `Map of ${points.shape[0]} held-out codes`,
      onmove: (place) => this.at(lift(this.about.plane, place), "map"),
      onpick: (i) => this.pick(i),
    });
    this.key = el("div");
    const choose = (i) => {
      this.map.colour(colourings[i] ?? null);
      this.key.replaceChildren(legend(this.map, colourings[i]));
    };
    choose(0);
    const options = colourings.map((each, i) => [i, each.name]);
    const box = checkbox("images", this.drawsImages ?? false, (on) =>
      this.map.images(on ? this.images : null),
    );
    this.showsImages = () => box.querySelector("input").checked;
    const kind = this.about.size > 2 ? `, the first two principal components of ${this.about.size} numbers` : "";
    return card(
      "Map",
      controls(options.length ? select("colour", options, choose) : null, box),
      this.map.element,
      this.key,
      el("p", { class: "hint" }, `Held-out codes${kind}. Move over the map; click to take the nearest image.`),
    );
  }

  imageCard() {
    this.canvas = reserve(picture("Decoded image"), this.about.shape);
    this.canvas.dataset.name = "decoded";
    this.caption = el("p", { class: "numbers", "aria-live": "off" });
    return card("Decoded", el("div", { class: "large" }, this.canvas), this.caption);
  }

  sliderCard() {
    this.sliders = Array.from({ length: this.about.size }, (_, i) => {
      const values = this.codes.map((z) => z[i]).sort((a, b) => a - b);
      const [least, most] = [values[0] ?? -3, values.at(-1) ?? 3];
      const room = 0.25 * (most - least || 1);
      return slider(`z${i + 1}`, {
        low: least - room,
        high: most + room,
        step: (most - least || 1) / 500,
        value: this.z[i],
        marks: [least, most],
        oninput: (x) => this.at(this.z.map((old, k) => (k === i ? x : old)), "slider"),
      });
    });
    return card(
      "Code",
      el("div", { class: "sliders" }, ...this.sliders.map((each) => each.element)),
      el("p", { class: "hint" }, "The bar behind each slider is the range of held-out codes."),
    );
  }

  sketchCard() {
    this.sketch = new Sketch({
      shape: this.about.shape,
      label: "Your image",
      onchange: (image) => {
        this.reencode(image);
        publish(this, image);
      },
    });
    this.sketch.canvas.dataset.name = "sketch";
    this.rebuilt = reserve(picture("Reconstruction of your image"), this.about.shape);
    this.rebuilt.dataset.name = "reconstruction";
    this.found = el("p", { class: "numbers" });
    return card(
      "Your image",
      el(
        "div",
        { class: "pair" },
        el("figure", {}, this.sketch.canvas, el("figcaption", {}, "draw, or drop an image")),
        el("figure", {}, this.rebuilt, el("figcaption", {}, "reconstruction")),
      ),
      this.sketch.tools(button("Held-out image", () => this.pick(Math.floor(Math.random() * this.codes.length)))),
      this.found,
    );
  }

  walkCard() {
    this.thumbs = ["Start", "End"].map((name) => reserve(picture(`${name} of the walk`), this.about.shape));
    const take = (i) => {
      this.ends[i] = [...this.z];
      this.rewalk();
    };
    const end = (i, name) =>
      el("div", { class: "end" }, this.thumbs[i], button(`Take as ${name}`, () => take(i)));
    this.strips = ["Straight", "Spherical"].map((name) =>
      reserve(picture(`${name} walk, ${WALK} images`, { class: "strip" }), this.about.shape, WALK),
    );
    this.strips.forEach((strip, i) => (strip.dataset.name = ["linear", "spherical"][i]));
    this.walk = linear;
    const along = slider("along", {
      low: 0,
      high: 1,
      step: 0.01,
      value: 0,
      oninput: (t) => this.at(this.walk(...this.ends, t), "walk"),
    });
    const kinds = select("walk", [["linear", "straight"], ["spherical", "spherical"]], (name) => {
      this.walk = name === "linear" ? linear : spherical;
      this.at(this.walk(...this.ends, +along.range.value), "walk");
    });
    return card(
      "Walk",
      el("div", { class: "ends" }, end(0, "start"), end(1, "end")),
      el("figure", {}, this.strips[0], el("figcaption", {}, "straight")),
      el("figure", {}, this.strips[1], el("figcaption", {}, "spherical")),
      controls(kinds, along.element),
    );
  }

  /** Goes to a code. */
  at(z, source) {
    this.z = z;
    if (source !== "map") this.map.mark(project(this.about.plane, z));
    if (source !== "slider") this.reslide();
    this.redecode();
  }

  /** Takes a held-out image. */
  pick(i) {
    if (!this.images || !this.codes.length) return;
    const image = row(this.images, i);
    this.at([...this.codes[i]], "pick");
    this.sketch.show(image, true);
    this.reencode(image);
    publish(this, image);
  }

  /** Takes an image of another view. */
  take(image) {
    this.given = true;
    const mine = fitted(image, this.about.shape);
    this.sketch.show(mine, true);
    this.reencode(mine);
  }

  async decoded() {
    const z = this.z;
    const { images } = await this.decode([z], "map");
    this.shown(z, row(images, 0));
  }

  /** Draws the image of a code. */
  shown(z, image) {
    draw(this.canvas, image);
    this.caption.textContent = brief(z);
    this.canvas.setAttribute("aria-label", `Decoded image of the code ${brief(z)}`);
  }

  async walked() {
    const codes = [linear, spherical].flatMap((walk) => steps(walk, ...this.ends, WALK));
    const { images } = await this.decode(codes, "walk");
    const halves = [0, WALK].map((from) => stack(Array.from({ length: WALK }, (_, i) => row(images, from + i))));
    this.strips.forEach((strip, i) => drawStrip(strip, halves[i]));
    draw(this.thumbs[0], row(images, 0));
    draw(this.thumbs[1], row(images, WALK - 1));
  }

  async encoded(image) {
    const images = pack(stack([image]));
    const { codes } = await this.ask("encode", { images, ...this.labels(1) }, "own");
    const z = Array.from(row(codes, 0).data);
    const { images: rebuilt } = await this.decode([z], "own-image");
    draw(this.rebuilt, row(rebuilt, 0));
    this.found.textContent = `code ${brief(z)}`;
    this.at(z, "own");
  }
}

/** A code in words, cut where it is long. */
export const brief = (z) => `(${z.slice(0, 4).map(written).join(", ")}${z.length > 4 ? ", …" : ""})`;
