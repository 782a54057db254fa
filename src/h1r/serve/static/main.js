// The page: a question to one setting or two, or a conversation. Text of models and of people is only ever textContent.
import { Chat } from "./chat.js";
import { TraceDialog } from "./dialog.js";
import { Panel } from "./panel.js";
import { Setting, testsOf } from "./settings.js";
import { getJson } from "./stream.js";
import { counted } from "./words.js";

const KEY = "h1r-api-key";
const at = (id) => document.getElementById(id);

const dialog = new TraceDialog();
const settings = [new Setting(""), new Setting("Setting B")];
let model = "";
let stopping = null;

const key = () => sessionStorage.getItem(KEY) ?? "";
const say = (text, bad = false) => {
  at("state").textContent = text;
  at("state").classList.toggle("bad", bad);
};

function failed(error) {
  if (error.name === "AbortError") return say("Stopped.");
  if (error.status === 401) {
    at("unlock").hidden = false;
    at("key").focus();
  }
  return say(error.message, true);
}

async function solve() {
  const seed = at("seed").value === "" ? Math.floor(Math.random() * 2 ** 32) : Number(at("seed").value);
  const messages = [{ role: "user", content: at("question").value.trim() }];
  const asked = at("compare").checked ? settings : settings.slice(0, 1);
  let tests;
  try {
    tests = testsOf(at("tests").value);
  } catch {
    return say("The tests begin as a JSON list and are none; mend them, or write a line of Python for each.", true);
  }
  const panels = asked.map((one) => new Panel(one.name, one.body(model, messages, seed, tests), dialog));
  at("panels").replaceChildren(...panels.map((one) => one.element));
  stopping = new AbortController();
  at("start").disabled = true;
  at("stop").disabled = false;
  say("Asked.");
  let phase = "";
  const changed = ({ run }) => {
    if (run.progress && run.progress.phase !== phase) {
      phase = run.progress.phase;
      if (phase === "voting") say(run.progress.warmup ? "The warm-up has ended; the traces vote." : "The traces vote.");
    }
  };
  try {
    await Promise.all(panels.map((one) => one.ask(key(), stopping.signal, changed)));
    say(verdict(panels.map((one) => one.run)));
  } catch (error) {
    stopping.abort();
    failed(error);
  } finally {
    at("start").disabled = false;
    at("stop").disabled = true;
  }
}

// What came of it, in a sentence or two.
function verdict(runs) {
  const answers = runs.map((run) => run.deepconf.answer ?? "nothing that the verifier reads as an answer");
  const tokens = runs.map((run) => run.usage.completion_tokens);
  if (runs.length === 1) return `The model answers ${answers[0]}, from ${counted(tokens[0], "token")}.`;
  const [less, more] = tokens[0] < tokens[1] ? [0, 1] : [1, 0];
  const share = Math.round(100 * (1 - tokens[less] / tokens[more]));
  const same = answers[0] === answers[1] ? `Both answer ${answers[0]}.` : `A answers ${answers[0]}, B answers ${answers[1]}.`;
  return `${same} ${"AB"[less]} spent ${share} % fewer tokens than ${"AB"[more]}: ${tokens[less].toLocaleString("en")} against ${tokens[more].toLocaleString("en")}.`;
}

function showSettings() {
  const two = at("compare").checked;
  settings[0].rename(two ? "Setting A" : "");
  at("settings").replaceChildren(...(two ? settings : settings.slice(0, 1)).map((one) => one.element));
  at("settings").classList.toggle("two", two);
  at("panels").classList.toggle("two", two);
}

function watchTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const choose = (tab, focus) => {
    for (const one of tabs) {
      one.setAttribute("aria-selected", one === tab);
      one.tabIndex = one === tab ? 0 : -1;
      at(one.getAttribute("aria-controls")).hidden = one !== tab;
    }
    if (focus) tab.focus();
  };
  tabs.forEach((tab, number) => {
    tab.addEventListener("click", () => choose(tab, false));
    tab.addEventListener("keydown", ({ key: pressed }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[pressed];
      if (step) choose(tabs[(number + step + tabs.length) % tabs.length], true);
    });
  });
}

async function open() {
  const late = setTimeout(() => say("The model is being loaded."), 500);
  try {
    const { data } = await getJson("v1/models", key());
    at("unlock").hidden = true;
    model = data[0].id;
    at("model").textContent = model;
    document.title = `${model}: Open-H1R`;
    at("models").replaceChildren(...data.map(({ id }) => new Option(id, id)));
    settings.forEach((one, number) => one.offer(data[0], [data[0].scaling.method, "majority"][number]));
    say("");
  } catch (error) {
    failed(error);
  } finally {
    clearTimeout(late);
  }
}

showSettings();
watchTabs();
new Chat(key, failed);
at("compare").addEventListener("change", showSettings);
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  solve();
});
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
});
at("stop").addEventListener("click", () => stopping?.abort());
at("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, at("key").value.trim());
  open();
});
open();
