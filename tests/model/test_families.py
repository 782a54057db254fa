"""Model families by name: what a second registration may do, and who is found."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from h1r.errors import UserError
from h1r.models.registry import MODELS, ModelFamily, preset, register
from h1r.models.registry import family as family_named

QWEN3 = MODELS.require("qwen3")


@pytest.fixture
def own() -> Iterator[ModelFamily]:
    """A registered family that is gone after the test."""
    yield register(dataclasses.replace(QWEN3, name="own", model="own.model:Own", presets={"own-small": QWEN3.config()}))
    del MODELS._parts["own"]


def test_a_registered_family_and_its_presets_are_found(own: ModelFamily) -> None:
    assert family_named("own", "config.json") is own
    assert preset("own-small") == QWEN3.config()


def test_a_name_or_a_preset_that_is_taken_is_refused(own: ModelFamily) -> None:
    with pytest.raises(UserError, match="there is a model family `own` already"):
        register(dataclasses.replace(own, model="other.model:Own"))
    with pytest.raises(UserError, match="model families own and other both have a preset own-small"):
        register(dataclasses.replace(own, name="other"))
    with pytest.raises(UserError, match="there is a model family `qwen3` already"):
        register(dataclasses.replace(own, name="qwen3", presets={}))


def test_a_family_of_a_module_that_is_imported_again_takes_the_place_of_the_first(own: ModelFamily) -> None:
    again = register(dataclasses.replace(own, from_hf=lambda raw, where: QWEN3.config()))
    assert family_named("own", "config.json") is again


@pytest.mark.parametrize("name", [None, "llama", 3])
def test_an_unknown_model_type_is_refused_with_its_file_and_the_known_ones(name: str | None) -> None:
    with pytest.raises(UserError, match=rf"^config.json: model_type: unknown model family `{name}`; use .*`qwen3`"):
        family_named(name, "config.json")
