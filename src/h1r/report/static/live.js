// Asks /state every two seconds and draws it. What a model wrote is set as text only.
const PERIOD_MS = 2000;
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const units = [[Math.floor(whole / 86400), "d"], [Math.floor(whole / 3600) % 24, "h"], [Math.floor(whole / 60) % 60, "min"], [whole % 60, "s"]];
  const first = units.findIndex(([amount]) => amount);
  return units.slice(first, first + 2).filter(([amount]) => amount).map((one) => one.join(" ")).join(" ");
}

const count = (value) => value.toLocaleString("en");
const number = (value) => Number(value.toPrecision(3)).toString();

function card(what, value, meaning) {
  const made = element("div", undefined, "card");
  made.append(element("span", what, "what"), element("b", value));
  if (meaning) made.append(element("span", meaning));
  return made;
}

function cards(state) {
  const made = [];
  const { training, whole } = state;
  if (training) {
    const of = training.total === null ? "" : ` of ${count(training.total)}`;
    made.push(card(training.stage.toUpperCase(), `step ${count(training.step)}${of}`,
      training.seconds_per_step === null ? "" : `${duration(training.seconds_per_step)} a step`));
    if (training.left_seconds) made.push(card("Time left", `about ${duration(training.left_seconds)}`, `of ${training.stage.toUpperCase()}`));
  }
  if (whole && whole.left_seconds !== 0) {
    const known = whole.left_seconds !== null;
    made.push(card("Whole run", known ? `about ${duration(whole.left_seconds)}` : "–",
      known ? "left" : `left; not measured yet: ${whole.unmeasured.map((one) => one.replaceAll("_", " ")).join(", ")}`));
  }
  for (const [model, score] of Object.entries(state.scores)) {
    made.push(card(`Held-out, ${model}`, `${(100 * score).toFixed(1)}%`, "pass@1"));
  }
  return made;
}

function chart({ title, unit, log, steps, values }) {
  const [left, top, width, height] = [52, 10, 268, 130];
  const scale = log && Math.min(...values) > 0 ? Math.log : (value) => value;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const span = scale(high) - scale(low) || 1;
  const x = (step) => left + width * (step - steps[0]) / (steps.at(-1) - steps[0] || 1);
  const y = (value) => top + height * (1 - (scale(value) - scale(low)) / span);
  const picture = shape("svg", { viewBox: "0 0 330 178", role: "img", "aria-label": `${title}, last ${number(values.at(-1))}` });
  for (const value of low === high ? [low] : [low, high]) {
    picture.append(
      shape("line", { x1: left, x2: left + width, y1: y(value), y2: y(value), stroke: "var(--grid)" }),
      shape("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end", "font-size": 11, fill: "var(--soft)" }, number(value)),
    );
  }
  picture.append(shape("path", {
    d: steps.map((step, place) => `${place ? "L" : "M"}${x(step).toFixed(1)} ${y(values[place]).toFixed(1)}`).join(""),
    fill: "none", stroke: "var(--rl)", "stroke-width": 2,
  }));
  const labels = { "font-size": 11, fill: "var(--soft)", y: top + height + 18 };
  picture.append(
    shape("text", { ...labels, x: left }, `step ${count(steps[0])}`),
    shape("text", { ...labels, x: left + width, "text-anchor": "end" }, count(steps.at(-1))),
  );
  steps.forEach((step, place) => {
    const band = shape("rect", { class: "spot", x: x(step) - width / steps.length / 2, y: top, width: width / steps.length, height });
    band.append(shape("title", {}, `step ${step}: ${number(values[place])}`));
    picture.append(band);
  });
  const made = element("div");
  made.append(element("h4", title), picture, element("p", `${unit}${log ? ", log scale" : ""}; now ${number(values.at(-1))}`, "small soft"));
  return made;
}

const unfolded = new Map();  // by step: what the reader has opened or closed, which a new drawing keeps

function group({ step, problem, rollouts }, place) {
  const made = element("article", undefined, "example");
  const fold = element("details");
  fold.open = unfolded.get(step) ?? place === 0;
  const title = element("summary");
  title.append(element("b", `Step ${count(step)} `), element("span", problem, "tag"));
  title.addEventListener("click", () => unfolded.set(step, !fold.open));
  const answers = element("div", undefined, "answers");
  for (const one of rollouts) {
    const answer = element("div", undefined, "rl");
    answer.append(element("h4", `reward ${number(one.reward)}`), element("div", one.text, "trace"));
    answers.append(answer);
  }
  fold.append(title, answers);
  made.append(fold);
  return made;
}

const MARKS = (stage) => (stage.done ? "✓" : stage.running ? "▶" : "·");

function draw(state) {
  document.title = `${state.name}: ${state.state}`;
  at("kind").textContent = state.running ? "Open-H1R, a run in progress" : "Open-H1R, a run";
  at("name").textContent = state.name;
  at("state").textContent = state.state;
  at("cards").replaceChildren(...cards(state));
  at("stages").textContent = state.stages.map((one) =>
    `${MARKS(one)} ${one.name.replaceAll("_", " ")}${one.seconds === null ? "" : ` (${duration(one.seconds)})`}`).join("   ");
  const curves = state.curves.filter((one) => one.values.length > 1);
  at("curves").replaceChildren(...curves.map(chart));
  at("no-curves").textContent = curves.length ? "Point at a step for its number." : "No step of training yet.";
  at("rollouts").replaceChildren(...state.rollouts.map(group));
  at("no-rollouts").textContent = state.rollouts.length ? "Groups spread over the run, the newest first." : "No rollout yet.";
}

let before = "";

async function look() {
  try {
    const reply = await fetch("/state");
    const text = await reply.text();
    const state = JSON.parse(text);
    if (!reply.ok) at("state").textContent = state.error;
    else if (text !== before) draw(state);  // what did not change stays, and with it what is selected or pointed at
    before = text;
  } catch {
    at("state").textContent = "h1r watch does not answer; start it again";
    before = "";
  }
  setTimeout(look, PERIOD_MS);
}

look();
