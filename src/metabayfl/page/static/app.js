// The page of a prediction server: signs in, chooses what is shown, and keeps it fresh.

import { ask, Refused, token } from "./api.js";
import { clientView } from "./client.js";
import { byId } from "./dom.js";
import { overview } from "./overview.js";
import { signIn } from "./sign_in.js";

const PAUSE = 4000; // between two looks at the server

let session = null; // {who, strategy, refresh}
let view = null; // {node, refresh}
let timer = 0;

async function start() {
  if (!token.held()) return leave();
  try {
    const [who, strategy] = await Promise.all([ask("/v1/bearer"), ask("/v1/strategy")]);
    session = { who, strategy, refresh };
  } catch (error) {
    tell(error);
    if (error.status !== 401) setTimeout(start, PAUSE);
    return;
  }
  byId("who").textContent = session.who.operator ? "operator" : session.who.client;
  byId("leave").hidden = false;
  choose();
}

function leave(reason = "") {
  token.forget();
  session = null;
  byId("who").textContent = "";
  byId("leave").hidden = true;
  show({ node: signIn(reason, start), refresh: null });
  document.title = "Sign in · metabayfl";
}

function choose() {
  if (!session) return;
  const named = /^#\/client\/(.+)$/.exec(location.hash)?.[1];
  const client = named ? decoded(named) : session.who.client;
  document.title = `${client ?? "Clients"} · metabayfl`;
  show(client === null ? overview(session) : clientView(client, session));
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function show(next) {
  view = next;
  byId("problem").hidden = true;
  byId("view").replaceChildren(view.node);
  refresh();
}

async function refresh() {
  clearTimeout(timer);
  const current = view;
  if (!current.refresh) return;
  if (!document.hidden) {
    try {
      await current.refresh();
      if (current === view) byId("problem").hidden = true;
    } catch (error) {
      if (current === view) tell(error);
    }
  }
  if (current === view) timer = setTimeout(refresh, PAUSE);
}

function tell(error) {
  if (!(error instanceof Refused)) throw error;
  if (error.status === 401) return leave(error.message);
  byId("problem").textContent = error.message;
  byId("problem").hidden = false;
}

addEventListener("hashchange", choose);
document.addEventListener("visibilitychange", () => view && refresh());
byId("leave").addEventListener("click", () => leave());
start();
