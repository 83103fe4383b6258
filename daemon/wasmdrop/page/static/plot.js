/** Plots of up to an hour, as lines over time, with a table of the same values. */

import { drawn, element, setText } from "./elements.js";
import { clock, isNumber } from "./format.js";

const [LEFT, RIGHT, TOP, BOTTOM] = [52, 10, 8, 22];
const HEIGHT = 150;

/**
 * How much a plot shows: the least that has all samples, so that the first minutes of a daemon are
 * readable. In seconds: the whole, between two marks of the axis, of one point (at least a sample),
 * and of one row of the table.
 */
const SPANS = [
  { whole: 300, mark: 60, point: 5, row: 60 },
  { whole: 900, mark: 180, point: 5, row: 60 },
  { whole: 1800, mark: 300, point: 10, row: 120 },
  { whole: 3600, mark: 900, point: 20, row: 300 },
];

/** The current values are made of samples of the last minute. */
const CURRENT = 60;

/** A linear axis from 0 that ends at a round number. */
export function linearAxis(highest) {
  const rough = Math.max(highest, 1e-9) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const steps = Math.max(1, Math.ceil(highest / step - 1e-9));
  const ticks = Array.from({ length: steps + 1 }, (_, index) => index * step);
  return { ticks, place: (value) => value / (steps * step) };
}

/** A logarithmic axis of whole decades: latencies of one hour may be 1 ms and 1 min. */
export function logAxis(lowest, highest) {
  const first = Math.floor(Math.log10(lowest) + 1e-9);
  const last = Math.max(first + 1, Math.ceil(Math.log10(highest) - 1e-9));
  const every = last - first > 5 ? 2 : 1;
  const ticks = [];
  for (let power = first; power <= last; power += every) ticks.push(10 ** power);
  return {
    ticks,
    place: (value) => Math.max(0, (Math.log10(value) - first) / (last - first)),
  };
}

/**
 * A plot in a `figure`. Each series has a `name`, a `mark` (class name of its line), `values(history)`
 * with one number or null for each sample, `join`, which makes one value of several, and `now`, which
 * makes the current value of the values of the last minute.
 */
export class Plot {
  constructor(figure, { title, series, format, isLog = false, least = 1 }) {
    this.title = title;
    this.series = series;
    this.format = format;
    this.isLog = isLog;
    this.least = least;
    this.current = series.map(() => element("strong"));
    const keys = series.map((one, index) =>
      element("span", { class: "key" }, swatch(one.mark), `${one.name} `, this.current[index]),
    );
    this.readout = element("span", { class: "readout" });
    const caption = element("figcaption", {}, element("h2", {}, title), ...keys);
    this.svg = drawn("svg", { role: "img", height: HEIGHT, focusable: "false" });
    this.cells = element("tbody");
    const labels = ["Time", ...series.map((one) => one.name)];
    const table = element(
      "table",
      { class: "values" },
      element("caption", { class: "unseen" }, `${title}, by time`),
      element("thead", {}, element("tr", {}, ...labels.map((label) => element("th", { scope: "col" }, label)))),
      this.cells,
    );
    this.details = element("details", {}, element("summary", {}, "Table"), table);
    const foot = element("div", { class: "foot" }, this.readout, this.details);
    figure.append(caption, this.svg, foot);
    this.details.addEventListener("toggle", () => this.#fillTable());
    this.svg.addEventListener("pointermove", (event) => this.#read(event));
    this.svg.addEventListener("pointerleave", () => this.#unread());
    // Drawn in the pixels of the screen, so that text keeps its size.
    new ResizeObserver(() => this.#draw()).observe(figure);
  }

  /** Show a history as `/api/v1/history` has it; `end` is the time at the right edge. */
  update(history, end) {
    this.end = end;
    const known = end - (history.times[0] ?? end);
    this.span = SPANS.find((span) => known <= span.whole) ?? SPANS.at(-1);
    this.period = history.period_seconds;
    this.times = [];
    const groups = [];
    history.times.forEach((time, index) => {
      const point = Math.floor(time / this.span.point);
      if (groups.at(-1)?.point !== point) groups.push({ point, samples: [] });
      groups.at(-1).samples.push(index);
      this.times[groups.length - 1] = time;
    });
    this.lines = this.series.map(({ values, join }) => {
      const column = values(history);
      return groups.map(({ samples }) => joined(samples.map((index) => column[index]), join));
    });
    this.series.forEach(({ values, now }, index) => {
      const isCurrent = (_, at) => history.times[at] > end - CURRENT;
      setText(this.current[index], this.format(joined(values(history).filter(isCurrent), now)));
    });
    this.#draw();
    this.#fillTable();
  }

  #draw() {
    const width = Math.floor(this.svg.getBoundingClientRect().width);
    if (!this.lines || width < 80) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const known = this.lines.flat().filter((value) => isNumber(value) && (!this.isLog || value > 0));
    const highest = known.reduce((one, other) => Math.max(one, other), 0);
    const axis = this.isLog
      ? logAxis(...(known.length ? [known.reduce((a, b) => Math.min(a, b)), highest] : [0.001, 1]))
      : linearAxis(Math.max(highest, this.least));
    this.area = { width: width - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM };
    const y = (value) => TOP + this.area.height * (1 - Math.min(1, axis.place(value)));
    this.cursor = drawn("line", { class: "cursor", y1: TOP, y2: TOP + this.area.height, visibility: "hidden" });
    const parts = axis.ticks.flatMap((tick) => this.#horizontal(tick, y(tick), width));
    parts.push(...this.#times(width));
    // The first series is drawn last, above the others.
    const lines = this.lines.map((line, index) => [line, this.series[index].mark]).reverse();
    parts.push(...lines.map(([line, mark]) => drawn("path", { class: mark, d: this.#path(line, y) })));
    this.svg.replaceChildren(...parts, this.cursor);
    this.svg.setAttribute("aria-label", this.#summary());
  }

  #horizontal(tick, y, width) {
    return [
      drawn("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }),
      drawn("text", { x: LEFT - 6, y: y + 4, class: "left" }, this.format(tick)),
    ];
  }

  #times(width) {
    const every = this.span.mark;
    const parts = [];
    // Round times of the reader's clock: zones may differ from UTC by a quarter of an hour.
    for (let time = Math.ceil((this.end - this.span.whole) / every) * every; time <= this.end; time += every) {
      const x = LEFT + this.area.width * (1 - (this.end - time) / this.span.whole);
      if (x < LEFT + 4) continue;
      const bottom = TOP + this.area.height;
      parts.push(drawn("line", { class: "grid", x1: x, x2: x, y1: bottom, y2: bottom + 4 }));
      const place = x > width - RIGHT - 16 ? { x: width - 2, class: "left" } : { x, class: "middle" };
      parts.push(drawn("text", { ...place, y: HEIGHT - 4 }, clock(time, false)));
    }
    return parts;
  }

  #x(time) {
    return LEFT + this.area.width * (1 - (this.end - time) / this.span.whole);
  }

  #path(line, y) {
    let [path, isPenDown] = ["", false];
    line.forEach((value, index) => {
      const x = this.#x(this.times[index]);
      // The daemon did not run or was stuck in a gap.
      if (this.times[index] - this.times[index - 1] > 2 * Math.max(this.span.point, this.period)) isPenDown = false;
      const isDrawn = isNumber(value) && x >= LEFT && (!this.isLog || value > 0);
      if (isDrawn) {
        const point = `${x.toFixed(1)} ${y(value).toFixed(1)}`;
        // A sample with no neighbours is a dot: round ends make a line of no length visible.
        path += isPenDown ? `L${point}` : `M${point}L${point}`;
      }
      isPenDown = isDrawn;
    });
    return path;
  }

  #summary() {
    const ends = this.lines.map((line, index) => {
      const known = line.filter(isNumber);
      if (!known.length) return `${this.series[index].name}: no values`;
      const [low, high] = [known.reduce((a, b) => Math.min(a, b)), known.reduce((a, b) => Math.max(a, b))];
      return `${this.series[index].name}: ${this.format(low)} to ${this.format(high)}`;
    });
    return `${this.title}, the last ${this.span.whole / 60} minutes. ${ends.join("; ")}.`;
  }

  #read(event) {
    if (!this.lines?.[0].length) return;
    const left = this.svg.getBoundingClientRect().left + LEFT;
    const time = this.end - this.span.whole * (1 - (event.clientX - left) / this.area.width);
    const index = nearest(this.times, time);
    if (Math.abs(this.times[index] - time) > this.span.whole / 60) return this.#unread();
    for (const edge of ["x1", "x2"]) this.cursor.setAttribute(edge, this.#x(this.times[index]));
    this.cursor.setAttribute("visibility", "visible");
    const values = this.series.map((one, at) => `${one.name} ${this.format(this.lines[at][index])}`);
    setText(this.readout, `${clock(this.times[index])}: ${values.join(", ")}`);
  }

  #unread() {
    this.cursor?.setAttribute("visibility", "hidden");
    setText(this.readout, "");
  }

  #fillTable() {
    if (!this.details.open || !this.lines) return;
    const { whole, row } = this.span;
    const rows = [];
    for (let to = Math.ceil(this.end / row) * row; to > this.end - whole; to -= row) {
      const isInside = (_, index) => this.times[index] > to - row && this.times[index] <= to;
      const values = this.lines.map((line, at) => joined(line.filter(isInside), this.series[at].join));
      const time = `${clock(to - row, false)} to ${clock(to, false)}`;
      const cells = values.map((value) => element("td", {}, this.format(value)));
      rows.push(element("tr", {}, element("th", { scope: "row" }, time), ...cells));
    }
    this.cells.replaceChildren(...rows);
  }
}

export function mean(values) {
  return values.reduce((one, other) => one + other) / values.length;
}

export function maximum(values) {
  return values.reduce((one, other) => Math.max(one, other));
}

export function latest(values) {
  return values.at(-1);
}

/** Return one value for the known values; null if none is known. */
function joined(values, join) {
  const known = values.filter(isNumber);
  return known.length ? join(known) : null;
}

/** Return the index of the time next to `time`, in a sorted list that is not empty. */
function nearest(times, time) {
  let [low, high] = [0, times.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < time) low = middle + 1;
    else high = middle;
  }
  return low > 0 && time - times[low - 1] < times[low] - time ? low - 1 : low;
}

function swatch(mark) {
  const line = drawn("path", { class: mark, d: "M1 5H17" });
  return drawn("svg", { width: 18, height: 10, "aria-hidden": "true", focusable: "false" }, line);
}
