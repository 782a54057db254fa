// The list of a run's traces. It is written while it is open.
import { stateWords } from "./votes.js";

const ORDERS = {
  id: (a, b) => a.id - b.id,
  confidence: (a, b) => (a.confidence ?? Infinity) - (b.confidence ?? Infinity),
  tokens: (a, b) => a.tokens - b.tokens,
  endedAt: (a, b) => (a.endedAt ?? Infinity) - (b.endedAt ?? Infinity),
};

export class TraceList {
  #details;
  #run;
  #open;
  #rows = new Map(); // id -> row
  #ramp = null;

  // open(trace), point(trace or null): what a row does when it is chosen, and when it is pointed at.
  constructor(details, run, open, point) {
    this.#details = details;
    this.#run = run;
    this.#open = { open, point };
    details.addEventListener("toggle", () => this.update(this.#ramp));
    for (const one of details.querySelectorAll("select")) one.addEventListener("change", () => this.update(this.#ramp));
  }

  get shown() {
    const state = this.#details.querySelector(".filter").value;
    const order = ORDERS[this.#details.querySelector(".order").value];
    return [...this.#run.traces.values()].filter((one) => !state || one.state === state).sort((a, b) => order(a, b) || a.id - b.id);
  }

  update(ramp) {
    this.#ramp = ramp;
    const { size } = this.#run.traces;
    this.#details.querySelector("summary").textContent = `Traces (${size}): which were stopped and when, and what they say`;
    if (!this.#details.open || !ramp) return;
    const rows = this.shown.map((trace) => this.#row(trace));
    const body = this.#details.querySelector("tbody");
    if (rows.length !== body.rows.length || rows.some((row, at) => body.rows[at] !== row)) {
      const focused = document.activeElement;
      body.replaceChildren(...rows);
      if (body.contains(focused)) focused.focus({ preventScroll: true });
    }
  }

  #row(trace) {
    let row = this.#rows.get(trace.id);
    if (!row) {
      row = document.createElement("tr");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `#${trace.id}`;
      button.setAttribute("aria-label", `Open trace ${trace.id}`);
      button.addEventListener("click", () => this.#open.open(trace));
      for (const [event, what] of [["focus", trace], ["blur", null]]) button.addEventListener(event, () => this.#open.point(what));
      row.addEventListener("pointerenter", () => this.#open.point(trace));
      row.addEventListener("pointerleave", () => this.#open.point(null));
      for (const kind of ["", "", "n", "n confidence", "n", "answer"]) row.insertCell().className = kind;
      row.cells[0].append(button);
      this.#rows.set(trace.id, row);
    }
    const texts = [
      stateWords[trace.state] ?? trace.state, trace.tokens.toLocaleString("en"), trace.confidence?.toFixed(2) ?? "–",
      trace.endedAt === null ? "–" : `${trace.endedAt.toFixed(1)} s`, trace.answer ?? "–",
    ];
    texts.forEach((text, at) => {
      if (row.cells[at + 1].textContent !== text) row.cells[at + 1].textContent = text;
    });
    row.cells[3].className = `n confidence r${trace.confidence === null ? 4 : this.#ramp.level(trace.confidence)}`;
    return row;
  }
}
