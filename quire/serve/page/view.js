// Turns as elements. Text is only ever set as text: what a model writes is never markup.

const element = (name, properties = {}, ...inside) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...inside);
  return made;
};

const NAMES = { user: "You", assistant: "Model", tool: "Tool", system: "System" };

/** Text with fenced code as blocks of its own. */
export function prose(text) {
  const made = element("div", { className: "text" });
  text.split(/^```[^\n]*\n?/m).forEach((part, number) => {
    if (number % 2) made.append(element("pre", {}, element("code", { textContent: part.replace(/\n$/, "") })));
    else if (part) made.append(part);
  });
  return made;
}

const chance = (logprob) => Math.exp(logprob);

/** A piece of an answer; facts: of its tokens, the last of which made the text whole. */
export function token(text, facts) {
  const made = element("span", { className: "token", textContent: text });
  if (facts?.length) {
    const least = Math.min(...facts.map((fact) => chance(fact.logprob)));
    if (least < 0.05) made.classList.add("p2");
    else if (least < 0.25) made.classList.add("p1");
    made.tabIndex = -1;
    made.facts = facts;
  }
  return made;
}

const shown = (text) => JSON.stringify(text).slice(1, -1).replace(/\\"/g, '"') || "∅";

/** What else a piece might have been, in `box` beside it. */
export function chances(box, piece) {
  const tables = piece.facts.map((fact) => {
    const rows = fact.top_logprobs.some((other) => other.token === fact.token) ? fact.top_logprobs : [fact, ...fact.top_logprobs];
    const table = element("table");
    for (const other of rows) {
      const row = element("tr", { className: other.token === fact.token ? "said" : "" });
      row.append(element("td", { textContent: shown(other.token) }), element("td", { textContent: `${(100 * chance(other.logprob)).toFixed(1)} %` }));
      table.append(row);
    }
    return table;
  });
  box.replaceChildren(...tables);
  box.hidden = false;
  const at = piece.getBoundingClientRect();
  const size = box.getBoundingClientRect();
  box.style.left = `${Math.max(8, Math.min(at.left, innerWidth - size.width - 8))}px`;
  box.style.top = `${at.bottom + size.height + 8 > innerHeight ? at.top - size.height - 6 : at.bottom + 6}px`;
}

/** A turn with its buttons; actions: {name: function} by what the button says. */
export function turn(turn, actions) {
  const made = element("li", { className: turn.role });
  made.append(element("div", { className: "who" }, NAMES[turn.role] ?? turn.role));
  if (turn.tokens?.length) made.append(element("div", { className: "text" }, ...turn.tokens.map(([text, facts]) => token(text, facts))));
  else if (turn.content) made.append(prose(turn.content));
  for (const call of turn.tool_calls ?? []) {
    const text = `${call.function.name}(${call.function.arguments})`;
    made.append(element("pre", {}, element("code", { textContent: text })));
  }
  if (turn.note) made.append(element("p", { className: "dim", textContent: turn.note }));
  made.append(element("div", { className: "tools" }, ...Object.entries(actions).map(([name, act]) => button(name, act))));
  return made;
}

export function button(name, act, properties = {}) {
  const made = element("button", { type: "button", className: "quiet", textContent: name, ...properties });
  made.addEventListener("click", act);
  return made;
}

/** A turn's text to be changed in its place. */
export function editor(text, label, done, leave) {
  const area = element("textarea", { value: text, rows: Math.min(12, text.split("\n").length + 2), ariaLabel: label });
  const form = element("form", {}, area, element("div", { className: "row" }, element("button", { textContent: "Send" }), button("Cancel", leave)));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    done(area.value);
  });
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") leave();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  requestAnimationFrame(() => area.focus());
  return form;
}

/** A line in the list of conversations. */
export function line(conversation, current, open, remove) {
  const made = element("li");
  if (current) made.setAttribute("aria-current", "true");
  const title = conversation.title || "New conversation";
  made.append(button(title, open, { title }), button("✕", remove, { ariaLabel: `Delete: ${title}` }));
  return made;
}
