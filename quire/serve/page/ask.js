// What is sent for a conversation: the request's body from the settings, and which turns still fit into the model's context.

import { count } from "./talk.js";
import { messages } from "./store.js";

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];
const SPARE = 64; // tokens that an answer should have at least

/** The fields of a body that the settings ask for. Throws an Error that names the one that cannot be read. */
export function options(settings, chats) {
  const body = {};
  for (const name of NUMBERS) if (settings[name] !== undefined && settings[name] !== "") body[name] = Number(settings[name]);
  const stops = (settings.stops ?? "").split("|").filter(Boolean);
  if (stops.length) body.stop = stops;
  if (settings.logprobs !== false) Object.assign(body, chats ? { logprobs: true, top_logprobs: 5 } : { logprobs: 5 });
  Object.assign(body, form(settings["form-kind"], settings["form-text"] ?? "", chats));
  const tools = chats ? parsed(settings.tools, "Tools") : null;
  if (tools?.length) Object.assign(body, { tools, tool_choice: settings.tool_choice || "auto" });
  return body;
}

function form(kind, text, chats) {
  if (!kind) return {};
  if (kind === "json_object") return chats ? { response_format: { type: kind } } : { structured_outputs: { json: { type: "object" } } };
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

/** How many of the oldest turns must be left out so that the rest, and an answer, fit. */
export async function leftOut(conversation, model, body) {
  const room = model.max_model_len - Math.min(body.max_tokens ?? SPARE, Math.floor(model.max_model_len / 2));
  const starts = conversation.turns.map((turn, at) => (turn.role === "user" ? at : -1)).filter((at) => at >= 0);
  let first = 0;
  let size = 0;
  for (const at of [0, ...starts.filter((start) => start > 0)]) {
    first = at;
    size = await count({ model: model.id, messages: messages(conversation, conversation.turns.slice(at)), ...(body.tools ? { tools: body.tools } : {}) });
    if (size <= room) break;
  }
  return { first, size, room };
}
