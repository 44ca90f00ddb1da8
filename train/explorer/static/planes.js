// The plane of a map, in the space of codes. The server has the same in train/planes.py.

/** The code at a point of the plane. */
export const lift = ({ centre, axes }, [x, y]) => centre.map((c, i) => c + x * axes[0][i] + y * axes[1][i]);

/** The point of the plane that is nearest to a code. */
export const project = ({ centre, axes }, z) =>
  axes.map((axis) => axis.reduce((sum, a, i) => sum + a * (z[i] - centre[i]), 0));
