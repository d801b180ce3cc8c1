// The dashboard, live by server-sent events.
"use strict";

function age(seconds) {
  if (seconds === null) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function show(stats) {
  const pace = stats.labels_per_minute;
  const tiles = [
    ["Programs waiting", stats.queue.open], ["Oldest has waited", age(stats.queue.oldest_seconds)], ["Programs done", stats.queue.done],
    ["Judgements, last 5 minutes", pace.slice(-5).reduce((sum, value) => sum + value, 0)],
    ["Agreement (Krippendorff's α)", stats.alpha === null ? "–" : stats.alpha.toFixed(2)],
    ["Cost of a reliably judged line", stats.cost_per_line === null ? "–" : stats.cost_per_line.toFixed(3)], ["Hours of judging", stats.hours],
  ];
  byId("tiles").replaceChildren(...tiles.map(([name, value]) => make("div", { class: "tile" }, make("b", { text: value }), name)));
  byId("alerts").replaceChildren(
    ...(stats.alerts.length
      ? stats.alerts.map((alert) => make("li", {}, make("strong", { text: "⚠ " + alert.kind + ": " }), `${alert.message}; ${alert.remedy}`))
      : [make("li", { text: "✓ None" })]));
  byId("pace").replaceChildren(bars(pace, `Judgements a minute over the last hour, ${pace.reduce((a, b) => a + b, 0)} in all`));
  const rounds = stats.rounds.map((one) => ({ x: one.round, y: one.correction_rate }));
  byId("rounds").replaceChildren(rounds.length ? curves([{ number: 1, points: rounds }], `Correction rate by round, ${percent(rounds.at(-1).y)} in the last`, `round ${rounds[0].x} to ${rounds.at(-1).x}`) : "No round yet");
  byId("people").replaceChildren(stats.annotators.length ? intervals(stats.annotators, "Sensitivity and specificity of each annotator; the People page has the numbers") : "Nobody has judged yet");
}

const source = new EventSource("/api/v1/events");
source.addEventListener("stats", (event) => { byId("live-state").textContent = "● Live"; show(JSON.parse(event.data)); });
source.addEventListener("error", () => { byId("live-state").textContent = "✗ Not connected, trying again"; });
