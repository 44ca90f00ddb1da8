// Requests that follow a pointer: one is under way, and only the last of the others waits.
import { report } from "./notice.js";

let running = 0;

function count(change) {
  running += change;
  document.body.dataset.busy = String(running > 0);
}

/** Returns a function that calls `work` with its latest arguments, never twice at once. */
export function latest(work) {
  let waiting = null;
  let busy = false;
  return async (...given) => {
    waiting = given;
    if (busy) return;
    busy = true;
    count(1);
    while (waiting) {
      const now = waiting;
      waiting = null;
      try {
        await work(...now);
      } catch (error) {
        report(error);
      }
    }
    busy = false;
    count(-1);
  };
}

/** A name for requests of this page, that those of another page do not supersede. */
export const page = Math.random().toString(36).slice(2, 10);
