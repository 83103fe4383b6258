/** The live page of a daemon: asks for its state every two seconds and shows it. */

import { api } from "./api.js";
import { byId, setText } from "./elements.js";
import { clock } from "./format.js";
import { jobActions } from "./jobs.js";
import { buildSections } from "./sections.js";

const VISIBLE_MS = 2000;
const HIDDEN_MS = 30_000;
const HOUR = 3600;
const MESSAGE_MS = 20_000;

let overview = null;
let history = null;
let version = null;
let lostSince = null;
let wake = () => {};

const jobs = jobActions(say, () => {
  show();
  wake();
});
const sections = buildSections(jobs);

function show() {
  jobs.update(overview);
  sections.showOverview(overview);
  byId("main").hidden = false;
}

async function refresh() {
  const after = history?.times.at(-1);
  const [state, samples] = await Promise.all([
    api("api/v1/overview"),
    api(`api/v1/history${after === undefined ? "" : `?after=${after}`}`),
  ]);
  // Another version of the daemon may have another page.
  version ??= state.daemon.version;
  if (version !== state.daemon.version) location.reload();
  overview = state;
  show();
  const now = Date.parse(state.made_at) / 1000;
  history = joined(history, samples, now - HOUR);
  sections.showHistory(history, now);
}

/**
 * Return one history from an old and a new part, without samples before `start`, and without old
 * ones from the time of the new part on: the daemon's clock may have been set back.
 */
function joined(old, added, start) {
  const isKept = (time) => time >= start && !(time >= added.times[0]);
  const columns = Object.entries(added).map(([name, values]) => {
    if (!Array.isArray(values)) return [name, values];
    const before = (old?.[name] ?? []).filter((_, index) => isKept(old.times[index]));
    return [name, before.concat(values)];
  });
  return Object.fromEntries(columns);
}

/** Say in one line whether the page is up to date. */
function showConnection(error) {
  const line = byId("connection");
  lostSince = error ? (lostSince ?? Date.now() / 1000) : null;
  line.hidden = !error;
  if (!error) return;
  const time = clock(lostSince);
  const fault =
    error.isAnswer === false
      ? `No answer from the daemon since ${time}.`
      : `The daemon's state can't be shown since ${time}: ${error.message}.`;
  setText(line, `${fault} The page tries again by itself.`);
  byId("state").className = "state quiet-text";
  setText(byId("state"), "Unknown");
}

/** Show a message for a while. */
function say(text) {
  const line = byId("message");
  setText(line, text);
  line.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (line.hidden = true), MESSAGE_MS);
}

/** Wait for the next turn, or until something wants it earlier. */
function pause() {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, document.hidden ? HIDDEN_MS : VISIBLE_MS);
    wake = () => {
      clearTimeout(timer);
      resolve();
    };
  });
}

document.addEventListener("visibilitychange", () => document.hidden || wake());
addEventListener("online", () => wake());

for (;;) {
  try {
    await refresh();
    showConnection(null);
  } catch (error) {
    showConnection(error);
  }
  await pause();
}
