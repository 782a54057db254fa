"""What an engine shows of traces that have not ended."""

from h1r.config import EngineSection
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import Running, SamplingParams
from h1r.models.falcon_h1.hybrid import HybridForCausalLM

WINDOW = 3


def test_progress_is_each_running_trace_as_far_as_it_is(model: HybridForCausalLM) -> None:
    engine = NativeEngine(model, None, EngineSection(max_sequences=3), eos_token_ids=[])
    params = SamplingParams(n=2, max_tokens=7, confidence_window=WINDOW, confidence_top_k=4)
    seen: list[list[Running]] = []
    written: list[dict[tuple[int, int], list[int]]] = []

    def look() -> None:
        seen.append(engine.progress())
        names = [(one.prompt_index, one.sample_index) for one in seen[-1]]
        written.append({name: engine.written(*name) for name in names})
        assert all(engine.written(*name, first=2) == ids[2:] for name, ids in written[-1].items())
        assert engine.written(7, 0) == []

    engine.watch(look)
    traces = engine.generate([[1, 2], [3]], params)
    engine.watch(None)

    assert engine.progress() == []
    assert len(seen) == 14  # three slots run seven steps, then the fourth trace its own seven
    by_name = {(t.prompt_index, t.sample_index): t for t in traces}
    assert {(one.prompt_index, one.sample_index) for one in seen[0]} == {(0, 0), (0, 1), (1, 0)}
    for step, ids in zip(seen, written, strict=True):
        for one in step:
            whole = by_name[one.prompt_index, one.sample_index].token_ids
            assert ids[one.prompt_index, one.sample_index] == whole[: one.num_tokens]
            recent = by_name[one.prompt_index, one.sample_index].confidences[: one.num_tokens][-WINDOW:]
            assert one.group_confidence is not None
            assert abs(one.group_confidence - sum(recent) / len(recent)) < 1e-6
    assert [one.num_tokens for one in seen[3]] == [4, 4, 4]
    before = len(seen)
    engine.generate([[1, 2]], params)
    assert len(seen) == before
