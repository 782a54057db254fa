"""SFT with sharded parameters (FSDP2): the weights of one process, and checkpoints that any grid goes on from."""

from __future__ import annotations

import dataclasses
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from gloo_workers import Groups, Workers
from pydantic import ValidationError
from test_parallel_sft import recipe_for, train
from tiny_training import assert_same_stage, metrics_of, read_weights, run_from
from torch import Tensor
from torch.distributed.tensor import DTensor

import h1r.__main__
import warm
from h1r.config import ParallelSection, Recipe, ValidationSection
from h1r.errors import UserError
from h1r.models import build, load, save
from h1r.models.shards import gathered, own_rows
from h1r.run.checkpoints import Checkpoints
from h1r.run.directory import Run
from h1r.train.checkpoint import Tensors, restore, save_checkpoint
from h1r.train.documents import read_samples
from h1r.train.optim import make_optimizer
from h1r.train.parallel.gradients import weights_of
from h1r.train.parallel.sampling_copy import SamplingCopy, checksums
from h1r.train.parallel.world import ALONE, check_copies, open_world
from h1r.train.sft import accumulate_gradients, sft
from h1r.train.start import saved_tokenizer, start, starting_model


def sharded_recipe(context: int = 1, shard: bool = True, tied: bool = False, **changes: Any) -> Recipe:
    recipe = recipe_for(context, **changes)
    model = recipe.model.model_copy(update={"overrides": {**recipe.model.overrides, "tie_word_embeddings": tied}})
    parallel = recipe.parallel.model_copy(update={"shard": shard})
    section = recipe.sft.model_copy(update={"validation": ValidationSection(documents=3, every=1)})
    return recipe.model_copy(update={"parallel": parallel, "model": model, "sft": section})


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Workers]]:
    """Two, three and four processes."""
    found = {n: Workers(n, tmp_path_factory.mktemp(f"world{n}")) for n in (2, 3, 4)}
    yield found
    for workers in found.values():
        workers.close()


@pytest.fixture(scope="module")
def alone(curated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = sharded_recipe(shard=False)
    run = run_from(curated, tmp_path_factory.mktemp("alone") / "run", recipe)
    assert sft(recipe, run)["steps"] >= 3
    return run.path / "sft"


def gaps(one: Path, other: Path) -> Tensor:
    """Of all weights, in one row."""
    left, right = read_weights(one / "model"), read_weights(other / "model")
    assert left.keys() == right.keys()
    return torch.cat([(left[name] - right[name]).abs().flatten() for name in left])


def worst_gap(one: Path, other: Path) -> float:
    return float(gaps(one, other).max())


@pytest.mark.parametrize(
    ("data", "context", "checkpoint", "copies"), [(2, 1, True, 1), (3, 1, False, 1), (2, 2, True, 1), (4, 1, False, 2)]
)
def test_sharded_processes_train_the_weights_of_one(
    grids: dict[int, Workers], curated: Path, alone: Path, tmp_path: Path, data: int, context: int, checkpoint: bool,
    copies: int,
) -> None:  # fmt: skip
    recipe = sharded_recipe(context)
    changes = {"checkpoint": checkpoint, "replicate": copies}
    recipe = recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update=changes)})
    run = run_from(curated, tmp_path / "run", recipe)
    ranks = data * context
    grids[ranks].call(train, recipe, [str(run.path)] * ranks)
    assert worst_gap(run.path / "sft", alone) < 1e-5
    for found, line in zip(metrics_of(run.path / "sft"), metrics_of(alone), strict=True):
        assert found == {key: pytest.approx(value, rel=1e-4) for key, value in line.items()}
    model = load(run.path / "sft" / "model")
    assert torch.equal(model.lm_head.weight, read_weights(run.path / "sft" / "model")["lm_head.weight"])


def held_in_copies(groups: Groups, recipe: Recipe, path: str) -> tuple[int, bool, list[int]]:
    """Of two copies of a model in shards: how many numbers this process has, whether it is one of a copy that does not
    count, and the checksums of its weights, against which it holds a whole copy."""
    world = open_world(recipe.parallel)
    _, trained = start(recipe, Run(Path(path)), world)
    model = weights_of(trained)
    SamplingCopy(model, torch.float32, world)  # raises where it differs
    sums = checksums(dict(model.named_parameters()), world)
    return sum(own_rows(one)[0].numel() for one in model.parameters()), world.spare, [*sums.values()]


def test_copies_of_shards_hold_halves_and_count_once(grids: dict[int, Workers], curated: Path, tmp_path: Path) -> None:
    recipe = sharded_recipe()
    copies = recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update={"replicate": 2})})
    run = run_from(curated, tmp_path / "run", recipe)
    found = grids[4].call(held_in_copies, copies, str(run.path))
    assert [spare for _, spare, _ in found] == [False, False, True, True]
    assert [size for size, _, _ in found[:2]] == [size for size, _, _ in found[2:]]
    (_, whole) = start(recipe.model_copy(update={"parallel": ParallelSection()}), run, ALONE)
    assert found[0][0] + found[1][0] == sum(one.numel() for one in weights_of(whole).parameters())
    expected = [*checksums(dict(weights_of(whole).named_parameters()), ALONE).values()]
    assert all(sums == expected for _, _, sums in found)


def test_copies_must_divide_the_processes_and_be_of_shards() -> None:
    with pytest.raises(UserError, match="2 copies of the shards do not divide 3 processes"):
        check_copies(ParallelSection(shard=True, replicate=2), 3)
    with pytest.raises(ValidationError, match="set shard, too"):
        ParallelSection(replicate=2)


def losses_of_parts(groups: Groups, recipe: Recipe, path: str) -> tuple[float, list[float]]:
    """Of one batch of all documents of a run, every third of which is of another part: a row each, so that some ranks
    have none of a part."""
    run = Run(Path(path))
    world = open_world(recipe.parallel)
    _, trained = start(recipe, run, world)
    tokenizer = saved_tokenizer(recipe, run)
    documents = read_samples(run.path / "curate" / "samples.jsonl", tokenizer, None, recipe.sft.seq_len)[:7]
    mixed = [dataclasses.replace(one, source=int(at % 3 == 2)) for at, one in enumerate(documents)]
    loss, _, each = accumulate_gradients(trained, mixed, [[at] for at in range(len(mixed))], 2, world, 2)
    return loss, each


def test_processes_log_the_loss_of_each_part_that_one_does(
    grids: dict[int, Workers], curated: Path, tmp_path: Path
) -> None:
    run = run_from(curated, tmp_path / "run", sharded_recipe())
    loss, each = losses_of_parts({}, sharded_recipe(shard=False), str(run.path))
    assert min(each) < loss < max(each)
    for ranks, context in ((3, 1), (4, 2)):
        said = grids[ranks].call(losses_of_parts, sharded_recipe(context), str(run.path))
        assert all(one == said[0] for one in said)
        assert [said[0][0], *said[0][1]] == pytest.approx([loss, *each], rel=1e-6)


def train_with_chunks(groups: Groups, recipe: Recipe, directories: list[str]) -> Any:
    with mock.patch("h1r.train.linear_logprobs.LOGITS_BYTES", 1 << 12):
        return train(groups, recipe, directories)


def test_sharded_processes_whose_head_runs_in_chunks_train_the_same_weights(
    grids: dict[int, Workers], curated: Path, alone: Path, tmp_path: Path
) -> None:
    run = run_from(curated, tmp_path / "run", sharded_recipe())
    grids[2].call(train_with_chunks, sharded_recipe(), [str(run.path)] * 2)
    assert worst_gap(run.path / "sft", alone) < 1e-5


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((3, 1, True), (4, 2, True, 2)),
        ((4, 1, True, 2), (1, 1, False)),
        ((1, 1, False), (3, 1, True)),
    ],
    ids=["sharded to copies", "copies to alone", "alone to sharded"],
)
def test_a_killed_run_goes_on_from_its_checkpoint_on_another_grid(
    grids: dict[int, Workers],
    curated: Path,
    alone: Path,
    tmp_path: Path,
    before: tuple[Any, ...],
    after: tuple[Any, ...],
) -> None:
    run = run_from(curated, tmp_path / "run", sharded_recipe())

    def attempt(grid: tuple[Any, ...], resume: bool, die_after: int) -> Any:
        ranks, context, shard, *copies = grid
        recipe = sharded_recipe(context, shard)
        if copies:
            changed = recipe.parallel.model_copy(update={"replicate": copies[0]})
            recipe = recipe.model_copy(update={"parallel": changed})
        if ranks == 1:
            return [train({}, recipe, [str(run.path)], resume, die_after, rank=0)]
        return grids[ranks].call(train, recipe, [str(run.path)] * ranks, resume, die_after)

    assert set(attempt(before, False, 3)) == {"killed"}
    found = Checkpoints(run.path / "sft").latest()
    assert found is not None
    assert found[0] == 2
    assert [(found[1] / name).exists() for name in ("optimizer", "optimizer.pt")] == [before[2], not before[2]]
    attempt(after, True, 0)
    assert worst_gap(run.path / "sft", alone) < 1e-5
    assert [line["step"] for line in metrics_of(run.path / "sft")] == [line["step"] for line in metrics_of(alone)]


def with_optimizer(recipe: Recipe, kind: str, intermediate_size: int = 48) -> Recipe:
    optimizer = recipe.sft.optimizer.model_copy(update={"kind": kind, "eps": 1e-3})  # eight bits round coarsely
    overrides = {**recipe.model.overrides, "intermediate_size": intermediate_size}
    model = recipe.model.model_copy(update={"overrides": overrides})
    sft_section = recipe.sft.model_copy(update={"optimizer": optimizer})
    return recipe.model_copy(update={"sft": sft_section, "model": model})


def train_eagerly(groups: Groups, *arguments: Any, **options: Any) -> Any:
    """torchao compiles its step, which takes a minute on a CPU; the same code runs without that."""
    with mock.patch.object(torch, "compile", lambda function, **_: function):
        return train(groups, *arguments, **options)


@pytest.mark.parametrize(("kind", "ranks"), [("muon", 3), ("adamw8bit", 2)])
def test_other_optimisers_in_shards_train_the_weights_of_one_process(
    grids: dict[int, Workers], curated: Path, tmp_path: Path, kind: str, ranks: int
) -> None:
    # Shards of 128 x 32 and 144 x 32 have whole blocks, so that their moments are in 8 bits as those of one process are
    one, many = (with_optimizer(sharded_recipe(shard=shard), kind, 256) for shard in (False, True))
    alone, run = (run_from(curated, tmp_path / name, one if name == "alone" else many) for name in ("alone", "run"))
    train_eagerly({}, one, [str(alone.path)], rank=0)
    grids[ranks].call(train_eagerly, many, [str(run.path)] * ranks)
    found = gaps(run.path / "sft", alone.path / "sft")
    if kind == "adamw8bit":
        # A moment on the edge between two codes may fall to either side, which moves its weight by a part of a step.
        aside = found > 1e-6
        assert int(aside.sum()) <= len(found) // 10_000
        assert float(found.max()) < 1e-4
        found = found[~aside]
    assert float(found.max()) < 1e-5


# With 257 rows, moments of 8 bits are in fp32 on one process and in 8 bits on the other.
@pytest.mark.parametrize(("kind", "rows"), [("adamw", 48), ("muon", 48), ("adamw8bit", 257)])
def test_a_resumed_sharded_run_equals_an_unbroken_one_bit_for_bit(
    grids: dict[int, Workers], curated: Path, tmp_path: Path, kind: str, rows: int
) -> None:
    recipe = with_optimizer(sharded_recipe(), kind, rows)
    unbroken, broken = (run_from(curated, tmp_path / name, recipe) for name in ("unbroken", "broken"))
    grids[2].call(train_eagerly, recipe, [str(unbroken.path)] * 2)
    assert grids[2].call(train_eagerly, recipe, [str(broken.path)] * 2, False, 3) == ["killed"] * 2
    grids[2].call(train_eagerly, recipe, [str(broken.path)] * 2, True)
    assert_same_stage(broken.path / "sft", unbroken.path / "sft")


Moments = dict[str, tuple[str, Tensor]]
"""Of each matrix, how this process keeps them and what they are."""


def moments_of(groups: Groups, recipe: Recipe, path: str, write: bool) -> Moments:
    """After a step that is saved, or as they are restored."""
    run, world = Run(Path(path)), open_world(recipe.parallel)
    model, trained = start(recipe, run, world)
    optimizer = make_optimizer(trained, recipe.sft.optimizer)
    checkpoints = Checkpoints(run.path / "sft")
    if write:
        for p in model.parameters():
            p.grad = p.detach().clone()
        with mock.patch.object(torch, "compile", lambda function, **_: function):
            optimizer.step()
        save_checkpoint(checkpoints, 1, Tensors.of(trained, optimizer, world), saved_tokenizer(recipe, run), {}, world)
    else:
        with mock.patch.object(torch, "compile", lambda function, **_: function):
            restore(checkpoints.at(1), trained, optimizer)
    found = {}
    for name, p in model.named_parameters():
        kept = optimizer.state[p]["exp_avg"]
        local: Any = kept.to_local() if isinstance(kept, DTensor) else kept
        if p.ndim == 2:
            found[name] = type(local).__name__, local.dequantize() if type(local).__name__ == EIGHT else local.clone()
    return found


EIGHT = "OptimState8bit"


@pytest.mark.parametrize(
    ("before", "after", "exact"), [(2, 1, True), (2, 3, True), (1, 2, True), (1, 3, True), (3, 1, False)]
)
def test_moments_of_eight_bits_are_read_by_another_number_of_processes(
    grids: dict[int, Workers], curated: Path, tmp_path: Path, before: int, after: int, exact: bool
) -> None:
    run = run_from(curated, tmp_path / "run", sharded_recipe())

    def at(ranks: int, write: bool) -> tuple[set[str], Tensor]:
        recipe = with_optimizer(sharded_recipe(shard=ranks > 1), "adamw8bit", 256)
        parts = (
            grids[ranks].call(moments_of, recipe, str(run.path), write)
            if ranks > 1
            else [moments_of({}, recipe, str(run.path), write)]
        )
        name = "model.layers.0.feed_forward.up_proj.weight"
        return {part[name][0] for part in parts}, torch.cat([part[name][1] for part in parts])

    (kept_before, expected), (kept_after, found) = at(before, True), at(after, False)
    # A third of 256 x 32 is no whole number of blocks, and in fp32
    assert [kept_before, kept_after] == [{"Tensor" if ranks == 3 else EIGHT} for ranks in (before, after)]
    assert float(expected.abs().max()) > 0
    largest = expected.reshape(-1, 256).abs().amax(1, keepdim=True)
    worst = float(((found - expected).reshape(-1, 256).abs() / largest).max())
    assert worst == 0 if exact else 0 < worst < 0.01


def written_without_room(groups: Groups, recipe: Recipe, path: str) -> tuple[str, list[str]]:
    """What is said where the last process may write no more than 10 KB, and what is left of the checkpoint."""
    run, world = Run(Path(path)), open_world(recipe.parallel)
    _, trained = start(recipe, run, world)
    optimizer = make_optimizer(trained, recipe.sft.optimizer)
    checkpoints, tokenizer = Checkpoints(run.path / "sft"), saved_tokenizer(recipe, run)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if world.mesh is None or dist.get_rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        save_checkpoint(checkpoints, 1, Tensors.of(trained, optimizer, world), tokenizer, {}, world)
    except UserError as error:
        return str(error), [str(one) for one in checkpoints.directory.iterdir()]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return "", []


def test_a_checkpoint_without_room_is_one_sentence_and_takes_none(
    grids: dict[int, Workers], curated: Path, tmp_path: Path
) -> None:
    run = run_from(curated, tmp_path / "run", sharded_recipe())
    for said, left in grids[2].call(written_without_room, sharded_recipe(), str(run.path)):
        assert said.startswith(f"cannot write a checkpoint in {run.path / 'sft' / 'checkpoints'}: ")
        assert said.endswith("; make room, and go on with --resume")
        assert left == []


def started(groups: Groups, recipe: Recipe, path: str, source: str | None) -> tuple[float, int, dict[str, Tensor]]:
    """The largest share of a matrix on this rank, all it holds, and the whole weights of a sharded start."""
    if source is not None:
        recipe = recipe.model_copy(
            update={"model": recipe.model.model_copy(update={"preset": None, "overrides": {}, "checkpoint": source})}
        )
    model, _ = start(recipe, Run(Path(path)), open_world(recipe.parallel))
    shares, held = [], 0
    for p in model.parameters():
        assert isinstance(p, DTensor)
        held += p.to_local().numel()
        shares += [p.to_local().numel() / p.numel()] if p.ndim >= 2 else []
    return max(shares), held, dict(gathered(model.state_dict()))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("from_file", [False, True], ids=["random", "checkpoint"])
def test_a_sharded_start_holds_a_share_and_has_the_weights_of_one_process(
    grids: dict[int, Workers], curated: Path, tmp_path: Path, tied: bool, from_file: bool
) -> None:
    recipe = sharded_recipe(tied=tied)
    run = run_from(curated, tmp_path / "run", recipe)
    expected = starting_model(recipe, run)
    source = str(save(build(expected.config, seed=9), tmp_path / "source")) if from_file else None
    weights = (load(source) if source else expected).state_dict()
    total = sum(p.numel() for p in expected.parameters())
    results = grids[3].call(started, recipe, str(run.path), source)
    assert sum(held for _, held, _ in results) == total
    for share, held, found in results:
        assert share < 0.4
        assert held < 0.36 * total
        assert found.keys() == weights.keys()
        assert [name for name in weights if not torch.equal(found[name], weights[name])] == []


def precisions(groups: Groups, recipe: Recipe, path: str) -> tuple[Any, set[str]]:
    summary = train(groups, recipe, [path] * dist.get_world_size())
    return summary, {str(t.dtype) for t in read_weights(Path(path) / "sft" / "model").values()}


def test_bfloat16_is_for_computing_and_the_weights_stay_fp32(
    grids: dict[int, Workers], curated: Path, alone: Path, tmp_path: Path
) -> None:
    recipe = sharded_recipe(compute_dtype="bfloat16")
    run = run_from(curated, tmp_path / "run", recipe)
    summary, kept = grids[2].call(precisions, recipe, str(run.path))[0]
    assert kept == {"torch.float32"}
    assert summary["loss"] == pytest.approx(metrics_of(alone)[-1]["loss"], rel=2e-2)
    assert 1e-7 < worst_gap(run.path / "sft", alone) < 5e-2


def test_one_process_of_torchrun_computes_in_bfloat16_too(curated: Path, alone: Path, tmp_path: Path) -> None:
    """In the environment that torchrun gives to its only process."""
    run = run_from(curated, tmp_path / "run", sharded_recipe(compute_dtype="bfloat16"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    given = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": "1",
    }
    done = warm.run(warm.PYTHON, h1r.__main__.__file__, "sft", "--json", run.path, env=given)
    assert done.returncode == 0, done.stderr
    assert {str(t.dtype) for t in read_weights(run.path / "sft" / "model").values()} == {"torch.float32"}
    assert 1e-7 < worst_gap(run.path / "sft", alone) < 5e-2


def types_cannot_be_mixed(groups: Groups, recipe: Recipe, path: str) -> str:
    return str(train(groups, recipe, [path] * dist.get_world_size()))


def test_weights_of_several_types_are_refused_in_shards_with_a_sentence(
    grids: dict[int, Workers], curated: Path, tmp_path: Path
) -> None:
    recipe = sharded_recipe()
    run = run_from(curated, tmp_path / "run", recipe)
    source = save(starting_model(recipe, run).cast(torch.bfloat16), tmp_path / "mixed")
    model = {"preset": None, "overrides": {}, "checkpoint": str(source)}
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=model)})
    for said in grids[2].call(types_cannot_be_mixed, recipe, str(run.path)):
        assert "weights in bfloat16 and float32, and shards take one type; set sft.compute_dtype" in said


def test_gathered_weights_are_written_in_files_of_bounded_size(tmp_path: Path) -> None:
    from tiny_training import CONFIG

    model = build(CONFIG, seed=4)
    held: list[int] = []

    def weights() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in model.state_dict().items():
            held.append(len(list(tmp_path.rglob("*.safetensors"))))
            yield name, tensor.detach()

    save(model, tmp_path / "model", max_shard_size=20_000, weights=weights())
    assert max(held) >= 2
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) == max(held) + 1
    again = load(tmp_path / "model").state_dict()
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, again[name])] == []
