// Turns as elements. Text is only ever set as text: what a model writes is never markup.

export const element = (name, properties = {}, ...inside) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...inside);
  return made;
};

const NAMES = { user: "You", assistant: "Model", tool: "Tool", system: "System" };
const FENCE = /^```[^\n]*(?:\n|$)/gm;
const chance = (logprob) => Math.exp(logprob);

/** Pieces of a text, [its text, facts of its tokens], with fenced code as blocks of its own. `end`: where the next piece belongs. */
export function prose(pieces) {
  const made = element("div", { className: "text" });
  const text = pieces.map(([said]) => said).join("");
  const fences = [...text.matchAll(FENCE)].map((fence) => [fence.index, fence.index + fence[0].length]);
  let at = 0; // in the text
  let code = null; // the block that is open
  for (const [said, facts] of pieces) {
    for (let rest = said; rest; ) {
      const [from, to] = fences[0] ?? [Infinity, Infinity];
      const cut = Math.min(rest.length, (at < from ? from : to) - at);
      if (at < from) (code ?? made).append(token(rest.slice(0, cut), facts));
      at += cut;
      rest = rest.slice(cut);
      if (at !== to) continue;
      fences.shift();
      code = code ? null : made.appendChild(element("pre", { tabIndex: 0 })).appendChild(element("code"));
    }
  }
  made.end = code ?? made;
  const first = made.querySelector(".token");
  if (first) first.tabIndex = 0; // one stop for Tab; the arrows go on from there
  return made;
}

/** Shows a turn's last piece. A fence of code, and the line it stands in, change what is around them: then all is shown again. */
export function more(box, turn) {
  const [said, facts] = turn.tokens.at(-1);
  const text = box.querySelector(".text");
  const line = turn.content.slice(turn.content.lastIndexOf("\n", turn.content.length - said.length - 1) + 1);
  if (said.includes("`") || line.startsWith("```")) text.replaceWith(prose(turn.tokens));
  else text.end.append(token(said, facts));
}

/** A piece of an answer; facts: of its tokens, the last of which made the text whole. */
function token(text, facts) {
  if (!facts?.length) return text;
  const made = element("span", { className: "token", textContent: text, tabIndex: -1, facts });
  const least = Math.min(...facts.map((fact) => chance(fact.logprob)));
  if (least < 0.05) made.classList.add("p2");
  else if (least < 0.25) made.classList.add("p1");
  return made;
}

const shown = (text) => JSON.stringify(text).slice(1, -1).replace(/\\"/g, '"').replaceAll(" ", "␣") || "(end)";

/** What else a piece might have been, in `box` beside it. Parts of a character look alike, so the token that was said is known by its chance. */
export function chances(box, piece) {
  const tables = piece.facts.map((fact) => {
    const same = (other) => other.token === fact.token && other.logprob === fact.logprob;
    const rows = fact.top_logprobs.some(same) ? fact.top_logprobs : [fact, ...fact.top_logprobs];
    const lines = rows.map((other) =>
      element(
        "tr",
        { className: same(other) ? "said" : "" },
        element("td", { textContent: shown(other.token) }),
        element("td", { textContent: `${(100 * chance(other.logprob)).toFixed(1)} %` }),
      ),
    );
    return element("table", {}, element("tbody", {}, ...lines));
  });
  box.replaceChildren(...tables);
  box.hidden = false;
  piece.setAttribute("aria-describedby", box.id);
  const at = piece.getBoundingClientRect();
  const size = box.getBoundingClientRect();
  box.style.left = `${Math.max(8, Math.min(at.left, innerWidth - size.width - 8))}px`;
  box.style.top = `${Math.max(8, at.bottom + size.height + 8 > innerHeight ? at.top - size.height - 6 : at.bottom + 6)}px`;
}

/** A turn; what can be done with it is `offer`ed. */
export function turn(turn) {
  const who = element("div", { className: "who" }, element("span", { textContent: NAMES[turn.role] ?? turn.role }), element("div", { className: "tools" }));
  const made = element("li", { className: turn.role }, who, prose(turn.tokens?.length ? turn.tokens : [[turn.content ?? "", null]]));
  for (const call of turn.tool_calls ?? []) {
    made.append(element("pre", { tabIndex: 0 }, element("code", { textContent: `${call.function.name}(${call.function.arguments})` })));
  }
  if (turn.note) made.append(element("p", { className: "dim note", textContent: turn.note }));
  return made;
}

/** Puts buttons to a turn; actions: {name: function} by what each says. */
export function offer(box, actions) {
  box.querySelector(".tools")?.replaceChildren(...Object.entries(actions).map(([name, act]) => button(name, act)));
}

export function button(name, act, properties = {}) {
  const made = element("button", { type: "button", className: "quiet", textContent: name, ...properties });
  made.addEventListener("click", act);
  return made;
}

/** A text to be written or changed in its place. `needed`: an empty one is not taken. */
export function editor(text, label, done, leave, needed = true) {
  const area = element("textarea", { value: text, rows: Math.min(12, text.split("\n").length + 1), ariaLabel: label, required: needed });
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
  const title = conversation.title || "New conversation";
  const made = element("li", {}, button(title, open, { title }), button("✕", remove, { ariaLabel: `Delete: ${title}` }));
  if (current) made.setAttribute("aria-current", "true");
  return made;
}
