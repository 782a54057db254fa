// What came, and comes, of one setting.
import { curlCall, pythonCall } from "./call.js";
import { Chart } from "./chart.js";
import { TraceList } from "./list.js";
import { Run } from "./run.js";
import { chunksOf } from "./stream.js";
import { Meter, stateWords, Votes } from "./votes.js";
import { counted } from "./words.js";

const PATH = "v1/chat/completions";
// What only the page needs: the events, every trace's curve, and every token.
const WATCHED = { stream: true, stream_options: { include_usage: true } };
const SEEN = { curves: 96, return_traces: "tokens" };

const PHASES = { warmup: "Warm-up", voting: "Voting", done: "Done" };
const WHY_ENDED = { budget: "the budget is spent", consensus: "the traces agree", "warmup consensus": "the warm-up agrees", "first ended": "the first have ended", cancelled: "the server stops" };

export class Panel {
  run = new Run();
  #body;
  #dialog;
  #chart;
  #votes;
  #meter;
  #list;
  #drawing = false;

  constructor(name, body, dialog) {
    this.element = document.getElementById("panel-template").content.firstElementChild.cloneNode(true);
    this.#body = body;
    this.#dialog = dialog;
    this.#find(".name").textContent = name;
    this.element.setAttribute("aria-label", name || "Result");
    this.#chart = new Chart(this.#find("canvas"), this.run);
    this.#votes = new Votes(this.#find(".votes"));
    this.#meter = new Meter(this.#find(".meter"), this.#find(".tokens-said"));
    this.#list = new TraceList(this.#find(".all"), this.run, (trace) => this.#open(trace), (trace) => this.#point(trace));
    this.#watchPointer();
    this.#showCall();
    new ResizeObserver(() => this.#draw()).observe(this.#find("canvas"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  // Asks the server, to the end. Throws as `chunksOf` does.
  async ask(key, signal, onChange) {
    const body = { ...this.#body, ...WATCHED, deepconf: { ...this.#body.deepconf, ...SEEN } };
    try {
      for await (const chunk of chunksOf(PATH, body, key, signal)) {
        this.take(chunk);
        onChange?.(this);
      }
    } finally {
      this.run.over = true;
      this.#show();
    }
  }

  take(chunk) {
    this.run.take(chunk);
    if (chunk.deepconf || chunk.usage) this.#show();
  }

  #find(selector) {
    return this.element.querySelector(selector);
  }

  #show() {
    const { progress } = this.run;
    if (!progress) return;
    this.#votes.update(this.run);
    this.#meter.update(this.run);
    this.#showAnswer();
    this.#draw();
    this.#list.update(this.run.histogram.ramp(progress.threshold));
    const label = [`Confidence of ${counted(this.run.traces.size, "trace")} over their tokens`, `${this.run.count("stopped")} stopped`,
      progress.threshold === null ? "no threshold" : `threshold ${progress.threshold.toFixed(2)} nats`];
    this.#find("canvas").setAttribute("aria-label", label.join(", "));
  }

  #showAnswer() {
    const { progress, leader, over, deepconf } = this.run;
    const share = progress.votes[0]?.share;
    const won = this.#find(".answer");
    won.textContent = leader ?? (over ? "no answer" : "…");
    won.classList.toggle("open", !deepconf);
    this.#find(".share").textContent = share === undefined ? "" : `${over && deepconf ? "wins" : "leads"} with ${Math.round(100 * share)} % of the votes`;
    const stopped = this.run.count("stopped");
    this.#find(".phase").textContent = [
      deepconf ? `Done in ${deepconf.seconds.toFixed(1)} s: ${WHY_ENDED[deepconf.stop_reason] ?? deepconf.stop_reason}` : over ? "Stopped" : PHASES[progress.phase],
      `${progress.ended} of ${progress.budget} traces ended`, `${stopped} stopped`, progress.running ? `${progress.running} running` : "",
    ].filter(Boolean).join(" · ");
    if (!deepconf) return;
    const { answer, thinking } = this.run;
    this.#find(".text").textContent = answer;
    this.#find(".thinking").hidden = !thinking;
    this.#find(".thinking").textContent = thinking;
    const how = { votes: "the surest of those that voted for the winner", confidence: "the surest trace", tests: "the surest of those that pass most tests" }[deepconf.selected_by];
    const passed = deepconf.tests ? `, ${Math.round(deepconf.tests * deepconf.tests_passed)} of ${deepconf.tests}` : "";
    this.#find(".which").textContent = deepconf.selected_trace === null ? "No trace has any text." : `Trace ${deepconf.selected_trace}: ${how}${passed}.`;
  }

  // Draws until nothing moves.
  #draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    const frame = (now) => {
      this.#drawing = this.#chart.frame(now) && this.element.isConnected;
      if (this.#drawing) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  #open(trace) {
    this.#dialog.open(trace, this.#list.shown.includes(trace) ? this.#list.shown : [...this.run.traces.values()]);
  }

  #point(trace) {
    const id = trace?.id ?? null;
    if (id === this.#chart.highlighted) return;
    this.#chart.highlighted = id;
    const hint = this.#find(".hint");
    hint.hidden = !trace;
    if (trace) hint.textContent = `#${trace.id} ${stateWords[trace.state]}, ${counted(trace.tokens, "token")}${trace.answer ? `, answers ${trace.answer}` : ""}`;
    this.#draw();
  }

  #watchPointer() {
    const canvas = this.#find("canvas");
    const under = (event) => this.run.progress && this.#chart.nearest(event.offsetX, event.offsetY);
    canvas.addEventListener("pointermove", (event) => this.#point(under(event)));
    canvas.addEventListener("pointerleave", () => this.#point(null));
    canvas.addEventListener("click", (event) => {
      const trace = under(event);
      if (trace) this.#open(trace);
    });
  }

  #showCall() {
    const language = this.#find(".language");
    const base = new URL("v1", document.baseURI).href;
    const show = () => {
      this.#find(".code").textContent = language.value === "curl"
        ? curlCall(new URL(PATH, document.baseURI).href, this.#body) : pythonCall(base, this.#body);
      this.#find(".copied").textContent = "";
    };
    language.addEventListener("change", show);
    this.#find(".copy").addEventListener("click", async () => {
      const code = this.#find(".code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        this.#find(".copied").textContent = "Copied.";
      } catch {
        getSelection().selectAllChildren(code);
        this.#find(".copied").textContent = "Selected: copy it with the keyboard.";
      }
    });
    show();
  }
}
