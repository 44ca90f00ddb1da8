// The page of one run in a cell of a notebook: the modules and the style sheet come with the model.

/** Imports a module of the page, and those that it imports, each once. */
async function imported(sources, name, urls) {
  urls[name] ??= (async () => {
    let text = sources[name];
    for (const [, other] of text.matchAll(/from "\.\/([a-z0-9]+\.js)"/g)) {
      text = text.replaceAll(`"./${other}"`, `"${await imported(sources, other, urls)}"`);
    }
    return URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  })();
  return urls[name];
}

async function render({ model, el }) {
  const urls = {};
  const sources = model.get("sources");
  const load = async (name) => import(await imported(sources, name, urls));
  const { connect, describe } = await load("backend.js");
  const { root } = await load("colours.js");
  const { show } = await load("main.js");
  connect(model);
  // A root of its own, so that the notebook's styles and the page's do not meet.
  const host = document.createElement("div");
  const shadow = host.attachShadow({ mode: "open" });
  const style = document.createElement("style");
  style.textContent = model.get("style");
  const main = document.createElement("main");
  shadow.append(style, main);
  el.append(host);
  root.element = host;
  await show(main, await describe());
}

export default { render };
