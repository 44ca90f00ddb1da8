// The view of ABC: an image, and its nearest neighbours in every other set.
import { lists, pack, row, stack } from "./arrays.js";
import { ask } from "./backend.js";
import { button, card, checkbox, column, controls, el, picture, select } from "./elements.js";
import { brief } from "./codes.js";
import { latest, page } from "./latest.js";
import { Map2D, legend } from "./map.js";
import { draw, fitted, reserve } from "./pixels.js";
import { project } from "./planes.js";
import { follow, publish } from "./shared.js";
import { Sketch } from "./sketch.js";

const NEIGHBOURS = 4;

export class SetsView {
  constructor(index, about) {
    this.index = index;
    this.about = about;
    this.codes = lists(about.codes);
    this.refind = latest((image) => this.found(image));
    this.element = el(
      "div",
      { class: "columns" },
      column(this.mapCard()),
      column(this.imageCard()),
      column(this.setsCard()),
    );
    follow(this, (image) => this.take(image));
  }

  async load() {
    this.images = (await ask(this.index, "images")).images;
    if (this.drawn.checked) this.map.images(this.images);
  }

  async start() {
    if (!this.given) this.pick(0);
  }

  mapCard() {
    const { colourings, points } = this.about;
    // Under the pointer is the nearest image; those of a click are linked to other views.
    this.map = new Map2D({
      points,
      label: `Map of ${points.shape[0]} held-out embeddings`,
      onmove: (place) => {
        const i = this.images ? this.map.nearest(place) : null;
        if (i !== null && i !== this.shownIndex) this.query(i);
      },
      onpick: (i) => this.pick(i),
    });
    const key = el("div");
    const choose = (i) => {
      this.map.colour(colourings[i] ?? null);
      key.replaceChildren(legend(this.map, colourings[i]));
    };
    choose(0);
    const box = checkbox("images", true, (on) => this.map.images(on ? this.images : null));
    this.drawn = box.querySelector("input");
    return card(
      "Map of style",
      controls(colourings.length ? select("colour", colourings.map((each, i) => [i, each.name]), choose) : null, box),
      this.map.element,
      key,
      el("p", { class: "hint" }, "Frames have the colour of the set. Move over the map: the nearest image is looked for in the other sets."),
    );
  }

  imageCard() {
    this.sketch = new Sketch({
      shape: this.about.shape,
      label: "Image to look for",
      onchange: (image) => {
        this.refind(image);
        publish(this, image);
      },
    });
    this.sketch.canvas.dataset.name = "sketch";
    this.told = el("p", { class: "numbers" });
    return card(
      "Image",
      el("div", { class: "large" }, this.sketch.canvas),
      this.sketch.tools(button("Held-out image", () => this.pick(Math.floor(Math.random() * this.codes.length)))),
      this.told,
      el("p", { class: "hint" }, "Draw, drop an image, or take one of the map."),
    );
  }

  setsCard() {
    this.rows = this.about.sets.map(({ name, withheld }) => {
      const canvases = Array.from({ length: NEIGHBOURS }, (_, k) => {
        const canvas = reserve(picture(`Neighbour ${k + 1} in set ${name}`), this.about.shape);
        canvas.dataset.name = `set ${name}, ${k + 1}`;
        return canvas;
      });
      const choose = canvases.map((canvas) => el("button", { type: "button", class: "plain" }, canvas));
      const element = el("li", {}, el("span", {}, name, withheld ? el("small", {}, "never seen in training") : null), ...choose);
      return { name, canvases, choose, element };
    });
    return card(
      "Nearest in every set",
      el("ol", { class: "sets" }, ...this.rows.map(({ element }) => element)),
    );
  }

  query(i) {
    this.shownIndex = i;
    const image = row(this.images, i);
    this.sketch.show(image, true);
    this.refind(image);
    return image;
  }

  pick(i) {
    publish(this, this.query(i));
  }

  take(image) {
    this.given = true;
    this.shownIndex = null;
    const mine = fitted(image, this.about.shape);
    this.sketch.show(mine, true);
    this.refind(mine);
  }

  async found(image) {
    const fields = { images: pack(stack([image])), k: NEIGHBOURS };
    const { code, nearest } = await ask(this.index, "nearest", fields, `${page}:${this.index}:near`);
    const z = Array.from(row(code, 0).data);
    this.map.mark(project(this.about.plane, z));
    this.told.textContent = `embedding ${brief(z)}`;
    for (const { name, canvases, choose } of this.rows) {
      canvases.forEach((canvas, k) => {
        const i = nearest[name][k];
        choose[k].hidden = i === undefined;
        if (i === undefined) return;
        draw(canvas, row(this.images, i));
        choose[k].onclick = () => this.pick(i);
      });
    }
  }
}
