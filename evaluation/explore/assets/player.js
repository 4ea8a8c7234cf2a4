"use strict";
// Sounds and rows of tracks, for every page. A sound is an element of this page, or a link to a file beside it.
const get = (id) => document.getElementById(id);
const data = JSON.parse(get("data").textContent);
let links = null;

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text; // never as HTML: names of files are anybody's
  return node;
}

function addressOf(number) {
  const inside = get("sound-" + number);
  if (inside) return "data:audio/mpeg;base64," + inside.textContent;
  if (!links && get("links")) links = JSON.parse(get("links").textContent);
  return (links && links[number]) || "";
}

const player = {
  audio: new Audio(),
  number: -1,
  buttons: new Set(), // [button, number]
  onchange: () => {},
  playing() { return this.number >= 0 && !this.audio.paused; },
  play(number) {
    const address = addressOf(number);
    if (!address) return this.stop();
    if (this.number !== number) {
      this.number = number;
      this.audio.src = address;
    }
    this.audio.play().catch(() => this.show()); // a file that is not there any more, or a click that is awaited
    this.show();
  },
  toggle(number) {
    if (this.number === number && this.playing()) this.audio.pause();
    else this.play(number);
  },
  stop() { this.audio.pause(); },
  button(number, name, large) {
    const button = make("button", large ? "play large" : "play");
    this.bind(button, number, name);
    return button;
  },
  bind(button, number, name) {
    for (const pair of this.buttons) if (pair[0] === button || !pair[0].isConnected && pair[2]) this.buttons.delete(pair);
    button.setAttribute("aria-label", "Play " + name);
    const pair = [button, number, false];
    this.buttons.add(pair);
    requestAnimationFrame(() => { pair[2] = true; });
    button.onclick = () => this.toggle(number);
    this.show();
  },
  show() {
    const part = this.audio.duration ? (100 * this.audio.currentTime) / this.audio.duration : 0;
    for (const [button, number] of this.buttons) {
      const mine = number === this.number;
      button.setAttribute("aria-pressed", String(mine && this.playing()));
      button.style.setProperty("--played", mine && this.playing() ? part + "%" : "0%");
      const silent = document.readyState !== "loading" && !addressOf(number);
      button.disabled = silent;
      button.title = silent ? "no sound on this page" : "";
    }
    this.onchange();
  },
};
for (const event of ["play", "pause", "ended", "timeupdate", "error"]) {
  player.audio.addEventListener(event, () => player.show());
}
document.addEventListener("DOMContentLoaded", () => player.show());

// A line with a play button, a name and a score in [-1, 1]; `onname` where the name is a button too.
function trackRow(number, name, detail, score, onname) {
  const row = make("li", "row");
  row.append(player.button(number, name));
  const middle = make(onname ? "button" : "div", "name");
  middle.append(make("b", "", name), make("small", "", detail));
  middle.title = detail;
  if (onname) middle.onclick = onname;
  row.append(middle);
  if (score !== undefined) {
    const bar = make("i");
    bar.style.setProperty("--part", 100 * Math.max(0, score) + "%");
    const cell = make("div", "score");
    cell.append(make("span", "", score.toFixed(3)), bar);
    row.append(cell);
  }
  return row;
}

// The name of a file without its folder and suffix.
function nameOf(path) {
  const last = path.split(/[/\\]/).pop();
  return last.replace(/\.[A-Za-z0-9]{2,4}$/, "") || last;
}
