// build: componentize-js summarize.js --wit summarize.wit -d stdio random clocks http fetch-event -o summarize-js.wasm

/** Returns count, mean, deviation and the largest value, if there is one. */
export function summarize(values) {
  const count = values.length;
  if (!count) return { count, mean: 0, deviation: 0, largest: undefined };
  const mean = values.reduce((sum, value) => sum + value, 0) / count;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / count;
  return { count, mean, deviation: Math.sqrt(variance), largest: Math.max(...values) };
}
