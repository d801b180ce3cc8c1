// What a lead can do with a program: ask one more person, or retire a honeypot.
"use strict";

// The button that fits the program, or nothing. then: called afterwards.
function button(itemId, honeypot, state, then) {
  if (honeypot && state === "retired") return "";
  const [text, path] = honeypot ? ["Retire", `/honeypots/${itemId}/retire`] : ["Ask one more", `/items/${itemId}/reopen`];
  return make("button", { type: "button", text, "aria-label": `${text}: ${itemId}`, onclick: () => guard(async () => {
    if (honeypot && !(await ask("Retire this honeypot?", "It is shown to nobody any more. What it told of people stays.", "Retire"))) return;
    await call("POST", path);
    note(honeypot ? `${itemId} is retired.` : `One more person will be asked about ${itemId}.`);
    await then();
    byId("main").focus(); // the button may be gone
  }) });
}
