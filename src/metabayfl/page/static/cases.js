// Referred cases that wait for a person: a list, and the one that is looked at.

import { caseView } from "./case.js";
import { element } from "./dom.js";
import { count, fixed } from "./format.js";
import { guess, overall } from "./answer.js";
import { card, moment } from "./parts.js";

/** The panel of one client: `{node, show(found)}`; `labelled` is called once a label has been learned. */
export function casesPanel(client, strategy, labelled) {
  let [cases, chosen, detail] = [[], null, null];
  const list = element("ul", { class: "case-list", "aria-label": "Cases that wait" });
  const side = element("div", { class: "case-side" });
  const empty = element("p", { class: "empty", hidden: true }, "No case waits: what the model is asked is referred here where it is not sure enough.");
  const more = element("p", { class: "quiet small", hidden: true });
  const body = element("div", { class: "case-panel" }, element("div", {}, list, more), side);

  const open = (item, focus = false) => {
    chosen = item.case;
    detail = caseView(item, client, strategy, { labelled, next });
    side.replaceChildren(detail.node);
    mark();
    if (focus) detail.node.focus();
  };
  const mark = () => {
    for (const button of list.querySelectorAll("button")) button.setAttribute("aria-current", String(button.dataset.case === chosen));
  };
  const next = () => {
    if (cases.length > 0) return open(cases[0], true);
    detail = chosen = null;
    fill();
    empty.focus();
  };
  const fill = () => {
    const idle = detail === null;
    empty.hidden = cases.length > 0 || !idle;
    body.hidden = cases.length === 0 && idle;
  };
  const entry = (item) => {
    const words = [element("b", {}, guess(item.answer)), element("span", { class: "quiet small" }, moment(item.made))];
    const doubt = element("span", { class: "quiet small" }, `${strategy.kind === "classification" ? "doubt" : "variance"} ${fixed(overall(item.answer), 2)}`);
    return element("li", {}, element("button", { type: "button", "data-case": item.case, onclick: () => open(item, true) }, words, doubt));
  };
  const show = (found) => {
    const known = new Map([...list.children].map((node) => [node.firstElementChild.dataset.case, node]));
    cases = found.cases;
    const focused = document.activeElement?.dataset?.case;
    list.replaceChildren(...cases.map((item) => known.get(item.case) ?? entry(item)));
    if (focused) [...list.querySelectorAll("button")].find((button) => button.dataset.case === focused)?.focus();
    more.textContent = `The newest ${count(cases.length)} of ${count(found.waiting)} are listed.`;
    more.hidden = found.waiting <= cases.length;
    const gone = detail !== null && !detail.kept() && !cases.some((item) => item.case === chosen);
    if (gone) detail = chosen = null;
    if (detail === null && cases.length > 0) open(cases[0]);
    mark();
    fill();
  };
  empty.tabIndex = -1;
  const said = "The model was not sure enough. Say what each case really is: the posterior learns it at once.";
  return { node: card("Cases for a person", said, empty, body), show };
}
