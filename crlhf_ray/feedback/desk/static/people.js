// The lead's page about people: who is how reliable, since when; invites; what was done.
"use strict";

const rate = (person, name) => (person[name] === undefined ? "–" : interval(person, name));
const state = (person) => (person.suspended ? "suspended" : person.qualified ? "at work" : "qualifying");
const ACTIONS = {
  suspend: (name) => [`Suspend ${name}?`, "They are logged out at once and cannot log in. Their reviews stay, and you can reinstate them."],
  erase: (name) => [`Erase ${name}?`, "Their name, password, comments and addresses are forgotten for good. Their marks stay under an id."],
  requalify: (name) => [`Have ${name} qualify again?`, "Their next programs are practice with known answers, which are shown after each."],
};

let people = [];
let chosen = null;

async function load() {
  const [stats, audit] = await Promise.all([call("GET", "/stats"), call("GET", "/audit")]);
  const alerts = (id) => stats.alerts.filter((alert) => alert.people.some((person) => person.annotator_id === id)).map((alert) => `⚠ ${alert.kind}`).join(", ");
  // Whom an alert is about comes first.
  people = stats.annotators.sort((a, b) => Boolean(alerts(b.annotator_id)) - Boolean(alerts(a.annotator_id)) || a.name.localeCompare(b.name));
  byId("people").replaceChildren(...people.map((person) => make("tr", { id: `row-${person.annotator_id}` },
    make("th", { scope: "row" }, make("button", { type: "button", text: person.name, "aria-label": `${person.name}: show over time`, "data-who": person.annotator_id, onclick: () => guard(() => choose(person)) })),
    make("td", { text: person.labels }), make("td", { text: rate(person, "sensitivity") }), make("td", { text: rate(person, "specificity") }),
    make("td", { text: alerts(person.annotator_id) }),
    make("td", { text: state(person) }),
    make("td", {}, button(person, person.suspended ? "reinstate" : "suspend"), " ", button(person, "requalify"), " ", ...(byId("people").dataset.role === "admin" ? [button(person, "erase"), " "] : []),
      make("button", { type: "button", text: "new password", "aria-label": `new password for ${person.name}`, onclick: () => guard(() => newPassword(person)) })))));
  byId("audit").replaceChildren(...audit.map((row) =>
    make("tr", {}, make("td", { text: new Date(1000 * row.at).toLocaleString() }), make("td", { text: row.who }), make("td", { text: row.action }), make("td", { text: row.subject }))));
  select();
}

const MOST_PAIRS = 50;
async function loadPairs() {
  const pairs = await call("GET", "/agreement");
  byId("pairs").replaceChildren(...pairs.slice(0, MOST_PAIRS).map((pair) => make("tr", {},
    ...[pair.first_name, pair.second_name, pair.lines, percent(pair.agreement), pair.kappa === null ? "–" : pair.kappa.toFixed(2)].map((text) => make("td", { text })))));
}

const place = (action) => ({ requalify: "again", erase: "gone" })[action] ?? "standing"; // of the button, whatever it says now
const button = (person, action) => make("button", { type: "button", text: action, "aria-label": `${action} ${person.name}`, "data-place": place(action), onclick: () => guard(() => steer(person, action)) });

async function steer(person, action) {
  if (ACTIONS[action] && !(await ask(...ACTIONS[action](person.name), action))) return;
  await call("POST", `/annotators/${person.annotator_id}/${action}`);
  await load();
  note(`${person.name}: ${action} is done.`);
  byId(`row-${person.annotator_id}`).querySelector(`[data-place="${place(action)}"]`).focus();
}

function showLink(path, text) {
  byId("link").value = location.origin + path;
  byId("link-box").hidden = false;
  byId("link").select();
  note(text);
}

async function newPassword(person) {
  const { path } = await call("POST", `/annotators/${person.annotator_id}/password`);
  showLink(path, `A link by which ${person.name} chooses a new password, once. Send it to them alone.`);
}

function select() {
  for (const one of byId("people").querySelectorAll("[data-who]")) one.setAttribute("aria-pressed", String(one.dataset.who === chosen));
}

async function choose(person) {
  const { curve } = await call("GET", `/annotators/${person.annotator_id}`);
  chosen = person.annotator_id;
  select();
  byId("curve-title").textContent = `${person.name} over time`;
  byId("curve").hidden = false;
  if (curve.length) curvePlot(byId("curve-plot"), person.name, curve);
  else byId("curve-plot").replaceChildren("Nothing reviewed yet");
}

// Whom the address names (an alert leads here), or the first.
async function chooseFirst() {
  const named = people.find((person) => person.annotator_id === location.hash.slice(1));
  if (named || people[0]) await choose(named ?? people[0]);
  if (named) byId("people").querySelector(`[data-who="${CSS.escape(named.annotator_id)}"]`).focus();
}

byId("invite").addEventListener("submit", (event) => {
  event.preventDefault();
  guard(async () => {
    const role = new FormData(event.target).get("role");
    const { path } = await call("POST", "/invites", { role });
    showLink(path, `A link for one ${role}. Send it to that person alone.`);
    await load();
  });
});
byId("copy").addEventListener("click", () => guard(async () => {
  byId("link").select();
  // The clipboard is there on HTTPS and localhost only; elsewhere the link is selected, for Ctrl+C.
  if (navigator.clipboard) await navigator.clipboard.writeText(byId("link").value);
  note(navigator.clipboard ? "The link is copied." : "The link is selected: copy it with Ctrl+C.");
}));

window.addEventListener("hashchange", () => guard(chooseFirst));
guard(async () => { await load(); await chooseFirst(); });
guard(loadPairs);
