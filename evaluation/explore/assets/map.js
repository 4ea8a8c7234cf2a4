// What the pointer, the keys and the panel do.
const NEAREST = 10;
const FOUND = 40;
const below = matchMedia("(max-width: 52rem)"); // the panel is below the map, and what was chosen at its top
const columns = new Map(data.columns.map((column) => [column.name, column]));
const title = columns.get("title");
const nameAt = (point) => (title && title.of[point]) || nameOf(data.paths[point]);
const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
const texts = data.paths.map((path, point) =>
  plain([path, nameAt(point), ...["artist"].map((name) => columns.has(name) ? valueOf(columns.get(name), point) : "")].join(" ")));
let legend = null; // the entry of the legend that is shown alone
let matches = null; // the points that the search finds, as a set

function apply() {
  const alone = legend;
  shown.mark = alone && !matches ? WHEEL[shown.colours.legend.indexOf(alone)] || css("--accent") : null;
  shown.only = matches ? (point) => matches.has(point) : alone ? (point) => alone.has(point) : null;
  redraw();
}

function neighboursOf(point) {
  const found = data.near[point].map((other, i) => [other, data.cosine[point][i]]);
  const box = get("others").querySelector("input");
  const others = data.track && box.checked;
  return found.filter(([other]) => !others || data.track[other] !== data.track[point]).slice(0, NEAREST);
}

function choose(point, play) {
  shown.chosen = point;
  shown.near = point < 0 ? [] : neighboursOf(point).map(([other]) => other);
  get("chosen").hidden = point < 0;
  get("help").hidden = point >= 0;
  if (point >= 0) {
    describe(point);
    if (below.matches) document.querySelector(".side").scrollTop = 0;
    reveal(point);
    if (play) player.play(point);
  } else player.stop();
  redraw();
}

function describe(point) {
  get("name").textContent = nameAt(point);
  get("path").textContent = data.paths[point];
  player.bind(get("play"), point, nameAt(point));
  const lines = [];
  for (const column of data.columns) {
    const value = column === title ? "" : valueOf(column, point);
    if (value) lines.push(make("dt", "", column.name), make("dd", "", value));
  }
  get("details").replaceChildren(...lines);
  get("known").hidden = !lines.length;
  get("near").replaceChildren(...neighboursOf(point).map(([other, cosine]) =>
    trackRow(other, nameAt(other), data.paths[other], cosine, () => choose(other, true))));
}

function showLegend(name) {
  const column = columns.get(name);
  shown.colours = colouring(column);
  legend = null;
  const entries = shown.colours.legend.slice(0, 60).map((entry) => {
    const button = make("button");
    const mark = make("i");
    mark.style.setProperty("--colour", entry.colour);
    button.append(mark, make("span", "", entry.name), make("small", "", entry.count.toLocaleString("en")));
    button.setAttribute("aria-pressed", "false");
    button.onclick = () => {
      legend = legend === entry ? null : entry;
      for (const other of get("legend").children) other.setAttribute("aria-pressed", String(other === button && legend !== null));
      apply();
    };
    return button;
  });
  if (shown.colours.scale) {
    const bar = make("div", "scale");
    bar.style.background = "linear-gradient(90deg," + [0, 0.2, 0.4, 0.6, 0.8, 1].map(onScale).join(",") + ")";
    const ends = make("div", "split soft");
    ends.append(...shown.colours.scale.map((value) => make("span", "", String(Math.round(value * 100) / 100))));
    entries.push(bar, ends);
    bar.style.width = ends.style.width = "100%";
  }
  get("legend").replaceChildren(...entries);
  apply();
}

function search(words) {
  const wanted = plain(words).split(/\s+/).filter(Boolean);
  const found = [];
  for (let point = 0; wanted.length && point < COUNT; point++) {
    if (wanted.every((word) => texts[point].includes(word))) found.push(point);
  }
  matches = wanted.length ? new Set(found) : null;
  get("matches").hidden = !wanted.length;
  get("matches").textContent = found.length.toLocaleString("en") + (found.length === 1 ? " track" : " tracks") +
    (found.length > FOUND ? "; the first " + FOUND : "");
  get("found").replaceChildren(...found.slice(0, FOUND).map((point) =>
    trackRow(point, nameAt(point), data.paths[point], undefined, () => choose(point, true))));
  apply();
  return found;
}

function hover(point) {
  shown.over = point;
  const tip = get("tip");
  tip.hidden = point < 0;
  canvas.classList.toggle("over", point >= 0);
  if (point >= 0) {
    const column = columns.get(get("column").value);
    tip.replaceChildren(make("b", "", nameAt(point)), make("span", "", (column && valueOf(column, point)) || data.paths[point]));
    const [wide, high] = [tip.offsetWidth, tip.offsetHeight];
    const x = Math.min(view.width - wide - 8, Math.max(8, screenX(point) - wide / 2));
    const above = screenY(point) - high - 14;
    tip.style.transform = "translate(" + x + "px," + (above < 8 ? screenY(point) + 16 : above) + "px)";
  }
  redraw();
}

const pointers = new Map();
let travelled = 0;
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
  travelled = pointers.size > 1 ? 99 : 0;
});
canvas.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return hover(pointAt(event.offsetX, event.offsetY, 14));
  const now = [event.offsetX, event.offsetY];
  if (pointers.size === 2) {
    const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    const apart = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]);
    zoomAt((now[0] + other[0]) / 2, (now[1] + other[1]) / 2, apart(now) / Math.max(1, apart(before)));
  }
  travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
  if (travelled > 6) {
    canvas.classList.add("dragged");
    hover(-1);
    const share = pointers.size === 2 ? 0.5 : 1;
    view.x += share * (now[0] - before[0]);
    view.y += share * (now[1] - before[1]);
    redraw();
  }
  pointers.set(event.pointerId, now);
});
canvas.addEventListener("pointerup", (event) => {
  if (travelled <= 6) {
    const point = pointAt(event.offsetX, event.offsetY, event.pointerType === "mouse" ? 14 : 24);
    if (point >= 0 && point === shown.chosen) player.toggle(point);
    else choose(point, true);
  }
});
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, (event) => { pointers.delete(event.pointerId); canvas.classList.remove("dragged"); });
}
canvas.addEventListener("pointerleave", () => hover(-1));
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  hover(-1);
  zoomAt(event.offsetX, event.offsetY, Math.exp(-Math.sign(event.deltaY) * Math.min(60, Math.abs(event.deltaY)) / 250));
}, { passive: false });

const zoomBy = (factor) => zoomAt(view.width / 2, view.height / 2, factor);
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  const arrow = ARROWS[event.key];
  if (arrow) {
    const next = shown.chosen < 0 ? pointAt(view.width / 2, view.height / 2, Infinity) : pointBeside(shown.chosen, ...arrow);
    if (next >= 0) choose(next, player.playing());
  } else if (event.key === "PageDown" || event.key === "PageUp") {
    const step = event.key === "PageDown" ? 1 : COUNT - 1;
    choose((Math.max(0, shown.chosen) + step) % COUNT, player.playing());
  } else if (event.key === "Enter" || event.key === " ") {
    if (shown.chosen >= 0) player.toggle(shown.chosen);
  } else if (event.key === "+" || event.key === "=") zoomBy(1.4);
  else if (event.key === "-") zoomBy(1 / 1.4);
  else if (event.key === "0") zoomBy(1 / 99);
  else return;
  event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    get("search").value = "";
    search("");
    choose(-1);
  } else if (event.key === "/" && document.activeElement !== get("search")) {
    event.preventDefault();
    get("search").focus();
  }
});
get("search").addEventListener("input", () => search(get("search").value));
get("search").addEventListener("keydown", (event) => {
  const rows = get("found").children;
  if (event.key === "Enter" && rows.length) rows[0].querySelector(".name").click();
  if (event.key === "ArrowDown" && rows.length) rows[0].querySelector(".name").focus();
});
get("found").addEventListener("keydown", (event) => {
  const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  const row = step && event.target.closest(".row")[step];
  if (row) row.querySelector(".name").focus();
  if (step) event.preventDefault();
});
get("in").onclick = () => zoomBy(1.6);
get("out").onclick = () => zoomBy(1 / 1.6);
get("whole").onclick = () => zoomBy(1 / 99);
get("others").hidden = !data.track;
get("others").querySelector("input").onchange = () => { if (shown.chosen >= 0) choose(shown.chosen, false); };
player.onchange = redraw;
for (const name of data.colours) get("column").append(new Option(name, name));
get("colours").hidden = !data.colours.length;
get("column").onchange = () => showLegend(get("column").value);
if (data.colours.length) showLegend(data.colours[0]);
new ResizeObserver(resize).observe(canvas.parentElement);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
resize();
