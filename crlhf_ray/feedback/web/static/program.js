"use strict";

const SAID = { 1: "✓", "-1": "✗", 0: "?" };

async function load() {
  const item = await call("GET", `/items/${encodeURIComponent(JSON.parse(byId("item").textContent))}`);
  byId("about").textContent = `${item.problem_id} · ${item.honeypot ? "honeypot" : "work"} · ${item.state} · ${item.labels} judgements`;
  byId("prompt").textContent = item.prompt;
  byId("lines").replaceChildren(...item.lines.map((line) => {
    const p = line.p_correct;
    const verdict = p === null ? "" : p > 0.8 ? "correct" : p < 0.2 ? "wrong" : "unsure";
    return make("tr", { class: `row-${verdict}` }, make("td", { text: line.number + 1 }), make("td", {}, highlightedLine(line.html, "source")),
      make("td", { text: p === null ? "–" : `${p.toFixed(3)} ${verdict}` }), make("td", { text: line.votes.map((vote) => `${SAID[vote.label]} ${vote.name}`).join(", ") }));
  }));
  byId("comments").replaceChildren(...(item.comments.length
    ? item.comments.map((c) => make("li", { text: `${c.name}${c.line === null ? "" : `, line ${c.line + 1}`}: ${c.text}` }))
    : [make("li", { text: "None" })]));
}

load();
