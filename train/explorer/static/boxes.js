// Boxes over a scene: how they are drawn, and how a pointer or keys move them.
import { colourOf } from "./colours.js";
import { MOVE } from "./elements.js";

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Draws boxes, in pixels of a scene, on a canvas over it; all but the selected one are dashed. */
export function frame(canvas, [, height, width], boxes, selected = -1) {
  const area = canvas.getBoundingClientRect();
  if (!area.width) return;
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  [canvas.width, canvas.height] = [Math.round(area.width * ratio), Math.round(area.height * ratio)];
  const context = canvas.getContext("2d");
  const [u, v] = [canvas.width / width, canvas.height / height];
  boxes.forEach(([x0, y0, x1, y1], i) => {
    context.strokeStyle = context.fillStyle = colourOf(i);
    context.lineWidth = (i === selected ? 3.5 : 2) * ratio;
    context.setLineDash(selected >= 0 && i !== selected ? [6 * ratio, 5 * ratio] : []);
    context.strokeRect(x0 * u, y0 * v, (x1 - x0) * u, (y1 - y0) * v);
    context.font = `600 ${13 * ratio}px system-ui, sans-serif`;
    context.fillText(String(i + 1), Math.max(x0 * u, 0) + 5 * ratio, Math.max(y0 * v, 0) + 15 * ratio);
  });
}

/**
 * Follows a pointer and keys over boxes: `boxes()` are in pixels of the scene, `select(i)` is told
 * which is taken, `shift(dx, dy)` by how many pixels it moves, and `resize` and `remove` of keys.
 */
export function grip(canvas, [, height, width], { boxes, select, shift, resize, remove }) {
  const place = (event) => {
    const area = canvas.getBoundingClientRect();
    return [
      ((event.clientX - area.left) / area.width) * width,
      ((event.clientY - area.top) / area.height) * height,
    ];
  };
  let last = null;
  canvas.addEventListener("pointerdown", (event) => {
    const [x, y] = place(event);
    const inside = boxes().findIndex(([x0, y0, x1, y1]) => x0 <= x && x <= x1 && y0 <= y && y <= y1);
    if (inside < 0) return;
    canvas.setPointerCapture(event.pointerId);
    last = [x, y];
    select(inside);
  });
  canvas.addEventListener(MOVE, (event) => {
    if (!last) return;
    const here = place(event);
    shift(here[0] - last[0], here[1] - last[1]);
    last = here;
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (last = null));
  canvas.addEventListener("keydown", (event) => {
    if (KEYS[event.key]) shift(...KEYS[event.key].map((k) => k * (event.shiftKey ? 5 : 1)));
    else if (event.key === "+" || event.key === "=") resize(1.08);
    else if (event.key === "-") resize(1 / 1.08);
    else if (event.key === "Delete" || event.key === "Backspace") remove();
    else return;
    event.preventDefault();
  });
}
