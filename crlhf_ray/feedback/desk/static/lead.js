// The dashboard, live by server-sent events.
"use strict";

const MOST_SHOWN = 16; // annotators in the plot
const shown = {}; // what each part shows now, so that only what changed is drawn again and nobody's focus is lost

function age(seconds) {
  if (seconds === null) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function update(id, value, draw) {
  const text = JSON.stringify(value);
  if (shown[id] === text) return;
  shown[id] = text;
  draw(byId(id), value);
}

function agreement(alpha) {
  if (alpha === null) return "nobody has reviewed the same lines yet";
  return alpha < 0 ? "below 0: less than by chance, somebody answers the wrong way round" : "1: all agree · 0: as by chance";
}

function tiles(stats) {
  const pace = stats.labels_per_minute;
  return [
    ["Programs waiting", stats.queue.open, `the oldest for ${age(stats.queue.oldest_seconds)}`],
    ["Programs done", stats.queue.done, ""],
    ["Marks a minute", (pace.slice(-5).reduce((sum, value) => sum + value, 0) / 5).toFixed(1), "mean of the last 5 minutes"],
    ["Agreement, Krippendorff's α", stats.alpha === null ? "–" : stats.alpha.toFixed(2), agreement(stats.alpha)],
    ["Cost of a reliable line", stats.cost_per_line === null ? "–" : stats.cost_per_line.toFixed(3), stats.cost_per_line === null ? "no line is reviewed reliably yet" : "pay for each line whose posterior is sure"],
    ["Hours of reviewing", stats.hours.toFixed(stats.hours < 10 ? 2 : 0), "of all annotators"],
  ];
}

function alertItem(alert) {
  const people = alert.people.flatMap((person, i) => [i ? ", " : " ", make("a", { href: `/lead/people#${person.annotator_id}`, text: person.name })]);
  return make("li", {}, make("strong", { text: `⚠ ${alert.kind}:` }), ` ${alert.message}; ${alert.remedy}.`, ...people);
}

function show(stats) {
  const people = stats.annotators.filter((person) => person.sensitivity !== undefined);
  const best = (person) => person.sensitivity + person.specificity;
  update("tiles", tiles(stats), (into, list) => into.replaceChildren(...list.map(([name, value, hint]) =>
    make("div", { class: "tile", title: hint }, make("span", { text: name }), make("b", { text: value }), make("small", { text: hint })))));
  update("alerts", stats.alerts, (into, list) => into.replaceChildren(...(list.length ? list.map(alertItem) : [make("li", { text: "✓ None" })])));
  update("pace", stats.labels_per_minute, pacePlot);
  update("rounds", stats.rounds, (into, rounds) => (rounds.length ? roundsPlot(into, rounds) : into.replaceChildren("No round is reviewed yet")));
  update("people", people.sort((a, b) => best(b) - best(a)).slice(0, MOST_SHOWN), (into, people) => (people.length ? peoplePlot(into, people) : into.replaceChildren("Nobody has reviewed yet")));
  byId("more").hidden = people.length <= MOST_SHOWN;
  byId("more").firstChild.textContent = `The best ${MOST_SHOWN} of ${people.length}. `;
}

const source = new EventSource("/api/v1/events");
source.addEventListener("stats", (event) => { byId("live-state").textContent = "● Live"; show(JSON.parse(event.data)); });
source.addEventListener("error", () => {
  byId("live-state").textContent = "✗ Not connected";
  if (source.readyState === EventSource.CLOSED) note("The dashboard is not live any more.", { text: "Open it again", href: "/lead" });
});
