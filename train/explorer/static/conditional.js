// The view of ICVAE: the codes' view, and the image of a code under every condition.
import { row } from "./arrays.js";
import { CodesView } from "./codes.js";
import { card, column, el, picture, slider } from "./elements.js";
import { draw, drawStrip, reserve } from "./pixels.js";

const MOST_ON_WHEEL = 12;
const LEVELS = 9;
const MOST = 200;

export class ConditionalView extends CodesView {
  columns() {
    // The conditions that images are decoded under: of each a class, or a list of quantities.
    this.chosen = this.about.conditions.map(({ own, classes, low }) => own[0] ?? classes?.[0] ?? low);
    const mine = this.about.conditions.map((part, i) => this.partCard(part, i));
    if (!mine.length) return super.columns();
    return [
      column(this.mapCard(), this.sliderCard()),
      column(...mine, ...(this.canvas ? [] : [this.imageCard()])),
      column(this.sketchCard(), this.walkCard()),
    ];
  }

  labels(n) {
    if (!this.about.conditions.length) return {};
    return { labels: Array.from({ length: n }, () => this.chosen) };
  }

  partCard(part, i) {
    const name = part.name ?? (part.classes ? "class" : "quantities");
    this.draws ??= [];
    if (!part.classes) return this.quantities(part, i, name);
    return part.classes.length <= MOST_ON_WHEEL ? this.wheel(part, i, name) : this.grid(part, i, name);
  }

  /** Classes around the image of the chosen one. */
  wheel(part, i, name) {
    // The first wheel has the decoded image in its middle.
    const first = !this.canvas;
    const middle = reserve(picture("Decoded image"), this.about.shape);
    if (first) {
      this.canvas = middle;
      this.canvas.dataset.name = "decoded";
      this.caption = el("p", { class: "numbers" });
    }
    const options = this.options(part, i);
    options.forEach(({ element }, k) => {
      const angle = (2 * Math.PI * k) / options.length - Math.PI / 2;
      element.style.left = `${50 + 41 * Math.cos(angle)}%`;
      element.style.top = `${50 + 41 * Math.sin(angle)}%`;
    });
    const ring = el(
      "div",
      { class: "wheel", role: "radiogroup", "aria-label": name },
      el("div", { class: "middle" }, middle),
      ...options.map(({ element }) => element),
    );
    ring.style.setProperty("--share", `${Math.min(18, 150 / options.length)}%`);
    this.draws[i] = (images) => {
      options.forEach(({ canvas }, k) => draw(canvas, row(images, k)));
      if (!first) draw(middle, row(images, part.classes.indexOf(this.chosen[i])));
      this.press(options, part, i);
    };
    return card(`Every ${name}`, ring, first ? this.caption : null, el("p", { class: "hint" }, `One code under each ${name}. Choose one with a click or the arrow keys.`));
  }

  /** Many classes: a grid of them. */
  grid(part, i, name) {
    const options = this.options(part, i);
    this.draws[i] = (images) => {
      options.forEach(({ canvas }, k) => draw(canvas, row(images, k)));
      this.press(options, part, i);
    };
    const elements = options.map(({ element }) => element);
    const { length } = part.classes;
    const hint = length > MOST ? el("p", { class: "hint" }, `The first ${MOST} of ${length}.`) : null;
    return card(`Every ${name}`, el("div", { class: "classes", role: "radiogroup", "aria-label": name }, ...elements), hint);
  }

  /** Makes a button of each class. */
  options(part, i) {
    const options = part.classes.slice(0, MOST).map((value) => {
      const canvas = reserve(picture(`The code as ${value}`), this.about.shape);
      canvas.dataset.name = `class ${value}`;
      const element = el(
        "button",
        { type: "button", role: "radio", "aria-checked": "false", "aria-label": String(value) },
        canvas,
        el("span", {}, String(value)),
      );
      element.onclick = () => this.choose(i, value);
      return { element, canvas };
    });
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    options.forEach(({ element }, k) => {
      element.onkeydown = (event) => {
        if (!move[event.key]) return;
        event.preventDefault();
        const next = (k + move[event.key] + options.length) % options.length;
        options[next].element.focus();
        this.choose(i, part.classes[next]);
      };
    });
    return options;
  }

  press(options, part, i) {
    options.forEach(({ element }, k) => {
      const is = part.classes[k] === this.chosen[i];
      element.setAttribute("aria-checked", String(is));
      element.tabIndex = is ? 0 : -1;
    });
  }

  /** A slider for each quantity, above the code at some of its values. */
  quantities(part, i, name) {
    const strips = part.low.map((low, k) => {
      const label = part.low.length > 1 ? `${name} ${k + 1}` : name;
      const strip = reserve(picture(`The code at ${LEVELS} values of ${label}`, { class: "strip" }), this.about.shape, LEVELS);
      const move = slider(label, {
        low,
        high: part.high[k],
        step: (part.high[k] - low) / 200 || 1,
        value: this.chosen[i][k],
        oninput: (x) => this.choose(i, this.chosen[i].map((old, j) => (j === k ? x : old)), true),
      });
      return { strip, move };
    });
    this.draws[i] = (images) => {
      strips.forEach(({ strip, move }, k) => {
        const from = k * LEVELS;
        const part = { shape: [LEVELS, ...images.shape.slice(1)], data: images.data.subarray(from * row(images, 0).data.length) };
        drawStrip(strip, part);
        move.set(this.chosen[i][k]);
      });
    };
    return card(part.name ? `Every ${name}` : "Quantities", ...strips.flatMap(({ strip, move }) => [move.element, strip]));
  }

  choose(i, value) {
    this.chosen = this.chosen.map((old, k) => (k === i ? value : old));
    this.redecode();
    this.rewalk();
  }

  pick(i) {
    this.chosen = this.about.conditions.map(({ own, classes, low }) => own[i] ?? classes?.[0] ?? low);
    super.pick(i);
  }

  /** Decodes the code as it is chosen, and under every value of each condition, in one request. */
  async decoded() {
    const parts = this.about.conditions;
    if (!parts.length) return super.decoded();
    const z = this.z;
    const every = parts.map((part, i) => this.values(part, i));
    const others = every.flatMap((values, i) => values.map((value) => this.chosen.map((old, k) => (k === i ? value : old))));
    const labels = [this.chosen, ...others];
    const { images } = await this.decode(new Array(labels.length).fill(z), "map", labels);
    this.shown(z, row(images, 0));
    const size = row(images, 0).data.length;
    let from = 1;
    every.forEach((values, i) => {
      const shape = [values.length, ...images.shape.slice(1)];
      this.draws[i]({ shape, data: images.data.subarray(from * size, (from + values.length) * size) });
      from += values.length;
    });
  }

  decode(codes, channel, labels) {
    const chosen = labels ? { labels } : this.labels(codes.length);
    return this.ask("decode", { codes, ...chosen }, channel);
  }

  values(part, i) {
    if (part.classes) return part.classes.slice(0, MOST);
    return part.low.flatMap((low, k) =>
      Array.from({ length: LEVELS }, (_, j) => {
        const x = low + (j / (LEVELS - 1)) * (part.high[k] - low);
        return this.chosen[i].map((old, m) => (m === k ? x : old));
      }),
    );
  }
}
