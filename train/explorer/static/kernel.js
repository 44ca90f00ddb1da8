// Where answers come from in a notebook: the kernel. Its name there is backend.js.
import { unpack } from "./arrays.js";

const waiting = new Map();
let model = null;
let asked = 0;

/** Takes the widget's model, through which messages go. */
export function connect(given) {
  model = given;
  model.on("msg:custom", ({ id, answer, error }) => {
    const asker = waiting.get(id);
    if (!asker) return;
    waiting.delete(id);
    if (error) asker.reject(new Error(error));
    else asker.resolve(answer);
  });
}

/** Returns the descriptions of the views. */
export const describe = async () => [structuredClone(model.get("about"))];

/** Asks the kernel for a verb. */
export async function ask(view, verb, fields = {}) {
  const id = ++asked;
  const answer = new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
  model.send({ id, verb, fields });
  const found = { ...(await answer) };
  for (const [name, value] of Object.entries(found)) {
    if (value && value.bytes !== undefined) found[name] = unpack(value);
  }
  return found;
}
