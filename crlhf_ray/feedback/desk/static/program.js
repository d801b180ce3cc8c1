// One program with every vote and posterior.
"use strict";

const SAID = { 1: "✓", "-1": "✗", 0: "?" };
const SURE = 0.8;

function verdict(p) {
  return p > SURE ? "correct" : p < 1 - SURE ? "wrong" : "unsure";
}

const vote = ({ name, label, rest }) =>
  make("span", { class: `vote ${MEANS[label]}`, title: `${name}: ${MEANS[label]}${rest ? ", with the rest" : ""}` },
    make("span", { "aria-hidden": "true", text: SAID[label] }), ` ${name}`, make("span", { class: "unseen", text: ` ${MEANS[label]}` }), rest ? " (rest)" : "");

async function load() {
  const item = await call("GET", `/items/${encodeURIComponent(JSON.parse(byId("item").textContent))}`);
  byId("about").replaceChildren(
    [item.name, item.problem_id, item.honeypot ? "honeypot" : item.round === null ? "work" : `round ${item.round}`, item.state, `${item.labels} reviews`].filter(Boolean).join(" · "), " ",
    ...buttons(item.item_id, item.honeypot, item.state, load));
  byId("prompt").replaceChildren(...item.prompt_html.flatMap((html) => [highlightedLine(html), "\n"]));
  byId("lines").replaceChildren(...item.lines.map((line) => {
    const p = line.p_correct, means = p === null ? "" : verdict(p);
    return make("tr", {}, make("td", { text: line.end ? "end" : line.number + 1 }), make("td", {}, line.end ? "Is anything missing here?" : highlightedLine(line.html, "source")),
      make("td", {}, ...(p === null ? ["–"] : [make("meter", { class: means, value: p, min: 0, max: 1, "aria-label": "P(correct)" }), ` ${p.toFixed(3)} ${means}`]), line.verdict ? ` · decided: ${MEANS[line.verdict]}` : ""),
      make("td", {}, ...line.votes.flatMap((one) => [vote(one), " "])));
  }));
  byId("who").textContent = item.people.length ? `In the hands of: ${item.people.map((person) => `${person.name} (${person.state})`).join(", ")}` : "Nobody has seen it yet";
  byId("comments").replaceChildren(...(item.comments.length
    ? item.comments.map((c) => make("li", { text: `${c.name}${c.line === null ? "" : `, line ${c.line + 1}`}: ${c.text}` }))
    : [make("li", { text: "None" })]));
}

guard(load);
