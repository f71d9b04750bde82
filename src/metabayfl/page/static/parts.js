// Small parts that several views are made of.

import { element } from "./dom.js";
import { ago } from "./format.js";

/** One headline figure. */
export const tile = (name, value, note = "", look = "") =>
  element("div", { class: `tile ${look}` }, element("dt", {}, name), element("dd", {}, value), element("dd", {}, note));

/** A card with a heading, a sentence and its content. */
export const card = (title, said, ...content) =>
  element("section", { class: "card", "aria-label": title }, element("header", {}, element("h2", {}, title), said ? element("p", {}, said) : null), content);

/** A moment, said as so long ago. */
export const moment = (iso) => element("time", { datetime: iso, title: new Date(iso).toLocaleString() }, ago(iso));

/** What colours mean. */
export const legend = (entries) =>
  element("ul", { class: "legend" }, entries.map(([look, name, said]) => {
    const more = said ? element("span", { class: "quiet" }, `: ${said}`) : null;
    return element("li", {}, element("span", { class: `swatch ${look}` }), name, more);
  }));
