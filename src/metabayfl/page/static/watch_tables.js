// The tables of the live view.

import { element } from "./dom.js";
import { bytes, fixed, pace, percent, short } from "./format.js";

const STATES = { waiting: "waiting", training: "training", judging: "being judged", done: "done" };

const FIGURES = [
  ["accuracy", "accuracy", (value) => percent(value, 1)],
  ["rmse", "RMSE", short],
  ["nll", "NLL, nats", fixed],
  ["ece", "calibration error", (value) => percent(value, 1)],
  ["coverage_90", "inside 90 % interval", (value) => percent(value, 1)],
  ["accuracy_worst_decile", "accuracy, worst tenth", (value) => percent(value, 1)],
  ["auroc_unseen", "notices new classes", fixed],
  ["adapt_ms", "adapts in, ms", short],
];

const head = (names) => element("thead", {}, element("tr", {}, names.map((name) => element("th", { scope: "col" }, name))));

const nameCell = (run) => element("th", { scope: "row" }, element("span", { class: `swatch ${run.look}` }), run.algorithm);

/** One row a run: how far it is, and its latest figures. */
export function runsTable(runs) {
  const privately = runs.some((run) => run.privacy);
  const names = ["algorithm", "seed", "state", "rounds", "loss", "best validation", "s a round", "sent", ...(privately ? ["ε spent"] : [])];
  return [head(names), element("tbody", {}, runs.map((run) => row(run, privately)))];
}

function row(run, privately) {
  const meter = element("span", { class: `meter ${run.look}` }, element("span"));
  meter.firstElementChild.style.width = `${run.rounds ? (100 * run.round) / run.rounds : run.state === "done" ? 100 : 0}%`;
  const cells = [
    run.seed,
    STATES[run.state],
    [`${run.round} of ${run.rounds}`, meter],
    fixed(run.loss.at(-1)?.[1]),
    run.best ? `${fixed(run.best[0])} in ${run.best[1]}` : "–",
    pace(run.round_seconds ?? NaN),
    bytes(run.bytes),
    ...(privately ? [run.privacy ? fixed(run.privacy.spent, 2) : "–"] : []),
  ];
  return element("tr", {}, nameCell(run), cells.map((cell) => element("td", {}, cell)));
}

/** One row a judged run: the figures that it has. */
export function figuresTable(runs) {
  const columns = FIGURES.filter(([name]) => runs.some((run) => Number.isFinite(run.figures[name])));
  const rows = runs.map((run) => {
    const cells = columns.map(([name, , write]) => element("td", {}, write(run.figures[name] ?? NaN)));
    return element("tr", {}, nameCell(run), element("td", {}, run.seed), cells);
  });
  return [head(["algorithm", "seed", ...columns.map(([, title]) => title)]), element("tbody", {}, rows)];
}
