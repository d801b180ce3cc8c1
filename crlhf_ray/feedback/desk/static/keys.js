// Keys: what they do comes from one table, which also fills the help and the hints on the buttons.
"use strict";

let keys = first.keys; // [{action, place, keys, text}]

function actionOf(event, place) {
  const named = (key) => keys.find((entry) => entry.place === place && entry.keys.includes(key))?.action;
  return named(event.key) ?? (event.key.length === 1 ? named(event.key.toLowerCase()) : undefined);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  const dialog = document.querySelector("dialog[open]");
  const action = actionOf(event, dialog === byId("confidence") ? "submit" : "program");
  if (!action || (event.key === "Enter" && event.target.closest("button, a"))) return;
  if (dialog === byId("confidence")) submit(action);
  else if (dialog === byId("help") && action === "help") dialog.close();
  else if (!dialog) act(action, event.shiftKey);
  else return;
  event.preventDefault();
});

function hint() {
  for (const button of document.querySelectorAll("[data-do], [data-confidence]")) {
    const key = keys.find((entry) => entry.action === (button.dataset.do ?? button.dataset.confidence)).keys[0];
    button.querySelector("kbd")?.remove();
    if (key) button.prepend(make("kbd", { "aria-hidden": "true", text: key === "Enter" ? "⏎" : key }), " ");
  }
}

function openHelp() {
  byId("keys").replaceChildren(
    ...keys.map((entry) =>
      make("tr", {}, make("td", {}, make("input", { name: entry.action, value: entry.keys.join(" "), "aria-label": `Keys for: ${entry.text}`, autocomplete: "off", spellcheck: "false" })), make("td", { text: entry.text }))),
  );
  byId("keys-problem").hidden = true;
  byId("help").showModal();
}

async function saveKeys(chosen) {
  try {
    keys = await call("PUT", "/me/keys", { keys: chosen });
    hint();
    byId("help").close();
    say("Keys saved");
  } catch (error) {
    byId("keys-problem").textContent = explain(error);
    byId("keys-problem").hidden = false;
  }
}

byId("keys-form").addEventListener("submit", (event) => {
  event.preventDefault();
  saveKeys(Object.fromEntries([...new FormData(event.target)].map(([action, text]) => [action, text.split(" ").filter(Boolean)])));
});
byId("keys-default").addEventListener("click", () => saveKeys({}));
byId("help-close").addEventListener("click", () => byId("help").close());
