"""What test code takes from pytest, without pytest: `raises`, `approx`, `mark.parametrize`, `fixture`, `param`, `fail`.

Test code may find the real one or none where it runs; this small one is always the same. Other marks are ignored, and
what is not here fails by its name.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock


class SkippedError(Exception):
    """A test that does not run, and so says nothing."""


class _Raises:
    """The context of `raises`; `value` is the exception that came."""

    def __init__(self, expected: Any, match: str | None) -> None:
        self._expected = expected
        self._match = match
        self.value: Any = None
        self.type: Any = None

    def __enter__(self) -> _Raises:
        return self

    def __exit__(self, kind: Any, error: Any, _: Any) -> bool:
        if kind is None:
            raise AssertionError(f"did not raise {self._expected}")
        if not issubclass(kind, self._expected):
            return False
        self.value, self.type = error, kind
        if self._match is not None and not re.search(self._match, str(error)):
            raise AssertionError(f"{str(error)[:200]!r} does not match {self._match!r}")
        return True

    def match(self, pattern: str) -> bool:
        assert re.search(pattern, str(self.value)), f"{str(self.value)[:200]!r} does not match {pattern!r}"
        return True


def raises(expected: Any, *call: Any, match: str | None = None, **named: Any) -> Any:
    if not call:
        return _Raises(expected, match)
    with _Raises(expected, match) as context:
        call[0](*call[1:], **named)
    return context


class approx:  # noqa: N801
    """Equal within a relative 1e-6 or an absolute 1e-12, in lists, tuples and mappings as well."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expected: Any, rel: float | None = None, abs: float | None = None, nan_ok: bool = False) -> None:
        self._expected = expected
        self._rel = 1e-6 if rel is None and abs is None else rel or 0.0
        self._abs = 1e-12 if abs is None else abs
        self._nan_ok = nan_ok

    def __eq__(self, actual: object) -> bool:
        return self._same(actual, self._expected)

    def __repr__(self) -> str:
        return f"approx({self._expected!r})"

    def _same(self, actual: Any, expected: Any) -> bool:
        if type(expected).__name__ == "ndarray":
            expected, actual = expected.tolist(), getattr(actual, "tolist", lambda: actual)()
        if isinstance(expected, dict):
            alike = isinstance(actual, dict) and actual.keys() == expected.keys()
            return alike and all(self._same(actual[key], value) for key, value in expected.items())
        if isinstance(expected, (list, tuple)):
            alike = isinstance(actual, (list, tuple)) and len(actual) == len(expected)
            return alike and all(map(self._same, actual, expected))
        number = (int, float, complex)
        if not isinstance(expected, number) or isinstance(expected, bool) or not isinstance(actual, number):
            return bool(type(actual) in (type(expected), bool, str, type(None)) and actual == expected)
        if actual == expected:
            return True
        if actual != actual or expected != expected:
            return self._nan_ok and actual != actual and expected != expected
        if any(isinstance(one, float) and math.isinf(one) for one in (actual, expected)):
            return False
        return bool(abs(actual - expected) <= max(self._abs, self._rel * abs(expected)))


class _Param:
    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values


class _Mark:
    """`mark.parametrize` is kept on the function; every other mark changes nothing."""

    def parametrize(self, names: Any, values: Any, **_: Any) -> Callable[[Any], Any]:
        split = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)

        def mark(function: Any) -> Any:
            function.parametrized = [*vars(function).get("parametrized", ()), (split, list(values))]
            return function

        return mark

    def __getattr__(self, name: str) -> Any:
        def mark(*given: Any, **_: Any) -> Any:
            return given[0] if len(given) == 1 and callable(given[0]) else lambda function: function

        return mark


def marks(function: Any) -> list[tuple[list[str], list[Any]]]:
    return list(getattr(function, "parametrized", ()))


def parameters(marked: list[tuple[list[str], list[Any]]]) -> Iterator[dict[str, Any]]:
    """Every combination of what the marks list, by name; one without any where there are no marks."""
    for chosen in itertools.product(*(values for _, values in marked)):
        found: dict[str, Any] = {}
        for (names, _), value in zip(marked, chosen, strict=True):
            row = value.values if isinstance(value, _Param) else (value,) if len(names) == 1 else tuple(value)
            found |= dict(zip(names, row, strict=True))
        yield found


def fixture(*given: Any, **_: Any) -> Any:
    def mark(function: Any) -> Any:
        function.is_fixture = True
        return function

    return mark(given[0]) if given and callable(given[0]) else mark


def fixture_function(found: Any) -> Callable[..., Any] | None:
    return found if getattr(found, "is_fixture", False) is True else None


def fail(reason: str = "", **_: Any) -> None:
    raise AssertionError(reason)


def skip(reason: str = "", **_: Any) -> None:
    raise SkippedError(reason)


class _Printed:
    """What `capsys` gives: the text printed since it was last asked."""

    def __init__(self, out: io.StringIO) -> None:
        self._out = out

    def readouterr(self) -> Any:
        text = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        return types.SimpleNamespace(out=text, err="")


def _capsys() -> Iterator[_Printed]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        yield _Printed(out)


def _tmp_path() -> Path:
    return Path(tempfile.mkdtemp(dir="."))


class _Monkeypatch:
    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack

    def setattr(self, target: Any, name: Any, *value: Any, **_: Any) -> None:
        patch = mock.patch.object(target, name, value[0]) if value else mock.patch(target, name)
        self._stack.enter_context(patch)


def _monkeypatch() -> Iterator[_Monkeypatch]:
    with contextlib.ExitStack() as stack:
        yield _Monkeypatch(stack)


BUILT_IN: dict[str, Callable[..., Any]] = {"capsys": _capsys, "tmp_path": _tmp_path, "monkeypatch": _monkeypatch}


def module() -> types.ModuleType:
    """The module that test code imports as `pytest`."""
    found = types.ModuleType("pytest")
    found.__dict__.update(
        raises=raises, approx=approx, mark=_Mark(), fixture=fixture, param=lambda *values, **_: _Param(values),
        fail=fail, skip=skip, main=lambda *_: 0,
    )  # fmt: skip
    return found
