// Places (log s, x, y) of AIR's windows. The server has the same in pyro_models/networks.py.

/** The box of a window, (x0, y0, x1, y1) in pixels, which may extend beyond the canvas. */
export function box([log, x, y], [, height, width], [tall, wide]) {
  const [sx, sy] = [Math.exp(log) * wide, Math.exp(log) * tall];
  const [u, v] = [-x / sx, -y / sy];
  return [
    ((u - 1 / sx + 1) / 2) * width,
    ((v - 1 / sy + 1) / 2) * height,
    ((u + 1 / sx + 1) / 2) * width,
    ((v + 1 / sy + 1) / 2) * height,
  ];
}

/** The place of a window that is moved by so many pixels. */
export function moved([log, x, y], dx, dy, [, height, width], [tall, wide]) {
  const scale = Math.exp(log);
  return [log, x - scale * wide * ((2 * dx) / width), y - scale * tall * ((2 * dy) / height)];
}

/** The place of a window that is made larger around its centre. */
export function scaled([log, x, y], factor) {
  return [log - Math.log(factor), x / factor, y / factor];
}

/** A draw from a standard Normal distribution. */
export const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
