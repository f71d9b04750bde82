// The frame of a picture, and line charts.

import { element, shape } from "./dom.js";
import { short } from "./format.js";
import { around, linear, nearest, ticks } from "./scale.js";

const MARGIN = { left: 46, right: 22, top: 14, bottom: 40 };

/** Scales and axes of a plot: `{x, y, inner, nodes}`. Domains are `[low, high]`; titles stand below and above the left corner. */
export function frame(width, height, xDomain, yDomain, { xTitle = "", yTitle = "", xLabel = short, yLabel = short, xTicks = null } = {}) {
  const inner = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top + (yTitle ? 14 : 0), bottom: height - MARGIN.bottom };
  const x = linear(xDomain, [inner.left, inner.right]);
  const y = linear(yDomain, [inner.bottom, inner.top]);
  const across = ticks(yDomain, 5).map((tick) => [
    shape("line", { class: "grid", x1: inner.left, x2: inner.right, y1: y(tick), y2: y(tick) }),
    shape("text", { class: "tick", x: inner.left - 8, y: y(tick) + 4, "text-anchor": "end" }, yLabel(tick)),
  ]);
  const below = (xTicks ?? ticks(xDomain, width < 420 ? 4 : 6)).map((tick) =>
    shape("text", { class: "tick", x: x(tick), y: inner.bottom + 18, "text-anchor": "middle" }, xLabel(tick)),
  );
  const titles = [
    shape("text", { class: "axis-title", x: (inner.left + inner.right) / 2, y: inner.bottom + 36, "text-anchor": "middle" }, xTitle),
    shape("text", { class: "axis-title", x: 0, y: 12 }, yTitle),
  ];
  const base = shape("line", { class: "axis", x1: inner.left, x2: inner.right, y1: inner.bottom, y2: inner.bottom });
  return { x, y, inner, nodes: [...across, base, ...below, ...titles] };
}

/** A picture with a description for those who do not see it. */
export function picture(width, height, description, ...children) {
  return shape("svg", { class: "picture", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": description }, ...children);
}

/** A picture with a line that follows the pointer over the marked places, and a box beside it with what `read(at)` says of the nearest. */
export function withReading(svg, plot, places, read) {
  const rule = shape("line", { class: "rule", y1: plot.inner.top, y2: plot.inner.bottom, visibility: "hidden" });
  const box = element("div", { class: "reading-box", hidden: true });
  const pixels = places.map((place) => plot.x(place));
  const move = (event) => {
    const at = nearest(pixels, event.clientX - svg.getBoundingClientRect().left);
    rule.setAttribute("x1", pixels[at]);
    rule.setAttribute("x2", pixels[at]);
    rule.setAttribute("visibility", "visible");
    box.replaceChildren(...read(at).filter(Boolean));
    box.hidden = false;
    box.style.left = `${Math.max(0, pixels[at] > plot.inner.right / 2 ? pixels[at] - box.offsetWidth - 12 : pixels[at] + 12)}px`;
  };
  const leave = () => {
    rule.setAttribute("visibility", "hidden");
    box.hidden = true;
  };
  svg.append(rule);
  svg.addEventListener("pointermove", move);
  svg.addEventListener("pointerleave", leave);
  return element("div", { class: "chart" }, svg, box);
}

/** Lines `{name, look, points: [[x, y], ...]}` in one frame. */
export function lineChart(lines, { width, height = 260, description, xTitle, yTitle }) {
  const drawn = lines.filter((line) => line.points.length > 0);
  const along = [...new Set(drawn.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
  const heights = drawn.flatMap((line) => line.points.map(([, y]) => y));
  const plot = frame(width, height, [along[0], along.at(-1)], around(heights), { xTitle, yTitle });
  const svg = picture(width, height, description, plot.nodes, drawn.map((line) => curve(line, plot)));
  const read = (at) => [element("div", { class: "reading-head" }, `${xTitle} ${along[at]}`), ...drawn.map((line) => reading(line, along[at]))];
  return withReading(svg, plot, along, read);
}

function curve(line, plot) {
  const points = line.points.map(([x, y]) => [plot.x(x), plot.y(y)]);
  const path = points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  const [x, y] = points.at(-1);
  const end = shape("circle", { class: `dot ${line.look}`, cx: x, cy: y, r: 3.5 });
  return shape("g", { class: "line" }, shape("path", { class: `stroke ${line.look}`, d: path }), end);
}

/** A line's value near a place; nothing beyond its ends. */
function reading(line, place) {
  const places = line.points.map(([x]) => x);
  if (place < places[0] || place > places.at(-1)) return null;
  const value = line.points[nearest(places, place)][1];
  return element("div", { class: "reading-row" }, element("span", { class: `swatch ${line.look}` }), line.name, element("b", {}, short(value)));
}
