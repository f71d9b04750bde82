// Uncertainty over time, split into its two parts.

import { frame, picture, withReading } from "./chart.js";
import { element, shape } from "./dom.js";
import { count, fixed } from "./format.js";

const HEIGHT = 290;
const WIDEST = 26; // pixels of a bar

/** The picture of what `/history` gave: a bar a span, as high as the mean total uncertainty of its predictions. */
export function historyChart(found, width, kind) {
  if (!found?.points.length) return element("p", { class: "empty" }, "No predictions in this time.");
  const step = found.step_minutes * 60_000;
  const points = found.points.map((point) => ({ ...point, time: new Date(point.at).getTime() + step / 2 }));
  const domain = [points[0].time - step, Math.max(points.at(-1).time + step, Date.now())];
  const yTitle = kind === "classification" ? "nats, mean of the predictions" : "training variances, mean of the predictions";
  const highest = Math.max(...points.map((point) => point.total)) * 1.08 || 1;
  const plot = frame(width, HEIGHT, domain, [0, highest], { yTitle, xLabel: clock(domain), xTicks: times(domain, width) });
  const gaps = points.slice(1).map((point, at) => point.time - points[at].time);
  const thick = Math.max(1.5, Math.min(WIDEST, 0.8 * (plot.x(Math.min(...gaps, DAY)) - plot.x(0))));
  const bars = points.map((point) => bar(point, plot, thick));
  const svg = picture(width, HEIGHT, `Mean uncertainty of the predictions over time, ${points.length} spans, in its two parts`, plot.nodes, bars);
  return withReading(svg, plot, points.map((point) => point.time), (at) => reading(points[at]));
}

function bar(point, plot, thick) {
  const x = plot.x(point.time) - thick / 2;
  const [zero, middle, top] = [plot.y(0), plot.y(point.aleatoric), plot.y(point.aleatoric + point.epistemic)];
  return shape(
    "g",
    { class: "span" },
    shape("rect", { class: "solid aleatoric", x, width: thick, y: middle, height: zero - middle }),
    shape("rect", { class: "solid epistemic", x, width: thick, y: top, height: Math.max(0, middle - top) }),
  );
}

function reading(point) {
  const line = (look, name, value) =>
    element("div", { class: "reading-row" }, look ? element("span", { class: `swatch ${look}` }) : null, name, element("b", {}, value));
  return [
    element("div", { class: "reading-head" }, new Date(point.time).toLocaleString()),
    line("epistemic", "epistemic", fixed(point.epistemic)),
    line("aleatoric", "aleatoric", fixed(point.aleatoric)),
    line("", "predictions", count(point.predictions)),
    line("", "referred", count(point.referred)),
    point.novel ? line("", "unlike anything known", count(point.novel)) : null,
  ];
}

const DAY = 86_400_000;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880].map((minutes) => minutes * 60_000);

/** Round moments inside the domain, in local time. */
function times([low, high], width) {
  const wanted = width < 420 ? 4 : 6;
  const step = STEPS.find((size) => (high - low) / size <= wanted) ?? STEPS.at(-1);
  const shift = new Date(low).getTimezoneOffset() * 60_000;
  const first = Math.ceil((low - shift) / step) * step + shift;
  return Array.from({ length: Math.max(0, Math.floor((high - first) / step) + 1) }, (_, at) => first + at * step);
}

const clock = ([low, high]) => (time) =>
  new Date(time).toLocaleString("en-GB", high - low > 1.5 * DAY ? { day: "numeric", month: "short" } : { hour: "2-digit", minute: "2-digit" });
