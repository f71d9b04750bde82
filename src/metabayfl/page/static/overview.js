// The operator's view of all clients.

import { ask } from "./api.js";
import { element } from "./dom.js";
import { ago, count, percent } from "./format.js";
import { tile } from "./parts.js";

const COLUMNS = ["client", "samples", "predictions, 24 h", "referred, 24 h", "waiting", "labels", "right", "said", "alarms", "changed"];

export function overview({ strategy }) {
  const tiles = element("dl", { class: "tiles" });
  const body = element("tbody");
  const empty = element("p", { class: "empty", hidden: true }, "No client has a token or a posterior yet: metabayfl token new makes a token.");
  const head = element("thead", {}, element("tr", {}, COLUMNS.map((name) => element("th", { scope: "col" }, name))));
  const table = element("table", {}, element("caption", { class: "unseen" }, "All clients"), head, body);
  const node = element(
    "div",
    { class: "stack" },
    element("div", {}, element("h1", {}, "Clients"), element("p", { class: "quiet small" }, served(strategy))),
    tiles,
    element("section", { class: "card" }, element("div", { class: "scroll", role: "region", "aria-label": "Clients", tabindex: "0" }, table), empty),
  );
  const refresh = async () => {
    const { clients } = await ask("/v1/overview");
    tiles.replaceChildren(...summary(clients));
    const focused = document.activeElement?.closest("tbody a")?.textContent;
    body.replaceChildren(...[...clients].sort(urgent).map(row));
    empty.hidden = clients.length > 0;
    if (focused) [...body.querySelectorAll("a")].find((link) => link.textContent === focused)?.focus();
  };
  return { node, refresh };
}

export const served = (strategy) => `${strategy.algorithm} · ${strategy.kind} · strategy ${strategy.digest.slice(0, 12)}`;

const urgent = (a, b) => b.alarms - a.alarms || b.waiting - a.waiting || a.client.localeCompare(b.client);

function summary(clients) {
  const sum = (name) => clients.reduce((total, client) => total + (client[name] ?? 0), 0);
  const asked = sum("predictions_day");
  const referred = clients.reduce((total, client) => total + client.predictions_day * (client.referred_day ?? 0), 0);
  const alarmed = clients.filter((client) => client.alarms > 0).length;
  return [
    tile("Clients", count(clients.length), `${clients.filter((client) => client.samples > 0).length} with a posterior`),
    tile("Predictions, 24 h", count(asked), asked ? `${percent(referred / asked)} referred` : ""),
    tile("Waiting for a label", count(sum("waiting")), "referred cases"),
    tile("Alarms", count(sum("alarms")), alarmed ? `at ${alarmed} of the clients` : "none", alarmed ? "bad" : ""),
  ];
}

function row(client) {
  const link = element("a", { href: `#/client/${encodeURIComponent(client.client)}` }, client.client);
  const cells = [
    count(client.samples),
    count(client.predictions_day),
    percent(client.referred_day ?? NaN),
    client.waiting ? element("span", { class: "pill warn" }, count(client.waiting)) : "0",
    count(client.feedback),
    percent(client.accuracy ?? NaN),
    percent(client.confidence ?? NaN),
    client.alarms ? element("span", { class: "pill bad" }, count(client.alarms)) : "0",
    client.updated ? ago(client.updated) : "–",
  ];
  return element("tr", {}, element("th", { scope: "row" }, link), cells.map((cell) => element("td", {}, cell)));
}
