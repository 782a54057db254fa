// One trace, opened: its text with the confidence under each token.
import { Histogram } from "./run.js";
import { stateWords } from "./votes.js";
import { counted } from "./words.js";

const CHUNK = 4000; // tokens
const at = (id) => document.getElementById(id);

const WHY = {
  stopped: "its confidence fell below the threshold", voted: "it voted", below_threshold: "it ended, and does not vote: a window was below the threshold",
  no_answer: "it ended without an answer", cancelled: "the others agreed, or the run was ended", error: "the engine failed",
  running: "it still runs",
};

export class TraceDialog {
  #element = at("trace");
  #list = [];
  #trace = null;
  #told = 0;
  #ramp = null;

  constructor() {
    at("trace-close").addEventListener("click", () => this.#element.close());
    at("trace-before").addEventListener("click", () => this.#step(-1));
    at("trace-after").addEventListener("click", () => this.#step(1));
    at("trace-more").addEventListener("click", () => this.#more());
    at("trace-numbers").addEventListener("change", (event) => at("trace-text").classList.toggle("numbers", event.target.checked));
    this.#element.addEventListener("click", (event) => { if (event.target === this.#element) this.#element.close(); });
    this.#element.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step && !event.ctrlKey && !event.altKey && !event.metaKey) this.#step(step);
    });
  }

  // list: the traces to go through, in order.
  open(trace, list) {
    this.#list = list;
    this.#show(trace);
    if (!this.#element.open) this.#element.showModal();
    at("trace-text").focus();
  }

  #step(by) {
    const next = this.#list[this.#list.indexOf(this.#trace) + by];
    if (next) this.#show(next);
  }

  #show(trace) {
    this.#trace = trace;
    const place = this.#list.indexOf(trace);
    at("trace-before").disabled = place <= 0;
    at("trace-after").disabled = place >= this.#list.length - 1;
    at("trace-title").textContent = `Trace ${trace.id}: ${stateWords[trace.state] ?? trace.state}`;
    at("trace-facts").textContent = [
      counted(trace.tokens, "token"),
      trace.endedAt === null ? "" : `ended after ${trace.endedAt.toFixed(1)} s (${WHY[trace.state] ?? trace.state})`,
      trace.confidence === null ? "" : `lowest window ${trace.confidence.toFixed(2)} nats`,
      trace.answer === null || trace.answer === undefined ? "" : `answer ${trace.answer}`,
      trace.seed === undefined ? "" : `seed ${trace.seed}`,
    ].filter(Boolean).join(" · ");
    this.#told = 0;
    at("trace-text").replaceChildren();
    at("trace-text").scrollTop = 0;
    this.#scale();
    if (!trace.token_texts) at("trace-text").textContent = trace.text ?? "Its text comes when the run has ended.";
    this.#more();
  }

  #scale() {
    const told = new Histogram();
    for (const one of this.#trace.confidences ?? []) if (one !== null) told.add(one);
    this.#ramp = told.count ? told.ramp(null) : null;
    at("trace-scale").textContent = this.#ramp
      ? `confidence of a token, ${this.#ramp.low.toFixed(1)} to ${this.#ramp.high.toFixed(1)} nats` : "";
  }

  #more() {
    const { token_texts: texts = [], confidences = [] } = this.#trace;
    const end = Math.min(texts.length, this.#told + CHUNK);
    const parts = document.createDocumentFragment();
    for (; this.#told < end; this.#told++) parts.append(...token(texts[this.#told], confidences[this.#told], this.#ramp));
    if (texts.length) at("trace-text").append(parts);
    at("trace-more").hidden = this.#told >= texts.length;
  }
}

// A token over a stripe of its confidence's colour; the ends of its lines stand after it.
function token(text, confidence, ramp) {
  const found = document.createElement("span");
  const number = confidence === null ? "–" : confidence.toFixed(1);
  const body = text.replace(/\n+$/, "");
  found.className = `token r${confidence === null || !ramp ? 4 : ramp.level(confidence)}`;
  found.textContent = body || (text ? "⏎" : "∅");
  found.classList.toggle("blank", !body);
  found.dataset.confidence = number;
  found.title = `${number} nats`;
  return [found, text.slice(body.length)];
}
