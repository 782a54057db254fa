"""A journal of every trace that ended, so that a run that was killed goes on without generating one of them again.

`Journal` is an engine over another engine. What is asked for is looked up first: a trace is a function of the prompt,
the sampling parameters and its seed, so one that the journal holds is given back as it was, in the order in which the
traces ended before. `DeepConfRun` on top of it walks through the same states again (threshold, votes, consensus) and
only then reaches what must still be generated. Traces that were running at the kill start again from their first token;
what they had spent is lost, and counted by nobody.

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
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h1r.engine.protocol import Engine, Prompt, Running, SamplingParams
from h1r.records import Trace
from h1r.scaling.lines import LineFile
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
        self._keys: dict[tuple[int, int], str] = {}
        """Of (prompt, sample) of the stream in progress."""
        self._parts: list[tuple[int, int]] = []
        """Prompt and first sample of each prompt of the engine's own stream, once that is in progress."""
        self._cut: dict[int, list[Trace]] = {}
        """Recorded cancelled traces of each prompt, until somebody cancels it."""
        self._cancelled: set[int] = set()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; the journal cannot be used afterwards."""
        self._file.close()

    def forget(self) -> None:
        """Empties the journal: what it holds has become a result that is safe elsewhere."""
        self._known = {}
        self._file.clear()

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        """All traces, ordered by (prompt_index, sample_index)."""
        return sorted(self.stream(prompts, params), key=lambda trace: (trace.prompt_index, trace.sample_index))

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        """The traces that ended in an earlier attempt, in that order, then the others as they end."""
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        self._keys = {
            (index, sample): key
            for index, (prompt, one) in enumerate(zip(prompts, each, strict=True))
            for sample, key in enumerate(_request_keys(prompt, one))
        }
        place = {key: where for where, key in self._keys.items()}
        self._parts, self._cut, self._cancelled = [], {}, set()
        ended: list[Trace] = []
        for key, trace in self._known.items():
            if key in place:
                index, sample = place[key]
                again = dataclasses.replace(trace, prompt_index=index, sample_index=sample)
                (self._cut.setdefault(index, []) if trace.finish_reason == "cancelled" else ended).append(again)
        found = {(trace.prompt_index, trace.sample_index) for trace in ended}
        yield from ended
        asked: list[SamplingParams] = []
        for index, one in enumerate(each):
            if index not in self._cancelled:
                for first, count in _gaps([(index, sample) in found for sample in range(one.n)]):
                    self._parts.append((index, first))
                    asked.append(dataclasses.replace(one, n=count, seed=one.seed + first))
        if not asked:
            return
        live = self._engine.stream([prompts[index] for index, _ in self._parts], asked)
        try:
            for trace in live:
                self._take([trace])
                yield trace
        finally:
            self._parts = []
            if isinstance(live, Generator):
                live.close()

    def cancel(self, prompt_index: int) -> list[Trace]:
        """See `Engine.cancel`. Before anything is generated: what was cancelled in an earlier attempt."""
        if not self._parts:
            self._cancelled.add(prompt_index)
            return self._cut.pop(prompt_index, [])
        own = [number for number, (index, _) in enumerate(self._parts) if index == prompt_index]
        traces = [trace for number in own for trace in self._engine.cancel(number)]
        self._take(traces)
        return traces

    def watch(self, look: Callable[[], None] | None) -> None:
        """See `Engine.watch`."""
        self._engine.watch(look)

    def progress(self) -> list[Running]:
        """See `Engine.progress`."""
        if not self._parts:
            return []
        return [
            dataclasses.replace(one, prompt_index=index, sample_index=first + one.sample_index)
            for one in self._engine.progress()
            for index, first in [self._parts[one.prompt_index]]
        ]

    def load_weights(self, weights: Mapping[str, torch.Tensor] | str | Path) -> None:
        """Passes them on, and forgets the traces of the old ones."""
        self._engine.load_weights(weights)
        self.forget()

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
    del same["keep_state"]  # it changes no trace
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
