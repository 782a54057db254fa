// One request's run as its stream tells of it; the events are those of docs/reference/serve-events.md.

const BIN = 0.05; // nats
const BINS = 1200;
const MOST_POINTS = 240;
const ENOUGH_POINTS = 12;

// Confidences (nats) to levels 0 (doubtful) to 8 (sure), as the style sheet's --r0 to --r8 colour them; 4 is `middle`.
export class Ramp {
  static LEVELS = 9;

  constructor(low, middle, high) {
    Object.assign(this, { low, middle, high });
  }

  level(value) {
    const { low, middle, high } = this;
    const below = value < middle;
    const share = below ? (middle - value) / (middle - low || 1) : (value - middle) / (high - middle || 1);
    return 4 + (below ? -1 : 1) * Math.min(4, Math.round(4 * share));
  }
}

// Counts of values, for percentiles that cost nothing to keep.
export class Histogram {
  #bins = new Uint32Array(BINS);
  count = 0;

  add(value) {
    this.#bins[Math.max(0, Math.min(BINS - 1, Math.floor(value / BIN)))]++;
    this.count++;
  }

  percentile(share) {
    let left = share * this.count;
    const found = this.#bins.findIndex((size) => (left -= size) <= 0);
    return (Math.max(0, found) + 0.5) * BIN;
  }

  // Centred where a trace is stopped, or at the median while nothing is.
  ramp(threshold) {
    const [low, median, high] = [0.03, 0.5, 0.97].map((share) => this.percentile(share));
    const middle = threshold ?? median;
    return new Ramp(Math.min(low, middle - BIN), middle, Math.max(high, middle + BIN));
  }
}

export class Run {
  traces = new Map(); // id -> what the last event said, with `points` ([tokens, nats]) and `endedAt` (seconds)
  progress = null; // the last event
  histogram = new Histogram();
  longest = 1;
  thinking = "";
  answer = "";
  usage = null;
  over = false;

  // A chunk of the stream. Returns the traces that it changed.
  take(chunk) {
    const delta = chunk.choices?.[0]?.delta;
    this.thinking += delta?.reasoning_content ?? "";
    this.answer += delta?.content ?? "";
    this.usage = chunk.usage ?? this.usage;
    const told = chunk.deepconf;
    if (told?.event === "progress") this.progress = told;
    return (told?.traces ?? []).map((one) => this.#lay(one, told.seconds));
  }

  get deepconf() {
    return this.usage?.deepconf ?? null;
  }

  // The leader of the vote, or null.
  get leader() {
    return this.progress?.votes[0]?.answer ?? null;
  }

  // Tokens by what became of their traces: {state: tokens}.
  get spent() {
    const sums = {};
    for (const { state, tokens } of this.traces.values()) sums[state] = (sums[state] ?? 0) + tokens;
    return sums;
  }

  count(state) {
    let found = 0;
    for (const trace of this.traces.values()) found += trace.state === state;
    return found;
  }

  #lay(told, seconds) {
    const trace = this.traces.get(told.id) ?? { points: [], endedAt: null, version: 0 };
    const { curve, ...rest } = told;
    const running = told.state === "running";
    if (!running) trace.endedAt ??= seconds ?? null;
    Object.assign(trace, rest);
    this.traces.set(told.id, trace);
    this.longest = Math.max(this.longest, told.tokens);
    if (curve && trace.points.length < ENOUGH_POINTS) this.#replace(trace, curve);
    else if (curve?.length) this.#point(trace, told.tokens, curve.at(-1));
    else if (running) this.#point(trace, told.tokens, told.confidence);
    else if (!trace.points.length) this.#point(trace, told.tokens, told.confidence);
    return trace;
  }

  // Its curve says more than what came while it ran. `version` tells the chart that points have changed.
  #replace(trace, curve) {
    trace.points = [];
    trace.version++;
    curve.forEach((value, k) => this.#point(trace, Math.ceil(((k + 1) * trace.tokens) / curve.length), value));
  }

  #point(trace, tokens, value) {
    if (value === null || !tokens || tokens === trace.points.at(-1)?.[0]) return;
    trace.points.push([tokens, value]);
    if (tokens >= Math.min(this.progress?.window ?? 1, 8)) this.histogram.add(value); // few tokens are no mean
    if (trace.points.length > MOST_POINTS) {
      trace.points = trace.points.filter((_, k) => k % 2 || k > MOST_POINTS - 2);
      trace.version++;
    }
  }
}
