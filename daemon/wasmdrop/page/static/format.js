/** Numbers, durations, sizes, times and names as text. */

const COUNTS = new Intl.NumberFormat("en-US");
const RATES = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3 });

/**
 * Invisible characters, and characters that change the direction of text, only deceive.
 * U+FE0F stays: it only selects the coloured form of an emoji.
 */
const DECEPTIVE = /\p{C}|\p{Zl}|\p{Zp}|(?! )\p{Zs}|(?!\ufe0f)\p{Default_Ignorable_Code_Point}/gu;

/** Characters of a text in a table, and in the details of a job: as many as a message has. */
const LONGEST = 400;
const LONGEST_OF_LINES = 4000;

export const NOTHING = "–";

/** Return text of others with deceptive characters as escape sequences, and not too long. */
export function harmless(text, longest = LONGEST) {
  const known = text === null || text === undefined ? "" : String(text);
  const shown = known.length > longest ? `${known.slice(0, longest).toWellFormed()}…` : known;
  return shown.replace(DECEPTIVE, (character) => `\\u{${character.codePointAt(0).toString(16)}}`);
}

/** The same for text of several lines. */
export function harmlessLines(text) {
  const lines = String(text).slice(0, LONGEST_OF_LINES).toWellFormed().split("\n");
  return lines.map((line) => harmless(line, LONGEST_OF_LINES)).join("\n");
}

export function count(value) {
  return isNumber(value) ? COUNTS.format(Math.round(value)) : NOTHING;
}

/** Return a number with three significant digits. */
export function rate(value) {
  return isNumber(value) ? RATES.format(value) : NOTHING;
}

/** Return a duration in the units that the command line uses. */
export function duration(seconds) {
  if (!isNumber(seconds)) return NOTHING;
  if (seconds <= 0) return "0 s";
  if (seconds < 0.001) return "< 1 ms";
  if (seconds < 1) return `${RATES.format(seconds * 1000)} ms`;
  if (seconds < 100) return `${RATES.format(seconds)} s`;
  return longDuration(seconds);
}

/** Return a duration without fractions, for values that count up in view. */
export function elapsed(seconds) {
  if (!isNumber(seconds)) return NOTHING;
  return seconds < 100 ? `${Math.max(0, Math.floor(seconds))} s` : longDuration(seconds);
}

function longDuration(seconds) {
  const whole = Math.round(seconds);
  const pad = (number) => String(number).padStart(2, "0");
  const [days, hours, minutes] = [
    Math.floor(whole / 86400),
    Math.floor(whole / 3600) % 24,
    Math.floor(whole / 60) % 60,
  ];
  if (days > 0) return `${COUNTS.format(days)} d ${hours} h`;
  if (hours > 0) return `${hours} h ${pad(minutes)} min`;
  return `${minutes} min ${pad(whole % 60)} s`;
}

export function size(bytes) {
  if (!isNumber(bytes)) return NOTHING;
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let [value, unit] = [bytes, 0];
  while (Math.round(value) >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${value >= 1000 ? COUNTS.format(Math.round(value)) : RATES.format(value)} ${units[unit]}`;
}

/** Return the local time of day of a time in seconds since 1970. */
export function clock(seconds, withSeconds = true) {
  if (!isNumber(seconds)) return NOTHING;
  const time = new Date(seconds * 1000);
  const parts = [time.getHours(), time.getMinutes(), ...(withSeconds ? [time.getSeconds()] : [])];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

/** Return the noun with its count, such as "1 job" or "2 jobs". */
export function counted(value, noun, plural = `${noun}s`) {
  return `${count(value)} ${value === 1 ? noun : plural}`;
}

export function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}
