// The reliability diagram: stated confidence against how often the answers were right.

import { frame, picture } from "./chart.js";
import { element, shape } from "./dom.js";
import { percent } from "./format.js";

const Z = 1.645; // of a 90 % interval
const MOST_WIDTH = 460;

/** The picture of what `/reliability` gave. */
export function reliabilityChart(found, width) {
  if (!found?.feedback) return element("p", { class: "empty" }, "No labels yet. Label a referred case below, or post labels to /update.");
  const wide = Math.min(width, MOST_WIDTH);
  const yTitle = found.kind === "classification" ? "share that was right" : "share found inside";
  const xTitle = found.kind === "classification" ? "stated confidence" : "promised by the interval";
  const plot = frame(wide, Math.min(340, wide * 0.82), [0, 1], [0, 1], { xTitle, yTitle, xLabel: percent, yLabel: percent });
  const ideal = shape("line", { class: "ideal", x1: plot.x(0), y1: plot.y(0), x2: plot.x(1), y2: plot.y(1) });
  const bins = found.bins.filter((bin) => bin.count > 0);
  const most = Math.max(...bins.map((bin) => bin.count));
  const drawn = bins.map((bin) => mark(bin, plot, most, found.kind));
  const words = `${yTitle}, by ${xTitle}, on ${found.feedback} labels; mean gap ${percent(found.error, 1)}`;
  return element(
    "div",
    {},
    picture(wide, Math.min(340, wide * 0.82), words, plot.nodes, ideal, drawn),
    element("p", { class: "quiet small" }, `Mean gap to the dashed line: ${percent(found.error, 1)}, on ${found.feedback} labels. Thin bars: where chance alone may put a dot.`),
  );
}

function mark(bin, plot, most, kind) {
  const [x, y] = [plot.x(bin.confidence), plot.y(bin.accuracy)];
  const [low, high] = wilson(bin.accuracy, bin.count);
  const left = plot.x(bin.low) + 1;
  const block = shape("rect", { class: "block accent", x: left, width: plot.x(bin.high) - left - 1, y, height: plot.y(0) - y });
  const whisker = shape("line", { class: "whisker", x1: x, x2: x, y1: plot.y(low), y2: plot.y(high) });
  const radius = 3.5 + 4 * Math.sqrt(bin.count / most);
  const title = `${percent(bin.accuracy)} of ${bin.count}, stated ${percent(bin.confidence)}`;
  const dot = shape("circle", { class: "ring accent", cx: x, cy: y, r: kind === "classification" ? radius : 4.5 }, shape("title", {}, title));
  return shape("g", { class: "bin", "data-count": bin.count }, kind === "classification" ? block : null, whisker, dot);
}

/** Wilson's 90 % interval of a share. */
function wilson(share, count) {
  const square = (Z * Z) / count;
  const middle = (share + square / 2) / (1 + square);
  const half = (Z / (1 + square)) * Math.sqrt((share * (1 - share)) / count + square / (4 * count));
  return [middle - half, middle + half];
}
