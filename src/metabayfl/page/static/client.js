// One client: what it is asked, how sure the answers are, and the cases that wait for a person.

import { ask, of } from "./api.js";
import { casesPanel } from "./cases.js";
import { element, responsive } from "./dom.js";
import { count, percent } from "./format.js";
import { served } from "./overview.js";
import { card, legend, moment, tile } from "./parts.js";
import { reliabilityChart } from "./reliability.js";
import { historyChart } from "./uncertainty.js";

const SPANS = [["1 h", 60], ["24 h", 1440], ["7 days", 10_080]];

export function clientView(name, { who, strategy, refresh: again }) {
  const seen = { reliability: null, history: null, minutes: 1440, turn: 0 };
  const tiles = element("dl", { class: "tiles" });
  const alarms = element("div", { class: "alarms" });
  const reliability = element("div", { id: "reliability" });
  const history = element("div", { id: "history" });
  const redraw = [
    responsive(reliability, (width) => reliabilityChart(seen.reliability, width)),
    responsive(history, (width) => historyChart(seen.history, width, strategy.kind)),
  ];
  const refresh = () => look(name, seen, (found) => show(found));
  const cases = casesPanel(name, strategy, again);
  const show = (found) => {
    tiles.replaceChildren(...summary(found));
    alarms.replaceChildren(...found.alarms.alarms.map(alarm));
    cases.show(found.cases);
    redraw.forEach((draw) => draw());
  };
  const choice = spans(seen, again);
  const node = element(
    "div",
    { class: "stack" },
    element("div", {}, who.operator ? element("a", { href: "#/", class: "small" }, "← All clients") : null, element("h1", {}, name), element("p", { class: "quiet small" }, served(strategy))),
    alarms,
    tiles,
    element(
      "div",
      { class: "pair" },
      card("Can the stated confidence be believed?", said(strategy.kind), reliability),
      card("Where the doubt comes from", null, choice, legend([["aleatoric", "aleatoric", "more samples would not remove it"], ["epistemic", "epistemic", "more samples would"]]), history),
    ),
    cases.node,
  );
  return { node, refresh };
}

/** Ask for everything that is shown; an answer that a later question has overtaken is dropped. */
async function look(name, seen, show) {
  seen.turn += 1;
  const turn = seen.turn;
  const [state, cases, reliability, history, alarms] = await Promise.all([
    ask(of(name)),
    ask(of(name, "/cases?waiting=true&most=200")),
    ask(of(name, "/reliability")),
    ask(of(name, `/history?minutes=${seen.minutes}`)),
    ask(of(name, "/alarms")),
  ]);
  if (turn !== seen.turn) return;
  Object.assign(seen, { reliability, history });
  show({ state, cases, reliability, history, alarms });
}

const said = (kind) =>
  kind === "classification"
    ? "Answers with a label that came later, by their confidence. On the dashed line confidence is deserved; below it is overconfident."
    : "How many true values lie inside intervals that promise so much. On the dashed line the promise is kept.";

function summary({ state, cases, reliability, history }) {
  const asked = history.points.reduce((sum, point) => sum + point.predictions, 0);
  const share = (name) => percent(history.points.reduce((sum, point) => sum + point[name], 0) / asked);
  return [
    tile("Learned from", count(state.samples), "labelled samples"),
    tile("Predictions", count(asked), asked ? `${share("referred")} referred, ${share("novel")} unlike anything known` : "in the time shown below"),
    tile("Waiting for a label", count(cases.waiting), "referred cases"),
    tile("Right", percent(reliability.accuracy ?? NaN), reliability.feedback ? `said ${percent(reliability.confidence ?? NaN)}, on ${count(reliability.feedback)} labels` : "no labels yet"),
    tile("Posterior", `version ${state.version}`, [moment(state.updated), " · ", element("code", { id: "digest", title: state.digest }, state.digest.slice(0, 12))]),
  ];
}

function alarm(found) {
  return element("p", { class: "notice", role: "note" }, element("b", {}, `${found.kind}: `), found.message, found.at ? [" · ", moment(found.at)] : null);
}

function spans(seen, again) {
  const buttons = SPANS.map(([words, minutes]) => {
    const choose = () => {
      seen.minutes = minutes;
      buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(SPANS[at][1] === minutes)));
      again();
    };
    return element("button", { type: "button", "aria-pressed": String(minutes === seen.minutes), onclick: choose }, words);
  });
  return element("div", { class: "choice", role: "group", "aria-label": "Time shown" }, buttons);
}
