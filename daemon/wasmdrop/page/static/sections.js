/** The sections of the page, each from its part of `/api/v1/overview` or `/api/v1/history`. */

import { byId, element, setText } from "./elements.js";
import { NOTHING, clock, count, counted, duration, elapsed, harmless, rate, size } from "./format.js";
import { Plot, latest, maximum, mean } from "./plot.js";
import { Table, fillName } from "./table.js";

/** Build all sections; `jobs` has the actions that a row offers. Returns functions that fill them. */
export function buildSections(jobs) {
  const plots = buildPlots();
  const tables = buildTables(jobs);
  return {
    showHistory: (history, end) => plots.forEach((plot) => plot.update(history, end)),
    showOverview: (answer) => {
      const overview = withShortPaths(answer);
      showState(overview);
      showQueue(overview);
      for (const [table, rows] of tables) table.update(rows(overview));
      showTotals(overview);
      showOptional("fleet", overview.fleet, fleetFacts);
      showOptional("hooks", overview.hooks, hookFacts);
    },
  };
}

/** Return the overview with the paths of modules relative to their directory. */
function withShortPaths(overview) {
  const directory = `${overview.daemon.wasm_dir}/`;
  const short = (path) => (path?.startsWith(directory) ? path.slice(directory.length) : path);
  const lists = ["running", "ended", "modules", "failures_by_module"].map((name) => [
    name,
    overview[name].map((row) => ({ ...row, module: short(row.module) })),
  ]);
  return { ...overview, ...Object.fromEntries(lists) };
}

function buildPlots() {
  const series = (name, mark, join, now, values) => ({ name, mark, join, now, values });
  const jobsASecond = {
    title: "Jobs a second",
    series: [
      series("ok", "line-1", mean, mean, (history) => history.succeeded),
      series("failed", "line-3", mean, mean, (history) => history.failed),
    ],
    format: rate,
  };
  const latency = {
    title: "Latency",
    series: [
      series("p50", "line-1", mean, latest, (history) => history.p50_seconds),
      // Not the mean: a single slow period must be seen.
      series("p95", "line-2", maximum, latest, (history) => history.p95_seconds),
    ],
    format: duration,
    isLog: true,
  };
  const queue = {
    title: "Queue",
    series: [
      series("waiting", "line-1", maximum, latest, (history) => history.queued),
      series("running", "line-2", maximum, latest, (history) => history.running),
    ],
    format: count,
    least: 4,
  };
  return [
    new Plot(byId("plot-jobs"), jobsASecond),
    new Plot(byId("plot-latency"), latency),
    new Plot(byId("plot-queue"), queue),
  ];
}

function buildTables(jobs) {
  const slot = { label: "Slot", kind: "name", fill: (cell, job) => fillName(cell, job.slot) };
  const module = { label: "Module", kind: "file", fill: (cell, row) => fillName(cell, row.module ?? "not known") };
  const id = { label: "Job", kind: "id", fill: jobs.fillDetails };
  const action = { label: "Action", kind: "action", fill: jobs.fillCancel };
  const finished = { label: "Finished", kind: "number", fill: (cell, row) => fillTime(cell, row.finished_at) };
  const message = { label: "Message", kind: "text", fill: (cell, row) => fillName(cell, row.message) };
  const failures = { label: "Jobs", kind: "number", text: (row) => count(row.count) };
  const running = new Table("running", {
    key: (job) => job.job,
    empty: "No job is running.",
    columns: [
      slot,
      module,
      { label: "Elapsed", kind: "number", text: (job) => elapsed(job.running_seconds) },
      { label: "Where", kind: "short", text: runsWhere },
      id,
      action,
    ],
  });
  const waiting = new Table("waiting", {
    key: (job) => job.job,
    empty: "No job is waiting.",
    columns: [
      slot,
      { label: "Reason", kind: "text", fill: (cell, job) => fillName(cell, job.why || waits(job)) },
      { label: "Since the drop", kind: "number", text: (job) => elapsed(job.open_seconds) },
      id,
      action,
    ],
  });
  const results = new Table("results", {
    key: (job) => `${job.job} ${job.finished_at}`,
    empty: "No job has ended yet.",
    columns: [
      slot,
      { label: "Code", kind: "code", fill: fillCode },
      message,
      { label: "Duration", kind: "number", text: (job) => duration(job.total_seconds) },
      finished,
      id,
    ],
  });
  const byCode = new Table("by-code", {
    key: (row) => row.code,
    empty: "No job has failed.",
    columns: [{ label: "Code", kind: "code", fill: fillCode }, failures, message, finished],
  });
  const byModule = new Table("by-module", {
    key: (row) => `${row.sha256} ${row.module}`,
    empty: "No job has failed.",
    columns: [
      { ...module, kind: "name" },
      failures,
      { label: "Codes", kind: "text", text: (row) => codes(row.codes) },
      finished,
    ],
  });
  const modules = new Table("modules", {
    key: (row) => row.sha256,
    empty: "No module has been called yet.",
    columns: [
      { ...module, kind: "name" },
      { label: "Size", kind: "number", text: (row) => size(row.size_bytes) },
      { label: "Compile time", kind: "number", text: (row) => duration(row.compile_seconds) },
      { label: "Calls", kind: "number", text: (row) => count(row.calls) },
      { label: "Failed", kind: "number", text: (row) => count(row.failures) },
      { label: "Median run", kind: "number", text: (row) => duration(row.median_run_seconds) },
      { label: "Last call", kind: "number", fill: (cell, row) => fillTime(cell, row.last_called_at) },
      { label: "SHA-256", kind: "id", fill: fillDigest },
    ],
  });
  const storage = new Table("storage", {
    key: (row) => row.name,
    empty: "Not known.",
    columns: [
      { label: "Storage", kind: "name", fill: fillStorage },
      { label: "In use", kind: "number", text: (row) => size(row.used) },
      { label: "Size or limit", kind: "number", text: (row) => size(row.total) },
      { label: "Free", kind: "number", fill: fillFree },
    ],
  });
  const health = new Table("health", {
    key: (row) => row.name,
    empty: "Not known.",
    columns: [
      { label: "Part", kind: "name", text: (row) => row.name },
      { label: "Last heartbeat", kind: "number", text: (row) => `${duration(row.seconds)} ago` },
    ],
  });
  const fleet = new Table("fleet", {
    key: (row) => `${row.pool} ${row.name}`,
    empty: "The daemon hears of no worker.",
    columns: [
      { label: "Worker", kind: "name", fill: (cell, row) => fillName(cell, row.name) },
      { label: "Running", kind: "number", text: (row) => `${count(row.running)} of ${count(row.slots)}` },
      { label: "Jobs done", kind: "number", text: (row) => count(row.done) },
      { label: "Uptime", kind: "number", text: (row) => elapsed(row.up_seconds) },
      { label: "Last message", kind: "number", text: (row) => `${elapsed(row.seen_seconds)} ago` },
      { label: "Versions", kind: "text", fill: (cell, row) => fillName(cell, versions(row)) },
    ],
  });
  return [
    [running, (overview) => overview.running],
    [waiting, (overview) => overview.queued],
    [results, (overview) => overview.ended],
    [byCode, (overview) => overview.failures_by_code],
    [byModule, (overview) => overview.failures_by_module],
    [modules, (overview) => overview.modules],
    [storage, (overview) => storageRows(overview.storage)],
    [health, (overview) => healthRows(overview.health)],
    [fleet, (overview) => overview.fleet?.workers ?? []],
  ];
}

function waits(job) {
  return job.state === "queued" ? "waits for a worker" : job.state;
}

function runsWhere(job) {
  if (job.state === "executed") return "in delivery";
  const place = job.is_remote ? "fleet" : "this host";
  return job.attempt > 1 ? `${place}, attempt ${job.attempt}` : place;
}

function fillCode(cell, row) {
  const isFailure = (row.status ?? "failed") !== "succeeded";
  setText(cell, harmless(row.code));
  cell.classList.toggle("bad", isFailure);
  cell.classList.toggle("good", !isFailure);
}

function codes(counts) {
  return Object.entries(counts)
    .sort(([, one], [, other]) => other - one)
    .map(([code, number]) => (number > 1 ? `${harmless(code)} (${count(number)})` : harmless(code)))
    .join(", ");
}

function fillTime(cell, timestamp) {
  const seconds = Date.parse(timestamp) / 1000;
  setText(cell, clock(seconds));
  if (cell.title !== timestamp) cell.title = harmless(timestamp);
}

function fillDigest(cell, row) {
  const digest = harmless(row.sha256);
  setText(cell, digest.slice(0, 12));
  cell.title = digest;
}

function fillStorage(cell, row) {
  fillName(cell, row.path ? `${row.name}: ${row.path}` : row.name);
}

function fillFree(cell, row) {
  setText(cell, size(row.free));
  cell.classList.toggle("bad", row.free <= (row.reserve ?? 0));
}

function storageRows(storage) {
  const volumes = storage.volumes.map((volume) => ({
    name: `${volume.name} directory`,
    path: volume.path,
    used: volume.size_bytes - volume.free_bytes,
    total: volume.size_bytes,
    free: volume.free_bytes,
    reserve: volume.reserve_bytes,
  }));
  const bounded = (name, used, total) => ({ name, used, total, free: Math.max(0, total - used) });
  return [
    ...volumes,
    bounded("journal", storage.journal_bytes, storage.journal_max_bytes),
    bounded("module cache", storage.cache_bytes, storage.cache_max_bytes),
  ];
}

function healthRows(health) {
  return Object.entries(health.silent_seconds).map(([name, seconds]) => ({
    name: harmless(name).replaceAll("_", " "),
    seconds,
  }));
}

function versions(worker) {
  return `wasmdrop ${worker.wasmdrop}, wasmtime ${worker.wasmtime}, ${worker.platform}`;
}

function showState({ daemon, health, login }) {
  const state = byId("state");
  const kind = health.is_ready && health.is_alive ? "good" : "bad";
  const word = health.is_alive ? (health.is_ready ? "Ready" : "Not ready") : "Not alive";
  const reasons = health.reasons.map((text) => harmless(text)).join("; ");
  setText(state, reasons ? `${word}: ${reasons}` : word);
  state.className = `state ${kind}`;
  const facts = [
    `wasmdrop ${daemon.version}`,
    `wasmtime ${daemon.wasmtime_version}`,
    `up ${elapsed(daemon.uptime_seconds)}`,
    daemon.host,
    daemon.shared_dir,
  ];
  setText(byId("about"), facts.map((text) => harmless(text)).join(" · "));
  byId("logout").hidden = !login;
  setText(document.querySelector("title"), `${word} · ${harmless(daemon.host)} · wasmdrop`);
}

function showQueue({ daemon, jobs, limits }) {
  const ended = Object.values(jobs.ended).reduce((one, other) => one + other, 0);
  const facts = [
    ["Running", `${count(jobs.running)} of ${count(daemon.workers)}`],
    ["Waiting", `${count(jobs.queued)} of ${count(jobs.max_queued)}`],
    ["Oldest open job", jobs.oldest_seconds > 0 ? elapsed(jobs.oldest_seconds) : NOTHING],
    ["Delivering", count(jobs.delivering)],
    ["Undelivered", undelivered(jobs), jobs.undelivered > 0],
    ["Ended since the start", count(ended)],
    ["Failed since the start", count(ended - (jobs.ended.ok ?? 0))],
  ];
  if (limits) {
    const { held_directories: held, full_directories: full } = limits;
    facts.push(["Directories at running limit", count(held), held > 0]);
    facts.push(["Directories at queue limit", count(full), full > 0]);
  }
  fillFacts(byId("queue-facts"), facts);
}

function undelivered(jobs) {
  return jobs.undelivered ? `${count(jobs.undelivered)}, ${size(jobs.undelivered_bytes)}` : "0";
}

function showTotals({ jobs, running, queued }) {
  showTotal("running-title", "Running", jobs.running, running.length);
  showTotal("waiting-title", "Waiting", jobs.queued, queued.length);
}

function showTotal(id, name, total, listed) {
  const shown = total > listed && listed > 0 ? `, the oldest ${count(listed)} listed` : "";
  setText(byId(id), total > 0 ? `${name}: ${counted(total, "job")}${shown}` : name);
}

function showOptional(id, part, facts) {
  byId(id).hidden = !part;
  if (part) fillFacts(byId(`${id}-facts`), facts(part));
}

function fleetFacts(fleet) {
  const state = fleet.is_away ? "away" : fleet.is_connected ? "connected" : "not connected";
  const isGood = fleet.is_connected && !fleet.is_away;
  const problem = fleet.problem ? [["Problem", harmless(fleet.problem), true]] : [];
  return [
    ["Pool", harmless(fleet.pool)],
    ["Servers", state, !isGood],
    ...problem,
    ["Workers", count(fleet.known_workers)],
    ["In the fleet", `${count(fleet.unanswered)} of ${count(fleet.window)}`],
    ["Waiting for the fleet", count(fleet.waiting)],
    ["Run on this host instead", count(fleet.fallback_runs)],
  ];
}

function hookFacts(hooks) {
  return [
    ["Pending", count(hooks.pending)],
    ["Oldest pending", hooks.pending ? elapsed(hooks.oldest_seconds) : NOTHING],
    ["Delivered", count(hooks.delivered)],
    ["Failed attempts", count(hooks.failed)],
    ["Given up", count(hooks.given_up), hooks.given_up > 0],
  ];
}

/** Show pairs of name and value in a list; a third item that is true marks a problem. */
function fillFacts(list, facts) {
  while (list.children.length > facts.length) list.lastElementChild.remove();
  facts.forEach(([name, value, isBad = false], index) => {
    const pair =
      list.children[index] ?? list.appendChild(element("div", {}, element("dt"), element("dd")));
    setText(pair.firstElementChild, name);
    setText(pair.lastElementChild, value);
    pair.lastElementChild.classList.toggle("bad", isBad);
  });
}
