// The way in: a token, for this tab alone.

import { token } from "./api.js";
import { element } from "./dom.js";

/** A form that keeps the token and calls `enter`. */
export function signIn(reason, enter) {
  const field = element("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "hint" });
  const submit = (event) => {
    event.preventDefault();
    token.keep(field.value.trim());
    enter();
  };
  const form = element(
    "form",
    { class: "card sign-in", onsubmit: submit },
    element("h1", {}, "Sign in"),
    element("p", { class: "quiet" }, "With a client's token you see that client; with the operator's token, all of them."),
    reason ? element("p", { class: "notice bad", role: "alert" }, reason) : null,
    element("label", { for: "token" }, "Token"),
    field,
    element("p", { id: "hint", class: "quiet small" }, "The operator makes one with  metabayfl token new. It is kept until this tab is closed."),
    element("button", { class: "primary", type: "submit" }, "Sign in"),
  );
  queueMicrotask(() => field.focus());
  return form;
}
