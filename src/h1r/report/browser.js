"use strict";
// Reads index.js (what there is), then the list of one set of answers, then the texts of what is opened.
// Text of a model is set as textContent only.
(() => {
  const PAGE = 100;
  const place = document.currentScript.src.replace(/[^/]*$/, "");
  const at = (id) => document.getElementById(id);
  const sets = [];
  const lists = new Map();
  const texts = new Map();
  const waiting = new Map();
  let shown = [];
  let page = 0;

  const load = (file, key) =>
    new Promise((resolve, reject) => {
      waiting.set(key, resolve);
      const script = document.createElement("script");
      script.src = place + file;
      script.onerror = () => reject(new Error(file));
      script.onload = () => script.remove();
      document.head.append(script);
    });

  globalThis.h1r = {
    index: (found) => sets.push(...found),
    list: (set, columns) => {
      lists.set(set, columns);
      waiting.get(`list ${set}`)(columns);
    },
    texts: (set, chunk, rows) => {
      texts.set(`${set} ${chunk}`, rows);
      waiting.get(`texts ${set} ${chunk}`)(rows);
    },
  };

  const element = (name, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  const options = (select, values) => {
    select.replaceChildren(...values.map(([value, text]) => {
      const option = element("option", text);
      option.value = value;
      return option;
    }));
  };

  const current = () => Number(at("set").value);

  async function open() {
    const number = current();
    at("state").textContent = "reading the list";
    const list = lists.get(number) ?? (await load(`${number}.js`, `list ${number}`));
    const ends = [...new Set(list.finish)].sort();
    const kept = at("finish").value;
    options(at("finish"), [["", "any end"], ...ends.filter(Boolean).map((one) => [one, one])]);
    if (ends.includes(kept)) at("finish").value = kept;
    filter();
  }

  function filter() {
    const list = lists.get(current());
    if (!list) return;
    const verdict = at("verdict").value;
    const finish = at("finish").value;
    const problem = at("problem").value.trim();
    shown = [];
    for (let row = 0; row < list.verdict.length; row++) {
      if (verdict && list.verdict[row] !== verdict) continue;
      if (finish && list.finish[row] !== finish) continue;
      if (problem && !list.problem[row].includes(problem)) continue;
      shown.push(row);
    }
    page = 0;
    draw();
  }

  function draw() {
    const list = lists.get(current());
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const rows = shown.slice(page * PAGE, (page + 1) * PAGE).map((row) => {
      const line = element("tr");
      const button = element("button", list.problem[row]);
      button.type = "button";
      button.addEventListener("click", () => read(row));
      const first = element("td");
      first.append(button);
      line.append(
        first,
        element("td", String(list.sample[row]), "n"),
        element("td", list.verdict[row], list.verdict[row] === "right" ? "good" : "bad"),
        element("td", list.reason[row] || "–"),
        element("td", list.finish[row] || "–"),
        element("td", list.tokens[row]?.toLocaleString("en") ?? "–", "n"),
      );
      return line;
    });
    at("rows").replaceChildren(...rows);
    at("state").textContent =
      `${shown.length.toLocaleString("en")} of ${list.verdict.length.toLocaleString("en")} answers, page ${page + 1} of ${pages}`;
    at("before").disabled = page === 0;
    at("after").disabled = page === pages - 1;
  }

  async function read(row) {
    const number = current();
    const { chunks } = lists.get(number);
    let chunk = 0;
    while (chunk + 1 < chunks.length && chunks[chunk + 1] <= row) chunk++;
    const found = texts.get(`${number} ${chunk}`) ?? (await load(`${number}-${chunk}.js`, `texts ${number} ${chunk}`));
    const sample = found[row - chunks[chunk]];
    const parts = [];
    for (const [title, text] of sample.parts) {
      if (!text) continue;
      parts.push(element("h3", title), element("pre", text));
    }
    at("one").replaceChildren(element("h2", sample.title), ...parts);
    at("one").scrollIntoView();
    location.hash = `${number}/${row}`;
  }

  function start() {
    options(at("set"), sets.map((one, number) => [number, `${one.name}, ${one.model} (${one.answers.toLocaleString("en")})`]));
    for (const id of ["verdict", "finish"]) at(id).addEventListener("change", filter);
    at("problem").addEventListener("input", filter);
    at("set").addEventListener("change", open);
    at("before").addEventListener("click", () => { page--; draw(); });
    at("after").addEventListener("click", () => { page++; draw(); });
    const [number, row] = location.hash.slice(1).split("/").map(Number);
    if (number < sets.length) at("set").value = number;
    open().then(() => { if (row < lists.get(current()).verdict.length) read(row); });
  }

  document.addEventListener("DOMContentLoaded", start);
})();
