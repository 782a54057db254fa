// One setting's form, and what it asks of the server. An empty field is left to the server's recipe.

const OF_DEEPCONF = ["budget", "keep_top", "tau", "warmup", "voter", "select", "verifier"];
const OF_REQUEST = ["temperature", "top_p", "max_tokens"];
const NOT_WITH_TESTS = ["select", "verifier"];

// The tests that a program must pass, as people write them: a piece of Python a line, or, for pieces of several lines and
// for inputs with outputs, a JSON list. Throws SyntaxError for what begins as one and is none.
export function testsOf(text) {
  return text.trim().startsWith("[") ? JSON.parse(text) : text.split("\n").filter((line) => line.trim());
}

// What a field may hold, as the server says it in the words of JSON Schema. HTML has no bound that is itself left out.
function bound(field, { type, minimum, exclusiveMinimum, maximum, exclusiveMaximum }) {
  const [least, most] = [minimum ?? exclusiveMinimum ?? "", maximum ?? exclusiveMaximum ?? ""];
  Object.assign(field, { type: "number", step: type === "integer" ? "1" : "any", min: least, max: most });
  field.addEventListener("input", () => {
    const value = field.value === "" ? NaN : Number(field.value);
    field.setCustomValidity(
      value <= exclusiveMinimum ? `Give more than ${exclusiveMinimum}.`
      : value >= exclusiveMaximum ? `Give less than ${exclusiveMaximum}.` : "");
  });
}

function optionField({ name, default: usual, ...bounds }) {
  const label = document.createElement("label");
  const field = document.createElement("input");
  Object.assign(field, { name: `option-${name}`, placeholder: usual });
  bound(field, bounds);
  field.dataset.option = name;
  label.append(`${name} `, field);
  return label;
}

export class Setting {
  #fields;
  #own = new Map(); // a method's name -> what the server says of its options

  constructor(name) {
    this.name = name;
    this.element = document.getElementById("setting-template").content.firstElementChild.cloneNode(true);
    this.#fields = this.element.elements;
    this.#fields.method.addEventListener("change", () => this.#show());
    // A field that is refused is shown, or nobody would know why nothing is asked.
    this.element.addEventListener("invalid", ({ target }) => target.closest("details")?.setAttribute("open", ""), true);
    this.rename(name);
  }

  rename(name) {
    this.name = name;
    this.element.querySelector("legend").textContent = name;
  }

  // What the server has and what its numbers may be; the choice stays, where there is one, and is `first` otherwise.
  // A budget that nobody has chosen is that of a request without one.
  offer({ methods, numbers, scaling }, first) {
    const { budget } = this.#fields;
    if (budget.value === budget.defaultValue && scaling.budgets.length) {
      budget.defaultValue = Math.min(Math.max(...scaling.budgets), numbers.budget.maximum);
    }
    for (const [name, bounds] of Object.entries(numbers)) if (this.#fields[name]) bound(this.#fields[name], bounds);
    const chosen = this.#fields.method.value || first;
    this.#own = new Map(methods.map(({ name, options }) => [name, options]));
    this.#fields.method.replaceChildren(...methods.map(({ name }) => new Option(name, name)));
    this.#fields.method.value = this.#own.has(chosen) ? chosen : methods[0].name;
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
    const own = [...this.#ownFields.querySelectorAll("input")].filter((field) => field.value !== "");
    if (own.length) deepconf.options = Object.fromEntries(own.map((field) => [field.dataset.option, Number(field.value)]));
    return { model, messages, seed, ...chosen(OF_REQUEST), deepconf };
  }

  get #ownFields() {
    return this.element.querySelector(".own");
  }

  // A field that belongs to some methods is there with these alone, and an option with its method.
  #show() {
    const method = this.#fields.method.value;
    for (const label of this.element.querySelectorAll("[data-only]")) {
      const off = !label.dataset.only.split(" ").includes(method);
      label.hidden = off;
      label.querySelector("input,select").disabled = off;
    }
    const options = this.#own.get(method) ?? [];
    this.#ownFields.hidden = !options.length;
    this.#ownFields.replaceChildren(...options.map(optionField));
  }
}
