// What the page asks of the server.

import * as kept from "./keep.js";

let key = kept.recall("key", "sessionStorage") ?? "";

export function setKey(value) {
  key = value;
  kept.keep("key", value, "sessionStorage");
}

export const getKey = () => key;

// The server may be below a path of somebody else's: addresses are seen from where this file is.
const base = new URL("..", import.meta.url);

// APIError is an error that the server told, or that it could not be reached.
export class APIError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

// reached says in words what browsers call "Failed to fetch" or "network error".
async function reached(promise) {
  try {
    return await promise;
  } catch (e) {
    if (e instanceof TypeError) throw new APIError("The server does not answer. Is it still running?");
    throw e; // the reader stopped it
  }
}

async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  try {
    if (key) headers.set("Authorization", "Bearer " + key);
  } catch {
    throw new APIError("The API key has characters that a key cannot have.");
  }
  const response = await reached(fetch(new URL(path, base), { cache: "no-store", ...options, headers }));
  if (response.ok) return response;
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // not from this server's API
  }
  throw new APIError(message, response.status);
}

export const getJSON = async (path) => reached((await ask(path)).json());

export const postJSON = async (path, body) =>
  (await ask(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } })).json();

// stream posts a body and yields the JSON of the events that answer it; the response is told of first.
export async function* stream(path, body, signal, onResponse = () => {}) {
  const response = await ask(path, {
    method: "POST", signal, body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
  });
  onResponse(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reached(reader.read());
    if (done) break;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((l) => l.startsWith("data: ")).map((l) => l.slice(6)).join("\n");
      if (!data) continue;
      if (data === "[DONE]") return;
      const parsed = JSON.parse(data);
      if (parsed.error) throw new APIError(parsed.error.message);
      yield parsed;
    }
  }
  throw new APIError("The answer was cut off.");
}
