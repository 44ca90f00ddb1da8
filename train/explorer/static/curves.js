// The view of estimators: their tables as curves, with a legend that shows and hides them.
import { colourOf, point, shapeOf, theme } from "./colours.js";
import { button, card, controls, el, select } from "./elements.js";

const TITLES = {
  elbo: "held-out ELBO, nats",
  count_accuracy: "scenes counted right",
  variance: "gradient variance, nats²",
  bias: "distance of the mean from the exact gradient, nats",
  bias_share: "bias, as a share of the exact gradient",
  bias_se: "bias, standard errors",
  milliseconds: "milliseconds a step",
  variance_time: "variance × time, nats² s",
};
const AXES = ["step", "seconds"];
const NOT_DRAWN = ["seed", "estimator", "group", ...AXES];

export class CurvesView {
  constructor(index, about) {
    this.about = about;
    this.names = [...new Set(Object.values(about.tables).flatMap((rows) => rows.map((row) => row.estimator)))];
    this.hidden = new Set();
    this.charts = [];
    const cards = Object.entries(about.tables).flatMap(([name, rows]) =>
      rows.some((row) => AXES.some((axis) => row[axis] !== null && row[axis] !== undefined && rows.length > 1)) && name === "training"
        ? this.lines(rows)
        : this.dots(name, rows),
    );
    this.element = el("div", {}, this.legend(), el("div", { class: "charts" }, ...cards));
    document.addEventListener("themechange", () => this.redraw());
    new ResizeObserver(() => this.redraw()).observe(this.element);
  }

  async load() {}

  async start() {
    this.redraw();
  }

  legend() {
    const entries = this.names.map((name, i) => {
      const swatch = el("canvas", { width: 24, height: 24, "aria-hidden": "true" });
      const context = swatch.getContext("2d");
      context.fillStyle = context.strokeStyle = colourOf(i);
      point(context, shapeOf(i), 12, 12, 8);
      const entry = button("", () => this.toggle(i), { "aria-pressed": "true" });
      entry.append(swatch, String(name));
      // Twice: this one alone, or all.
      entry.ondblclick = () => this.alone(i);
      return entry;
    });
    this.entries = entries;
    const all = button("all", () => this.only(this.names.map((_, i) => i)));
    const none = button("none", () => this.only([]));
    return el(
      "section",
      { class: "card", "aria-label": "Estimators" },
      el("div", { class: "legend", role: "group", "aria-label": "estimators shown" }, ...entries, all, none),
      el("p", { class: "hint" }, "A click hides or shows an estimator; a double click shows it alone."),
    );
  }

  toggle(i) {
    if (!this.hidden.delete(i)) this.hidden.add(i);
    this.pressed();
  }

  alone(i) {
    this.only([i]);
  }

  only(shown) {
    this.hidden = new Set(this.names.map((_, i) => i).filter((i) => !shown.includes(i)));
    this.pressed();
  }

  pressed() {
    this.entries.forEach((entry, i) => entry.setAttribute("aria-pressed", String(!this.hidden.has(i))));
    this.redraw();
  }

  /** A chart of each measure over steps or seconds. */
  lines(rows) {
    const axes = AXES.filter((name) => rows.some((row) => typeof row[name] === "number"));
    return measures(rows)
      .filter((name) => !name.startsWith("final_"))
      .map((name) => {
        const chart = { name, axis: axes[0], series: () => this.series(rows, chart.axis, name) };
        const choice = select("over", axes.map((axis) => [axis, axis === "step" ? "steps" : axis]), (axis) => {
          chart.axis = axis;
          this.redraw();
        });
        return this.chart(chart, TITLES[name] ?? name, axes.length > 1 ? choice : null);
      });
  }

  series(rows, axis, name) {
    const lines = new Map();
    for (const row of rows) {
      if (typeof row[axis] !== "number" || typeof row[name] !== "number") continue;
      const key = `${row.estimator} ${row.seed}`;
      if (!lines.has(key)) lines.set(key, { index: this.names.indexOf(row.estimator), points: [] });
      lines.get(key).points.push([row[axis], row[name]]);
    }
    return [...lines.values()];
  }

  /** A chart of each measure with a point for each estimator. */
  dots(table, rows) {
    const all = rows.filter((row) => row.group === undefined || row.group === "all");
    return measures(all).map((name) => {
      const chart = {
        name,
        log: all.every((row) => !(row[name] <= 0)),
        names: this.names,
        series: () => all.filter((row) => typeof row[name] === "number").map((row) => {
          const index = this.names.indexOf(row.estimator);
          return { index, points: [[row[name], index]] };
        }),
      };
      return this.chart(chart, TITLES[name] ?? `${name.replaceAll("_", " ")} (${table})`);
    });
  }

  chart(chart, title, choice = null) {
    chart.canvas = el("canvas", { role: "img", "aria-label": title });
    chart.canvas.dataset.name = chart.name;
    if (chart.names) chart.canvas.style.aspectRatio = `10 / ${Math.max(4, 1.5 + 0.5 * this.names.length)}`;
    chart.told = el("p", { class: "numbers" }, " ");
    chart.canvas.addEventListener("pointermove", (event) => this.tell(chart, event));
    this.charts.push(chart);
    return card(title, choice ? controls(choice) : null, chart.canvas, chart.told);
  }

  redraw() {
    for (const chart of this.charts) plot(chart, chart.series().filter(({ index }) => !this.hidden.has(index)));
  }

  tell(chart, event) {
    const area = chart.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - area.left, event.clientY - area.top];
    let [best, least] = [null, 30];
    for (const { index, points } of chart.placed ?? []) {
      for (const { at, value } of points) {
        const distance = Math.hypot(at[0] - x, at[1] - y);
        if (distance < least) [best, least] = [`${this.names[index]}: ${value.map((v) => +v.toPrecision(4)).join(", ")}`, distance];
      }
    }
    chart.told.textContent = best && chart.names ? best.replace(/, \d+$/, "") : (best ?? " ");
  }
}

/** The columns of a table that are measures: numbers that differ. */
function measures(rows) {
  return Object.keys(rows[0]).filter((name) => {
    const values = new Set(rows.map((row) => row[name]).filter((value) => typeof value === "number"));
    return !NOT_DRAWN.includes(name) && (values.size > 1 || (values.size && rows.length === 1));
  });
}

function plot(chart, series) {
  const { canvas } = chart;
  const area = canvas.getBoundingClientRect();
  if (!area.width) return;
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  [canvas.width, canvas.height] = [Math.round(area.width * ratio), Math.round(area.height * ratio)];
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = "12px system-ui, sans-serif";
  const left = chart.names ? Math.max(...chart.names.map((name) => context.measureText(name).width)) + 14 : 56;
  const frame = { left, top: 8, right: area.width - 12, bottom: area.height - 26 };
  const points = series.flatMap((each) => each.points);
  const x = axis(points.map(([a]) => a), frame.left, frame.right, chart.log);
  const y = chart.names
    ? { ticks: chart.names.map((_, i) => i), place: (i) => frame.top + ((i + 0.5) / chart.names.length) * (frame.bottom - frame.top) }
    : axis(inliers(points.map(([, b]) => b)), frame.bottom, frame.top, false);
  context.strokeStyle = theme("line");
  context.fillStyle = theme("soft");
  context.lineWidth = 1;
  context.textAlign = "center";
  for (const tick of x.ticks) {
    rule(context, x.place(tick), frame.top, x.place(tick), frame.bottom);
    context.fillText(short(tick), x.place(tick), frame.bottom + 18);
  }
  context.textAlign = "right";
  for (const tick of y.ticks) {
    rule(context, frame.left, y.place(tick), frame.right, y.place(tick));
    context.fillText(chart.names ? String(chart.names[tick]) : short(tick), frame.left - 8, y.place(tick) + 4);
  }
  context.save();
  context.beginPath();
  context.rect(frame.left - 6, frame.top - 6, frame.right - frame.left + 12, frame.bottom - frame.top + 12);
  context.clip();
  chart.placed = series.map(({ index, points: some }) => {
    const placed = some.map((value) => ({ at: [x.place(value[0]), y.place(value[1])], value }));
    context.strokeStyle = context.fillStyle = colourOf(index);
    context.lineWidth = 2;
    context.beginPath();
    placed.forEach(({ at }, i) => (i ? context.lineTo(...at) : context.moveTo(...at)));
    context.stroke();
    placed.forEach(({ at }) => point(context, shapeOf(index), ...at, chart.names ? 5 : 3));
    return { index, points: placed };
  });
  context.restore();
}

function rule(context, ...[x0, y0, x1, y1]) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

/** Leaves out the lowest tenth where it is far below, as a run that diverged would press the others together. */
function inliers(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const [low, high] = [sorted[Math.floor(sorted.length / 10)], sorted.at(-1)];
  return low - sorted[0] > high - low ? values.filter((value) => value >= low) : values;
}

function axis(values, from, to, log) {
  const convert = log ? Math.log10 : (v) => v;
  let [low, high] = [Math.min(...values), Math.max(...values)].map(convert);
  if (!Number.isFinite(low)) [low, high] = [0, 1];
  const room = 0.05 * (high - low || 1);
  [low, high] = [low - room, high + room];
  const place = (value) => from + ((convert(value) - low) / (high - low)) * (to - from);
  return { place, ticks: log ? decades(low, high) : rounds(low, high) };
}

function rounds(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((k) => k * power >= rough) * power;
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) ticks.push(+tick.toPrecision(12));
  return ticks;
}

function decades(low, high) {
  const ticks = [];
  const parts = high - low < 1.5 ? [1, 2, 5] : [1];
  for (let power = Math.floor(low); power <= high; power++) {
    for (const part of parts) {
      const tick = part * 10 ** power;
      if (Math.log10(tick) >= low && Math.log10(tick) <= high) ticks.push(tick);
    }
  }
  const every = Math.ceil(ticks.length / 6);
  return ticks.filter((_, i) => i % every === 0);
}

const short = (x) => (x !== 0 && (Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3) ? x.toExponential(0) : String(+x.toPrecision(4))).replace("-", "−");
