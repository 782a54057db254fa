"""The benchmark's reference algorithm against ours, with the options that make the two the same."""

import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from lockstep import deepconf, extract, groups, scripts

from h1r.records import Trace
from h1r.scaling.replay import simulate_many

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from deepconf_reference import reference_online

WARMUP = 11  # its 90th percentile is one of its values, so no interpolation can fall on the edge of rounding


def recorded(script, sample):
    tokens = list(range(len(script.confidences)))
    nothing = [0.0] * len(tokens)
    return Trace(0, sample, tokens, script.answer or "", nothing, nothing, script.confidences, script.reason)


@given(st.lists(scripts, min_size=WARMUP, max_size=WARMUP + 8), st.sampled_from([2, 4]))
def test_the_reference_differs_from_ours_by_its_forced_end_tokens_only(problem, window):
    traces = [recorded(script, sample) for sample, script in enumerate(problem)]
    params = deepconf(len(traces), warmup=WARMUP, window=window, keep_top=0.10)
    [solution] = simulate_many([traces], params, extract=extract, groups=groups(1))
    answer, tokens = reference_online(traces, len(traces), WARMUP, 10, window)
    assert answer == (None if solution.fallback else solution.answer)
    stopped = [t for t, state in zip(solution.traces, solution.states, strict=True) if state == "stopped"]
    forced = sum(t.num_tokens < traces[t.sample_index].num_tokens for t in stopped)  # at the limit there is no room
    assert tokens == solution.tokens_total + forced
