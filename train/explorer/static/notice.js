// Errors, in words, on the page.

let timer = 0;

/** Says what went wrong, until it is closed or something else is to be said. */
export function report(error) {
  if (error && error.superseded) return;
  say(sentence(error), "error");
}

/** Says something for some seconds. */
export function say(text, kind = "note") {
  const notice = document.getElementById("notice");
  if (!notice) {
    // In a notebook.
    console.warn(text);
    return;
  }
  notice.querySelector("p").textContent = text;
  notice.dataset.kind = kind;
  notice.hidden = false;
  clearTimeout(timer);
  if (kind === "note") timer = setTimeout(hush, 4000);
}

/** Takes the notice away. */
export function hush() {
  document.getElementById("notice").hidden = true;
}

function sentence(error) {
  if (error instanceof TypeError && /fetch|network/i.test(error.message)) {
    return "The server does not answer. Is the command still running?";
  }
  if (error && error.name === "TimeoutError") return "The server took longer than 30 seconds.";
  const text = String((error && error.message) || error);
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
}
