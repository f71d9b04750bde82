// The frame of a picture, and line charts.

import { element, shape } from "./dom.js";
import { short } from "./format.js";
import { around, linear, nearest, ticks } from "./scale.js";

const MARGIN = { left: 46, right: 14, top: 14, bottom: 40 };

/** Scales and axes of a plot: `{x, y, inner, nodes}`. Domains are `[low, high]`, titles are said below and above the left corner. */
export function frame(width, height, xDomain, yDomain, { xTitle = "", yTitle = "", xLabel = short, yLabel = short } = {}) {
  const inner = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top + (yTitle ? 14 : 0), bottom: height - MARGIN.bottom };
  const x = linear(xDomain, [inner.left, inner.right]);
  const y = linear(yDomain, [inner.bottom, inner.top]);
  const across = ticks(yDomain, 4).map((tick) => [
    shape("line", { class: "grid", x1: inner.left, x2: inner.right, y1: y(tick), y2: y(tick) }),
    shape("text", { class: "tick", x: inner.left - 8, y: y(tick) + 4, "text-anchor": "end" }, yLabel(tick)),
  ]);
  const below = ticks(xDomain, width < 420 ? 4 : 6).map((tick) =>
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

/** An SVG path through pixels. */
export const path = (points) => points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

/** Lines `{name, look, points: [[x, y], ...]}` in one frame, with a reading line that follows the pointer. */
export function lineChart(lines, { width, height = 260, description, xTitle, yTitle, xDomain, yLabel = short }) {
  const drawn = lines.filter((line) => line.points.length > 0);
  const heights = drawn.flatMap((line) => line.points.map(([, up]) => up));
  const plot = frame(width, height, xDomain ?? spanned(drawn), around(heights), { xTitle, yTitle, yLabel });
  const curves = drawn.map((line) => curve(line, plot));
  const svg = picture(width, height, description, plot.nodes, curves);
  return drawn.length === 0 ? svg : readable(svg, drawn, plot, yLabel);
}

function spanned(lines) {
  const along = lines.flatMap((line) => [line.points[0][0], line.points.at(-1)[0]]);
  return along.length ? [Math.min(...along), Math.max(...along)] : [0, 1];
}

function curve(line, plot) {
  const points = line.points.map(([along, up]) => [plot.x(along), plot.y(up)]);
  const [endX, endY] = points.at(-1);
  const end = shape("circle", { class: `dot ${line.look}`, cx: endX, cy: endY, r: 3.5 });
  return shape("g", { class: "line", "data-name": line.name }, shape("path", { class: `stroke ${line.look}`, d: path(points) }), end);
}

/** The values under the pointer, in a small box beside it. */
function readable(svg, lines, plot, yLabel) {
  const rule = shape("line", { class: "rule", y1: plot.inner.top, y2: plot.inner.bottom, visibility: "hidden" });
  const box = element("div", { class: "reading-box", hidden: true });
  svg.append(rule);
  const leave = () => {
    rule.setAttribute("visibility", "hidden");
    box.hidden = true;
  };
  const move = (event) => {
    const bounds = svg.getBoundingClientRect();
    const at = Math.min(Math.max(event.clientX - bounds.left, plot.inner.left), plot.inner.right);
    const longest = lines.reduce((a, b) => (b.points.at(-1)[0] > a.points.at(-1)[0] ? b : a));
    const low = plot.x(longest.points[0][0]) - 1;
    const along = nearestAlong(longest, plot, Math.max(at, low));
    rule.setAttribute("x1", plot.x(along));
    rule.setAttribute("x2", plot.x(along));
    rule.setAttribute("visibility", "visible");
    box.replaceChildren(element("div", { class: "reading-head" }, short(along)), ...lines.map((line) => reading(line, along, yLabel)).filter(Boolean));
    box.hidden = false;
    const left = plot.x(along) > bounds.width / 2 ? plot.x(along) - box.offsetWidth - 12 : plot.x(along) + 12;
    box.style.left = `${Math.max(0, left)}px`;
  };
  svg.addEventListener("pointermove", move);
  svg.addEventListener("pointerleave", leave);
  return element("div", { class: "chart" }, svg, box);
}

function nearestAlong(line, plot, pixel) {
  return line.points[nearest(line.points.map(([along]) => [plot.x(along)]), pixel)][0];
}

function reading(line, along, yLabel) {
  const [found, up] = line.points[nearest(line.points, along)];
  if (found < along && line.points.at(-1)[0] < along) return null;
  return element("div", { class: "reading-row" }, element("span", { class: `swatch ${line.look}` }), line.name, element("b", {}, yLabel(up)));
}
