// Conversations, kept in this browser. One is {id, title, model, system, turns, at}; a turn is a message of OpenAI's API and what belongs to
// it alone: `note`, why it ended when not by itself, and `tokens`, pairs of a text and the facts of its tokens. The facts are many times
// the text, and a browser keeps five megabytes: they stay with the page, and go with it.

const LIST = "quire.conversations";
const SETTINGS = "quire.settings";
const MOST = 200;

const read = (name, otherwise) => {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
};

const id = () => crypto.randomUUID?.() ?? String(Math.random()).slice(2); // there is none over plain http from another machine
export const fresh = (model) => ({ id: id(), title: "", model, system: "", turns: [], at: Date.now() });

export const all = () => read(LIST, []);

/** Keeps some, the newest first. Returns whether older ones had to go because there are too many or the browser's room was full. */
export function keep(...given) {
  for (const conversation of given) {
    const first = conversation.turns.find((turn) => turn.role === "user");
    Object.assign(conversation, { at: Date.now(), title: (first?.content ?? "").trim().slice(0, 60) });
  }
  const ids = new Set(given.map((one) => one.id));
  const every = [...given, ...all().filter((other) => !ids.has(other.id))];
  let rest = every.slice(0, MOST);
  for (;;) {
    try {
      localStorage.setItem(LIST, JSON.stringify(rest, (name, value) => (name === "tokens" ? undefined : value)));
      return rest.length < every.length;
    } catch {
      if (rest.length < 2) return true;
      rest = rest.slice(0, Math.floor(rest.length * 0.9) || 1);
    }
  }
}

export const forget = (id) => localStorage.setItem(LIST, JSON.stringify(all().filter((other) => other.id !== id)));

export const settings = { get: () => read(SETTINGS, {}), set: (values) => localStorage.setItem(SETTINGS, JSON.stringify(values)) };

/** Only what an API would take of a turn. */
export const message = ({ role, content, tool_calls, tool_call_id }) => ({
  role,
  content,
  ...(tool_calls?.length ? { tool_calls } : {}),
  ...(tool_call_id ? { tool_call_id } : {}),
});

export const messages = (conversation, turns = conversation.turns) => [
  ...(conversation.system.trim() ? [{ role: "system", content: conversation.system }] : []),
  ...turns.map(message),
];

/** All conversations as JSON lines of {"messages": [...]}: rows that `quire generate --file` reads, too. */
export const exported = () =>
  all()
    .map((one) => JSON.stringify({ title: one.title, model: one.model, messages: messages(one) }) + "\n")
    .join("");

/** Takes exported lines in. Returns how many; throws an Error naming the line that cannot be read. */
export function imported(text) {
  const lines = text.split("\n").filter((line) => line.trim());
  const found = lines.map((line, number) => {
    const row = (() => {
      try {
        return JSON.parse(line);
      } catch {
        return null;
      }
    })();
    const good = Array.isArray(row?.messages) && row.messages.every((one) => typeof one?.role === "string" && typeof (one.content ?? "") === "string");
    if (!good) throw new Error(`Line ${number + 1} holds no conversation: {"messages": [...]}.`);
    const system = row.messages[0]?.role === "system" ? row.messages[0].content : "";
    return { ...fresh(String(row.model ?? "")), system, turns: row.messages.slice(system ? 1 : 0).map(message) };
  });
  keep(...found);
  return found.length;
}
