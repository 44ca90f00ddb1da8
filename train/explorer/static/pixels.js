// Images as bytes, of shape [channels, height, width], and canvases.
import { row } from "./arrays.js";

/** Returns the pixels of an image for a canvas. */
export function imageData({ shape: [channels, height, width], data }) {
  const pixels = new ImageData(width, height);
  const plane = height * width;
  for (let i = 0; i < plane; i++) {
    for (let k = 0; k < 3; k++) pixels.data[4 * i + k] = data[(channels === 3 ? k : 0) * plane + i];
    pixels.data[4 * i + 3] = 255;
  }
  return pixels;
}

/** Draws an image on a canvas, one pixel each; the style sheet makes it larger. */
export function draw(canvas, image) {
  const [, height, width] = image.shape;
  fit(canvas, height, width);
  canvas.getContext("2d").putImageData(imageData(image), 0, 0);
}

/** Draws images side by side. */
export function drawStrip(canvas, images) {
  const [n, , height, width] = images.shape;
  fit(canvas, height, width * n);
  const context = canvas.getContext("2d");
  for (let i = 0; i < n; i++) context.putImageData(imageData(row(images, i)), i * width, 0);
}

function fit(canvas, height, width) {
  if (canvas.height === height && canvas.width === width) return;
  [canvas.height, canvas.width] = [height, width];
  canvas.style.aspectRatio = `${width} / ${height}`;
}

/** Gives a canvas the size of an image before there is one, so that nothing moves later. */
export function reserve(canvas, [, height, width], across = 1) {
  fit(canvas, height, width * across);
  return canvas;
}

/** Reads what is on a canvas, as an image of so many channels. */
export function read(canvas, channels) {
  const { width, height } = canvas;
  const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  const plane = width * height;
  const data = new Uint8Array(channels * plane);
  for (let i = 0; i < plane; i++) {
    const [r, g, b] = [pixels[4 * i], pixels[4 * i + 1], pixels[4 * i + 2]];
    if (channels === 3) [data[i], data[plane + i], data[2 * plane + i]] = [r, g, b];
    else data[i] = r === g && g === b ? r : Math.round(0.299 * r + 0.587 * g + 0.114 * b);
  }
  return { shape: [channels, height, width], data };
}

/** Returns a canvas of an image's own size. */
export function canvasOf(image) {
  const canvas = document.createElement("canvas");
  draw(canvas, image);
  return canvas;
}

/**
 * Returns an image of another shape: in the middle if it is smaller, as `train.compare` does, and
 * made smaller if it is larger.
 */
export function fitted(image, shape) {
  const [channels, height, width] = shape;
  if (image.shape.every((side, i) => side === shape[i])) return image;
  return placed(canvasOf(image), channels, height, width);
}

/** Draws any source in the middle of a black image, smaller if it is too large. */
export function placed(source, channels, height, width) {
  const canvas = document.createElement("canvas");
  [canvas.height, canvas.width] = [height, width];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillRect(0, 0, width, height);
  const scale = Math.min(1, width / source.width, height / source.height);
  const [w, h] = [Math.round(source.width * scale), Math.round(source.height * scale)];
  context.imageSmoothingQuality = "high";
  context.drawImage(source, Math.floor((width - w) / 2), Math.floor((height - h) / 2), w, h);
  return read(canvas, channels);
}

/** Reads a file as an image of a shape. */
export async function fromFile(file, [channels, height, width]) {
  if (file.size > 20 * 2 ** 20) throw new Error(`${file.name} has more than 20 MB: give a smaller one`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} is no image that this browser can read: give a PNG or a JPEG`);
  }
  // A photograph fills the image; a small one stays as it is.
  return placed(bitmap, channels, height, width);
}

/** Says how an image differs from black, so that a screen reader can tell that there is one. */
export function ink(image) {
  let sum = 0;
  for (const value of image.data) sum += value;
  return `${Math.round((100 * sum) / (255 * image.data.length))}% ink`;
}
