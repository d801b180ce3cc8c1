// The annotator's page. Every mark goes to localStorage first and to the server at once; what the server has not
// acknowledged is sent again until it has, through reloads, lost connections and closed laptops.
"use strict";

const LABELS = { correct: 1, wrong: -1, unsure: 0 };
const NAMES = { 1: "correct", "-1": "wrong", 0: "unsure" };
const ICONS = { correct: "✓", wrong: "✗", unsure: "?" };
const PENDING = "crlhf.pending";
const LONGEST_MS = 300000; // longer on one line: the person was away
const POLL_MS = 5000;

const first = JSON.parse(byId("first").textContent);
let keys = first.keys;
let task = null;
let marks = new Map(); // line -> {label, rest}
let comments = [];
let history = []; // each: [[line, mark before], ...]
let at = 0; // index into judged
let anchor = null; // index where a range began
let judged = []; // line numbers
let arrived = performance.now();
let sending = false;
let retry = null;

// -- saving ---------------------------------------------------------------------------------------------------------

const pending = () => JSON.parse(localStorage.getItem(PENDING) || "[]");
const keep = (list) => localStorage.setItem(PENDING, JSON.stringify(list));

function showSaved() {
  const count = pending().length;
  const pill = byId("saved");
  pill.className = "pill" + (count ? (retry ? " lost" : " pending") : "");
  pill.textContent = count ? (retry ? `✗ ${count} kept here, not sent yet` : `… saving ${count}`) : "✓ Saved";
}

async function flush() {
  if (sending) return;
  sending = true;
  clearTimeout(retry);
  retry = null;
  showSaved();
  try {
    for (let list = pending(); list.length; list = pending()) {
      const lease = list[0].lease;
      const batch = list.filter((entry) => entry.lease === lease).slice(0, 200);
      try {
        await call("POST", `/leases/${lease}/marks`, { marks: batch.map((entry) => entry.mark) });
      } catch (error) {
        if (!(error instanceof ApiError) || error.status >= 500 || error.status === 429) throw error;
        if (error.status === 401 || error.status === 403) {
          note("Log in again in another tab: your marks are kept in this browser.");
          throw error;
        }
        note(error.message); // the lease is gone: these marks have no place any more
        if (task && task.lease_id === lease) setTimeout(loadNext);
      }
      const sent = new Set(batch.map((entry) => entry.mark.event_id));
      keep(pending().filter((entry) => !sent.has(entry.mark.event_id)));
      showSaved();
    }
  } catch {
    retry = setTimeout(() => flush(), 2000);
  }
  sending = false;
  showSaved();
}

window.addEventListener("online", () => flush());

// -- showing --------------------------------------------------------------------------------------------------------

function say(text) {
  byId("live").textContent = text;
}

function note(text) {
  byId("note").textContent = text;
  byId("note").hidden = !text;
}

const row = (line) => byId("lines").querySelector(`[data-line="${line}"]`);

function show(next) {
  task = next;
  byId("empty").hidden = task !== null;
  byId("desk").hidden = task === null;
  if (task === null) {
    setTimeout(() => document.visibilityState === "visible" && task === null && loadNext(), POLL_MS);
    return;
  }
  marks = new Map(task.marks.map((mark) => [mark.line, { label: mark.label, rest: mark.rest }]));
  for (const { lease, mark } of pending()) {
    if (lease === task.lease_id) setMark(mark.line, mark.label === null ? null : { label: mark.label, rest: mark.rest });
  }
  comments = task.comments;
  history = [];
  judged = task.lines.filter((line) => line.judged).map((line) => line.number);
  byId("problem").replaceChildren(...task.prompt.html.flatMap((html) => [highlightedLine(html), "\n"]));
  byId("lines").replaceChildren(...task.lines.map(makeRow));
  anchor = null;
  judged.forEach(paint);
  const open = judged.findIndex((line) => !marks.has(line));
  move(open < 0 ? 0 : open, false);
  showProgress(task.progress);
}

function makeRow(line) {
  const buttons = line.judged
    ? Object.keys(LABELS).map((name) =>
        make("button", {
          type: "button", class: `m-${name}`, "aria-pressed": "false", tabindex: "-1", "aria-label": `Line ${line.number + 1} ${name}`,
          title: name, text: ICONS[name], "data-mark": name,
          onclick: () => { move(judged.indexOf(line.number), false); markRange(LABELS[name]); },
        }))
    : [];
  return make(
    "div",
    { class: "row", "data-line": line.number, role: line.judged ? "group" : null, tabindex: line.judged ? "-1" : null,
      onclick: (event) => line.judged && !event.target.closest("button") && move(judged.indexOf(line.number), event.shiftKey) },
    make("span", { class: "number", "aria-hidden": "true", text: line.number + 1 }),
    highlightedLine(line.html, "source"),
    make("span", { class: "marks" }, ...buttons),
  );
}

function paint(line) {
  const element = row(line);
  const name = marks.has(line) ? NAMES[marks.get(line).label] : "no mark";
  const index = judged.indexOf(line);
  const [low, high] = range();
  element.className = "row " + (marks.has(line) ? name : "") + (index === at ? " at" : "") + (anchor !== null && index >= low && index <= high ? " in-range" : "");
  element.setAttribute("aria-label", `Line ${line + 1}, ${name}: ${element.querySelector(".source").textContent.trim()}`);
  element.setAttribute("tabindex", index === at ? "0" : "-1");
  for (const button of element.querySelectorAll("[data-mark]")) {
    button.setAttribute("aria-pressed", String(button.dataset.mark === name));
    button.setAttribute("tabindex", index === at ? "0" : "-1");
  }
  element.querySelectorAll(".said").forEach((old) => old.remove());
  for (const comment of comments.filter((one) => one.line === line)) element.append(make("span", { class: "said", text: "“" + comment.text + "”" }));
}

const range = () => (anchor === null ? [at, at] : [Math.min(at, anchor), Math.max(at, anchor)]);

function move(index, extend) {
  if (!judged.length) return;
  const before = at;
  if (!extend) anchor = null;
  else if (anchor === null) anchor = at;
  at = Math.max(0, Math.min(judged.length - 1, index));
  if (before !== at) arrived = performance.now();
  judged.forEach(paint);
  row(judged[at]).focus({ preventScroll: true });
  row(judged[at]).scrollIntoView({ block: "nearest" });
}

function showProgress(progress) {
  const pace = progress.per_hour ? `, ${progress.per_hour} an hour` : "";
  const { qualification } = first.me;
  const phase = task && task.phase === "qualification" ? "Qualification · " : "";
  const score = qualification.lines && !phase ? ` · qualification ${qualification.right} of ${qualification.lines} lines` : "";
  byId("progress").textContent = `${phase}${progress.done} judged, ${progress.today} today${pace}${score}`;
}

// -- marking --------------------------------------------------------------------------------------------------------

function setMark(line, mark) {
  if (mark === null) marks.delete(line);
  else marks.set(line, mark);
}

function apply(changes) {
  const spent = Math.min(performance.now() - arrived, LONGEST_MS);
  arrived = performance.now();
  const fresh = changes.map(([line, mark]) => {
    setMark(line, mark);
    return {
      lease: task.lease_id,
      mark: { event_id: crypto.randomUUID ? crypto.randomUUID() : randomId(), line, label: mark ? mark.label : null,
              rest: mark ? mark.rest : false, milliseconds: Math.round(spent / changes.length) },
    };
  });
  keep([...pending(), ...fresh]);
  judged.forEach(paint);
  flush();
}

// crypto.randomUUID is there on HTTPS and localhost only.
const randomId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

function markLines(lines, label, rest) {
  history.push(lines.map((line) => [line, marks.get(line) ?? null]));
  apply(lines.map((line) => [line, { label, rest }]));
}

function markRange(label) {
  const [low, high] = range();
  const lines = judged.slice(low, high + 1);
  markLines(lines, label, false);
  say(lines.length > 1 ? `${lines.length} lines ${NAMES[label]}` : `Line ${lines[0] + 1} ${NAMES[label]}`);
  anchor = null;
  move(high + 1, false);
}

const actions = {
  down: (shift) => move(at + 1, shift),
  up: (shift) => move(at - 1, shift),
  correct: () => markRange(1),
  wrong: () => markRange(-1),
  unsure: () => markRange(0),
  rest: () => {
    const lines = judged.filter((line) => !marks.has(line));
    if (lines.length) markLines(lines, 1, true);
    say(lines.length ? `The rest, ${lines.length} lines, correct` : "Every line has a mark");
  },
  undo: () => {
    const last = history.pop();
    if (!last) return say("Nothing to undo");
    apply(last);
    move(judged.indexOf(last[0][0]), false);
    say("Undone");
  },
  comment: () => {
    byId("comment-line").textContent = `line ${judged[at] + 1}`;
    byId("comment-box").hidden = false;
    byId("comment").focus();
  },
  submit: () => {
    const open = judged.findIndex((line) => !marks.has(line));
    if (open >= 0) {
      const left = judged.filter((line) => !marks.has(line)).length;
      move(open, false);
      note(`${left} ${left === 1 ? "line has" : "lines have"} no mark yet.`);
      return say(`${left} lines have no mark yet`);
    }
    note("");
    byId("confidence").showModal();
  },
  help: () => openHelp(),
};

async function submit(confidence) {
  byId("confidence").close();
  await flush();
  if (pending().length) return note("The connection is lost: your marks are kept in this browser. Submit again when it is back.");
  try {
    const answer = await call("POST", `/leases/${task.lease_id}/submit`, { confidence });
    say("Submitted");
    if (answer.feedback) await showFeedback(answer.feedback);
    show(answer.next);
    if (answer.feedback) refreshMe();
  } catch (error) {
    note(error.message);
    if (error.status === 409 && !error.body.unjudged) loadNext();
  }
}

async function refreshMe() {
  first.me = await call("GET", "/me");
  if (task) showProgress(task.progress);
}

function showFeedback(lines) {
  const right = lines.filter((line) => line.truth === line.label).length;
  byId("feedback-text").textContent = `${right} of ${lines.length} lines as we know them to be.`;
  byId("feedback-lines").replaceChildren(
    ...lines.map((line) => make("li", { text: `${line.truth === line.label ? "✓" : "✗"} Line ${line.line + 1} is ${NAMES[line.truth]}; you said ${NAMES[line.label]}.` })),
  );
  byId("feedback").showModal();
  return new Promise((resolve) => byId("feedback").addEventListener("close", resolve, { once: true }));
}

async function loadNext() {
  try {
    show(await call("POST", "/next"));
  } catch (error) {
    note(error.message);
    show(null);
  }
}

// -- keys -----------------------------------------------------------------------------------------------------------

function actionOf(event) {
  const wanted = [event.key, event.shiftKey ? event.key.toLowerCase() : null];
  return keys.find((entry) => entry.keys.some((key) => wanted.includes(key)))?.action;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (byId("confidence").open) {
    const button = byId("confidence").querySelector(`[data-confidence="${event.key}"]`);
    if (button && event.key !== "0") { event.preventDefault(); submit(Number(event.key)); }
    return;
  }
  if (document.querySelector("dialog[open]") || event.target.closest("input, textarea, select")) return;
  if (event.key === "Enter" && event.target.closest("button, a")) return;
  const action = actionOf(event);
  if (!action || (task === null && action !== "help")) return;
  event.preventDefault();
  actions[action](event.shiftKey);
});

function openHelp() {
  byId("keys").replaceChildren(
    ...keys.map((entry) =>
      make("tr", {}, make("td", {}, make("input", { name: entry.action, value: entry.keys.join(" "), "aria-label": `Keys for: ${entry.text}` })), make("td", { text: entry.text }))),
  );
  byId("keys-problem").hidden = true;
  byId("help").showModal();
}

async function saveKeys(chosen) {
  try {
    keys = await call("PUT", "/me/keys", { keys: chosen });
    byId("help").close();
    say("Keys saved");
  } catch (error) {
    byId("keys-problem").textContent = error.message;
    byId("keys-problem").hidden = false;
  }
}

byId("keys-form").addEventListener("submit", (event) => {
  event.preventDefault();
  saveKeys(Object.fromEntries([...new FormData(event.target)].map(([action, text]) => [action, text.split(" ").filter(Boolean)])));
});
byId("keys-default").addEventListener("click", () => saveKeys({}));
byId("help-open").addEventListener("click", openHelp);
byId("help-close").addEventListener("click", () => byId("help").close());
byId("feedback-close").addEventListener("click", () => byId("feedback").close());
for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => task && actions[button.dataset.do](false));
for (const button of document.querySelectorAll("[data-confidence]"))
  button.addEventListener("click", () => (button.dataset.confidence === "0" ? byId("confidence").close() : submit(Number(button.dataset.confidence))));

const closeComment = () => { byId("comment-box").hidden = true; byId("comment").value = ""; row(judged[at]).focus(); };
byId("comment-cancel").addEventListener("click", closeComment);
byId("comment-save").addEventListener("click", async () => {
  const text = byId("comment").value.trim();
  if (!text) return closeComment();
  try {
    comments = [...comments, await call("POST", `/leases/${task.lease_id}/comments`, { line: judged[at], text })];
    closeComment();
    paint(judged[at]);
    say("Comment saved");
  } catch (error) {
    note(`The comment is not saved: ${error.message}`);
  }
});
byId("comment").addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeComment();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("comment-save").click();
});

show(first.task);
flush();
