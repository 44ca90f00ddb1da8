// The page: one section for each run.
import { unpack } from "./arrays.js";
import { describe } from "./backend.js";
import { CodesView } from "./codes.js";
import { ConditionalView } from "./conditional.js";
import { CurvesView } from "./curves.js";
import { checkbox, el, select } from "./elements.js";
import { hush, report } from "./notice.js";
import { ScenesView } from "./scenes.js";
import { SetsView } from "./sets.js";
import { link } from "./shared.js";

const VIEWS = {
  codes: CodesView,
  conditional: ConditionalView,
  curves: CurvesView,
  scenes: ScenesView,
  sets: SetsView,
};

/** Makes the section of a run, in which its view is. */
export function section(index, about) {
  for (const [name, value] of Object.entries(about)) {
    if (value && value.bytes !== undefined) about[name] = unpack(value);
  }
  const view = new VIEWS[about.kind](index, about);
  const measures = (about.measures ?? []).flatMap(({ title, value, beside }) => [
    el("dt", {}, title),
    el("dd", {}, value, beside ? el("small", {}, ` ${beside}`) : null),
  ]);
  const id = `run-${index}`;
  const head = el(
    "div",
    { class: "head" },
    el("h2", { id }, about.name, el("small", {}, about.method)),
    el("dl", {}, ...measures),
  );
  const element = el("article", { class: "run", "aria-labelledby": id, data: { kind: about.kind } }, head, view.element);
  // For whoever looks from the console.
  element.view = view;
  return { element, view };
}

/** Shows the views in an element. */
export async function show(main, descriptions) {
  const sections = descriptions.map((about, index) => section(index, about));
  main.replaceChildren(...sections.map(({ element }) => element));
  main.dataset.runs = String(Math.min(descriptions.length, 3));
  main.setAttribute("aria-busy", "false");
  // The first paint is done before anything is asked.
  await new Promise((done) => requestAnimationFrame(done));
  await Promise.all(sections.map(({ view }) => view.load()));
  for (const { view } of sections) await view.start();
  main.dataset.ready = "true";
}

function themed() {
  const choose = (name) => {
    document.documentElement.dataset.theme = name;
    document.dispatchEvent(new Event("themechange"));
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    document.dispatchEvent(new Event("themechange")),
  );
  return select("theme", [["auto", "as the system"], ["light", "light"], ["dark", "dark"]], choose);
}

async function start() {
  document.querySelector("#notice button").onclick = hush;
  addEventListener("keydown", (event) => event.key === "Escape" && hush());
  addEventListener("unhandledrejection", (event) => report(event.reason));
  const main = document.getElementById("runs");
  const options = document.getElementById("options");
  options.append(themed());
  try {
    const descriptions = await describe();
    document.title = `${descriptions.map(({ name }) => name).join(", ")} · Structured latents`;
    if (descriptions.length > 1) options.prepend(checkbox("runs have the same image", true, link));
    await show(main, descriptions);
  } catch (error) {
    report(error);
    main.setAttribute("aria-busy", "false");
  }
}

if (document.getElementById("runs")) start();
