// Where answers come from in an export: the models, run here. Its name there is backend.js.
import { lists, row, unpack } from "./arrays.js";
import { normal } from "./places.js";
import * as ort from "../ort/ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("../ort/", import.meta.url).href;

const sessions = {};
let about = null;
let last = Promise.resolve();

/** Returns the descriptions of the views. */
export async function describe() {
  const found = await json("data/views.json");
  about = structuredClone(found[0]);
  return found;
}

/** Answers as the server does; a run that waits behind another is not dropped, but soon done. */
export function ask(view, verb, fields = {}) {
  const answer = last.then(() => VERBS[about.kind][verb](fields));
  last = answer.catch(() => {});
  return answer;
}

/** Runs a model: `feeds` and outputs are `{shape, data}` by name. */
export async function run(model, feeds) {
  sessions[model] ??= ort.InferenceSession.create(new URL(`../models/${model}.onnx`, import.meta.url).href);
  const session = await sessions[model];
  const tensors = {};
  for (const name of session.inputNames) {
    const { shape, data } = feeds[name];
    const type = data instanceof BigInt64Array ? "int64" : "float32";
    tensors[name] = new ort.Tensor(type, data, shape);
  }
  const found = await session.run(tensors);
  const outputs = {};
  for (const name of session.outputNames) {
    const { dims, data } = found[name];
    outputs[name] = { shape: [...dims], data: data instanceof BigInt64Array ? Float32Array.from(data, Number) : data };
  }
  return outputs;
}

async function json(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path} is missing: copy the whole folder of the export`);
  return answer.json();
}

const images = async () => ({ images: unpack((await json("data/images.json")).images) });

/** Bytes of a request, as the encoders take them: in [0, 1], grey images without channels. */
function floats(value) {
  const { shape, data } = unpack(value);
  const [n, channels, ...sides] = shape;
  const outside = channels === 1 ? [n, ...sides] : shape;
  return { shape: outside, data: Float32Array.from(data, (x) => x / 255) };
}

/** Images of a model as bytes, with a channel. */
function bytes({ data }, n) {
  const shape = [n, ...about.shape];
  return { shape, data: Uint8Array.from(data, (x) => Math.round(255 * Math.max(0, Math.min(1, x)))) };
}

const matrix = (rows) => ({ shape: [rows.length, rows[0].length], data: Float32Array.from(rows.flat()) });

/** What the networks are told of labels: one-hot classes, or standardised quantities. */
function conditions(labels) {
  return labels.map((values) =>
    values.flatMap((value, i) => {
      const { classes, circular, loc, scale } = about.conditions[i];
      if (classes) return classes.map((each) => Number(each === value));
      const angle = 2 * Math.PI * value[0];
      const numbers = circular ? [Math.sin(angle), Math.cos(angle)] : value;
      return numbers.map((x, k) => (x - loc[k]) / scale[k]);
    }),
  );
}

const told = ({ labels }) => (labels ? { label: matrix(conditions(labels)) } : {});

async function encode(fields) {
  const found = await run("encoder", { image: floats(fields.images), ...told(fields) });
  return { codes: found.z ?? found.mean };
}

async function decode(fields) {
  const found = await run("decoder", { z: matrix(fields.codes), ...told(fields) });
  return { images: bytes(found.reconstruction, fields.codes.length) };
}

/** How unlike two embeddings are: see train/losses.py. */
const DISTANCES = {
  l2sq: (u, v) => u.reduce((sum, x, i) => sum + (x - v[i]) ** 2, 0),
  l2: (u, v) => Math.sqrt(DISTANCES.l2sq(u, v)),
  l1: (u, v) => u.reduce((sum, x, i) => sum + Math.abs(x - v[i]), 0),
  linf: (u, v) => u.reduce((most, x, i) => Math.max(most, Math.abs(x - v[i])), 0),
  cosine: (u, v) => -u.reduce((sum, x, i) => sum + x * v[i], 0) / (Math.hypot(...u) * Math.hypot(...v)),
};

async function nearest(fields) {
  const { codes: code } = await encode(fields);
  const query = Array.from(row(code, 0).data);
  const known = lists(unpack(about.codes));
  const distance = (i) => DISTANCES[about.similarity](query, known[i]);
  const found = {};
  for (const { name, rows } of about.sets) {
    const order = rows.map((i) => [distance(i), i]).sort((a, b) => a[0] - b[0]);
    found[name] = order.slice(0, fields.k).map(([, i]) => i);
  }
  return { code, nearest: found };
}

async function detect(fields) {
  const found = await run("encoder", { image: floats(fields.images) });
  const firsts = ["counts", "probabilities", "boxes", "z_where", "z_what"].map((name) => [
    name,
    name === "counts" ? found.counts : row(found[name], 0),
  ]);
  const masks = row(found.masks, 0);
  return {
    ...Object.fromEntries(firsts),
    z_background: found.z_background ? row(found.z_background, 0) : { shape: [0], data: new Float32Array() },
    masks: { shape: masks.shape, data: Uint8Array.from(masks.data, (x) => Math.round(255 * x)) },
    reconstruction: bytes(found.reconstruction, 1),
  };
}

/** Draws scenes: lists of objects `[z_where, z_what]`, and the latents of their backgrounds. */
async function scenes(objects, backgrounds) {
  const [n, slots, what] = [objects.length, about.objects, about.what];
  const where = { shape: [n, slots, 3], data: new Float32Array(n * slots * 3) };
  const looks = { shape: [n, slots, what], data: new Float32Array(n * slots * what) };
  objects.forEach((some, i) =>
    some.forEach(([place, look], k) => {
      where.data.set(place, (i * slots + k) * 3);
      looks.data.set(look, (i * slots + k) * what);
    }),
  );
  const counts = { shape: [n], data: BigInt64Array.from(objects, (some) => BigInt(some.length)) };
  const feeds = { z_where: where, z_what: looks, counts };
  if (about.background) feeds.z_background = matrix(backgrounds);
  return { images: bytes((await run("decoder", feeds)).reconstruction, n) };
}

function draw(fields) {
  const width = 4 + about.what;
  const objects = fields.codes.map((code) =>
    Array.from({ length: about.objects }, (_, k) => code.slice(k * width, (k + 1) * width))
      .filter(([presence]) => presence > 0.5)
      .map(([, ...numbers]) => [numbers.slice(0, 3), numbers.slice(3)]),
  );
  return scenes(objects, fields.codes.map((code) => code.slice(about.objects * width)));
}

async function sample({ n, count }) {
  const { loc, scale } = about.where;
  const objects = Array.from({ length: n }, () => {
    let number = 0;
    while (number < about.objects && Math.random() < about.presence[number]) number++;
    return Array.from({ length: count ?? number }, () => [
      loc.map((mean, k) => mean + scale[k] * normal()),
      Array.from({ length: about.what }, normal),
    ]);
  });
  const backgrounds = objects.map(() => Array.from({ length: about.background }, () => 0.5 + 0.5 * normal()));
  return scenes(objects, backgrounds);
}

const VERBS = {
  codes: { images, encode, decode },
  conditional: { images, encode, decode },
  sets: { images, encode, nearest },
  scenes: { images, detect, decode: draw, sample },
};
