// A conversation. What a model thinks is shown, folded, and not sent back.
import { Run } from "./run.js";
import { chunksOf } from "./stream.js";
import { counted } from "./words.js";

const at = (id) => document.getElementById(id);

const element = (name, kind, text = "") => {
  const made = document.createElement(name);
  made.className = kind;
  made.textContent = text;
  return made;
};

export class Chat {
  #messages = [];
  #stopping = null;
  #key;

  // key: a function that gives the API key. failed(error): what is done about one.
  constructor(key, failed) {
    this.#key = key;
    at("say").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send(at("message").value.trim()).catch(failed);
    });
    at("message").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      at("say").requestSubmit();
    });
    at("halt").addEventListener("click", () => this.#stopping?.abort());
    at("clear").addEventListener("click", () => {
      this.#stopping?.abort();
      this.#messages = [];
      at("log").replaceChildren();
      at("message").focus();
    });
  }

  async #send(text) {
    if (!text || this.#stopping) return;
    at("message").value = "";
    const messages = this.#messages;
    messages.push({ role: "user", content: text });
    at("log").append(element("p", "said user", text));
    const reply = new Reply();
    at("log").append(reply.element);
    this.#stopping = new AbortController();
    this.#working(true);
    try {
      const body = { model: at("models").value, messages, stream: true, stream_options: { include_usage: true } };
      for await (const chunk of chunksOf("v1/chat/completions", body, this.#key(), this.#stopping.signal)) reply.take(chunk);
    } catch (error) {
      if (error.name !== "AbortError") {
        messages.pop();
        reply.element.remove();
        at("log").lastElementChild?.remove();
        at("message").value = text;
        throw error;
      }
    } finally {
      this.#stopping = null;
      this.#working(false);
    }
    reply.end();
    messages.push({ role: "assistant", content: reply.run.answer });
  }

  #working(on) {
    at("send").disabled = on;
    at("halt").disabled = !on;
    at("log").setAttribute("aria-busy", on);
  }
}

class Reply {
  run = new Run();
  element = element("div", "said assistant");
  #thinking = element("details", "thinking");
  #thought = element("pre", "soft");
  #text = element("div", "text");
  #facts = element("p", "small soft", "…");

  constructor() {
    this.#thinking.append(element("summary", "", "Thinking"), this.#thought);
    this.#thinking.hidden = true;
    this.#thinking.open = true;
    this.element.append(this.#thinking, this.#text, this.#facts);
  }

  take(chunk) {
    const { run } = this;
    run.take(chunk);
    this.#thinking.hidden = !run.thinking;
    if (run.answer && !this.#text.textContent) this.#thinking.open = false;
    this.#thought.textContent = run.thinking;
    this.#text.textContent = run.answer;
    const { progress, usage } = run;
    const parts = [];
    if (progress) {
      const [first] = progress.votes;
      parts.push(`${progress.ended} of ${progress.budget} traces ended`, `${run.count("stopped")} stopped`);
      if (first) parts.push(`${first.answer} has ${Math.round(100 * first.share)} % of the votes`);
    }
    if (usage) parts.push(counted(usage.completion_tokens, "token"));
    this.#facts.textContent = parts.join(" · ") || "…";
    this.element.scrollIntoView({ block: "end" });
  }

  end() {
    if (this.#facts.textContent === "…") this.#facts.textContent = "stopped";
    if (!this.run.answer && !this.run.thinking) this.#text.textContent = "(no text)";
  }
}
