"""A journal of every trace that ended, so that a run that was killed goes on without generating one of them again.

`Journal` is an engine over another engine. What is asked for is looked up first: a trace is a function of the prompt,
the sampling parameters and its seed, so one that the journal holds is given back as it was, those of a prompt in the
order in which they ended before. `ScalingRun` on top of it walks through the same states again (threshold, votes,
consensus) and only then reaches what must still be generated. Traces that were running at the kill start again from
their first token; what they had spent is lost, and counted by nobody.

With a fixed budget (no tau) the outcome is that of an unbroken run, to the last digit where the engine's own do not
depend on what else is in the batch (a vLLM server's do, by about 1e-7 nats). With tau, the traces that start again may
end in another order, so the consensus may fall a few traces earlier or later.

    path      JSON lines: key (a hash of the request without its `n`), and the trace, its arrays in base64

A last line that a kill cut short is dropped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h1r.common.lines import LineFile
from h1r.engine.protocol import Engine, Prompt, Running, SamplingParams
from h1r.records import Trace
from h1r.rollout.open_stream import OpenStream
from h1r.scaling.trace_arrays import decoded, encoded

if TYPE_CHECKING:
    import torch


class Journal:
    """`engine`, with every trace that it ends written to `path` before anyone sees it, and found there later.

    Raises `UserError` when another process holds the journal. Close it, or use it as a context manager.
    """

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine = engine
        self._file = LineFile(path)
        self._known: dict[str, Trace] = {}
        for line in self._file.lines():
            entry = json.loads(line)
            self._known[entry["key"]] = _decode(entry["trace"])
        self._rank = {key: place for place, key in enumerate(self._known)}
        self._live = OpenStream(engine)
        self._parts: list[tuple[int, int]] = []
        """Prompt and first sample of each prompt of the engine's own stream."""
        self._keys: dict[tuple[int, int], str] = {}
        """Of (prompt, sample) of the stream in progress."""
        self._recorded: deque[Trace] = deque()
        """Traces that ended in an earlier attempt, until they are handed out."""
        self._unasked: dict[int, tuple[Prompt, SamplingParams, list[tuple[int, int]]]] = {}
        """Prompts that wait for these to be handed out: (first sample, count) of what must be generated."""
        self._cut: dict[int, list[Trace]] = {}
        """Recorded cancelled traces of each prompt, until somebody cancels it."""
        self._count = 0

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; the journal cannot be used afterwards."""
        self._file.close()

    def forget(self) -> None:
        """Empties the journal: what it holds has become a result that is safe elsewhere."""
        self._known, self._rank = {}, {}
        self._file.clear()

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        """All traces, ordered by (prompt_index, sample_index)."""
        return sorted(self.stream(prompts, params), key=lambda trace: (trace.prompt_index, trace.sample_index))

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        """The traces that ended in an earlier attempt, in that order for each prompt, then the others as they end."""
        self._live, self._parts, self._keys, self._count = OpenStream(self._engine), [], {}, 0
        self._recorded, self._unasked, self._cut = deque(), {}, {}
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
        for prompt, one in zip(prompts, each, strict=True):
            self.add(prompt, one)
        yield from self._before()
        while self._live.waits:
            for trace in self._live:
                self._take([trace])
                yield trace
                yield from self._before()
            yield from self._before()

    def add(self, prompt: Prompt, params: SamplingParams) -> int:
        """See `Engine.add`. What is recorded of the prompt comes before the rest of it is asked for."""
        index, self._count = self._count, self._count + 1
        keys = list(_request_keys(prompt, params))
        self._keys |= {(index, sample): key for sample, key in enumerate(keys)}
        there = sorted((self._rank[key], sample) for sample, key in enumerate(keys) if key in self._known)
        ended = set[int]()
        for _, sample in there:
            again = dataclasses.replace(self._known[keys[sample]], prompt_index=index, sample_index=sample)
            if again.finish_reason == "cancelled":
                self._cut.setdefault(index, []).append(again)
            else:
                ended.add(sample)
                self._recorded.append(again)
        self._unasked[index] = prompt, params, list(_gaps([sample in ended for sample in range(params.n)]))
        if not self._recorded:
            self._ask()
        return index

    def cancel(self, prompt_index: int) -> list[Trace]:
        """See `Engine.cancel`. Of a prompt that was not asked for yet: what was cancelled in an earlier attempt."""
        if self._unasked.pop(prompt_index, None) is not None:
            return self._cut.pop(prompt_index, [])
        own = [number for number, (index, _) in enumerate(self._parts) if index == prompt_index]
        traces = [trace for number in own for trace in self._live.cancel(number)]
        self._take(traces)
        return traces

    def watch(self, look: Callable[[], None] | None) -> None:
        """See `Engine.watch`."""
        self._engine.watch(look)

    def progress(self) -> list[Running]:
        """See `Engine.progress`."""
        return [
            dataclasses.replace(one, prompt_index=index, sample_index=first + one.sample_index)
            for one in self._live.progress()
            for index, first in [self._parts[one.prompt_index]]
        ]

    def load_weights(self, weights: Mapping[str, torch.Tensor] | str | Path) -> None:
        """Passes them on, and forgets the traces of the old ones."""
        self._engine.load_weights(weights)
        self.forget()

    def _before(self) -> Iterator[Trace]:
        """Recorded traces; then what is missing of their prompts is asked for, unless it was cancelled meanwhile."""
        while self._recorded:
            yield self._recorded.popleft()
        self._ask()

    def _ask(self) -> None:
        for index, (prompt, params, gaps) in self._unasked.items():
            for first, count in gaps:
                self._parts.append((index, first))
                self._live.add(prompt, dataclasses.replace(params, n=count, seed=params.seed + first))
        self._unasked = {}

    def _take(self, traces: Sequence[Trace]) -> None:
        """Counts the engine's traces as the caller does, and writes them, all or (after a kill) a first part."""
        entries = []
        for trace in traces:
            index, first = self._parts[trace.prompt_index]
            trace.prompt_index, trace.sample_index = index, first + trace.sample_index
            if trace.finish_reason != "error":  # what failed is tried again
                key = self._keys[index, trace.sample_index]
                entries.append(json.dumps({"key": key, "trace": _encode(trace)}, ensure_ascii=False))
        self._file.append(entries)


def _request_keys(prompt: Prompt, params: SamplingParams) -> Iterator[str]:
    """A key for each trace of a request: equal keys, equal traces."""
    same = dataclasses.asdict(dataclasses.replace(params, n=1, seed=0))
    del same["keep_state"], same["keep_prompt"]  # they change no trace
    if same["loop"] is None:  # so that the journals of versions before it are read
        del same["loop"]
    base = json.dumps([[int(token) for token in prompt], same])
    for sample in range(params.n):
        yield hashlib.blake2b(f"{params.seed + sample} {base}".encode(), digest_size=12).hexdigest()


def _gaps(there: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """(first, count) of every run of False."""
    for absent, places in itertools.groupby(range(len(there)), key=lambda place: not there[place]):
        if absent:
            run = list(places)
            yield run[0], len(run)


def _encode(trace: Trace) -> dict[str, Any]:
    fields = {field.name: getattr(trace, field.name) for field in dataclasses.fields(trace)}
    return {**fields, **encoded(trace)}


def _decode(fields: dict[str, Any]) -> Trace:
    return Trace(**{**fields, **decoded(fields)})
