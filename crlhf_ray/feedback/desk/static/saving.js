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

// -- other tabs of the same person ----------------------------------------------------------------------------------

const TABS = `crlhf.tabs.${first.me.annotator_id}`;
// What is stored is what each tab shows: the others hear of every mark, and of programs that are over.
const tellTabs = (what) => localStorage.setItem(TABS, JSON.stringify({ ...what, at: Date.now() + Math.random() }));

window.addEventListener("storage", (event) => {
  if (event.key !== TABS || !event.newValue || !task) return;
  const { lease, changes, over } = JSON.parse(event.newValue);
  if (lease !== task.lease_id) return;
  if (over) return loadNext();
  for (const [line, mark] of changes) { setMark(line, mark); paint(line); }
  history = [];
});

// -- the lease ------------------------------------------------------------------------------------------------------

const BEAT_MS = 60000; // between two words to the server that somebody is reading
const WARN_MS = 120000; // before the program may go to somebody else
const AWAY_MS = 5 * 60000, BREAK_MS = 50 * 60000;
const GOING = "Nobody seems to be here: soon this program may go to somebody else. Your marks stay saved.";
let beatAt = 0, movedAt = Date.now(), workingSince = Date.now(), warning = null;

function leaseFor(seconds) {
  clearTimeout(warning);
  if (byId("note").textContent === GOING) note("");
  warning = setTimeout(() => task && note(GOING), Math.max(1000 * seconds - WARN_MS, 500 * seconds));
}

async function here() {
  const now = Date.now();
  if (now - movedAt > AWAY_MS) workingSince = now;
  movedAt = now;
  if (!task || now - beatAt < BEAT_MS) return;
  beatAt = now;
  const lease = task.lease_id;
  try {
    const { seconds } = await call("POST", `/leases/${lease}/alive`);
    if (task?.lease_id === lease) leaseFor(seconds);
  } catch (error) {
    if (error.status === 409 && task?.lease_id === lease) { note(error.message); loadNext(); }
  }
}
for (const kind of ["keydown", "pointerdown", "pointermove", "wheel"]) document.addEventListener(kind, here, { passive: true });

function takeABreak() {
  if (Date.now() - workingSince < BREAK_MS) return;
  note("You have reviewed for 50 minutes without a break. A short break helps you stay accurate.");
  workingSince = Date.now();
}

function logInAgain() {
  const text = "Your session is over. Your marks are kept in this browser and will be sent.";
  if (byId("note").firstChild?.data !== text) note(text, { text: "Log in again", href: "/work" });
}

window.addEventListener("online", flush);
