// Arrays as they travel: a shape, a type and bytes in base64. The server has the same in arrays.py.

/** Returns an array of the server: `{shape, data}`, where data is a Uint8Array or Float32Array. */
export function unpack({ shape, type, bytes }) {
  const text = atob(bytes);
  const raw = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) raw[i] = text.charCodeAt(i);
  return { shape, data: type === "uint8" ? raw : new Float32Array(raw.buffer) };
}

/** Packs bytes for the server. */
export function pack({ shape, data }) {
  let text = "";
  for (let i = 0; i < data.length; i += 8192) {
    text += String.fromCharCode(...data.subarray(i, i + 8192));
  }
  return { shape, type: "uint8", bytes: btoa(text) };
}

/** Returns row i of an array, without its first axis; the data are shared. */
export function row(array, i) {
  const shape = array.shape.slice(1);
  const size = shape.reduce((a, b) => a * b, 1);
  return { shape, data: array.data.subarray(i * size, (i + 1) * size) };
}

/** Returns images of one shape as one array with a first axis. */
export function stack(images) {
  const size = images[0].data.length;
  const data = new Uint8Array(size * images.length);
  images.forEach((image, i) => data.set(image.data, i * size));
  return { shape: [images.length, ...images[0].shape], data };
}

/** Returns an array of two axes as a list of lists. */
export function lists(array) {
  return Array.from({ length: array.shape[0] }, (_, i) => Array.from(row(array, i).data));
}
