// The traces of a run as lines that grow: tokens to the right, confidence (mean of the last window, nats) upwards.
//
// Finished pieces of lines are drawn once, to a layer; a frame copies it and adds what moves. The layer is drawn anew
// where an axis, the colours or a line's points change.
import { Ramp } from "./run.js";

const MARGIN = { left: 38, right: 12, top: 20, bottom: 34 };
const GROWTH_MS = 130;
const STILL = matchMedia("(prefers-reduced-motion: reduce)");
const DARK = matchMedia("(prefers-color-scheme: dark)");

export class Chart {
  #canvas;
  #run;
  #context;
  #layer = document.createElement("canvas");
  #views = new Map(); // id -> {shown: tokens, drawn: points on the layer, version}
  #axes = null;
  #colours = null;
  #stale = true;
  #last = 0;
  highlighted = null;

  constructor(canvas, run) {
    this.#canvas = canvas;
    this.#run = run;
    this.#context = canvas.getContext("2d");
    DARK.addEventListener("change", () => { this.#colours = null; });
  }

  // Draws a frame. Returns whether something still moves.
  frame(now) {
    const passed = Math.min(100, now - this.#last);
    this.#last = now;
    if (!this.#fit()) return false;
    this.#scale();
    const moving = this.#advance(passed);
    this.#drawLayer();
    const context = this.#context;
    context.clearRect(0, 0, this.#canvas.clientWidth, this.#canvas.clientHeight);
    this.#drawAxes(context);
    context.drawImage(this.#layer, 0, 0, this.#canvas.clientWidth, this.#canvas.clientHeight);
    this.#drawHeads(context);
    this.#drawEnds(context);
    this.#drawThreshold(context);
    this.#drawHighlighted(context);
    return moving;
  }

  // The trace whose line is nearest to a place of the canvas (CSS pixels), or null.
  nearest(x, y) {
    let found = null;
    let least = 18 ** 2;
    for (const trace of this.#run.traces.values()) {
      for (const [tokens, value] of trace.points) {
        const distance = (this.#x(tokens) - x) ** 2 + (this.#y(value) - y) ** 2;
        if (distance < least) [found, least] = [trace, distance];
      }
    }
    return found;
  }

  #fit() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const ratio = Math.min(2, devicePixelRatio);
    if (!width) return false;
    if (this.#canvas.width !== Math.round(width * ratio) || this.#canvas.height !== Math.round(height * ratio)) {
      for (const one of [this.#canvas, this.#layer]) {
        one.width = Math.round(width * ratio);
        one.height = Math.round(height * ratio);
        one.getContext("2d").scale(ratio, ratio);
      }
      this.#stale = true;
    }
    if (!this.#colours) {
      const style = getComputedStyle(this.#canvas);
      const probe = document.createElement("i");
      this.#canvas.after(probe);
      const colour = (name) => {
        probe.style.color = `var(--${name})`;
        return getComputedStyle(probe).color;
      };
      this.#colours = Object.fromEntries(
        ["ink", "soft", "grid", "panel", "rl", "deepconf", "base"].map((name) => [name, colour(name)]));
      this.#colours.ramp = Array.from({ length: Ramp.LEVELS }, (_, level) => colour(`r${level}`));
      this.#colours.font = style.fontFamily;
      probe.remove();
      this.#stale = true;
    }
    return true;
  }

  #scale() {
    const { histogram, longest, progress } = this.#run;
    const threshold = progress?.threshold ?? null;
    const [least, most] = histogram.count ? [histogram.percentile(0.002), histogram.percentile(0.998)] : [0, 10];
    const low = Math.min(least, threshold ?? least);
    const high = Math.max(most, threshold ?? most);
    const step = niceStep((high - low || 1) / 4);
    const axes = {
      right: niceEnd(longest), low: Math.max(0, Math.floor(low / step) * step), high: Math.ceil(high / step) * step || 1, step, threshold,
    };
    axes.high = Math.max(axes.high, axes.low + step);
    const old = this.#axes;
    if (!old || Object.keys(axes).some((name) => axes[name] !== old[name])) {
      this.#axes = axes;
      this.#stale = true;
    }
    const ramp = histogram.ramp(threshold);
    const wide = ramp.high - ramp.low;
    if (!this.ramp || this.#stale || Math.abs(ramp.low - this.ramp.low) + Math.abs(ramp.high - this.ramp.high) > wide / 6) {
      this.ramp = ramp;
      this.#stale = true;
    }
  }

  #advance(passed) {
    const share = STILL.matches ? 1 : 1 - Math.exp(-passed / GROWTH_MS);
    let moving = false;
    for (const [id, trace] of this.#run.traces) {
      let view = this.#views.get(id);
      if (!view) this.#views.set(id, (view = { shown: 0, drawn: 0, version: trace.version }));
      if (view.version !== trace.version) {
        if (view.drawn > 1) this.#stale = true;
        Object.assign(view, { drawn: 0, version: trace.version });
      }
      const missing = trace.tokens - view.shown;
      view.shown = missing < 0.5 ? trace.tokens : view.shown + missing * share;
      moving ||= view.shown < trace.tokens;
    }
    return moving;
  }

  #drawLayer() {
    const context = this.#layer.getContext("2d");
    if (this.#stale) {
      context.clearRect(0, 0, this.#canvas.clientWidth, this.#canvas.clientHeight);
      for (const view of this.#views.values()) view.drawn = 0;
    }
    this.#stale = false;
    const paths = this.#colours.ramp.map(() => new Path2D());
    for (const [id, { points }] of this.#run.traces) {
      const view = this.#views.get(id);
      let at = view.drawn;
      while (at < points.length && points[at][0] <= view.shown) at++;
      if (at > view.drawn) this.#trail(paths, points, Math.max(1, view.drawn), at);
      view.drawn = at;
    }
    this.#clipped(context, () => this.#stroke(context, paths, this.#run.traces.size > 96 ? 0.5 : 0.8, this.#width));
  }

  // The pieces of a line between points [from - 1] and [to - 1], each to the path of its colour.
  #trail(paths, points, from, to) {
    let level = -1;
    for (let at = from; at < to; at++) {
      const [tokens, value] = points[at];
      const now = this.ramp.level(value);
      if (now !== level) paths[now].moveTo(this.#x(points[at - 1][0]), this.#y(points[at - 1][1]));
      level = now;
      paths[level].lineTo(this.#x(tokens), this.#y(value));
    }
  }

  #stroke(context, paths, alpha, width) {
    context.globalAlpha = alpha;
    context.lineWidth = width;
    context.lineJoin = "bevel"; // at these widths as good as round, and drawn in half the time
    paths.forEach((path, level) => {
      context.strokeStyle = this.#colours.ramp[level];
      context.stroke(path);
    });
    context.globalAlpha = 1;
  }

  get #width() {
    return this.#run.traces.size > 96 ? 1 : 1.6;
  }

  // Where a line ends now: the point that it has reached, and the one between that and the next.
  #head(id, trace) {
    const { shown, drawn } = this.#views.get(id);
    const before = trace.points[drawn - 1];
    const after = trace.points[drawn];
    if (!before || !after) return [before ?? after, before ?? after];
    const share = (shown - before[0]) / (after[0] - before[0]);
    return [before, [shown, before[1] + share * (after[1] - before[1])]];
  }

  #drawHeads(context) {
    const paths = this.#colours.ramp.map(() => new Path2D());
    const dots = this.#colours.ramp.map(() => new Path2D());
    for (const [id, trace] of this.#run.traces) {
      const moving = this.#views.get(id).shown < trace.tokens;
      if ((!moving && trace.state !== "running") || !trace.points.length) continue;
      const [from, to] = this.#head(id, trace);
      const level = this.ramp.level(to[1]);
      paths[level].moveTo(this.#x(from[0]), this.#y(from[1]));
      paths[level].lineTo(this.#x(to[0]), this.#y(to[1]));
      dots[level].rect(this.#x(to[0]) - 1.5, this.#y(to[1]) - 1.5, 3, 3);
    }
    this.#clipped(context, () => {
      this.#stroke(context, paths, 0.8, this.#width);
      dots.forEach((path, level) => {
        context.fillStyle = this.#colours.ramp[level];
        context.fill(path);
      });
    });
  }

  // A cross where a trace was stopped, a dot where one voted: filled for the leader.
  #drawEnds(context) {
    const stopped = new Path2D();
    const leading = new Path2D();
    const others = new Path2D();
    const size = this.#run.traces.size > 96 ? 2.2 : 3.4;
    for (const [id, trace] of this.#run.traces) {
      if (this.#views.get(id).shown < trace.tokens || !trace.points.length) continue;
      const [x, y] = [this.#x(trace.points.at(-1)[0]), this.#y(trace.points.at(-1)[1])];
      if (trace.state === "stopped") {
        stopped.moveTo(x - size, y - size);
        stopped.lineTo(x + size, y + size);
        stopped.moveTo(x + size, y - size);
        stopped.lineTo(x - size, y + size);
      } else if (trace.state === "voted") {
        const path = trace.answer === this.#run.leader ? leading : others;
        path.moveTo(x + size, y);
        path.arc(x, y, size, 0, 7);
      }
    }
    this.#clipped(context, () => {
      context.lineWidth = 1.4;
      context.strokeStyle = this.#colours.rl;
      context.stroke(stopped);
      context.fillStyle = this.#colours.panel;
      context.fill(others);
      context.strokeStyle = this.#colours.soft;
      context.stroke(others);
      context.fillStyle = this.#colours.deepconf;
      context.fill(leading);
    });
  }

  #drawAxes(context) {
    const { right, low, high, step } = this.#axes;
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    context.font = `11px ${this.#colours.font}`;
    context.fillStyle = this.#colours.soft;
    context.strokeStyle = this.#colours.grid;
    context.lineWidth = 1;
    context.beginPath();
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (let value = low; value <= high + step / 2; value += step) {
      const y = Math.round(this.#y(value)) + 0.5;
      context.moveTo(MARGIN.left, y);
      context.lineTo(width - MARGIN.right, y);
      context.fillText(value.toFixed(step < 0.1 ? 2 : step < 1 ? 1 : 0), MARGIN.left - 7, y);
    }
    context.stroke();
    context.textAlign = "center";
    context.textBaseline = "top";
    const every = niceStep(right / (width < 420 ? 4 : 6));
    for (let tokens = every; tokens <= right; tokens += every) {
      context.fillText(tokens.toLocaleString("en"), Math.min(this.#x(tokens), width - 16), height - MARGIN.bottom + 6);
    }
    context.textAlign = "right";
    context.textBaseline = "bottom";
    context.fillText("tokens", width - MARGIN.right, height);
    context.textAlign = "left";
    context.textBaseline = "top";
    context.fillText("confidence, nats", 0, 0);
  }

  #drawThreshold(context) {
    const { threshold } = this.#axes;
    if (threshold === null) return;
    const y = this.#y(threshold);
    const right = this.#canvas.clientWidth - MARGIN.right;
    const label = `threshold ${threshold.toFixed(2)}`;
    context.strokeStyle = this.#colours.ink;
    context.lineWidth = 1.3;
    context.setLineDash([6, 4]);
    context.beginPath();
    context.moveTo(MARGIN.left, y);
    context.lineTo(right, y);
    context.stroke();
    context.setLineDash([]);
    context.font = `600 11px ${this.#colours.font}`;
    context.textAlign = "right";
    context.textBaseline = "bottom";
    context.lineWidth = 4;
    context.strokeStyle = this.#colours.panel;
    context.strokeText(label, right - 3, y - 3);
    context.fillStyle = this.#colours.ink;
    context.fillText(label, right - 3, y - 3);
  }

  #drawHighlighted(context) {
    const trace = this.#run.traces.get(this.highlighted);
    if (!trace?.points.length) return;
    const line = new Path2D();
    for (const [tokens, value] of trace.points) line.lineTo(this.#x(tokens), this.#y(value));
    this.#clipped(context, () => {
      context.lineJoin = "round";
      for (const [colour, width] of [[this.#colours.panel, 5], [this.#colours.ink, 2.2]]) {
        context.strokeStyle = colour;
        context.lineWidth = width;
        context.stroke(line);
      }
    });
  }

  #clipped(context, draw) {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    context.save();
    context.beginPath();
    context.rect(MARGIN.left, MARGIN.top - 6, width - MARGIN.left, height - MARGIN.top - MARGIN.bottom + 12);
    context.clip();
    draw();
    context.restore();
  }

  #x(tokens) {
    const wide = this.#canvas.clientWidth - MARGIN.left - MARGIN.right;
    return MARGIN.left + (tokens / this.#axes.right) * wide;
  }

  #y(value) {
    const { low, high } = this.#axes;
    const tall = this.#canvas.clientHeight - MARGIN.top - MARGIN.bottom;
    return MARGIN.top + (1 - (value - low) / (high - low)) * tall;
  }
}

// 1, 2 or 5 times a power of ten, not below `least`.
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= least * 0.999);
}

function niceEnd(longest) {
  const power = 10 ** Math.floor(Math.log10(longest));
  return power * [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find((factor) => factor * power >= longest);
}
