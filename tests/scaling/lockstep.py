"""An engine that decodes scripted traces one token a step, and cases for it."""

import dataclasses
from collections import deque

from hypothesis import strategies as st

from h1r.engine.protocol import SamplingParams
from h1r.records import Trace
from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.parameters import DeepConf

STRIDE = 1000  # problem i's base seed is i * STRIDE


@dataclasses.dataclass
class Scripted:
    """What the model would say from one seed: one confidence per token, then an answer (or none)."""

    confidences: list[float]
    answer: str | None = "a"
    reason: str = "stop"


class LockstepEngine:
    """Decodes scripted traces one token per step in a fixed number of slots, first come first served."""

    def __init__(self, problems, slots=None):
        self.problems, self.slots = problems, slots
        self.requests = []
        self.generated = 0

    def stream(self, prompts, params):
        self.requests.append(list(params))
        self.waiting, self.running, self.count = deque(), [], 0
        for prompt, p in zip(prompts, params, strict=True):
            self.enter(prompt, p)
        while self.waiting or self.running:
            while self.waiting and (self.slots is None or len(self.running) < self.slots):
                self.running.append(self.waiting.popleft())
            ended = []
            for request in self.running:
                request["n"] += 1
                self.generated += 1
                reason = self.end_of(request)
                if reason:
                    ended.append((request, reason))
            self.running = [r for r in self.running if all(r is not e for e, _ in ended)]
            for request, reason in ended:
                yield self.trace(request, reason)

    def enter(self, prompt, p):
        scripts = self.problems[prompt[0]][p.seed - prompt[0] * STRIDE :]
        self.waiting.extend({"prompt": self.count, "j": j, "script": scripts[j], "p": p, "n": 0} for j in range(p.n))
        self.count += 1
        return self.count - 1

    def add(self, prompt, p):
        self.requests.append([p])
        return self.enter(prompt, p)

    def end_of(self, request):
        script, p, n = request["script"], request["p"], request["n"]
        whole = n == len(script.confidences)
        if whole and script.reason != "length":  # at one token an end comes before a doubt, and that before the limit
            return script.reason
        if p.confidence_threshold is not None and n >= p.confidence_window:
            last = script.confidences[n - p.confidence_window : n]
            if sum(last) / p.confidence_window < p.confidence_threshold:
                return "confidence"
        return script.reason if whole else None

    def cancel(self, prompt_index):
        gone = [r for r in self.running if r["prompt"] == prompt_index]
        self.running = [r for r in self.running if r["prompt"] != prompt_index]
        self.waiting = deque(r for r in self.waiting if r["prompt"] != prompt_index)
        return [self.trace(r, "cancelled") for r in gone]

    @staticmethod
    def trace(request, reason):
        script, n = request["script"], request["n"]
        whole = n == len(script.confidences)
        tokens = list(range(n))
        return Trace(
            prompt_index=request["prompt"], sample_index=request["j"], token_ids=tokens,
            text=script.answer if whole and script.answer else "", logprobs=[-0.5] * n, sampling_logprobs=[-0.5] * n,
            confidences=script.confidences[:n], finish_reason=reason,
            error="out of slots" if reason == "error" else None,
        )  # fmt: skip


def extract(text):
    return text or None


def groups(count):
    return [AnswerGroups(lambda left, right: left == right) for _ in range(count)]


def deepconf(budget, warmup=2, window=2, **other):
    return DeepConf(budget=budget, warmup=warmup, sampling=SamplingParams(confidence_window=window), **other)


# Windows that are powers of two and small whole confidences keep every mean and sum exact in floating point.
scripts = st.builds(
    Scripted,
    confidences=st.lists(st.integers(1, 8).map(float), min_size=1, max_size=9),
    answer=st.sampled_from(["a", "a", "a", "b", "c", None]),  # often enough alike for a consensus on the way
    reason=st.sampled_from(["stop", "length"]),
)


@st.composite
def cases(draw, problems=1):
    warmup = draw(st.integers(1, 4))
    budget = warmup + draw(st.integers(0, 6))
    # Values that a probability of small counts does not hit, so that rounding decides nothing.
    consensus, tau = draw(
        st.sampled_from([("share", None), *(("share", tau) for tau in (0.5, 0.75, 1.0)),
                         *(("lead", tau) for tau in (0.6, 0.8, 0.97))])
    )  # fmt: skip
    params = deepconf(
        budget, warmup, draw(st.sampled_from([1, 2, 4])),
        keep_top=draw(st.sampled_from([0.1, 0.5, 0.9])),
        tau=tau,
        consensus=consensus,
        voter=draw(st.sampled_from(["majority", "min_window"])),
        warmup_votes=draw(st.sampled_from(["above_threshold", "all"])),
    )  # fmt: skip
    return [draw(st.lists(scripts, min_size=budget, max_size=budget)) for _ in range(problems)], params
