// The settings' fields, and the panels and dialogs that open and close.

import * as store from "./store.js";

export const at = (id) => document.getElementById(id);
const FIELDS = "temperature top_p top_k min_p repetition_penalty max_tokens seed stops logprobs form-kind form-text tools tool_choice".split(" ");
const FORM_LABELS = { json: "JSON schema", regex: "Regular expression", choice: "Choices, one a line", grammar: "Lark grammar" };

/** Fills the fields from what is kept, and keeps what is changed. */
export function settings() {
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

/** Shows a side column or hides it; the focus goes in, and comes back to its button. */
export function toggle(button, panel, first) {
  panel.classList.toggle("open");
  const open = panel.classList.contains("open");
  button.setAttribute("aria-expanded", String(open));
  (open ? first : button).focus();
}

/** Closes the side columns that lie over the conversation. Returns whether one was open. */
export function closeOver() {
  const open = [["show-settings", "settings"], ["show-list", "list"]].filter(([, panel]) => at(panel).classList.contains("open"));
  for (const [button, panel] of open) toggle(at(button), at(panel));
  return open.length > 0;
}

export function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Asks for a key; `use` is given it. `wrong`: there was one, and the server did not take it. */
export function askKey(wrong, use) {
  const dialog = at("key-dialog");
  if (dialog.open) return;
  at("key-wrong").hidden = !wrong;
  dialog.returnValue = "";
  dialog.onclose = () => {
    const given = at("key").value.trim();
    at("key").value = "";
    if (dialog.returnValue === "ok" && given) use(given);
  };
  dialog.showModal();
}
