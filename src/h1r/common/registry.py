"""Parts of one kind by name: verifiers, rewards, environments, losses, models, engines, trackers.

LOSSES: Registry[type[Loss]] = Registry("loss", {"grpo": "h1r.train.losses.grpo:GRPO"})

@LOSSES.register("mine")
class Mine(Loss): ...

LOSSES.require("mine")
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from h1r.common import plugins
from h1r.errors import UserError

Part = TypeVar("Part")
Given = TypeVar("Given")


class Registry(Generic[Part]):
    """Names and the parts behind them. `kind` is what messages call a part, such as "loss".

    `built_in` maps names to "module:attribute"; such a module is imported when its name is first asked for.
    """

    def __init__(self, kind: str, built_in: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._targets = dict(built_in or {})
        self._parts: dict[str, Part] = {}

    def register(self, name: str, *, replace: bool = False) -> Callable[[Given], Given]:
        """A decorator that adds what it decorates under `name`, and returns it as it is."""
        self._check(name)

        def add(part: Given) -> Given:
            self.add(name, part, replace=replace)  # type: ignore[arg-type]
            return part

        return add

    def add(self, name: str, part: Part, *, replace: bool = False) -> None:
        """Adds a part; `UserError` if the name belongs to another one, unless it is to `replace` that."""
        self._check(name)
        known, origin = self._parts.get(name), _origin(part)
        is_again = known == part or (origin is not None and origin in (_origin(known), self._targets.get(name)))
        if name in self and not is_again and not replace:
            raise UserError(f"there is a {self.kind} `{name}` already; choose another name, or say `replace=True`")
        self._parts[name] = part

    def _check(self, name: object) -> None:
        if not isinstance(name, str) or not name:
            raise UserError(f'a {self.kind} is registered under a name; write ("name") after the decorator')

    def require(self, name: str | None, place: str = "") -> Part:
        """The part of that name; plugins of installed packages are loaded before a name counts as unknown.

        `UserError` names the nearest known ones, after `place`: the file and key that the name is from.
        """
        if name is not None and name not in self._parts and name in self._targets:
            module, _, attribute = self._targets[name].partition(":")
            part = getattr(importlib.import_module(module), attribute)
            self._parts.setdefault(name, part)
        if name not in self:
            plugins.load_installed()
        if name is not None and name in self._parts:
            return self._parts[name]
        raise unknown(self.kind, name, self.names(), place)

    def names(self) -> list[str]:
        """The known names, sorted, those of installed plugins included."""
        plugins.load_installed()
        return list(self)

    def __iter__(self) -> Iterator[str]:
        """The known names, sorted, without loading anything."""
        return iter(sorted({*self._targets, *self._parts}))

    def __contains__(self, name: object) -> bool:
        """Whether a part of that name is known, without loading anything."""
        return name in self._parts or name in self._targets


def unknown(kind: str, name: object, known: Iterable[str], place: str = "") -> UserError:
    """What to raise for a name that is none of `known`: a sentence with the nearest of them."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6) or known
    said = f"unknown {kind} `{name}`; use one of {', '.join(f'`{one}`' for one in near)}"
    return UserError(f"{place}: {said}" if place else said)


def _origin(part: Any) -> str | None:
    """The "module:attribute" of a class or function, which stays the same when its module is imported again."""
    module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", None)
    return f"{module}:{name}" if module and name else None
