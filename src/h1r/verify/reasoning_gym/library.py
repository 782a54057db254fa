"""The library `reasoning_gym`, imported in half the time.

It makes the items of two families with cellpylib, which imports matplotlib to draw with. Nothing is drawn here and no
scorer needs either, so the import waits until somebody makes such an item.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from types import ModuleType
from typing import Any

_LATE = "cellpylib"


class _Late(ModuleType):
    """Stands for a module that is imported when something of it is first asked for.

    `importlib.util.LazyLoader` is no help: an `import` statement looks at attributes of the module.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@cache
def library() -> ModuleType:
    """The package. `ImportError`, with what installs it, where it cannot be imported."""
    late = _LATE not in sys.modules and importlib.util.find_spec(_LATE) is not None
    if late:
        sys.modules[_LATE] = _Late(_LATE)
    try:
        return importlib.import_module("reasoning_gym")
    except ImportError as error:
        raise ImportError(
            f"problems of reasoning-gym need that package ({error}); run `pip install 'open-h1r[demo]'`; where no "
            "compiler is, before it `python -m h1r.stand_ins pycosat`"
        ) from error
    finally:
        if late:
            del sys.modules[_LATE]


def families() -> dict[str, tuple[type, type]]:
    """The registry of the package: (data set, configuration) by the name of a family."""
    registry: Any = library()
    return dict(registry.factory.DATASETS)
