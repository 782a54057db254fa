"""Packages that can be called: `h1r.verify(problem, text)` is `h1r.verify.verify(problem, text)`.

A name of the public API may be that of a package, which Python binds to `h1r` as soon as somebody imports it. The two
cannot be different things, so the package passes calls on (the data model's "customizing module attribute access").
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.__dict__["_called"](*arguments, **named)


def make_callable(package: str, function: Callable[..., Any]) -> None:
    """From now on a call of the package is a call of the function."""
    module = sys.modules[package]
    module.__class__ = _CallablePackage
    module.__dict__["_called"] = function
