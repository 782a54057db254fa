// The race of the votes, and the tokens spent against the full budget.
import { counted } from "./words.js";

const SHOWN = 6;

export class Votes {
  #list;
  #rows = new Map(); // answer -> its row

  constructor(list) {
    this.#list = list;
  }

  update(run) {
    const { votes, votes_rest: rest } = run.progress;
    const whole = votes.reduce((sum, one) => sum + one.weight, rest);
    const told = votes.slice(0, SHOWN);
    const left = whole - told.reduce((sum, one) => sum + one.weight, 0);
    if (left > 1e-9 * whole) told.push({ answer: null, share: left / whole });
    const seen = new Set();
    told.forEach(({ answer, share }, rank) => {
      seen.add(answer);
      this.#row(answer, rank, share, told.length);
    });
    for (const [answer, row] of this.#rows) {
      if (seen.has(answer)) continue;
      row.remove();
      this.#rows.delete(answer);
    }
    this.#list.style.setProperty("--rows", Math.max(1, told.length));
    this.#list.classList.toggle("empty", !told.length);
  }

  #row(answer, rank, share, among) {
    let row = this.#rows.get(answer);
    if (!row) {
      row = document.createElement("li");
      for (const name of ["bar", "what", "share"]) {
        const part = document.createElement("span");
        part.className = name;
        row.append(part);
      }
      const what = row.querySelector(".what");
      what.textContent = answer ?? "other answers";
      what.title = what.textContent;
      row.classList.toggle("rest", answer === null);
      this.#rows.set(answer, row);
      this.#list.append(row);
    }
    const percent = `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
    row.style.setProperty("--rank", rank);
    row.style.setProperty("--share", share);
    row.classList.toggle("first", rank === 0 && answer !== null);
    row.querySelector(".share").textContent = percent;
    row.setAttribute("aria-posinset", rank + 1);
    row.setAttribute("aria-setsize", among);
  }
}

const STATES = [
  ["voted", "voted"], ["below_threshold", "below the threshold"], ["no_answer", "no answer"], ["stopped", "stopped"],
  ["cancelled", "cancelled"], ["error", "failed"], ["running", "running"],
];

export const stateWords = Object.fromEntries(STATES);

export class Meter {
  #meter;
  #said;
  #parts;

  constructor(meter, said) {
    this.#meter = meter;
    this.#said = said;
    this.#parts = STATES.map(([state]) => {
      const part = document.createElement("span");
      part.className = `part ${state}`;
      return part;
    });
    meter.append(...this.#parts);
  }

  update(run) {
    const { tokens, full_budget_tokens: full } = run.progress;
    const whole = Math.max(tokens, full ?? 0, 1);
    const spent = run.spent;
    STATES.forEach(([state], at) => this.#parts[at].style.setProperty("--share", (spent[state] ?? 0) / whole));
    const against = full === null ? "" : ` of about ${full.toLocaleString("en")} for the full budget`;
    const saved = full !== null && full > tokens ? `, ${Math.round(100 * (1 - tokens / full))} % ${run.over ? "saved" : "less so far"}` : "";
    const text = `${counted(tokens, "token")}${against}${saved}`;
    this.#meter.setAttribute("aria-valuenow", tokens);
    this.#meter.setAttribute("aria-valuemax", whole);
    this.#meter.setAttribute("aria-valuetext", text);
    const key = STATES.filter(([state]) => spent[state]).map(([state, words]) => {
      const one = document.createElement("span");
      one.className = `key-of ${state}`;
      one.textContent = `${words} ${spent[state].toLocaleString("en")}`;
      return one;
    });
    const first = document.createElement("b");
    first.textContent = text;
    this.#said.replaceChildren(first, ...key);
  }
}
