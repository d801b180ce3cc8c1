// The lead's list of programs.
"use strict";

const PAGE = 50; // programs a page, as the API gives them
let page = 1;
let asked = 0; // answers may come out of order: only the last question counts

async function load() {
  const question = ++asked;
  const { state, honeypots, round } = Object.fromEntries(new FormData(byId("filter")));
  const found = await call("GET", `/items?state=${state}&honeypots=${honeypots}&page=${page}${round === "" ? "" : `&round=${Number(round)}`}`);
  if (question !== asked) return;
  byId("page").textContent = `Page ${page}`;
  byId("before").disabled = page === 1;
  byId("after").disabled = found.length < PAGE;
  byId("none").hidden = found.length > 0;
  byId("programs").replaceChildren(...found.map((item) => make("tr", {},
    make("th", { scope: "row" }, make("a", { href: `/lead/programs/${encodeURIComponent(item.item_id)}`, text: item.name ?? item.item_id })),
    make("td", { text: item.problem_id }), make("td", { text: item.round ?? "–" }), make("td", { text: item.labels }), make("td", { text: percent(item.correction_rate) }),
    make("td", {}, ...buttons(item.item_id, honeypots === "true", item.state, load)))));
}

function turn(pages) {
  page = Math.max(1, page + pages);
  guard(load);
}

byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("filter").addEventListener("input", () => { page = 1; guard(load); });
byId("before").addEventListener("click", () => turn(-1));
byId("after").addEventListener("click", () => turn(1));

byId("import").addEventListener("submit", (event) => {
  event.preventDefault();
  guard(async () => {
    const files = await Promise.all([...byId("files").files].map(async (file) => ({ name: file.name, text: await file.text() })));
    const { programs, changed, known, honeypots: traps, reviews } = await call("POST", "/import", { files, language: byId("language").value.trim() || null });
    byId("import").reset();
    await load();
    note(`${programs} new programs (${traps} honeypots among the new and changed ones), ${changed} changed, ${known} known already, ${reviews} reviews.`);
  });
});
guard(load);
