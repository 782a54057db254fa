"""Context parallelism with real processes: loss and every gradient against one process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from gloo_workers import Groups, Workers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from h1r.errors import UserError
from h1r.kernels.contract import Kernels
from h1r.kernels.layout import Layout
from h1r.models import build
from h1r.models.falcon_h1.config import HybridConfig, preset
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from h1r.models.layers.exchange import HeadExchange, groups_of_share
from h1r.train.parallel import check_degree, degrees_allowed, parallelize, parity, parity_worst_error, share
from h1r.train.parallel.parity import Batch, context_error, random_lengths

HEADS_OF_7B: dict[str, Any] = {
    "num_attention_heads": 12, "num_key_value_heads": 2, "head_dim": 8, "mamba_n_heads": 24, "mamba_d_head": 4,
    "mamba_d_ssm": 96, "mamba_n_groups": 1, "mamba_d_state": 8,
}  # fmt: skip
BIASES = {"attention_bias": True, "mlp_bias": True, "projectors_bias": True, "mamba_proj_bias": True}


def geometry(**changes: Any) -> HybridConfig:
    """The 7B's heads in small widths, with its kind of multipliers; `changes` laid over it."""
    sizes = {
        "vocab_size": 32, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "mamba_chunk_size": 8,
        "initializer_range": 0.2, "key_multiplier": 0.7, "ssm_in_multiplier": 1.2, "attention_out_multiplier": 0.9,
        "ssm_multipliers": (0.9, 1.1, 0.8, 1.2, 0.7),
    }  # fmt: skip
    return HybridConfig(**{**HEADS_OF_7B, **sizes, **changes})


GEOMETRIES = {
    "7b": geometry(),
    "norm_after_gate": geometry(mamba_rms_norm=True),
    "norm_before_gate_two_groups": geometry(mamba_rms_norm=True, mamba_norm_before_gate=True, mamba_n_groups=2),
    "two_groups": geometry(mamba_n_groups=2),
    "groups_that_shares_cut_unevenly": geometry(mamba_n_groups=3),
    "one_kv_head": geometry(num_key_value_heads=1),
    "three_kv_heads": geometry(num_key_value_heads=3),
    "kv_heads_that_shares_cut_unevenly": geometry(num_key_value_heads=4),
    "as_many_kv_heads_as_query_heads": geometry(num_key_value_heads=12),
    "biases_tied_embeddings": geometry(**BIASES, tie_word_embeddings=True),
    "no_conv_bias_two_taps": geometry(mamba_conv_bias=False, mamba_d_conv=2),
    "time_step_limit": geometry(time_step_limit=(0.01, 0.05)),
}
LENGTHS = [1, 23, 1, 1, 60, 2, 9]
"""Longer than a share of 2 to 4 ranks, single tokens, and no border of a document on a border between ranks."""


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    found = Workers(4, tmp_path_factory.mktemp("gloo"))
    yield found
    found.close()


def errors_at(
    groups: Groups, degree: int, config: HybridConfig, lengths: list[int], dtype: torch.dtype, fault: str = ""
) -> dict[str, float]:
    """What `context_error` finds on the first `degree` ranks, with `fault` built in."""
    if dist.get_rank() >= degree:
        return {}
    model = build(config, seed=1, dtype=dtype).train()
    batch = Batch.random(config.vocab_size, lengths, seed=2)
    with FAULTS[fault](groups[degree]):
        return context_error(model, batch, groups[degree])


def worst(workers: Workers, *arguments: Any) -> float:
    errors = workers.call(errors_at, *arguments)[0]
    assert "loss" in errors
    assert "model.layers.1.mamba.conv1d.weight" in errors
    return max(errors.values())


@pytest.mark.parametrize("degree", [2, 3, 4])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_loss_and_every_gradient_equal_one_process(workers: Workers, name: str, degree: int) -> None:
    assert worst(workers, degree, GEOMETRIES[name], LENGTHS, torch.float32) < 1e-5


@settings(max_examples=25, deadline=None)
@given(
    degree=st.sampled_from([2, 3, 4]),
    lengths=st.lists(st.one_of(st.integers(1, 3), st.integers(1, 40)), min_size=1, max_size=6),
    kv=st.sampled_from([1, 2, 3, 4, 6, 12]),
    groups=st.sampled_from([1, 2, 3, 4, 6]),
    norm=st.sampled_from([(False, False), (True, False), (True, True)]),
    taps=st.integers(2, 5),
    chunk=st.sampled_from([1, 4, 64]),
)
@example(degree=4, lengths=[1], kv=2, groups=1, norm=(True, False), taps=4, chunk=4)
@example(degree=4, lengths=[3], kv=2, groups=1, norm=(True, False), taps=5, chunk=4)
@example(degree=3, lengths=[1, 1, 1, 1, 1, 2], kv=2, groups=1, norm=(True, False), taps=4, chunk=4)
@example(degree=4, lengths=[5, 5, 5, 5], kv=2, groups=1, norm=(True, False), taps=4, chunk=4)
def test_any_documents_on_any_geometry_equal_one_process(
    workers: Workers,
    degree: int,
    lengths: list[int],
    kv: int,
    groups: int,
    norm: tuple[bool, bool],
    taps: int,
    chunk: int,
) -> None:
    config = geometry(
        num_key_value_heads=kv, mamba_n_groups=groups, mamba_rms_norm=norm[0], mamba_norm_before_gate=norm[1],
        mamba_d_conv=taps, mamba_chunk_size=chunk, num_hidden_layers=2,
    )  # fmt: skip
    assert worst(workers, degree, config, lengths, torch.float64) < 1e-8


@contextmanager
def no_fault(group: Any) -> Iterator[None]:
    yield


@contextmanager
def replicas_not_summed(group: Any) -> Iterator[None]:
    """The gradient of a replicated column comes from the last rank that used it, not from all."""
    scatter = HeadExchange.scatter

    def from_one_rank(self: HeadExchange, y_TW: Tensor) -> Tensor:
        taken = [set().union(*(range(s.start, s.stop) for s in slices)) for slices in self.columns]
        columns = [column for s in self.columns[self.rank] for column in range(s.start, s.stop)]
        later = set().union(*taken[self.rank + 1 :])
        return scatter(self, y_TW * y_TW.new_tensor([float(column not in later) for column in columns]))

    with mock.patch.object(HeadExchange, "scatter", from_one_rank):
        yield


@contextmanager
def cut_at_ranks(group: Any, operator: str) -> Iterator[None]:
    """`operator` of the context-parallel model treats every border between ranks as one between documents."""
    degree = dist.get_world_size(group)

    def cut(layout: Layout) -> Layout:
        total = layout.num_tokens
        marks = sorted({*layout.cu_seqlens.tolist(), *(share(total, rank, degree).start for rank in range(degree))})
        return Layout.of([b - a for a, b in pairwise(marks)])

    def faulty(model: HybridForCausalLM, group: Any) -> HybridForCausalLM:
        kernels: Kernels = model.kernels
        whole = getattr(kernels, operator)

        def on_pieces(*arguments: Any) -> Tensor:
            return whole(*(cut(a) if isinstance(a, Layout) else a for a in arguments))

        return parallelize(model.use(dataclasses.replace(kernels, **{operator: on_pieces})), group)

    with mock.patch.object(parity, "parallelize", faulty):
        yield


@contextmanager
def parameters_not_summed(group: Any) -> Iterator[None]:
    with mock.patch.object(parity, "sync_gradients"):
        yield


FAULTS: dict[str, Any] = {
    "": no_fault,
    "replicas not summed": replicas_not_summed,
    "no convolution halo": lambda group: cut_at_ranks(group, "conv_silu"),
    "no state": lambda group: cut_at_ranks(group, "scan"),
    "attention on own tokens": lambda group: cut_at_ranks(group, "attention"),
    "parameters not summed": parameters_not_summed,
}


@pytest.mark.parametrize("fault", [name for name in FAULTS if name])
def test_a_fault_in_the_exchange_shows(workers: Workers, fault: str) -> None:
    assert worst(workers, 3, GEOMETRIES["7b"], LENGTHS, torch.float32, fault) > 1e-3


def exchanged_and_back(groups: Groups, num_tokens: int, columns: list[list[slice]], width: int) -> tuple[bool, bool]:
    """Whether a rank gets its columns of all tokens, and whether the way back is the adjoint of the way there."""
    exchange = HeadExchange(groups[len(columns)], columns)
    whole = torch.arange(num_tokens * width, dtype=torch.float64).view(num_tokens, width)
    mine = share(num_tokens, exchange.rank, exchange.degree)
    expected = torch.cat([whole[:, s] for s in columns[exchange.rank]], dim=-1)
    found = exchange.to_heads(whole[mine], num_tokens)
    holders = whole.new_zeros(width)
    for slices in columns:
        for s in slices:
            holders[s] += 1
    return torch.equal(found, expected), torch.equal(exchange.to_tokens(found), whole[mine] * holders)


@pytest.mark.parametrize("num_tokens", [1, 3, 4, 17])
def test_tokens_become_heads_and_heads_tokens(workers: Workers, num_tokens: int) -> None:
    columns = [[slice(rank, rank + 2), slice(5, 8), slice(6, 7)] for rank in range(4)]
    assert workers.call(exchanged_and_back, num_tokens, columns, 8) == [(True, True)] * 4


def refused_uncut(groups: Groups) -> str:
    model = parallelize(build(GEOMETRIES["7b"]), groups[4])
    with pytest.raises(ValueError, match="cut the batch") as caught:
        model.model(torch.zeros(40, dtype=torch.long), Layout.of([40]))
    return str(caught.value)


def test_a_batch_that_was_not_cut_is_refused(workers: Workers) -> None:
    assert all("holds 10 of 40 tokens" in message for message in workers.call(refused_uncut))


@given(num_tokens=st.integers(0, 300), degree=st.integers(1, 12))
def test_shares_cover_the_tokens_evenly(num_tokens: int, degree: int) -> None:
    shares = [range(num_tokens)[share(num_tokens, rank, degree)] for rank in range(degree)]
    assert [token for one in shares for token in one] == list(range(num_tokens))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(runs=st.integers(1, 12), groups=st.integers(1, 12), degree=st.integers(1, 12), data=st.data())
def test_every_head_of_a_share_finds_its_group(runs: int, groups: int, degree: int, data: st.DataObject) -> None:
    heads = groups * runs * degree
    rank = data.draw(st.integers(0, degree - 1))
    mine = range(heads)[share(heads, rank, degree)]
    found = groups_of_share(heads, groups, rank, degree)
    assert len(mine) % len(found) == 0
    run = len(mine) // len(found)
    assert [found[i // run] for i in range(len(mine))] == [head // (heads // groups) for head in mine]


def test_the_7b_may_use_2_3_4_6_or_12_ranks_and_8_is_refused_with_a_sentence() -> None:
    config = preset("7b")
    assert degrees_allowed(config) == [1, 2, 3, 4, 6, 12]
    for degree in degrees_allowed(config):
        check_degree(config, degree)
    with pytest.raises(
        UserError,
        match=r"^parallel\.context = 8 does not divide both the 12 query heads and the 24 SSM heads of this model; "
        r"set it to 1, 2, 3, 4, 6 or 12$",
    ):
        check_degree(config, 8)


def test_replication_is_no_more_than_needed() -> None:
    assert [groups_of_share(24, 1, rank, 6) for rank in range(6)] == [[0]] * 6
    assert [groups_of_share(12, 2, rank, 4) for rank in range(4)] == [[0], [0], [1], [1]]
    assert [groups_of_share(12, 2, rank, 3) for rank in range(3)] == [[0], [0, 1], [1]]
    assert [groups_of_share(32, 2, rank, 2) for rank in range(2)] == [[0], [1]]


@pytest.mark.slow
def test_six_ranks_equal_one_process() -> None:
    assert parity_worst_error(GEOMETRIES["7b"], 6, seed=3, tokens=150) < 1e-5


def test_parity_refuses_what_it_cannot_measure() -> None:
    with pytest.raises(UserError, match=r"parallel\.context = 8"):
        parity_worst_error(GEOMETRIES["7b"], 8)
    with pytest.raises(UserError, match="give at least 8"):
        parity_worst_error(GEOMETRIES["7b"], 2, tokens=7)


@given(tokens=st.integers(8, 400), seed=st.integers(0, 99))
def test_random_documents_hold_a_long_one_and_add_up(tokens: int, seed: int) -> None:
    lengths = random_lengths(tokens, seed)
    assert sum(lengths) == tokens
    assert max(lengths) >= tokens // 2
    assert min(lengths) >= 1
