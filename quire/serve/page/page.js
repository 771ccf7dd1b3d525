// The page: what is shown follows from one conversation and the settings; what a person does changes these and shows them again.

import { Refused, count, key, models, stream } from "./talk.js";
import { leftOut, options } from "./ask.js";
import { hear, wholeCalls } from "./hear.js";
import { askKey, at, closeOver, download, settings, toggle } from "./panel.js";
import * as store from "./store.js";
import * as view from "./view.js";

let known = [];
let conversation = store.fresh("");
let running = null; // the AbortController of the answer on its way
let omitted = 0; // turns at the beginning that were left out of what was last sent
const visited = new Map(); // conversations of this visit by id: they have the facts of their tokens still
const drawn = new WeakMap(); // the element of each turn that does not change any more
const deleted = new Set();

const WAITING = { away: "opens when it is asked", starting: "is being opened", failed: "cannot be opened" };
const model = () => known.find((one) => one.id === at("model").value) ?? known[0];
const typing = matchMedia("(hover: hover)"); // elsewhere the focus would bring up a keyboard of glass

// -- showing ------------------------------------------------------------------------------------------------------------------------

function show() {
  const rows = conversation.turns.map(row);
  rows.forEach((made, number) => {
    const there = at("turns").children[number];
    if (there !== made) at("turns").insertBefore(made, there ?? null);
  });
  while (at("turns").children.length > rows.length) at("turns").lastElementChild.remove();
  at("empty").hidden = rows.length > 0;
  at("turns").scrollTop = at("turns").scrollHeight;
  at("turns").ariaBusy = String(Boolean(running)); // read aloud as a whole, not token by token
  at("send").hidden = Boolean(running);
  at("stop").hidden = !running;
  if (document.activeElement === document.body && typing.matches) at("say").focus(); // what had the focus is gone
}

function row(turn, number) {
  if (!drawn.has(turn)) drawn.set(turn, view.turn(turn));
  const made = drawn.get(turn);
  view.offer(made, running ? {} : actions(turn, number, number === conversation.turns.length - 1));
  made.classList.toggle("out", number < omitted);
  return made;
}

function actions(turn, number, last) {
  const found = turn.content ? { Copy: () => copy(turn.content) } : {};
  if (turn.role === "user") found.Edit = () => edit(number);
  if (last && turn.tool_calls?.length) found["Give the results"] = () => results(turn);
  if (last) found[turn.role === "assistant" ? "Answer again" : "Answer"] = again;
  return found;
}

function list() {
  const lines = store.all().map((one) => view.line(one, one.id === conversation.id, () => open(one), () => remove(one)));
  at("conversations").replaceChildren(...lines);
}

/** Says something above the conversation; `act`: what can be done about it, by the name of its button. */
function notice(text = "", name = "", act = null) {
  at("notice").replaceChildren(text, ...(act ? [" ", view.button(name, act)] : []));
  at("notice").hidden = !text;
}

function facts() {
  const one = model();
  const count = one?.parameters ?? 0;
  const size = count >= 1e9 ? `${(count / 1e9).toFixed(1)} B` : count >= 1e6 ? `${Math.round(count / 1e6)} M` : `${Math.ceil(count / 1e3)} K`;
  const how = one?.chats === false ? " · no chat template: goes on with your text" : "";
  at("facts").textContent = one?.parameters ? `${size} parameters · context ${one.max_model_len}${how}` : (WAITING[one?.state] ?? "");
  at("facts").title = one?.binding ? `binding ${one.binding}` : "";
}

async function copy(text) {
  const done = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  notice(done ? "Copied." : "This browser lets no page copy that did not come over https. Mark the text instead.");
}

// -- conversations ------------------------------------------------------------------------------------------------------------------

function open(one) {
  if (one.id !== conversation.id) running?.abort();
  conversation = visited.get(one.id) ?? one;
  visited.set(one.id, conversation);
  omitted = 0;
  at("system").value = conversation.system;
  if (known.some((other) => other.id === conversation.model)) at("model").value = conversation.model;
  if (at("list").classList.contains("open")) closeOver();
  notice();
  facts();
  show();
  list();
  at("say").focus();
}

function remove(one) {
  deleted.add(one.id);
  store.forget(one.id);
  if (one.id === conversation.id) open(store.fresh(at("model").value));
  list();
  notice(`“${one.title}” is deleted.`, "Undo", () => {
    deleted.delete(one.id);
    keep(visited.get(one.id) ?? one);
    notice();
  });
}

function keep(one) {
  if (deleted.has(one.id)) return;
  if (store.keep(one)) notice("There is no more room: the oldest conversations were dropped from this browser. Export them in time.");
  list();
}

function edit(number) {
  const box = at("turns").children[number];
  const turn = conversation.turns[number];
  drawn.delete(turn);
  const done = (text) => {
    conversation.turns.length = number;
    say(text);
  };
  box.replaceChildren(view.editor(turn.content, "Your message", done, leave));
}

const leave = () => {
  show();
  at("say").focus();
};

/** What the tools that a turn calls have answered, typed by the person; `given`: the results so far. */
function results(turn, given = []) {
  show();
  const calls = turn.tool_calls;
  const { id, function: called } = calls[given.length];
  const done = (text) => {
    given.push({ role: "tool", tool_call_id: id, content: text });
    if (given.length < calls.length) return results(turn, given);
    conversation.turns.push(...given);
    answer();
  };
  const label = `Result ${given.length + 1} of ${calls.length}: ${called.name}`;
  at("turns").append(view.element("li", {}, `${label}(${called.arguments})`, view.editor("", label, done, leave, false)));
  at("turns").scrollTop = at("turns").scrollHeight;
}

function again() {
  while (conversation.turns.at(-1)?.role === "assistant") conversation.turns.pop();
  answer();
}

function say(text) {
  conversation.turns.push({ role: "user", content: text });
  answer();
}

// -- answering ----------------------------------------------------------------------------------------------------------------------

async function answer() {
  if (running || !model()) return;
  const mine = conversation; // another may be opened meanwhile
  const stop = (running = new AbortController());
  const turn = { role: "assistant", content: "", tokens: [], tool_calls: [] };
  notice();
  show();
  keep(mine);
  try {
    if (model().state !== "ready") await wake(stop.signal);
    const body = options(store.settings.get(), model());
    const given = await prompt(mine, body, stop.signal);
    mine.model = body.model;
    mine.turns.push(turn);
    if (mine === conversation) show();
    await follow(stream(model().chats ? "v1/chat/completions" : "v1/completions", { ...body, ...given }, stop.signal), turn);
    if (turn.note) wholeCalls(turn);
    else if (!turn.content && !turn.tool_calls.length) turn.note = "The model ended without a word.";
  } catch (error) {
    told(error, turn);
  } finally {
    running = null;
    if (mine.turns.at(-1) === turn && !turn.content && !turn.tool_calls.length && !turn.note) mine.turns.pop();
    drawn.delete(turn);
    keep(mine);
    show();
  }
}

/** A model that was put away opens when it is asked for anything; what it can do is known then. */
async function wake(signal) {
  notice(`${model().id} is being opened.`);
  await count({ model: model().id, prompt: " " }, signal);
  await begin();
  notice();
}

/** A conversation as it is sent; what does not fit is left out, and said. */
async function prompt(mine, body, signal) {
  if (!model().chats) return { prompt: mine.turns.map((turn) => turn.content).join("") };
  const first = await leftOut(mine, model(), body, signal);
  if (mine === conversation) omitted = first;
  if (first) notice(`The context of ${model().max_model_len} tokens is full: the model does not read the ${first} oldest turns.`);
  return { messages: store.messages(mine, mine.turns.slice(first)) };
}

async function follow(events, turn) {
  const box = drawn.get(turn) ?? view.turn(turn);
  const turns = at("turns");
  let held = []; // facts of tokens whose text is not whole yet
  let cut = false;
  for await (const event of events) {
    if (event.usage) {
      const { prompt_tokens: read, completion_tokens: written } = event.usage;
      at("count").textContent = `${read} tokens read, ${written} written`;
      if (cut) turn.note = read + written >= model().max_model_len ? "Cut: the context is full." : `Cut after ${written} tokens, as many as were asked for.`;
    }
    const choice = event.choices[0];
    if (!choice) continue;
    const down = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 80;
    if (hear(turn, choice, held)) {
      view.more(box, turn);
      if (down) turns.scrollTop = turns.scrollHeight;
    }
    cut ||= choice.finish_reason === "length";
  }
}

function told(error, turn) {
  wholeCalls(turn);
  const begun = turn.content || turn.tool_calls.length;
  if (error.name === "AbortError") {
    if (begun) turn.note = "Stopped.";
    return;
  }
  if (error instanceof Refused && error.status === 401) return needKey();
  if (begun) turn.note = `Broken off: ${error.message}`;
  notice(error.message);
}

// -- beginning ----------------------------------------------------------------------------------------------------------------------

function needKey() {
  notice("This server asks for a key.", "Give it", needKey);
  askKey(Boolean(key.get()), async (given) => {
    key.set(given);
    notice();
    await begin();
    if (known.length && conversation.turns.at(-1)?.role === "user") answer();
  });
}

async function begin() {
  try {
    known = (await models()).filter((one) => one.writes !== false);
  } catch (error) {
    known = [];
    return error.status === 401 ? needKey() : notice(error.message, "Try again", begin);
  }
  const before = at("model").value || conversation.model;
  at("model").replaceChildren(...known.map((one) => new Option(one.state === "failed" ? `${one.id} (cannot be opened)` : one.id, one.id)));
  if (known.some((one) => one.id === before)) at("model").value = before;
  if (!known.length) notice("No model of this server writes text. It is there for vectors and labels.");
  if (known.some((one) => one.state === "starting")) setTimeout(begin, 1000);
  facts();
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("say").value;
  if (!text.trim() || running || !model()) return;
  at("say").value = "";
  say(text);
});
at("say").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("form").requestSubmit();
  }
});
at("stop").addEventListener("click", () => running?.abort());
at("new").addEventListener("click", () => open(store.fresh(at("model").value)));
at("model").addEventListener("change", facts);
at("system").addEventListener("change", () => conversation.turns.length && keep(conversation));
at("system").addEventListener("input", () => (conversation.system = at("system").value));
at("show-settings").addEventListener("click", () => toggle(at("show-settings"), at("settings"), at("system")));
at("show-list").addEventListener("click", () => toggle(at("show-list"), at("list"), at("new")));
at("show-help").addEventListener("click", () => at("help-dialog").showModal());
at("key-cancel").addEventListener("click", () => at("key-dialog").close(""));
at("forget").addEventListener("click", () => {
  key.set("");
  notice("The key is forgotten.");
});
at("export").addEventListener("click", () => download("conversations.jsonl", store.exported()));
at("import").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", async () => {
  try {
    notice(`Conversations taken in: ${store.imported(await at("file").files[0].text())}.`);
  } catch (error) {
    notice(error.message);
  }
  at("file").value = "";
  list();
});
for (const kind of ["mouseover", "focusin"])
  at("turns").addEventListener(kind, (event) => {
    if (event.target.facts) view.chances(at("chances"), event.target);
    else at("chances").hidden = true;
  });
for (const kind of ["mouseleave", "focusout", "scroll"]) at("turns").addEventListener(kind, () => (at("chances").hidden = true));
at("turns").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || !event.target.facts) return;
  const tokens = [...event.target.closest(".text").querySelectorAll(".token")];
  tokens[tokens.indexOf(event.target) + step]?.focus();
  event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && at("chances").hidden) running ? running.abort() : closeOver();
  if (event.key === "Escape") at("chances").hidden = true;
  if (!event.altKey || event.ctrlKey || event.metaKey) return;
  const act = {
    KeyN: () => open(store.fresh(at("model").value)),
    KeyR: () => !running && conversation.turns.length && again(),
    KeyE: () => !running && conversation.turns.some((turn) => turn.role === "user") && edit(conversation.turns.findLastIndex((turn) => turn.role === "user")),
    KeyS: () => at("show-settings").click(),
  }[event.code];
  if (act) {
    event.preventDefault();
    act();
  }
});
addEventListener("pagehide", () => running && keep(conversation));
addEventListener("storage", list); // another tab has kept something

settings();
open(store.fresh(""));
begin();
