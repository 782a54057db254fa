import json
from pathlib import Path

import pytest

from h1r.common.files import read_json, write_json
from h1r.common.memory import free_memory_bytes, installed_memory_bytes, peak_rss_bytes
from h1r.config import Recipe
from h1r.errors import UserError
from h1r.run.checkpoints import Checkpoints
from h1r.run.directory import Run
from h1r.run.metrics import Metrics, read_metrics


def test_a_run_keeps_its_resolved_recipe(tmp_path: Path) -> None:
    recipe = Recipe(name="a", seed=3)
    run = Run.open(tmp_path / "run", recipe)
    assert Recipe.model_validate(read_json(run.path / "recipe.json")) == recipe


def begin(run: Path, stage: str) -> None:
    """As a stage of training leaves a run that was stopped."""
    Checkpoints(run / stage).save(1, lambda directory: write_json(directory / "state.json", 1))


def test_a_run_refuses_another_recipe_and_names_the_difference(tmp_path: Path) -> None:
    Run.open(tmp_path, Recipe(name="a"))
    begin(tmp_path, "rl")
    with pytest.raises(UserError, match=r"they differ in rl\.steps"):
        Run.open(tmp_path, Recipe.model_validate({"name": "a", "rl": {"steps": 1}}))
    Run.open(tmp_path, Recipe(name="renamed"))


def test_a_run_of_a_version_that_lacked_a_key_goes_on_with_its_default(tmp_path: Path) -> None:
    old = Recipe(name="a").model_dump(mode="json")
    del old["rl"]["max_tests"], old["verify"]
    write_json(tmp_path / "recipe.json", old)
    begin(tmp_path, "rl")
    Run.open(tmp_path, Recipe(name="a"))
    write_json(tmp_path / "recipe.json", old)
    with pytest.raises(UserError, match=r"they differ in rl\.max_tests"):
        Run.open(tmp_path, Recipe.model_validate({"name": "a", "rl": {"max_tests": 3}}))


def test_a_run_of_a_version_whose_key_has_moved_says_so(tmp_path: Path) -> None:
    old = Recipe(name="a").model_dump(mode="json")
    old["corpus"]["verify_time_s"] = 5.0
    write_json(tmp_path / "recipe.json", old)
    with pytest.raises(UserError, match=r"recipe\.json: key `corpus\.verify_time_s` of an earlier version is now"):
        Run.open(tmp_path, Recipe(name="a"))


def test_a_run_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in ("file", "file/run"):
        with pytest.raises(UserError, match=r"cannot make .*file.*; give another --out"):
            Run.open(tmp_path / place, Recipe(name="a"))


def test_a_run_goes_on_with_another_engine(tmp_path: Path) -> None:
    Run.open(tmp_path, Recipe(name="a"))
    other = Recipe.model_validate({"name": "a", "engine": {"kind": "vllm", "max_model_len": 64}})
    assert read_json(Run.open(tmp_path, other).path / "recipe.json")["engine"]["kind"] == "vllm"


def test_settings_that_change_nothing_computed_may_change_where_a_run_goes_on(tmp_path: Path) -> None:
    def recipe(**rl: int) -> Recipe:
        return Recipe.model_validate({"name": "a", "rl": rl})

    Run.open(tmp_path, recipe(steps=5))
    begin(tmp_path, "rl")
    with pytest.raises(UserError, match=r"differ in rl\.steps, which may change with --resume\)"):
        Run.open(tmp_path, recipe(steps=9))
    with pytest.raises(UserError, match=r"differ in rl\.batch_size\)"):
        Run.open(tmp_path, recipe(steps=9, batch_size=1), resume=True)
    run = Run.open(tmp_path, recipe(steps=9, micro_batch_tokens=7), resume=True)
    assert read_json(tmp_path / "recipe.json")["rl"]["steps"] == 9
    Run.open(tmp_path, recipe(steps=9, micro_batch_tokens=7))
    (line,) = [json.loads(line) for line in (run.path / "attempts.jsonl").read_text().splitlines()]
    assert line["stage"] == "settings"
    assert line["changed"] == {"rl.micro_batch_tokens": [16384, 7], "rl.steps": [5, 9]}


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    run = Run.open(tmp_path, Recipe(name="a"))
    with pytest.raises(UserError, match=r"sft/model is missing; run `h1r sft .*` first"):
        run.need("sft/model", "sft")


def test_json_that_fails_to_write_leaves_the_old_file_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"new": object()})
    assert read_json(tmp_path / "x.json") == {"old": 1}


def test_json_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*x\.json"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"a":\n')
    with pytest.raises(UserError, match=r"x\.json, line 2: not JSON"):
        read_json(tmp_path / "x.json")


def test_stage_times_add_up_over_attempts_also_after_a_failure(tmp_path: Path) -> None:
    run = Run.open(tmp_path, Recipe(name="a"))
    write_json(tmp_path / "stages.json", {"sft": {"wall_seconds": 10.0, "peak_rss_bytes": 1}})
    with pytest.raises(RuntimeError), run.timed("sft"):
        raise RuntimeError("killed")
    stage = read_json(tmp_path / "stages.json")["sft"]
    assert 10 <= stage["wall_seconds"] < 11
    with run.timed("sft", add=False):
        pass
    assert read_json(tmp_path / "stages.json")["sft"]["wall_seconds"] < 1
    assert stage["peak_rss_bytes"] >= 1 << 20
    attempt = json.loads((tmp_path / "attempts.jsonl").read_text().splitlines()[0])
    assert attempt["stage"] == "sft"
    assert attempt["h1r"]


def test_peak_memory_counts_what_was_allocated() -> None:
    before = peak_rss_bytes()
    block = b"x" * (before + (64 << 20))
    assert peak_rss_bytes() >= len(block)


def test_resumed_metrics_hold_one_line_per_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    for step in range(5):
        metrics.log(step, {"loss": float(step)})
    metrics.close()
    with open(path, "a") as handle:
        handle.write('{"step": 5, "lo')
    metrics = Metrics(path, start_step=3)
    metrics.log(3, {"loss": -3.0})
    metrics.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(0, 0.0), (1, 1.0), (2, 2.0), (3, -3.0)]


def test_checkpoints_keep_the_newest_and_find_the_latest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() is None
    for step in (5, 10, 100):
        checkpoints.save(step, lambda directory, step=step: write_json(directory / "state.json", step))
    assert checkpoints.latest() == (100, tmp_path / "checkpoints" / "step_00000100")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_00000010", "step_00000100"]
    assert read_json(tmp_path / "checkpoints" / "step_00000010" / "state.json") == 10


def test_a_checkpoint_that_was_cut_off_is_not_taken_for_whole(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, lambda directory: write_json(directory / "state.json", 1))

    def killed(directory: Path) -> None:
        write_json(directory / "state.json", 2)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        checkpoints.save(2, killed)
    latest = checkpoints.latest()
    assert latest is not None
    assert latest[0] == 1
    checkpoints.save(2, lambda directory: write_json(directory / "state.json", 2))
    assert [step for step, _ in [checkpoints.latest() or (0, None)]] == [2]


def test_what_is_not_finite_is_logged_as_null(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.log(0, {"loss": float("nan"), "grad_norm": float("inf"), "tokens": 3, "absent": None})
    metrics.close()
    line = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert (line["loss"], line["grad_norm"], line["tokens"], line["absent"]) == (None, None, 3, None)


def test_a_run_may_go_on_with_another_executor_but_not_with_other_shards(tmp_path: Path) -> None:
    Run.open(tmp_path, Recipe.model_validate({"name": "a"}))
    write_json(tmp_path / "curate/work/read/0000-000000.json", {})
    Run.open(tmp_path, Recipe.model_validate({"name": "a", "corpus": {"executor": "ray", "workers": 3}}))
    with pytest.raises(UserError, match=r"corpus\.shard_records"):
        Run.open(tmp_path, Recipe.model_validate({"name": "a", "corpus": {"shard_records": 3}}))


MEMINFO = "MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 64 kB\n"
V2 = {"memory.max": "40000", "memory.current": "30000", "memory.stat": "anon 9000\ninactive_file 20000\n"}
V1 = {
    "memory/memory.limit_in_bytes": "40000", "memory/memory.usage_in_bytes": "30000",
    "memory/memory.stat": "inactive_file 5\ntotal_inactive_file 20000\n",
}  # fmt: skip


@pytest.mark.parametrize(
    ("group", "free"),
    [
        ({}, 65536),
        (V2, 30000),
        (V1, 30000),
        ({**V2, "memory.max": "max"}, 65536),
        ({**V2, "memory.max": "90000"}, 65536),
    ],
    ids=["none", "second version", "first version", "no limit", "more than the machine has"],
)
def test_free_memory_is_that_of_the_control_group_with_its_idle_file_pages(
    tmp_path: Path, group: dict[str, str], free: int
) -> None:
    for name, text in {"proc/meminfo": MEMINFO, **{f"sys/fs/cgroup/{key}": v for key, v in group.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory_bytes(tmp_path) == free


def test_no_more_is_free_than_is_installed() -> None:
    free, installed = free_memory_bytes(), installed_memory_bytes()
    assert free is None or installed is None or 0 < free <= installed


def test_free_memory_that_nobody_tells_is_none(tmp_path: Path) -> None:
    assert free_memory_bytes(tmp_path) is None
