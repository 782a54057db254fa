// One setting's form, and what it asks of the server. An empty field is left to the server's recipe.

const OF_DEEPCONF = ["budget", "keep_top", "tau", "warmup", "voter", "select", "verifier"];
const OF_REQUEST = ["temperature", "top_p", "max_tokens"];
const NOT_WITH_TESTS = ["select", "verifier"];

// The tests that a program must pass, as people write them: a piece of Python a line, or, for pieces of several lines and
// for inputs with outputs, a JSON list. Throws SyntaxError for what begins as one and is none.
export function testsOf(text) {
  return text.trim().startsWith("[") ? JSON.parse(text) : text.split("\n").filter((line) => line.trim());
}

export class Setting {
  #fields;

  constructor(name) {
    this.name = name;
    this.element = document.getElementById("setting-template").content.firstElementChild.cloneNode(true);
    this.#fields = this.element.elements;
    this.#fields.method.addEventListener("change", () => this.#show());
    this.rename(name);
  }

  rename(name) {
    this.name = name;
    this.element.querySelector("legend").textContent = name;
  }

  set(values) {
    for (const [name, value] of Object.entries(values)) this.#fields[name].value = value;
    this.#show();
  }

  // The body of the request, without what only this page needs.
  body(model, messages, seed, tests = []) {
    const chosen = (names) => Object.fromEntries(
      names.map((name) => [name, this.#fields[name]])
        .filter(([, field]) => field.value !== "" && !field.disabled)
        .map(([name, field]) => [name, field.type === "number" ? Number(field.value) : field.value]));
    const deepconf = { method: this.#fields.method.value };
    if (tests.length) Object.assign(deepconf, chosen(OF_DEEPCONF.filter((name) => !NOT_WITH_TESTS.includes(name))), { tests });
    else Object.assign(deepconf, chosen(OF_DEEPCONF));
    return { model, messages, seed, ...chosen(OF_REQUEST), deepconf };
  }

  // Majority neither stops nor weighs traces by confidence.
  #show() {
    for (const label of this.element.querySelectorAll("[data-only]")) {
      const off = label.dataset.only !== this.#fields.method.value;
      label.hidden = off;
      label.querySelector("input,select").disabled = off;
    }
  }
}
