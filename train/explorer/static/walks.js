// Walks between two codes.

/** The code at a share t of the straight line from one to the other. */
export const linear = (one, other, t) => one.map((x, i) => x + t * (other[i] - x));

/**
 * The code at a share t of the great circle between the directions of two codes, at a length that
 * changes evenly. Codes in one direction, or opposite ones, have no circle: the line is taken.
 */
export function spherical(one, other, t) {
  const [a, b] = [Math.hypot(...one), Math.hypot(...other)];
  const dot = one.reduce((sum, x, i) => sum + x * other[i], 0);
  const angle = Math.acos(Math.max(-1, Math.min(1, dot / (a * b || 1))));
  if (!a || !b || Math.sin(angle) < 1e-4) return linear(one, other, t);
  const [u, v] = [1 - t, t].map((share) => Math.sin(share * angle) / Math.sin(angle));
  const length = a + t * (b - a);
  return one.map((x, i) => length * ((u * x) / a + (v * other[i]) / b));
}

/** Equidistant codes of a walk, both ends included. */
export const steps = (walk, one, other, n) =>
  Array.from({ length: n }, (_, i) => walk(one, other, i / (n - 1)));
