"use strict";

let page = 1;

async function load() {
  const chosen = new FormData(byId("filter"));
  const honeypots = chosen.get("honeypots") === "true";
  const found = await call("GET", `/items?state=${chosen.get("state")}&honeypots=${honeypots}&page=${page}`);
  byId("page").textContent = page;
  byId("none").hidden = found.length > 0;
  byId("programs").replaceChildren(...found.map((item) =>
    make("tr", {},
      make("td", {}, make("a", { href: `/lead/programs/${encodeURIComponent(item.item_id)}`, text: item.item_id })), make("td", { text: item.problem_id }),
      make("td", { text: item.round ?? "–" }), make("td", { text: item.labels }), make("td", { text: percent(item.correction_rate) }),
      make("td", {}, honeypots
        ? make("button", { type: "button", text: "Retire", onclick: () => act(`/honeypots/${item.item_id}/retire`) })
        : make("button", { type: "button", text: "Ask one more", onclick: () => act(`/items/${item.item_id}/reopen`) })))));
}

async function act(path) {
  await call("POST", path);
  byId("live").textContent = "Done";
  load();
}

byId("filter").addEventListener("change", () => { page = 1; load(); });
byId("before").addEventListener("click", () => { page = Math.max(1, page - 1); load(); });
byId("after").addEventListener("click", () => { page += 1; load(); });
load();
