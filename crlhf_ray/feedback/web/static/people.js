"use strict";

const rate = (person, name) => `${percent(person[name])} (${percent(person[name + "_low"])} to ${percent(person[name + "_high"])})`;

async function load() {
  const [stats, audit] = await Promise.all([call("GET", "/stats"), call("GET", "/audit")]);
  byId("people").replaceChildren(...stats.annotators.map((person) =>
    make("tr", {}, make("td", {}, make("button", { type: "button", text: person.name, title: "Show the curve", onclick: () => curve(person) })),
      make("td", { text: person.labels }), make("td", { text: rate(person, "sensitivity") }), make("td", { text: rate(person, "specificity") }),
      make("td", { text: person.suspended ? "suspended" : person.qualified ? "at work" : "qualifying" }),
      make("td", {}, button(person, person.suspended ? "reinstate" : "suspend"), " ", button(person, "requalify")))));
  byId("audit").replaceChildren(...audit.map((row) =>
    make("tr", {}, make("td", { text: new Date(1000 * row.at).toLocaleString() }), make("td", { text: row.who }), make("td", { text: row.action }), make("td", { text: row.subject }))));
}

const button = (person, action) =>
  make("button", { type: "button", text: action, "aria-label": `${action} ${person.name}`, onclick: async () => { await call("POST", `/annotators/${person.annotator_id}/${action}`); load(); } });

async function curve(person) {
  const { curve: points } = await call("GET", `/annotators/${person.annotator_id}`);
  const series = (name, number) => ({ number, points: points.map((p) => ({ x: p.at, y: p[name], low: p[name + "_low"], high: p[name + "_high"] })) });
  byId("curve-title").textContent = `${person.name}: sensitivity (solid) and specificity (dashed) over time`;
  byId("curve-plot").replaceChildren(points.length ? curves([series("sensitivity", 1), series("specificity", 2)], `Sensitivity and specificity of ${person.name} over time`, "time") : "Nothing judged yet");
  byId("curve").hidden = false;
}

byId("invite").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { path } = await call("POST", "/invites", { role: new FormData(event.target).get("role") });
  byId("link").textContent = location.origin + path;
  byId("link").hidden = false;
  load();
});

load();
