"""What a person does after `kill -9`: the same command with --resume, through the real program."""

import shutil
import time
from pathlib import Path

import pytest

import warm

RECIPE = """
name = "kill"
threads = 1
[verify]
workers = 1
[model]
overrides = { hidden_size = 32, intermediate_size = 64, num_hidden_layers = 2, num_attention_heads = 2 }
[tokenizer]
vocab_size = 300
[chat]
system_prompt = ""
[problems]
train = 64
rl = 16
held_out = 8
[[corpus.sources]]
kind = "reasoning_gym"
family = "chain_sum"
knobs = { min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 2 }
[rl_pool]
rollouts = 2
keep_unsolved_share = 1.0
keep_overlong_share = 1.0
[sft]
epochs = 6
batch_size = 4
seq_len = 256
checkpoint_every = 3
[rl]
steps = 6
warmup_steps = 0
batch_size = 2
num_generations = 4
temperature = 1.0
max_tokens = 24
checkpoint_every = 2
"""


def run(*arguments: str | Path) -> None:
    warm.run(*arguments).check_returncode()


def kill_after_first_checkpoint(stage: str, path: Path) -> None:
    """Starts a stage, waits for a whole checkpoint, and kills it without warning."""
    process = warm.start(stage, path)
    try:
        deadline = time.monotonic() + 200
        while not list((path / stage / "checkpoints").glob("step_*")):
            assert process.poll() is None, f"{stage} ended before it could be killed"
            assert time.monotonic() < deadline, f"{stage} wrote no checkpoint"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not (path / stage / "model").exists(), f"{stage} was finished before it was killed"


def weights(path: Path, stage: str) -> bytes:
    return (path / stage / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_training_that_was_killed_resumes_to_the_bits_of_an_unbroken_run(tmp_path: Path) -> None:
    recipe, unbroken, killed = tmp_path / "kill.toml", tmp_path / "unbroken", tmp_path / "killed"
    recipe.write_text(RECIPE)
    run("curate", recipe, "--out", unbroken)
    shutil.copytree(unbroken, killed)
    for stage in ("sft", "rl"):
        run(stage, unbroken)
        kill_after_first_checkpoint(stage, killed)
        run(stage, "--resume", killed)
        assert weights(unbroken, stage) == weights(killed, stage), stage
