// The annotator's page: showing a program, marking its lines, submitting it.
"use strict";

const LABELS = { correct: 1, wrong: -1, unsure: 0 };
const NAMES = { 1: "correct", "-1": "wrong", 0: "unsure" };
const ICONS = { correct: "✓", wrong: "✗", unsure: "?" };
const CONFIDENCE = { guess: 1, fair: 2, sure: 3 };
const LONGEST_MS = 600000; // longer without a mark: the person was away
const POLL_MS = 5000;

let task = null;
let rows = new Map(); // line to review -> {element, state, buttons, text}
let marks = new Map(); // line -> {label, rest}
let history = []; // each: [[line, mark before], ...]
let toReview = []; // line numbers
let at = 0; // index into toReview
let anchor = null; // index where a range began
let since = performance.now(); // the last mark, or when the program was shown
let busy = false; // while a program is being submitted
let touched = false; // whether somebody has acted on this program
let poll = null;

// -- showing --------------------------------------------------------------------------------------------------------

function show(next) {
  clearTimeout(poll);
  closeComment();
  const begins = task !== null || byId("empty").hidden;
  task = next;
  byId("empty").hidden = task !== null;
  byId("desk").hidden = byId("foot").hidden = task === null;
  if (task === null) {
    poll = setTimeout(whenSeen, POLL_MS);
    if (begins) byId("empty").focus();
    return showProgress();
  }
  marks = new Map(task.marks.map((mark) => [mark.line, mark]));
  for (const { lease, mark } of pending()) if (lease === task.lease_id) setMark(mark.line, mark);
  history = keptHistory(task.lease_id);
  toReview = task.lines.filter((line) => line.to_review).map((line) => line.number);
  rows = new Map();
  byId("problem").replaceChildren(...task.prompt.html.flatMap((html) => [highlightedLine(html), "\n"]));
  byId("lines").replaceChildren(...task.lines.map((line) => (line.to_review ? makeRow(line) : idleRow(line))));
  byId("whole-said").replaceChildren();
  task.comments.forEach(showComment);
  byId("skip-open").hidden = task.phase === "qualification";
  leaseFor(task.seconds_left);
  takeABreak();
  at = Math.max(0, toReview.findIndex((line) => !marks.has(line)));
  anchor = null;
  since = performance.now();
  toReview.forEach(paint);
  touched = marks.size > 0; // whoever begins a program sees its beginning
  move(at, false);
  if (!touched) byId("main").scrollTop = byId("problem").parentElement.scrollTop = 0;
  showProgress();
  const left = draft();
  if (left?.lease === task.lease_id) openComment(left.line, left.text);
}

// A program is asked for only while somebody looks: it would be theirs, and wait for nobody.
function whenSeen() {
  if (document.hidden) document.addEventListener("visibilitychange", loadNext, { once: true });
  else loadNext();
}

async function loadNext() {
  clearTimeout(poll);
  try {
    show(await call("POST", "/next"));
  } catch (error) {
    if (outOfSession(error)) logInAgain();
    poll = setTimeout(whenSeen, POLL_MS);
  }
}

const number = (line) => make("span", { class: "number", "aria-hidden": "true", text: line.end ? "end" : line.number + 1 });
const END = "Is anything missing after the last line?";
const OF_END = { correct: "nothing is missing", wrong: "something is missing", unsure: "unsure" };
const isEnd = (line) => task.lines[line].end;
const called = (line) => (isEnd(line) ? "the end" : `line ${line + 1}`);
const what = (line, name) => (isEnd(line) && name ? OF_END[name] : name);
const capital = (text) => text[0].toUpperCase() + text.slice(1);

// Wrapped code goes on below where it began, and a step further.
function hanging(source, text) {
  const indent = text.match(/^[ \t]*/)[0].replace(/\t/g, "    ").length;
  source.style.setProperty("--hang", `${Math.min(4 * Math.ceil(indent / 4) + 4, 16)}ch`);
  return source;
}

function sourceOf(line) {
  if (line.end) return make("span", { class: "source asks", text: END });
  const source = highlightedLine(line.html, "source");
  return hanging(source, source.textContent);
}
const idleRow = (line) => make("div", { class: "row", "data-line": line.number }, number(line), sourceOf(line));

function makeRow(line) {
  const index = toReview.indexOf(line.number);
  const buttons = Object.keys(LABELS).map((name) =>
    make("button", {
      type: "button", class: `m-${name}`, "aria-label": capital(`${called(line.number)} ${what(line.number, name)}`), title: what(line.number, name), text: ICONS[name], "data-mark": name,
      onclick: () => { if (!inRange(index)) move(index, false); act(name, false); },
    }));
  const source = sourceOf(line), state = make("span", { class: "state", "aria-hidden": "true" });
  const element = make("div", {
    class: "row", "data-line": line.number, role: "group",
    onclick: (event) => event.target.closest("button, .said, .comment") || move(index, event.shiftKey),
    onmousedown: (event) => event.shiftKey && event.preventDefault(), // the range is marked, not the text
  }, number(line), source, state, make("span", { class: "marks" }, ...buttons));
  rows.set(line.number, { element, state, buttons, index, text: source.textContent.trim() });
  return element;
}

function paint(line) {
  const { element, state, buttons, index, text } = rows.get(line);
  const name = marks.has(line) ? NAMES[marks.get(line).label] : "";
  const tab = index === at ? "0" : "-1";
  element.className = ["row", name, index === at && "at", anchor !== null && inRange(index) && "in-range"].filter(Boolean).join(" ");
  element.setAttribute("aria-label", capital(`${called(line)}, ${what(line, name) || "no mark"}: ${text}`));
  element.setAttribute("tabindex", tab);
  state.textContent = name;
  for (const button of buttons) {
    button.setAttribute("aria-pressed", String(button.dataset.mark === name));
    button.setAttribute("tabindex", tab);
  }
}

function showComment({ line, text }) {
  const said = make("span", { class: "said", text: `“${text}”` });
  if (line === null) byId("whole-said").append(said);
  else rows.get(line)?.element.append(said);
}

const range = () => (anchor === null ? [at, at] : [Math.min(at, anchor), Math.max(at, anchor)]);
const inRange = (index) => range()[0] <= index && index <= range()[1];
const inHand = () => toReview.slice(range()[0], range()[1] + 1);

function move(index, extend) {
  if (!toReview.length) return;
  const before = inHand();
  if (!extend) anchor = null;
  else if (anchor === null) anchor = at;
  index = Math.max(0, Math.min(toReview.length - 1, index));
  at = index;
  new Set([...before, ...inHand()]).forEach(paint);
  const { element } = rows.get(toReview[at]);
  element.focus({ preventScroll: true });
  if (touched) element.scrollIntoView({ block: "nearest" });
}

function showProgress() {
  const progress = task ? task.progress : first.me.progress;
  const { right, lines, left } = first.me.qualification;
  const practising = task !== null && task.phase === "qualification";
  byId("progress").textContent = [
    practising ? `Practice: ${left} to go` : null,
    `${progress.done} reviewed`, `${progress.today} today`, progress.per_hour ? `${progress.per_hour} an hour` : null,
    lines && !practising ? `practice: ${right} of ${lines} lines right` : null,
  ].filter(Boolean).join(" · ");
}

// -- marking --------------------------------------------------------------------------------------------------------

function setMark(line, mark) {
  if (mark === null || mark.label === null) marks.delete(line);
  else marks.set(line, { label: mark.label, rest: mark.rest });
}

function apply(changes) {
  const spent = Math.min(performance.now() - since, LONGEST_MS); // reading and moving about are work, too
  since = performance.now();
  const fresh = changes.map(([line, mark]) => ({
    lease: task.lease_id,
    mark: { event_id: newId(), line, label: mark ? mark.label : null, rest: mark ? mark.rest : false, milliseconds: Math.round(spent / changes.length) },
  }));
  keep([...pending(), ...fresh]);
  tellTabs({ lease: task.lease_id, changes });
  for (const [line, mark] of changes) { setMark(line, mark); paint(line); }
  flush();
}

// crypto.randomUUID is there on HTTPS and localhost only.
const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

function markLines(lines, label, rest) {
  history.push(lines.map((line) => [line, marks.get(line) ?? null]));
  keepHistory(task.lease_id, history);
  apply(lines.map((line) => [line, { label, rest }]));
}

function markRange(name) {
  const lines = inHand(), next = range()[1] + 1;
  markLines(lines, LABELS[name], false);
  say(lines.length > 1 ? `${lines.length} lines ${name}` : capital(`${called(lines[0])} ${what(lines[0], name)}`));
  move(next, false);
}

const actions = {
  down: (shift) => move(at + 1, shift),
  up: (shift) => move(at - 1, shift),
  correct: () => markRange("correct"),
  wrong: () => markRange("wrong"),
  unsure: () => markRange("unsure"),
  rest: () => {
    const lines = toReview.filter((line) => !marks.has(line));
    if (lines.length) markLines(lines, 1, true);
    say(lines.length ? `The rest, ${lines.length} lines, correct` : "Every line has a mark");
  },
  undo: () => {
    const last = history.pop();
    if (!last) return say("Nothing to undo");
    keepHistory(task.lease_id, history);
    apply(last);
    move(toReview.indexOf(last[0][0]), false);
    say("Undone");
  },
  comment: () => openComment(toReview[at], ""),
  submit: () => {
    const open = toReview.filter((line) => !marks.has(line));
    if (!open.length) {
      note("");
      return byId("confidence").showModal();
    }
    move(toReview.indexOf(open[0]), false);
    note(`${open.length} ${open.length === 1 ? "line has" : "lines have"} no mark yet.`);
  },
};

function act(action, shift) {
  if (action === "help") openHelp();
  else if (task && !busy) {
    touched = true;
    actions[action](shift);
  }
}

// -- submitting -----------------------------------------------------------------------------------------------------

async function submit(action) {
  byId("confidence").close();
  busy = true;
  try {
    await flush();
    if (!pending().length) await submitNow(CONFIDENCE[action]);
    else if (byId("note").hidden) note("The connection is lost: your marks are kept in this browser. Submit again when it is back.");
  } finally {
    busy = false;
  }
}

async function submitNow(confidence) {
  try {
    const answer = await call("POST", `/leases/${task.lease_id}/submit`, { confidence });
    if (answer.next === undefined) throw new TypeError("the submission is not acknowledged");
    tellTabs({ lease: task.lease_id, over: true });
    if (answer.feedback || !answer.next) first.me = await call("GET", "/me").catch(() => first.me);
    if (answer.feedback) await showFeedback(answer.feedback);
    show(answer.next);
    say(task ? "Submitted. The next program" : "Submitted. No programs to review right now");
  } catch (error) {
    if (outOfSession(error)) return logInAgain();
    note(error instanceof ApiError ? error.message : "The server cannot be reached: submit again when it is back.");
    if (error.status === 409 && !error.body.unmarked) await loadNext(); // it is somebody else's by now
  }
}

function showFeedback(lines) {
  const right = lines.filter((line) => line.truth === line.label).length, { left } = first.me.qualification;
  byId("feedback-text").textContent = `You have ${right} of ${lines.length} lines as we know them to be. ` +
    (left ? `${left} more to practise.` : "This was the last one with answers.");
  byId("feedback-lines").replaceChildren(...lines.map((line) => {
    const same = line.truth === line.label;
    return make("li", { class: same ? "right" : "off" },
      `${same ? "✓" : "✗"} ${capital(called(line.line))}${isEnd(line.line) ? ":" : " is"} ${what(line.line, NAMES[line.truth])}; you said ${what(line.line, NAMES[line.label])}.`, sourceOf(task.lines[line.line]));
  }));
  byId("feedback").showModal();
  return new Promise((resolve) => byId("feedback").addEventListener("close", resolve, { once: true }));
}

// -- comments -------------------------------------------------------------------------------------------------------

const box = byId("comment-box"), words = byId("comment");
let commented = null; // the line

function openComment(line, text) {
  commented = line;
  byId("comment-line").textContent = line === null ? "the whole program" : called(line);
  words.value = text;
  if (line === null) byId("whole").after(box);
  else rows.get(line).element.after(box);
  box.hidden = false;
  words.focus();
}

function closeComment() {
  const focused = box.contains(document.activeElement);
  box.hidden = true;
  byId("desk").append(box); // the rows are replaced with the next program
  if (focused && task) move(at, false);
}

async function saveComment() {
  const text = words.value.trim();
  try {
    if (text) {
      const stored = await call("POST", `/leases/${task.lease_id}/comments`, { line: commented, text });
      if (stored.text !== text) throw new TypeError("the comment is not acknowledged");
      showComment(stored);
    }
    keepDraft(null);
    closeComment();
    if (text) say("Comment saved");
  } catch (error) {
    note(`The comment is not saved: ${explain(error)} It stays here: save it again.`, outOfSession(error) ? { text: "Log in again", href: "/work" } : undefined);
  }
}

words.addEventListener("input", () => keepDraft({ lease: task.lease_id, line: commented, text: words.value }));
words.addEventListener("keydown", (event) => {
  if (event.key === "Escape") byId("comment-cancel").click();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) saveComment();
});
byId("comment-save").addEventListener("click", saveComment);
byId("comment-cancel").addEventListener("click", () => { keepDraft(null); closeComment(); });

byId("whole-open").addEventListener("click", () => openComment(null, ""));

// -- skipping -------------------------------------------------------------------------------------------------------

byId("skip-open").addEventListener("click", () => byId("skip").showModal());
byId("skip-back").addEventListener("click", () => byId("skip").close());
byId("skip-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const why = new FormData(event.target), reason = [why.get("kind"), why.get("reason").trim()].filter(Boolean).join(": ");
  try {
    await call("POST", `/leases/${task.lease_id}/release`, { reason });
    event.target.reset();
    byId("skip").close();
    tellTabs({ lease: task.lease_id, over: true });
    await loadNext();
    say("Skipped");
  } catch (error) {
    byId("skip").close();
    note(explain(error), outOfSession(error) ? { text: "Log in again", href: "/work" } : undefined);
  }
});

// -- buttons --------------------------------------------------------------------------------------------------------

byId("feedback-close").addEventListener("click", () => byId("feedback").close());
byId("confidence-back").addEventListener("click", () => byId("confidence").close());
for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => act(button.dataset.do, false));
for (const button of document.querySelectorAll("[data-confidence]")) button.addEventListener("click", () => submit(button.dataset.confidence));

// a note, a screen keyboard or a smaller window never hides the line that the keys act on
new ResizeObserver(() => touched && document.activeElement?.closest(".row")?.scrollIntoView({ block: "nearest" })).observe(byId("main"));

hint();
show(first.task);
flush();
