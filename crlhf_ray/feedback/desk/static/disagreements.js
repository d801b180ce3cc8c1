// The lead's list of lines that people disagree on, and their verdicts.
"use strict";

let page = 1;

function decide(row, truth) {
  const text = truth > 0 ? "✓ Correct" : "✗ Wrong", where = row.end ? "the end" : `line ${row.line + 1}`;
  return make("button", { type: "button", text, "aria-label": `${MEANS[truth]}: ${where} of ${row.name ?? row.item_id}`, onclick: () => guard(async () => {
    if (!(await ask(`Is ${where} ${MEANS[truth]}?`, "It counts as known truth from now on, for everybody who marked it. This cannot be taken back.", text))) return;
    await call("POST", `/items/${encodeURIComponent(row.item_id)}/verdict`, { line: row.line, truth });
    await load();
    note("Your verdict is kept.");
    byId("main").focus(); // the button is gone
  }) });
}

async function load() {
  const rows = await call("GET", `/disagreements?page=${page}`);
  byId("page").textContent = `Page ${page}`;
  byId("before").disabled = page === 1;
  byId("none").hidden = rows.length > 0;
  byId("disputed").replaceChildren(...rows.map((row) => make("tr", {},
    make("td", {}, make("a", { href: `/lead/programs/${encodeURIComponent(row.item_id)}`, text: row.name ?? row.item_id })),
    make("td", { text: row.end ? "end" : row.line + 1 }),
    make("td", {}, row.end ? "Is anything missing here?" : highlightedLine(row.html, "source")),
    make("td", { text: row.votes.map(({ name, label }) => `${name}: ${MEANS[label]}`).join(", ") }),
    make("td", { text: row.p_correct === null ? "–" : row.p_correct.toFixed(3) }),
    make("td", {}, decide(row, 1), " ", decide(row, -1)))));
}

const turn = (pages) => { page = Math.max(1, page + pages); guard(load); };
byId("before").addEventListener("click", () => turn(-1));
byId("after").addEventListener("click", () => turn(1));
guard(load);
