"use strict";

// The page of a session, or of an execution that has not ended. It shows output while programs
// write it: the script follows the session's events (Server-Sent Events, which the browser resumes
// after a break), adds output to its run, and refreshes the page's regions (refresh.js) when a
// status changes.

const page = document.getElementById("session");
/** Characters of a running program's output that the page keeps. All of it is shown afterwards. */
const MOST_CHARACTERS = 200_000;
const MOST_PIECES = 5_000;
const FIGURES_MS = 2_000;
/** When there are none. */
const FIGURES_LATER_MS = 15_000;
/** Regions are refreshed a second time after this: the first event may meet a refresh under way. */
const AGAIN_MS = 600;
const SIZES = ["B", "KiB", "MiB", "GiB"];

/** For each run that has not ended: the pieces of its output, and their length. */
const outputs = new Map();
let figures = null;
let again = 0;

function watch() {
  const events = new EventSource(page.dataset.events);
  const on = (name, act) => events.addEventListener(name, ({ data }) => act(JSON.parse(data)));
  on("stdout", (piece) => write(piece, "stdout"));
  on("stderr", (piece) => write(piece, "stderr"));
  on("status", refreshRegions);
  on("result", ({ execution_id: run }) => {
    outputs.delete(run);
    refreshRegions();
    if (page.dataset.run !== undefined) {
      location.reload(); // an execution's own page, which is another one now
    }
  });
  on("session", ({ status }) => {
    refreshRegions();
    if (status === "stopped" || status === "error") {
      events.close();
    }
  });
}

function refreshRegions() {
  refreshOnce();
  clearTimeout(again);
  again = setTimeout(refreshOnce, AGAIN_MS);
}

function refreshOnce() {
  for (const region of page.querySelectorAll("[data-refresh-url]")) {
    region.dispatchEvent(new CustomEvent("refresh"));
  }
}

function write({ execution_id: run, text }, stream) {
  const output = outputs.get(run) ?? { pieces: [], characters: 0 };
  outputs.set(run, output);
  output.pieces.push({ text, stream });
  output.characters += text.length;
  while (output.pieces.length > 1 && isTooMuch(output)) {
    output.characters -= output.pieces.shift().text.length;
  }
  const shown = place(run);
  if (shown === null) {
    refreshRegions();
  } else {
    shown.append(element({ text, stream }));
    while (shown.childNodes.length > output.pieces.length) {
      shown.firstChild.remove();
    }
    follow(shown);
  }
}

function isTooMuch({ pieces, characters }) {
  return characters > MOST_CHARACTERS || pieces.length > MOST_PIECES;
}

function place(run) {
  return document.querySelector(`[data-run="${CSS.escape(run)}"] [data-stream]`);
}

function element({ text, stream }) {
  const piece = document.createElement("span");
  piece.className = stream;
  piece.textContent = text;
  return piece;
}

/** Keeps the last line in sight, unless the user reads further up. */
function follow(shown) {
  const below = shown.scrollHeight - shown.clientHeight - shown.scrollTop;
  const grown = shown.lastChild?.offsetHeight ?? 0;
  if (below < grown + 40) {
    shown.scrollTop = shown.scrollHeight;
  }
}

/** A refreshed region has what the server knows; this restores what only the page knows. */
function putBack() {
  for (const [run, output] of outputs) {
    const shown = place(run);
    if (shown !== null) {
      shown.replaceChildren(...output.pieces.map(element));
      shown.scrollTop = shown.scrollHeight;
    }
  }
  showFigures();
}

async function askFigures() {
  const gauges = document.getElementById("gauges");
  if (gauges !== null && !document.hidden) {
    try {
      const response = await fetch(gauges.dataset.figures, { cache: "no-store" });
      figures = response.ok ? await response.json() : null;
    } catch {
      figures = null;
    }
    showFigures();
  }
  setTimeout(askFigures, figures?.code === undefined ? FIGURES_MS : FIGURES_LATER_MS);
}

function showFigures() {
  const { memory_bytes: memory, memory_limit_bytes: room, cpu, pids } = figures ?? {};
  show("memory", memory, room, (bytes) => size(bytes));
  show("cpu", cpu, figures?.cpu_limit, (cores) => cores.toFixed(2));
  show("pids", pids, figures?.pids_limit, String);
}

function show(name, value, limit, words) {
  const meter = page.querySelector(`[data-meter="${name}"]`);
  const text = page.querySelector(`[data-figure="${name}"]`);
  if (meter === null || text === null) {
    return;
  }
  const known = value !== null && value !== undefined;
  meter.max = limit || 1;
  meter.value = known ? value : 0;
  text.textContent = known ? `${words(value)}${limit ? ` of ${words(limit)}` : ""}` : "unknown";
}

function size(bytes) {
  const unit = Math.min(SIZES.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  const amount = bytes / 1024 ** unit;
  return `${amount.toFixed(unit > 0 && amount < 100 ? 1 : 0)} ${SIZES[unit]}`;
}

if (page !== null && page.dataset.open !== undefined) {
  page.addEventListener("refreshed", putBack);
  watch();
  askFigures();
}
