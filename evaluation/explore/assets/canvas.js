// The points, drawn and found again under the pointer. Coordinates of the data are in [0, 1], y upwards.
const canvas = get("canvas");
const paint = canvas.getContext("2d");
const view = { width: 0, height: 0, side: 0, zoom: 1, x: 0, y: 0 }; // x, y: shift in pixels of the screen
const shown = { colours: colouring(null), only: null, mark: null, chosen: -1, near: [], over: -1 };
const COUNT = data.paths.length;
const calm = matchMedia("(prefers-reduced-motion: reduce)");
let queued = false;

const extent = (of) => of.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [1, 0]);
const [lowX, highX, lowY, highY] = [...extent(data.x), ...extent(data.y)];
const middle = { x: (lowX + highX) / 2, y: (lowY + highY) / 2, wide: highX - lowX || 1, high: highY - lowY || 1 };
const screenX = (point) => view.width / 2 + view.x + (data.x[point] - middle.x) * view.side * view.zoom;
const screenY = (point) => (view.height + 40) / 2 + view.y - (data.y[point] - middle.y) * view.side * view.zoom;
const radius = () => Math.min(9, Math.max(2.4, 46 / Math.sqrt(COUNT) + 1.5) * view.zoom ** 0.4);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function redraw() {
  if (queued) return;
  queued = true;
  requestAnimationFrame(() => { queued = false; draw(); });
}

function resize() {
  const box = canvas.parentElement.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  [view.width, view.height] = [box.width, box.height];
  view.side = Math.max(80, Math.min((box.width - 56) / middle.wide, (box.height - 120) / middle.high));
  [canvas.width, canvas.height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
  paint.setTransform(ratio, 0, 0, ratio, 0, 0);
  redraw();
}

function circle(x, y, size) {
  paint.moveTo(x + size, y);
  paint.arc(x, y, size, 0, 2 * Math.PI);
}

// A track with several of the tags has a part of each colour.
function dot(x, y, size, colours) {
  colours.forEach((colour, i) => {
    paint.fillStyle = colour;
    paint.beginPath();
    if (colours.length === 1) circle(x, y, size);
    else {
      const angle = (part) => 2 * Math.PI * (part / colours.length - 0.25);
      paint.moveTo(x, y);
      paint.arc(x, y, size, angle(i), angle(i + 1));
    }
    paint.fill();
  });
}

// Colours of a point now: none where it is grey. What is shown alone is never grey, and of one class it has its colour.
function coloursAt(point) {
  const own = shown.colours.of[point];
  if (!shown.only) return own;
  if (!shown.only(point)) return [];
  return shown.mark ? [shown.mark] : own.length ? own : [css("--accent")];
}

function draw() {
  const [ink, faint, halo] = [css("--ink"), css("--faint"), css("--halo")];
  const size = radius();
  paint.clearRect(0, 0, view.width, view.height);
  const layers = new Map([[faint, []]]); // what is grey lies below, and rare classes above frequent ones
  const parted = [];
  for (let point = 0; point < COUNT; point++) {
    const [x, y] = [screenX(point), screenY(point)];
    if (x < -size || y < -size || x > view.width + size || y > view.height + size) continue;
    const colours = coloursAt(point);
    if (colours.length > 1) parted.push([x, y, size, colours]);
    else {
      const colour = colours[0] || faint;
      if (!layers.has(colour)) layers.set(colour, []);
      layers.get(colour).push([x, y]);
    }
  }
  for (const [colour, places] of [...layers].sort((a, b) => (a[0] !== faint) - (b[0] !== faint) || b[1].length - a[1].length)) {
    paint.fillStyle = colour;
    paint.globalAlpha = colour !== faint ? 0.88 : shown.only ? 0.4 : 0.8;
    paint.beginPath();
    for (const [x, y] of places) circle(x, y, colour === faint ? 0.85 * size : size);
    paint.fill();
  }
  paint.globalAlpha = 0.92;
  for (const part of parted) dot(...part);
  paint.globalAlpha = 1;
  if (shown.chosen >= 0) drawChosen(size, ink, halo);
  if (shown.over >= 0) ring(shown.over, size + 2.5, ink, 1.5, halo);
}

function drawChosen(size, ink, halo) {
  const [x, y] = [screenX(shown.chosen), screenY(shown.chosen)];
  paint.strokeStyle = ink;
  paint.lineWidth = 1.1;
  paint.globalAlpha = 0.45;
  for (const point of shown.near) {
    paint.beginPath();
    paint.moveTo(x, y);
    paint.lineTo(screenX(point), screenY(point));
    paint.stroke();
  }
  paint.globalAlpha = 1;
  for (const point of shown.near) {
    dot(screenX(point), screenY(point), size + 0.5, colourOf(point));
    ring(point, size + 2, ink, 1.4, halo);
  }
  dot(x, y, size + 3, colourOf(shown.chosen));
  const beat = player.playing() && !calm.matches ? 1.5 * Math.sin(performance.now() / 160) : 0;
  ring(shown.chosen, size + 5.5 + beat, ink, 2.4, halo);
  if (player.playing() && !calm.matches) redraw();
}

const colourOf = (point) => (coloursAt(point).length ? coloursAt(point) : [css("--faint")]);

function ring(point, size, ink, width, halo) {
  for (const [colour, wide] of [[halo, width + 2], [ink, width]]) {
    paint.strokeStyle = colour;
    paint.lineWidth = wide;
    paint.beginPath();
    paint.arc(screenX(point), screenY(point), size, 0, 2 * Math.PI);
    paint.stroke();
  }
}

// The point nearest to a place on the canvas, at most so many pixels away; -1 where there is none.
function pointAt(x, y, reach) {
  let [best, found] = [reach * reach, -1];
  for (let point = 0; point < COUNT; point++) {
    const distance = (screenX(point) - x) ** 2 + (screenY(point) - y) ** 2;
    const hidden = shown.only && !shown.only(point) && !shown.near.includes(point);
    if (distance < best && !hidden) [best, found] = [distance, point];
  }
  return found;
}

// The nearest point in a quarter of the directions: left, right, above or below; in the half where that is empty.
function pointBeside(from, dx, dy, wide = 1) {
  let [best, found] = [Infinity, -1];
  for (let point = 0; point < COUNT; point++) {
    if (point === from || (shown.only && !shown.only(point))) continue;
    const [x, y] = [screenX(point) - screenX(from), screenY(point) - screenY(from)];
    const [ahead, aside, distance] = [x * dx + y * dy, Math.abs(x * dy - y * dx), Math.hypot(x, y)];
    if (ahead > 0 && aside <= wide * ahead && distance < best) [best, found] = [distance, point];
  }
  return found < 0 && wide === 1 ? pointBeside(from, dx, dy, Infinity) : found;
}

function zoomAt(x, y, factor) {
  const zoom = Math.min(60, Math.max(1, view.zoom * factor));
  const [fromX, fromY] = [x - view.width / 2, y - (view.height + 40) / 2];
  view.x = fromX - ((fromX - view.x) * zoom) / view.zoom;
  view.y = fromY - ((fromY - view.y) * zoom) / view.zoom;
  view.zoom = zoom;
  if (zoom === 1) [view.x, view.y] = [0, 0];
  redraw();
}

// Shift the map so that a point is in sight.
function reveal(point) {
  const [x, y, edge] = [screenX(point), screenY(point), 50];
  view.x += Math.max(0, edge - x) - Math.max(0, x - (view.width - edge));
  view.y += Math.max(0, edge - y) - Math.max(0, y - (view.height - edge));
  redraw();
}
