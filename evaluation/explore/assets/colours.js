// Colours of points by a column: classes and tags by the twelve most frequent, numbers on a scale.
const WHEEL = ["#4c78d8", "#f2812e", "#3aa66b", "#d94f5c", "#8d6bd1", "#17a9b8", "#c9a227", "#d36fb5", "#8a6248",
  "#7fae2e", "#5f7fa3", "#e39c83"];
const SCALE = [[68, 57, 131], [49, 104, 142], [33, 145, 140], [53, 183, 121], [144, 215, 67], [253, 220, 50]];

function onScale(part) {
  const at = Math.min(1, Math.max(0, part)) * (SCALE.length - 1);
  const low = Math.min(SCALE.length - 2, Math.floor(at));
  const mixed = SCALE[low].map((value, i) => Math.round(value + (SCALE[low + 1][i] - value) * (at - low)));
  return "rgb(" + mixed.join(",") + ")";
}

// {of: colours of each point ([] is grey), legend: [{name, colour, count, has(point)}], scale: [low, high] or null}
function colouring(column) {
  const count = data.paths.length;
  if (!column) return { of: Array.from({ length: count }, () => [WHEEL[0]]), legend: [], scale: null };
  if (column.kind === "number") {
    const known = column.of.filter((value) => value !== null).sort((a, b) => a - b);
    const low = known[Math.floor(0.02 * (known.length - 1))];
    const high = known[Math.ceil(0.98 * (known.length - 1))];
    const of = column.of.map((v) => (v === null ? [] : [onScale(high > low ? (v - low) / (high - low) : 0.5)]));
    return { of, legend: [], scale: [low, high] };
  }
  const codes = column.of.map((of) => (Array.isArray(of) ? of : of === null ? [] : [of]));
  const members = column.values.map(() => 0);
  for (const of of codes) for (const code of of) members[code] += 1;
  const of = codes.map((own) => own.filter((code) => code < WHEEL.length).map((code) => WHEEL[code]));
  const legend = column.values.map((name, code) => ({
    name, count: members[code], colour: WHEEL[code] || "var(--faint)", has: (point) => codes[point].includes(code),
  }));
  return { of, legend, scale: null };
}

// What a column says of a point, as text; empty where it says nothing.
function valueOf(column, point) {
  const of = column.of[point];
  if (of === null || of === undefined) return "";
  if (column.kind === "class") return column.values[of];
  if (column.kind === "tags") return of.map((code) => column.values[code]).join(", ");
  return column.kind === "number" ? String(Math.round(of * 1000) / 1000) : of;
}
