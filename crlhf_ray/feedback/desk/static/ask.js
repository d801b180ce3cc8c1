// For the lead's pages: ask before something is done, and say so where it could not be done.
"use strict";

// Whether the person agrees. verb: what the button says.
function ask(title, text, verb) {
  const dialog = byId("ask");
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-yes").textContent = verb;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

async function guard(action) {
  try {
    await action();
  } catch (error) {
    note(explain(error), outOfSession(error) && error.status === 401 ? { text: "Log in again", href: location.pathname } : undefined);
  }
}
