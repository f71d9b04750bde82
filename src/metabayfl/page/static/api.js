// The server's API. The token is kept for this tab alone and travels in a header, never in an address.

const KEY = "metabayfl token";

export const token = {
  held: () => sessionStorage.getItem(KEY),
  keep: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** A request that was refused, with the server's one sentence. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The answer to a GET, or to a POST where there is a body; throws `Refused`. */
export async function ask(path, body) {
  const headers = { Authorization: `Bearer ${token.held() ?? ""}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Refused(0, "The server does not answer: it was stopped, or this machine has lost the connection. Trying again.");
  }
  const found = await response.json().catch(() => null);
  if (response.ok && found !== null) return found;
  throw new Refused(response.status, found?.error?.message ?? `The server answered ${response.status} without a reason: its log has one.`);
}

/** A client's address; its name is data. */
export const of = (client, rest = "") => `/v1/clients/${encodeURIComponent(client)}${rest}`;
