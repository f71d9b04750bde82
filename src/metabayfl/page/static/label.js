// How a person says what a case really is.

import { element } from "./dom.js";
import { short } from "./format.js";

const MOST_BUTTONS = 12;

/** A form that calls `give(label)`: a button a class where they are few, a list where they are many, numbers in a regression. */
export function labelForm(strategy, answer, give) {
  const form = strategy.kind === "regression" ? numbers(strategy, answer, give) : choice(strategy, give);
  return element("fieldset", { class: "label" }, element("legend", {}, "What is it really?"), form);
}

/** While a label is on its way nothing can be pressed. */
const held = (node, give) => async (label) => {
  const controls = [...node().querySelectorAll("button, input, select")];
  controls.forEach((control) => (control.disabled = true));
  await give(label);
  controls.forEach((control) => (control.disabled = false));
};

function choice(strategy, give) {
  if (strategy.classes.length > MOST_BUTTONS) return listed(strategy, give);
  const send = held(() => node, give);
  const node = element("div", { class: "choice" }, strategy.classes.map((name) => element("button", { type: "button", onclick: () => send(name) }, name)));
  return node;
}

function listed(strategy, give) {
  const field = element("select", { "aria-label": "class" }, strategy.classes.map((name) => element("option", {}, name)));
  return form(give, () => strategy.classes[field.selectedIndex], field);
}

function numbers(strategy, answer, give) {
  const fields = strategy.targets.map((name) =>
    element("label", {}, name, element("input", { type: "number", step: "any", required: true, placeholder: short(answer.label[name]) })),
  );
  const read = () => fields.map((field) => field.querySelector("input").valueAsNumber);
  return form(give, () => (fields.length === 1 ? read()[0] : read()), fields);
}

function form(give, read, fields) {
  const send = held(() => node, give);
  const submit = (event) => {
    event.preventDefault();
    send(read());
  };
  const node = element("form", { class: "choice", onsubmit: submit }, fields, element("button", { class: "primary", type: "submit" }, "Learn it"));
  return node;
}
