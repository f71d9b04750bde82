// The live view of a training: asks once a second how far it is, and draws what has changed.

import { lineChart } from "./chart.js";
import { announce, byId, element, responsive } from "./dom.js";
import { bytes, count, duration, fixed, pace, short } from "./format.js";
import { figuresTable, runsTable } from "./watch_tables.js";

const PAUSE = 1000;
const PATIENCE = 5000; // between two questions where nobody answers

let shown = null; // what the page shows: the answer to /progress
let chosen = null; // the algorithm that stands out

const curves = (kind) =>
  (shown?.runs ?? []).map((run) => ({ name: named(run), algorithm: run.algorithm, look: run.look, points: run[kind] }));

const named = (run) => (shown.runs.filter((other) => other.algorithm === run.algorithm).length > 1 ? `${run.algorithm} · ${run.seed}` : run.algorithm);

const charts = [
  chart("validation", "validation", "Validation loss of every run, by round, in nats"),
  chart("loss", "loss", "Training loss of every run, by round, in nats"),
];

function chart(id, kind, description) {
  return responsive(byId(id), (width) => {
    const lines = curves(kind);
    if (lines.every((line) => line.points.length === 0)) return element("p", { class: "empty" }, nothing(kind));
    const drawn = lineChart(lines, { width, description, xTitle: "round", yTitle: "nats" });
    const groups = [...drawn.querySelectorAll(".line")];
    const named = lines.filter((line) => line.points.length > 0);
    groups.forEach((group, at) => group.classList.toggle("dimmed", chosen !== null && named[at].algorithm !== chosen));
    return drawn;
  });
}

const nothing = (kind) =>
  shown?.state === "finished" ? "These algorithms train without it." : kind === "loss" ? "No round is done yet." : "The validation clients were not asked yet.";

function show(found) {
  const changed = JSON.stringify(found) !== JSON.stringify(shown);
  const ended = shown !== null && shown.state !== "finished" && found.state === "finished";
  shown = found;
  byId("problem").hidden = true;
  pill();
  if (!changed) return;
  head();
  tiles();
  legend();
  charts.forEach((redraw) => redraw());
  byId("runs").replaceChildren(...runsTable(found.runs));
  const judged = found.runs.filter((run) => run.figures);
  byId("judged").hidden = judged.length === 0;
  byId("figures").replaceChildren(...figuresTable(judged));
  end();
  if (ended) announce("Training has ended.");
}

function pill() {
  const silent = Date.now() / 1000 - shown.updated;
  const words = { waiting: "preparing", training: silent > 120 ? `no round for ${duration(silent)}` : "training", finished: "finished" }[shown.state];
  byId("state").className = `pill push ${shown.state === "finished" ? "good" : silent > 120 && shown.updated ? "warn" : "live"}`;
  byId("state").textContent = shown.updated || shown.state !== "training" ? words : "preparing";
}

function head() {
  const share = shown.rounds_all ? shown.rounds_done / shown.rounds_all : shown.state === "finished" ? 1 : 0;
  byId("title").textContent = shown.title || "Training";
  document.title = `${Math.floor(100 * share)} % · ${shown.title || "Training"} · metabayfl`;
  byId("where").textContent = shown.directory;
  const left = shown.state === "finished" ? "done" : shown.left_seconds === null ? "" : `about ${duration(shown.left_seconds)} left`;
  byId("said").replaceChildren(
    element("span", {}, `${count(shown.rounds_done)} of ${count(shown.rounds_all)} rounds`),
    element("span", { class: "quiet" }, left),
  );
  byId("progress").firstElementChild.style.width = `${100 * share}%`;
  byId("progress").setAttribute("aria-valuemax", shown.rounds_all);
  byId("progress").setAttribute("aria-valuenow", shown.rounds_done);
}

function tiles() {
  const now = shown.runs.find((run) => run.state === "training" || run.state === "judging");
  const best = shown.runs.filter((run) => run.best).sort((a, b) => a.best[0] - b.best[0])[0];
  const spent = shown.runs.filter((run) => run.privacy).sort((a, b) => b.privacy.spent - a.privacy.spent)[0];
  const done = shown.runs.filter((run) => run.state === "done").length;
  byId("tiles").replaceChildren(
    tile("Runs done", `${done} of ${shown.runs.length}`, now ? `now ${named(now)}` : ""),
    tile("Time left", shown.state === "finished" ? "done" : duration(shown.left_seconds ?? NaN), now ? now.round_seconds === null ? "" : `${pace(now.round_seconds)} s a round` : ""),
    now ? tile("Loss now", fixed(now.loss.at(-1)?.[1]), "nats, training clients") : "",
    tile("Best validation loss", fixed(best?.best[0]), best ? `${named(best)}, round ${best.best[1]}` : ""),
    tile("Sent so far", bytes(shown.runs.reduce((sum, run) => sum + run.bytes, 0)), "by and to all clients"),
    spent ? tile("Privacy spent", `ε ${fixed(spent.privacy.spent, 2)}`, privacyNote(spent.privacy)) : "",
  );
}

const privacyNote = (book) => `of ${short(book.budget)}, δ ${short(book.delta)}${book.simulated ? "; seeded noise protects nobody" : ""}`;

const tile = (name, value, note) => element("div", { class: "tile" }, element("dt", {}, name), element("dd", {}, value), element("dd", {}, note));

function legend() {
  const looks = new Map(shown.runs.map((run) => [run.algorithm, run.look]));
  const entries = [...looks].map(([name, look]) => {
    const choose = () => {
      chosen = chosen === name ? null : name;
      legend();
      charts.forEach((redraw) => redraw());
    };
    const swatch = element("span", { class: `swatch ${look}` });
    return element("li", {}, element("button", { type: "button", "aria-pressed": String(chosen === name), onclick: choose }, swatch, name));
  });
  const focused = [...byId("legend").querySelectorAll("button")].indexOf(document.activeElement);
  byId("legend").replaceChildren(...(looks.size > 1 ? entries : []));
  if (focused >= 0) byId("legend").querySelectorAll("button")[focused]?.focus();
}

function end() {
  byId("end").hidden = shown.state !== "finished";
  if (shown.state !== "finished") return;
  const link = element("a", { href: "/report" }, "Open the report");
  byId("end").replaceChildren("Training has ended. ", link, ` (${shown.report}); metabayfl watch ${shown.directory} shows this page again.`);
}

function lost(reason) {
  const over = shown?.state === "finished";
  byId("state").className = `pill push ${over ? "good" : "bad"}`;
  byId("state").textContent = over ? "finished" : "no answer";
  byId("problem").hidden = over;
  byId("problem").textContent = reason;
  if (over) byId("end").querySelector("a")?.replaceWith("The report is written");
}

const gone = () =>
  `The view was closed: the training has ended or was stopped. This is the last state that was seen${shown ? `; metabayfl watch ${shown.directory} shows the present one` : ""}.`;

async function follow() {
  let pause = PAUSE;
  try {
    const response = await fetch("/progress");
    const found = await response.json();
    if (response.ok) show(found);
    else lost(found.error);
  } catch {
    lost(gone());
    pause = PATIENCE;
  }
  setTimeout(follow, pause);
}

follow();
