// Every mark goes to localStorage first and to the server at once; what the server has not acknowledged is sent again
// until it has, through reloads, lost connections, ended sessions and closed laptops.
"use strict";

const first = JSON.parse(byId("first").textContent);
// Each person's own: another one's marks would be refused in this one's name, and lost.
const PENDING = `crlhf.pending.${first.me.annotator_id}`;
const DRAFT = `crlhf.draft.${first.me.annotator_id}`;
const HISTORY = `crlhf.history.${first.me.annotator_id}`;
const RETRY_MS = 2000;
const AT_ONCE = 200;

let sending = null; // the promise of what is being sent
let lost = false; // the last attempt failed
let retry = null;

const pending = () => JSON.parse(localStorage.getItem(PENDING) || "[]");
const keep = (list) => localStorage.setItem(PENDING, JSON.stringify(list));
const draft = () => JSON.parse(localStorage.getItem(DRAFT) || "null");
const keepDraft = (comment) => (comment ? localStorage.setItem(DRAFT, JSON.stringify(comment)) : localStorage.removeItem(DRAFT));
// What undo goes back through, of the program in hand.
const keptHistory = (lease) => { const kept = JSON.parse(localStorage.getItem(HISTORY) || "null"); return kept?.lease === lease ? kept.steps : []; };
const keepHistory = (lease, steps) => localStorage.setItem(HISTORY, JSON.stringify({ lease, steps }));

function showSaved() {
  const count = pending().length;
  byId("saved").className = "pill" + (count ? (lost ? " lost" : " pending") : "");
  byId("saved").textContent = !count ? "✓ Saved" : lost ? `✗ ${count} kept here, not sent yet` : `… saving ${count}`;
}

// Resolves when everything is sent, or when that failed; pending() tells which.
function flush() {
  clearTimeout(retry);
  sending ??= send().finally(() => { sending = null; showSaved(); });
  showSaved();
  return sending;
}

async function send() {
  try {
    for (let list = pending(); list.length; list = pending()) {
      const batch = list.filter((entry) => entry.lease === list[0].lease).slice(0, AT_ONCE);
      await sendMarks(list[0].lease, batch.map((entry) => entry.mark));
      const sent = new Set(batch.map((entry) => entry.mark.event_id));
      keep(pending().filter((entry) => !sent.has(entry.mark.event_id)));
      showSaved();
    }
    if (lost) note("");
    lost = false;
  } catch (error) {
    if (outOfSession(error)) logInAgain();
    else if (!lost) say("The connection is lost: marks are kept in this browser");
    lost = true;
    retry = setTimeout(flush, RETRY_MS);
  }
}

async function sendMarks(lease, marks) {
  try {
    const saved = new Set((await call("POST", `/leases/${lease}/marks`, { marks })).saved);
    if (!marks.every((mark) => saved.has(mark.event_id))) throw new TypeError("not every mark is acknowledged");
  } catch (error) {
    if (!(error instanceof ApiError) || error.status >= 500 || error.status === 429 || outOfSession(error)) throw error;
    note(error.message); // the program is no longer theirs: these marks have no place any more
    if (task && task.lease_id === lease) setTimeout(loadNext);
  }
}

function logInAgain() {
  const text = "Your session is over. Your marks are kept in this browser and will be sent.";
  if (byId("note").firstChild?.data !== text) note(text, { text: "Log in again", href: "/work" });
}

window.addEventListener("online", flush);
