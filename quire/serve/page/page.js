// The page: what is shown follows from one conversation and the settings; what a person does changes these and shows them again.

import { Refused, key, models, stream } from "./talk.js";
import { leftOut, options } from "./ask.js";
import * as store from "./store.js";
import * as view from "./view.js";

const at = (id) => document.getElementById(id);
const FIELDS = "temperature top_p top_k min_p repetition_penalty max_tokens seed stops logprobs form-kind form-text tools tool_choice".split(" ");
const FORM_LABELS = { json: "JSON schema", regex: "Regular expression", choice: "Choices, one a line", grammar: "Lark grammar" };

let known = [];
let conversation = store.fresh("");
let running = null; // the AbortController of the answer on its way
let omitted = 0; // turns at the beginning that were left out of what was last sent

const model = () => known.find((one) => one.id === at("model").value) ?? known[0];
const chats = () => model()?.chats !== false;

// -- showing ------------------------------------------------------------------------------------------------------------------------

function show() {
  const turns = conversation.turns.map((turn, number) => {
    const last = number === conversation.turns.length - 1;
    const made = view.turn(turn, running ? {} : actions(turn, number, last));
    if (number < omitted) made.classList.add("out");
    return made;
  });
  at("turns").replaceChildren(...turns);
  at("empty").hidden = conversation.turns.length > 0;
  at("turns").scrollTop = at("turns").scrollHeight;
  at("send").hidden = Boolean(running);
  at("stop").hidden = !running;
  list();
}

function actions(turn, number, last) {
  const found = { Copy: () => navigator.clipboard?.writeText(turn.content ?? "") };
  if (turn.role === "user") found.Edit = () => edit(number);
  if (turn.role === "assistant" && last) {
    found["Answer again"] = again;
    if (turn.tool_calls?.length) found["Give the results"] = () => results(turn);
  }
  return found;
}

function list() {
  const lines = store.all().map((one) => view.line(one, one.id === conversation.id, () => open(one), () => remove(one)));
  at("conversations").replaceChildren(...lines);
}

function notice(text = "") {
  at("notice").textContent = text;
  at("notice").hidden = !text;
}

function facts() {
  const one = model();
  const size = one?.parameters ? `${(one.parameters / 1e6).toFixed(one.parameters < 1e7 ? 1 : 0)}M parameters · ` : "";
  at("facts").textContent = one?.max_model_len ? `${size}context ${one.max_model_len}${chats() ? "" : " · goes on with your text"}` : "";
  at("facts").title = one?.binding ? `binding ${one.binding}` : "";
}

// -- conversations ------------------------------------------------------------------------------------------------------------------

function open(one) {
  running?.abort();
  conversation = one;
  omitted = 0;
  at("system").value = one.system;
  if (known.some((other) => other.id === one.model)) at("model").value = one.model;
  at("list").classList.remove("open");
  notice();
  facts();
  show();
  at("say").focus();
}

function remove(one) {
  store.forget(one.id);
  if (one.id === conversation.id) open(store.fresh(at("model").value));
  else list();
}

function edit(number) {
  const box = at("turns").children[number];
  const leave = () => show();
  const done = (text) => {
    conversation.turns.length = number;
    say(text);
  };
  box.replaceChildren(view.editor(conversation.turns[number].content, "Your message", done, leave));
}

/** What the tools that a turn calls have answered, typed by the person. */
function results(turn, number = 0) {
  const call = turn.tool_calls[number];
  const box = document.createElement("li");
  const done = (text) => {
    conversation.turns.push({ role: "tool", tool_call_id: call.id, content: text });
    if (number + 1 < turn.tool_calls.length) results(turn, number + 1);
    else answer();
  };
  box.append(`What ${call.function.name} answers:`, view.editor("", `Result of ${call.function.name}`, done, () => show()));
  at("turns").append(box);
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
  if (running) return;
  const stop = (running = new AbortController());
  const turn = { role: "assistant", content: "", tokens: [], tool_calls: [] };
  notice();
  show();
  try {
    const body = { model: model().id, ...options(store.settings.get(), chats()) };
    const given = await prompt(body);
    conversation.model = body.model;
    conversation.turns.push(turn);
    show();
    const box = at("turns").lastElementChild;
    await follow(stream(chats() ? "v1/chat/completions" : "v1/completions", { ...body, ...given }, stop.signal), turn, box);
  } catch (error) {
    told(error, turn);
  } finally {
    running = null;
    if (conversation.turns.at(-1) === turn && !turn.content && !turn.tool_calls.length && !turn.note) conversation.turns.pop();
    if (store.keep(conversation)) notice("This browser's room is full: the oldest conversations were dropped. Export them in time.");
    show();
  }
}

/** The conversation as it is sent; what does not fit is left out, and said. */
async function prompt(body) {
  if (!chats()) return { prompt: conversation.turns.map((turn) => turn.content).join("") };
  const { first, size, room } = await leftOut(conversation, model(), body);
  omitted = first;
  if (first) notice(`The context of ${model().max_model_len} tokens is full: the ${first} oldest turns are left out of what the model reads.`);
  at("count").textContent = `${size} of ${room} tokens`;
  return { messages: store.messages(conversation, conversation.turns.slice(first)) };
}

async function follow(events, turn, box) {
  const text = document.createElement("div");
  text.className = "text";
  box.insertBefore(text, box.querySelector(".tools"));
  let held = []; // facts of tokens whose text is not whole yet
  for await (const event of events) {
    if (event.usage) at("count").textContent = `${event.usage.prompt_tokens} tokens read, ${event.usage.completion_tokens} written`;
    const choice = event.choices[0];
    if (!choice) continue;
    const said = choice.delta?.content ?? choice.text ?? "";
    held.push(...(choice.logprobs?.content ?? listed(choice.logprobs)));
    for (const call of choice.delta?.tool_calls ?? []) join(turn, call);
    if (said) {
      turn.content += said;
      turn.tokens.push([said, held]);
      const down = at("turns").scrollHeight - at("turns").scrollTop - at("turns").clientHeight < 80;
      text.append(view.token(said, held));
      held = [];
      if (down) at("turns").scrollTop = at("turns").scrollHeight;
    }
    if (choice.finish_reason === "length") turn.note = "Cut: the most tokens were reached.";
  }
}

/** The facts of a completion's tokens in the chat's form. */
function listed(logprobs) {
  return (logprobs?.tokens ?? []).map((token, number) => ({
    token,
    logprob: logprobs.token_logprobs[number],
    top_logprobs: Object.entries(logprobs.top_logprobs?.[number] ?? {}).map(([other, logprob]) => ({ token: other, logprob })),
  }));
}

/** A piece of a tool call. */
function join(turn, piece) {
  const { index, ...rest } = piece;
  const call = (turn.tool_calls[index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
  if (rest.id) call.id = rest.id;
  call.function.name += rest.function?.name ?? "";
  call.function.arguments += rest.function?.arguments ?? "";
}

function told(error, turn) {
  if (error.name === "AbortError") {
    turn.note = "Stopped.";
    return;
  }
  if (error instanceof Refused && error.status === 401) askKey();
  turn.note = turn.content ? `Broken off: ${error.message}` : "";
  notice(error.message);
}

// -- beginning ----------------------------------------------------------------------------------------------------------------------

function askKey() {
  const dialog = at("key-dialog");
  if (!dialog.open) dialog.showModal();
}

async function begin() {
  try {
    known = (await models()).filter((one) => one.writes !== false);
  } catch (error) {
    if (error.status === 401) return askKey();
    return notice(error.message);
  }
  const before = at("model").value || conversation.model;
  at("model").replaceChildren(...known.map((one) => new Option(one.id, one.id)));
  if (known.some((one) => one.id === before)) at("model").value = before;
  if (!known.length) notice("No model of this server writes text. It is there for vectors and labels.");
  if (known.some((one) => one.state === "starting")) setTimeout(begin, 1000);
  facts();
}

function settings() {
  const values = store.settings.get();
  for (const id of FIELDS) {
    const field = at(id);
    if (field.type === "checkbox") field.checked = values[id] ?? field.checked;
    else if (values[id] !== undefined) field.value = values[id];
    field.addEventListener("input", () => {
      store.settings.set({ ...store.settings.get(), [id]: field.type === "checkbox" ? field.checked : field.value });
      formField();
    });
  }
  formField();
}

function formField() {
  const kind = at("form-kind").value;
  at("form-field").hidden = !(kind in FORM_LABELS);
  at("form-label").textContent = FORM_LABELS[kind] ?? "";
}

function toggle(button, panel, shown) {
  panel.hidden = !shown;
  button.setAttribute("aria-expanded", String(shown));
}

function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
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
at("system").addEventListener("input", () => (conversation.system = at("system").value));
at("show-settings").addEventListener("click", () => toggle(at("show-settings"), at("settings"), at("settings").hidden));
at("show-list").addEventListener("click", () => at("show-list").setAttribute("aria-expanded", String(at("list").classList.toggle("open"))));
at("show-help").addEventListener("click", () => at("help-dialog").showModal());
at("forget").addEventListener("click", () => {
  key.set("");
  notice("The key is forgotten.");
});
at("key-dialog").addEventListener("close", () => {
  if (at("key-dialog").returnValue === "ok" && at("key").value) {
    key.set(at("key").value.trim());
    at("key").value = "";
    notice();
    begin();
  }
});
at("export").addEventListener("click", () => download("conversations.jsonl", store.exported()));
at("import").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", async () => {
  try {
    notice(`${store.imported(await at("file").files[0].text())} conversations taken in.`);
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
at("turns").addEventListener("mouseleave", () => (at("chances").hidden = true));
at("turns").addEventListener("scroll", () => (at("chances").hidden = true));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) running.abort();
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

settings();
open(store.fresh(""));
begin();
