// What a lead can do with a program: ask one more person, or retire it.
"use strict";

const does = (itemId, text, then, act) =>
  make("button", { type: "button", text, "aria-label": `${text}: ${itemId}`, onclick: () => guard(async () => {
    if (!(await act())) return;
    await then();
    byId("main").focus(); // the button may be gone
  }) });

// The buttons that fit the program. then: called afterwards.
function buttons(itemId, honeypot, state, then) {
  const more = does(itemId, "Ask one more", then, async () => {
    await call("POST", `/items/${itemId}/reopen`);
    note(`One more person will be asked about ${itemId}.`);
    return true;
  });
  const retire = does(itemId, "Retire", then, async () => {
    const [title, text] = honeypot
      ? ["Retire this honeypot?", "It is shown to nobody any more. What it told of people stays."]
      : ["Retire this program?", "It is shown to nobody any more, who has it in hand included. Its reviews stay."];
    if (!(await ask(title, text, "Retire"))) return false;
    await call("POST", "/items/retire", { ids: [itemId] });
    note(`${itemId} is retired.`);
    return true;
  });
  return [...(honeypot ? [] : [more, " "]), ...(state === "retired" ? [] : [retire])];
}
