// Conversations, kept in this browser. One is {id, title, model, system, turns, at}; a turn is a message of OpenAI's API and what belongs to
// it alone: `tokens`, pairs of a text and the facts of its tokens, and `note`, why it ended when not by itself.

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

export const fresh = (model) => ({ id: crypto.randomUUID?.() ?? String(Math.random()).slice(2), title: "", model, system: "", turns: [], at: Date.now() });

export const all = () => read(LIST, []);

/** Keeps one, the newest first. Returns whether older ones had to go because the browser's room was full. */
export function keep(conversation) {
  conversation.at = Date.now();
  const first = conversation.turns.find((turn) => turn.role === "user");
  conversation.title = (first?.content ?? "").trim().slice(0, 60);
  let rest = [conversation, ...all().filter((other) => other.id !== conversation.id)].slice(0, MOST);
  for (let dropped = false; ; dropped = true) {
    try {
      localStorage.setItem(LIST, JSON.stringify(rest));
      return dropped;
    } catch {
      if (rest.length < 2) return true;
      rest = rest.slice(0, -1);
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

/** All conversations as JSON lines of {"messages": [...]}: what `quire train` reads, too. */
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
  for (const conversation of found.reverse()) keep(conversation);
  return found.length;
}
