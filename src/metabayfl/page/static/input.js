// What a case looks like: an image, a signal, or a small table.

import { lineChart } from "./chart.js";
import { element, responsive } from "./dom.js";
import { fixed, short } from "./format.js";

const MOST_NUMBERS = 24; // of a vector that are written out

/** The input of a case, as it was posted. */
export function inputView(row, strategy) {
  const shape = strategy.input_shape;
  if (strategy.form === "table") return features(row, strategy);
  if (shape.length === 3) return figure("The image", image(row, strategy));
  if (shape.length === 2) return figure("The signal", signal(row));
  return numbers(row);
}

const figure = (name, content) => element("figure", { class: "input" }, element("figcaption", { class: "unseen" }, name), content);

function features(row, strategy) {
  const rows = strategy.features.map(({ name }) => pair(name, written(row[name])));
  return list("What is known", "feature", rows);
}

const written = (value) => (value === null || value === undefined ? "missing" : typeof value === "number" ? short(value) : String(value));

const pair = (name, value) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value));

const list = (caption, first, rows) =>
  element(
    "table",
    { class: "features" },
    element("caption", {}, caption),
    element("thead", { class: "unseen" }, element("tr", {}, element("th", { scope: "col" }, first), element("th", { scope: "col" }, "value"))),
    element("tbody", {}, rows),
  );

function numbers(row) {
  const rows = row.slice(0, MOST_NUMBERS).map((value, at) => pair(`number ${at + 1}`, written(value)));
  const rest = row.length > MOST_NUMBERS ? element("p", { class: "quiet small" }, `and ${row.length - MOST_NUMBERS} more`) : null;
  return element("div", {}, list("What is known", "number", rows), rest);
}

function signal(channels) {
  const lines = channels.map((values, at) => ({ name: `channel ${at + 1}`, look: `s${at % 8}`, points: values.map((value, step) => [step, value]) }));
  const box = element("div");
  responsive(box, (width) => lineChart(lines, { width, height: 200, description: `A signal of ${lines.length} channels`, xTitle: "step", yTitle: "" }));
  return box;
}

/** Pixels on a canvas, grey or coloured, between the image's own darkest and lightest. */
function image(row, strategy) {
  const [channels, height, width] = strategy.input_shape;
  const flat = row.flat(Infinity);
  const [low, high] = [flat.reduce((a, b) => Math.min(a, b)), flat.reduce((a, b) => Math.max(a, b))];
  const last = strategy.layout === "channels_last";
  const at = (channel, pixel) => flat[last ? pixel * channels + channel : channel * height * width + pixel];
  const canvas = element("canvas", { class: "pixels", width, height, role: "img", "aria-label": `The image, ${width} by ${height} pixels, from ${fixed(low, 1)} to ${fixed(high, 1)}` });
  const context = canvas.getContext("2d");
  const drawn = context.createImageData(width, height);
  for (let pixel = 0; pixel < height * width; pixel += 1) {
    for (let colour = 0; colour < 3; colour += 1) {
      drawn.data[4 * pixel + colour] = (255 * (at(channels === 3 ? colour : 0, pixel) - low)) / (high - low || 1);
    }
    drawn.data[4 * pixel + 3] = 255;
  }
  context.putImageData(drawn, 0, 0);
  return canvas;
}
