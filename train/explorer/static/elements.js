// Elements of the page.

let count = 0;

/** Makes an element: properties, then children. Names with a dash, and role, are attributes. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name.includes("-") || name === "role" || name === "for" || name === "list") {
      element.setAttribute(name, value);
    } else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A box with a heading. */
export function card(title, ...children) {
  const id = `card-${++count}`;
  return el("section", { class: "card", "aria-labelledby": id }, el("h3", { id }, title), ...children);
}

/** A column of cards. */
export const column = (...cards) => el("div", { class: "column" }, ...cards);

/** A row of controls. */
export const controls = (...children) => el("div", { class: "controls" }, ...children);

export function button(text, onclick, properties = {}) {
  return el("button", { type: "button", onclick, ...properties }, text);
}

/** A choice among options `[value, text]`. */
export function select(label, options, onchange) {
  const choice = el(
    "select",
    { onchange: () => onchange(choice.value) },
    ...options.map(([value, text]) => el("option", { value }, text)),
  );
  return el("label", { class: "field" }, el("span", {}, label), choice);
}

export function checkbox(label, checked, onchange) {
  const box = el("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
  return el("label", { class: "check" }, box, el("span", {}, label));
}

/** A slider with its name before it and its value behind it; `set(value)` moves it silently. */
export function slider(label, { low, high, step, value, marks, oninput, format = written }) {
  const output = el("output", {}, format(value));
  const range = el("input", { type: "range", "aria-label": label });
  Object.assign(range, { min: low, max: high, step, value });
  range.oninput = () => {
    output.textContent = format(+range.value);
    oninput(+range.value);
  };
  const track = el("span", { class: "track" }, range);
  if (marks) {
    // The middle of the thumb is half its width away from the ends.
    const share = (x) => (x - low) / (high - low || 1);
    const mark = el("span", { class: "marks", "aria-hidden": "true" });
    mark.style.left = `calc(8px + (100% - 16px) * ${share(marks[0])})`;
    mark.style.width = `calc((100% - 16px) * ${share(marks[1]) - share(marks[0])})`;
    track.prepend(mark);
  }
  const element = el("label", { class: "slider" }, el("span", {}, label), track, output);
  const set = (x) => {
    range.value = x;
    output.textContent = format(x);
  };
  return { element, range, set };
}

/** A number with three digits, and a true minus. */
export function written(x) {
  return (Math.abs(x) < 0.0005 ? "0" : x.toPrecision(3)).replace("-", "−");
}

/** A canvas that is an image to those who cannot see it. */
export function picture(alt, properties = {}) {
  return el("canvas", { role: "img", "aria-label": alt, ...properties });
}

/**
 * The event of a pointer that moves: where there is one that does not wait for the next frame, an
 * image is there a frame earlier.
 */
export const MOVE = "onpointerrawupdate" in window ? "pointerrawupdate" : "pointermove";

/**
 * Returns a function that has `draw` called once before a next frame, however often it is; after a
 * pause in milliseconds, where what it draws takes long.
 */
export function framed(draw, pause = 0) {
  let asked = false;
  const soon = () =>
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  return () => {
    if (asked) return;
    asked = true;
    if (pause) setTimeout(soon, pause);
    else soon();
  };
}
