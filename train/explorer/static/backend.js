// Where answers come from: the server that sent this page. An export has another file in its place.
import { unpack } from "./arrays.js";

/** Returns the descriptions of the views. */
export async function describe() {
  return answered(await fetch("views"));
}

/**
 * Asks a view for a verb. Of requests of one channel the server answers the latest, and refuses
 * those that wait behind it.
 */
export async function ask(view, verb, fields = {}, channel = "") {
  const answer = await fetch(`views/${view}/${verb}`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-channel": channel },
    body: JSON.stringify(fields),
    signal: AbortSignal.timeout(30_000),
  });
  const found = await answered(answer);
  for (const [name, value] of Object.entries(found)) {
    if (value && value.bytes !== undefined) found[name] = unpack(value);
  }
  return found;
}

async function answered(answer) {
  const found = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
  if (answer.ok) return found;
  const error = new Error(found.error);
  error.superseded = answer.status === 409;
  throw error;
}
