"""Registering parts by name, and looking them up."""

import pytest

from h1r.common.registry import Registry
from h1r.errors import UserError


def shapes() -> Registry[type]:
    return Registry("shape", {"decoder": "json:JSONDecoder"})


def test_a_decorated_part_is_found_by_its_name_and_unchanged() -> None:
    registry = shapes()

    @registry.register("mine")
    class Mine:
        pass

    assert registry.require("mine") is Mine
    assert registry.names() == ["decoder", "mine"]


def test_a_built_in_part_is_imported_when_it_is_asked_for() -> None:
    import json

    assert shapes().require("decoder") is json.JSONDecoder


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(UserError, match=r"^unknown shape `decodr`; use one of `decoder`$"):
        shapes().require("decodr")


def test_a_name_that_is_taken_is_refused() -> None:
    registry = shapes()
    with pytest.raises(UserError, match="there is a shape `decoder` already"):
        registry.register("decoder")(int)
    assert registry.require("decoder") is not int
    registry.register("decoder", replace=True)(int)
    assert registry.require("decoder") is int


def test_a_module_that_is_imported_again_registers_again() -> None:
    registry = shapes()
    for _ in range(2):

        @registry.register("mine")
        class Mine:
            pass

    assert registry.require("mine") is Mine


def test_a_decorator_without_a_name_is_refused() -> None:
    with pytest.raises(UserError, match="registered under a name"):
        shapes().register(int)  # type: ignore[arg-type]


def test_values_that_are_no_classes_are_told_apart_by_what_they_are() -> None:
    registry: Registry[int] = Registry("number")
    registry.add("one", 1)
    registry.add("one", 1)
    with pytest.raises(UserError, match="there is a number `one` already"):
        registry.add("one", 2)
