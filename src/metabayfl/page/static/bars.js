// Probabilities and uncertainties of one case as bars, alone or before and after a label.

import { joined } from "./answer.js";
import { element } from "./dom.js";
import { fixed, percent, short } from "./format.js";
import { legend } from "./parts.js";

const MOST = 12; // classes in a table; the rest are less probable

/** A table of the answer: a row a class with its probability, or a row a target with its interval. */
export function answerTable(strategy, answer, { before = null, truth = null } = {}) {
  return answer.probabilities ? classes(strategy, answer, before, truth) : targets(strategy, answer, before);
}

function classes(strategy, answer, before, truth) {
  const rank = (name) => Math.max(answer.probabilities[name], before?.probabilities[name] ?? 0) + (name === truth ? 1 : 0);
  const shown = [...strategy.classes].sort((a, b) => rank(b) - rank(a)).slice(0, MOST);
  const kept = strategy.classes.filter((name) => shown.includes(name));
  const rows = kept.map((name) => probability(name, answer.probabilities[name], before?.probabilities[name], name === truth));
  return table("Probabilities", before ? ["class", "probability", "before", "after"] : ["class", "probability", ""], rows);
}

function probability(name, value, before, right) {
  const bar = element("span", { class: "meter tall accent" }, element("span"));
  bar.firstElementChild.style.width = `${100 * value}%`;
  const track = element("span", { class: "track" }, bar, before === undefined ? null : ghost(before));
  const numbers = before === undefined ? [percent(value, 1)] : [percent(before, 1), percent(value, 1)];
  const label = right ? [name, element("span", { class: "pill good" }, "label")] : name;
  const cells = numbers.map((number, at) => element("td", { class: at < numbers.length - 1 ? "quiet" : "strong" }, number));
  return element("tr", { class: right ? "right" : null }, element("th", { scope: "row" }, label), element("td", { class: "wide" }, track), cells);
}

/** A mark where the value was before. */
function ghost(before) {
  const mark = element("span", { class: "ghost", title: `before: ${percent(before, 1)}` });
  mark.style.left = `${100 * before}%`;
  return mark;
}

function targets(strategy, answer, before) {
  const cells = (one, name) => [short(one.label[name]), `${short(one.interval[name][0])} to ${short(one.interval[name][1])}`];
  const head = ["target", ...(before ? ["before", "in 90 %", "after", "in 90 %"] : ["predicted", "in 90 %"])];
  const rows = strategy.targets.map((name) => {
    const numbers = [...(before ? cells(before, name) : []), ...cells(answer, name)];
    return element("tr", {}, element("th", { scope: "row" }, name), numbers.map((number) => element("td", {}, number)));
  });
  return table("Prediction", head, rows);
}

const table = (caption, head, rows) =>
  element(
    "table",
    { class: "answer" },
    element("caption", { class: "unseen" }, caption),
    element("thead", {}, element("tr", {}, head.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, rows),
  );

/** Stacked bars of the two parts, `[[name, answer], ...]`, on one scale: the entropy of complete ignorance, or the largest total. */
export function splitBars(rows, strategy) {
  const whole = strategy.kind === "classification" ? Math.log(strategy.classes.length) : Math.max(...rows.map(([, one]) => joined(one.total)));
  const drawn = rows.map(([name, one]) => split(name, joined(one.aleatoric), joined(one.epistemic), whole));
  return element("div", { class: "splits" }, drawn, legend([["aleatoric", "aleatoric"], ["epistemic", "epistemic"]]));
}

function split(name, aleatoric, epistemic, whole) {
  const part = (look, value) => {
    const bar = element("span", { class: look });
    bar.style.width = `${(100 * value) / whole}%`;
    return bar;
  };
  const told = `aleatoric ${fixed(aleatoric)}, epistemic ${fixed(epistemic)}`;
  return element(
    "div",
    { class: "split" },
    name ? element("span", { class: "split-name" }, name) : null,
    element("span", { class: "split-bar", role: "img", "aria-label": `${name} ${told}` }, part("aleatoric", aleatoric), part("epistemic", epistemic)),
    element("span", { class: "split-value quiet small" }, told),
  );
}
