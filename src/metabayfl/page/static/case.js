// One referred case: its input, what the model says of it, and the label that a person gives.

import { overall } from "./answer.js";
import { ask, of, Refused } from "./api.js";
import { answerTable, splitBars } from "./bars.js";
import { announce, element } from "./dom.js";
import { fixed } from "./format.js";
import { inputView } from "./input.js";
import { labelForm } from "./label.js";
import { moment } from "./parts.js";

/** The view of a case: `{node, kept()}`; `kept` says whether it still shows something that a refresh must not take away. */
export function caseView(item, client, strategy, { labelled, next }) {
  let kept = false;
  const refusal = element("p", { class: "notice bad", role: "alert", hidden: true });
  const answer = element("div", { class: "case-answer" }, said(item.answer, strategy));
  const give = async (truth) => {
    kept = true;
    refusal.hidden = true;
    try {
      const found = await ask(of(client, `/cases/${encodeURIComponent(item.case)}/label`), { label: truth });
      answer.replaceChildren(learned(item, found, truth, strategy));
      form.replaceWith(again);
      again.focus();
      announce(`Learned: ${truth}. The posterior is now version ${found.version}.`);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      kept = false;
      refusal.textContent = error.message;
      refusal.hidden = false;
      return;
    }
    await labelled();
  };
  const form = labelForm(strategy, item.answer, give);
  const again = element("button", { type: "button", class: "primary", onclick: next }, "Next case");
  const node = element(
    "article",
    { class: "case", tabindex: "-1", "aria-label": "Case", "data-case": item.case },
    element("p", { class: "quiet small" }, "Asked ", moment(item.made), ` · answered by version ${item.version}`, item.answer.novel ? " · unlike anything known" : ""),
    element("div", { class: "case-body" }, inputView(item.row, strategy), answer),
    refusal,
    form,
  );
  return { node, kept: () => kept };
}

function said(answer, strategy) {
  return [
    element("h3", {}, "The model says"),
    answerTable(strategy, answer),
    element("h3", {}, "Doubt"),
    splitBars([["", answer]], strategy),
    element("p", { class: "quiet small" }, doubt(answer, strategy)),
  ];
}

const doubt = (answer, strategy) => {
  const set = Array.isArray(answer.set) ? ` It cannot rule out: ${answer.set.join(", ")}.` : "";
  return `${fixed(overall(answer))} ${strategy.kind === "classification" ? `nats, of at most ${fixed(Math.log(strategy.classes.length), 2)}` : "squared units"}.${set}`;
};

/** How the posterior moved. */
function learned(item, found, truth, strategy) {
  const before = found.before ?? item.answer;
  if (!found.after) return element("p", { class: "notice good" }, `This case had the label ${truth} already: nothing was learned twice.`);
  return element(
    "div",
    { class: "moved" },
    element("p", { class: "notice good" }, element("b", {}, `Learned: ${truth}. `), `The posterior is now version ${found.version}, from ${found.samples} samples.`),
    element("h3", {}, "What it says of this case, before and after"),
    answerTable(strategy, found.after, { before, truth }),
    element("h3", {}, "Doubt"),
    splitBars([["before", before], ["after", found.after]], strategy),
  );
}
