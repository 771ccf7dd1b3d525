// The server's API: models, counting tokens, and answers as a stream. Nothing here touches the page.

const KEY = "quire.key";

/** An error that the server told, or that kept us from it. status 401 means that a key is needed. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const key = {
  get: () => localStorage.getItem(KEY) ?? "",
  set: (value) => (value ? localStorage.setItem(KEY, value) : localStorage.removeItem(KEY)),
};

async function ask(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server cannot be reached. Is it still running?");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, told.error?.message ?? `The server said ${answer.status}.`);
}

export const models = async () => (await (await ask("v1/models")).json()).data;

/** How many tokens a conversation (or a text) has, as the model reads it. */
export async function count(body, signal) {
  return (await (await ask("tokenize", body, signal)).json()).count;
}

function broken(error) {
  if (error.name === "AbortError") throw error;
  return { done: true };
}

/** Events of an answer: parsed JSON, one after the other. */
export async function* stream(path, body, signal) {
  const answer = await ask(path, { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  let whole = false;
  try {
    for (;;) {
      const { value, done } = await reader.read().catch(broken);
      if (done) break;
      held += value;
      const events = held.split("\n\n");
      held = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ")) continue;
        const data = event.slice(6);
        if (data === "[DONE]") {
          whole = true;
          continue;
        }
        const parsed = JSON.parse(data);
        if (parsed.error) throw new Refused(500, parsed.error.message);
        yield parsed;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!whole) throw new Refused(0, "the connection to the server ended before the answer did.");
}
