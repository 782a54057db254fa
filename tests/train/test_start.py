"""The model a run starts from."""

from __future__ import annotations

import ast
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from tiny_training import CONFIG, run_from, training_recipe

import h1r
from h1r.config import Recipe
from h1r.data.tokenizer import load_tokenizer
from h1r.errors import UserError
from h1r.models import build, save
from h1r.run.directory import Run
from h1r.train.start import loaded, starting_model


@pytest.fixture
def run(curated: Path, tmp_path: Path) -> Run:
    return run_from(curated, tmp_path / "run", training_recipe())


def with_model(recipe: Recipe, **model: object) -> Recipe:
    return training_recipe(model={**recipe.model.model_dump(), **model})


def test_the_starting_weights_follow_the_seed_alone(run: Run) -> None:
    recipe = training_recipe()
    torch.manual_seed(1)
    one = starting_model(recipe, run).state_dict()
    torch.manual_seed(2)
    torch.randn(7)
    again = starting_model(recipe, run).state_dict()
    other = starting_model(recipe.model_copy(update={"seed": 1}), run).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in one.items())
    assert not torch.equal(other["lm_head.weight"], one["lm_head.weight"])


def test_a_preset_takes_its_vocabulary_and_special_tokens_from_the_tokenizer(run: Run) -> None:
    tokenizer = load_tokenizer(run.path / "curate" / "tokenizer")
    config = starting_model(training_recipe(), run).config
    assert len(tokenizer) <= config.vocab_size < len(tokenizer) + 16
    assert config.vocab_size % 16 == 0
    assert config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert config.pad_token_id == tokenizer.pad_token_id
    assert config.bos_token_id == tokenizer.bos_token_id
    assert config.hidden_size == 32


def test_a_checkpoint_is_taken_as_it_is(run: Run, tmp_path: Path) -> None:
    recipe = training_recipe()
    model = starting_model(recipe.model_copy(update={"seed": 5}), run)
    save(model, tmp_path / "checkpoint")
    loaded = starting_model(with_model(recipe, preset="", checkpoint=str(tmp_path / "checkpoint"), overrides={}), run)
    assert loaded.config == model.config
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_a_checkpoint_with_fewer_entries_than_the_tokenizer_is_refused(run: Run, tmp_path: Path) -> None:
    save(build(CONFIG), tmp_path / "checkpoint")
    recipe = with_model(training_recipe(), preset="", checkpoint=str(tmp_path / "checkpoint"), overrides={})
    with pytest.raises(UserError, match=r"tokenizer has \d+ tokens but .*checkpoint only 23; set tokenizer\.path"):
        starting_model(recipe, run)


def test_a_vocabulary_override_below_the_tokenizer_is_refused(run: Run) -> None:
    overrides = {**training_recipe().model.overrides, "vocab_size": 64}
    with pytest.raises(UserError, match=r"model\.overrides\.vocab_size = 64 is less than the tokenizer's"):
        starting_model(with_model(training_recipe(), overrides=overrides), run)


def test_a_tokenizer_without_padding_and_beginning_lends_its_end_token(run: Run) -> None:
    directory = run.path / "curate" / "tokenizer"
    tokenizer = load_tokenizer(directory)
    tokenizer.pad_token = tokenizer.bos_token = None
    shutil.rmtree(directory)
    tokenizer.save_pretrained(directory)
    config = starting_model(training_recipe(), run).config
    assert config.pad_token_id == config.bos_token_id == config.eos_token_id == tokenizer.eos_token_id


def test_a_tokenizer_without_an_end_token_is_refused(run: Run) -> None:
    directory = run.path / "curate" / "tokenizer"
    tokenizer = load_tokenizer(directory)
    tokenizer.eos_token = None
    shutil.rmtree(directory)
    tokenizer.save_pretrained(directory)
    with pytest.raises(UserError, match="the tokenizer has no end token"):
        starting_model(training_recipe(), run)


def test_without_a_tokenizer_the_command_that_makes_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"curate/tokenizer is missing; run `h1r curate .*` first"):
        starting_model(training_recipe(), Run(tmp_path))


def test_every_stage_puts_its_model_on_the_default_device(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device without memory stands for a card."""
    monkeypatch.setattr("h1r.train.start.default_device", lambda: torch.device("meta"))
    recipe = training_recipe(model={"preset": "tiny", "kernels": "reference"})
    checkpoint = save(build(dataclasses.replace(CONFIG, vocab_size=512)), tmp_path / "model")
    assert starting_model(recipe, run).device.type == "meta"
    assert starting_model(with_model(recipe, preset=None, checkpoint=str(checkpoint)), run).device.type == "meta"
    assert loaded(checkpoint, "reference").device.type == "meta"


def test_no_stage_loads_a_model_past_the_default_device() -> None:
    """`load` puts it on the CPU unless told otherwise."""
    package = Path(h1r.__file__).parent
    for path in (*(package / "train").glob("*.py"), *(package / "evals").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "load":
                assert "device" in {keyword.arg for keyword in node.keywords}, f"{path.name}:{node.lineno}"
