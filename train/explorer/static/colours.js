// Colours that people with any colour vision tell apart.

/** Okabe and Ito (2008), without black and white. */
export const CLASSES = ["#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442"];

const VIRIDIS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
  [31, 158, 137], [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37],
];

/** Viridis at x from 0 to 1. */
export function viridis(x) {
  const place = Math.max(0, Math.min(1, x)) * (VIRIDIS.length - 1);
  const i = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const mix = VIRIDIS[i].map((c, k) => Math.round(c + (place - i) * (VIRIDIS[i + 1][k] - c)));
  return `rgb(${mix})`;
}

/** Shapes of points: with seven colours, more than seven classes differ in shape too. */
export const SHAPES = ["disc", "square", "triangle", "ring"];

export const colourOf = (i) => CLASSES[i % CLASSES.length];
export const shapeOf = (i) => SHAPES[Math.floor(i / CLASSES.length) % SHAPES.length];

/** Draws a point of a shape around the current colours of a context. */
export function point(context, shape, x, y, r) {
  context.beginPath();
  if (shape === "square") context.rect(x - r, y - r, 2 * r, 2 * r);
  else if (shape === "triangle") {
    context.moveTo(x, y - 1.3 * r);
    context.lineTo(x + 1.2 * r, y + r);
    context.lineTo(x - 1.2 * r, y + r);
    context.closePath();
  } else context.arc(x, y, shape === "ring" ? 0.85 * r : 1.1 * r, 0, 7);
  if (shape === "ring") {
    context.lineWidth = 0.7 * r;
    context.stroke();
  } else context.fill();
}

/** The element that has the colours of the style sheet: in a notebook not the whole page. */
export const root = { element: document.documentElement };

/** A colour of the style sheet, as it is now. */
export const theme = (name) => getComputedStyle(root.element).getPropertyValue(`--${name}`).trim();
