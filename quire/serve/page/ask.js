// What is sent for a conversation: the request's body from the settings, and which turns still fit into the model's context.

import { count } from "./talk.js";
import { messages } from "./store.js";

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];
const SPARE = 64; // tokens that an answer should have at least
const MOST_CHARACTERS = 32; // of a token, taken all together: what has more is not sent to be counted
const ENOUGH = 256; // that a text goes on for where nothing is said: a base model seldom ends by itself

/** The fields of a body that the settings ask for. Throws an Error that names the one that cannot be read. */
export function options(settings, model) {
  const body = { model: model.id };
  for (const name of NUMBERS) if (settings[name] !== undefined && settings[name] !== "") body[name] = Number(settings[name]);
  const stops = (settings.stops ?? "").split("|").filter(Boolean);
  if (stops.length) body.stop = stops;
  if (!model.chats) body.max_tokens ??= Math.min(ENOUGH, model.max_model_len);
  if (settings.logprobs !== false) Object.assign(body, model.chats ? { logprobs: true, top_logprobs: 5 } : { logprobs: 5 });
  Object.assign(body, form(settings["form-kind"], settings["form-text"] ?? ""));
  const tools = model.chats ? parsed(settings.tools, "Tools") : null;
  if (tools && !Array.isArray(tools)) throw new Error("Tools: this is no list. Write [ before it and ] behind it.");
  if (tools?.length) Object.assign(body, { tools, tool_choice: settings.tool_choice || "auto" });
  return body;
}

function form(kind, text) {
  if (!kind) return {};
  if (kind === "json_object") return { structured_outputs: { json: { type: "object" } } };
  if (kind === "json") return { structured_outputs: { json: parsed(text, "The schema") ?? {} } };
  if (kind === "choice") return { structured_outputs: { choice: text.split("\n").filter(Boolean) } };
  return { structured_outputs: { [kind]: text } };
}

function parsed(text, what) {
  if (!text?.trim()) return null;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${what}: ${error.message}`);
  }
}

/** How many of the oldest turns must be left out so that the rest, and an answer, fit. What is left begins with a person's turn. */
export async function leftOut(conversation, model, body, signal) {
  const room = model.max_model_len - Math.min(body.max_tokens ?? SPARE, Math.floor(model.max_model_len / 2));
  const starts = conversation.turns.map((turn, at) => (turn.role === "user" ? at : 0)).filter((at) => at > 0);
  const size = async (first) => {
    const turns = conversation.turns.slice(first);
    if (turns.reduce((sum, turn) => sum + (turn.content ?? "").length, 0) > MOST_CHARACTERS * room) return Infinity;
    return count({ model: model.id, messages: messages(conversation, turns), ...(body.tools ? { tools: body.tools } : {}) }, signal).catch((error) => {
      if (error.status === 413) return Infinity; // more than the server takes at once
      throw error;
    });
  };
  if (!starts.length || (await size(0)) <= room) return 0;
  let low = 0; // the first of the starts that fits; the last is taken even if it does not, and the server says so
  for (let high = starts.length - 1; low < high; ) {
    const middle = (low + high) >> 1;
    if ((await size(starts[middle])) <= room) high = middle;
    else low = middle + 1;
  }
  return starts[low];
}
