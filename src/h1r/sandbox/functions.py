"""Functions that test code gives to the tested code: `apply(lambda x: 3 * x, 4)`.

They go from the side that is trusted to the one that is not, as compiled code with the values that it uses, and run
there. The other way nothing of the kind is read. What a test gives away so, the tested code may look at.
"""

from __future__ import annotations

import base64
import builtins
import marshal
import types
from collections.abc import Callable
from typing import Any

_MAX_DEPTH = 4


def function_form(value: Any, encode: Callable[[Any], Any], depth: int = 0) -> dict[str, Any]:
    """The form of a function or of a built-in one; `ValueError` for what is none, or uses what cannot be sent."""
    name = getattr(value, "__name__", "")
    if callable(value) and vars(builtins).get(name) is value:
        return {"!": "function", "v": name}
    if not isinstance(value, types.FunctionType) or depth > _MAX_DEPTH:
        raise ValueError(f"a {type(value).__name__} cannot be given to code in another process")

    def form(inner: Any) -> Any:
        if isinstance(inner, types.ModuleType):
            return {"!": "function", "module": inner.__name__}
        return function_form(inner, encode, depth + 1) if isinstance(inner, types.FunctionType) else encode(inner)

    code, found = value.__code__, value.__globals__
    used = [one for one in code.co_names if one in found and found[one] is not value]
    return {
        "!": "function",
        "code": base64.b64encode(marshal.dumps(code)).decode(),
        "defaults": [form(one) for one in value.__defaults__ or ()],
        "cells": [form(cell.cell_contents) for cell in value.__closure__ or ()],
        "globals": {one: form(found[one]) for one in used},
    }


def given_function(form: dict[str, Any], decode: Callable[[Any], Any]) -> Any:
    """The function of a form that comes from the trusted side."""
    if "module" in form:
        return __import__(form["module"], fromlist=["*"])
    if "code" not in form:
        return getattr(builtins, form["v"])
    code = marshal.loads(base64.b64decode(form["code"]))
    names = {"__builtins__": builtins} | {name: decode(one) for name, one in form["globals"].items()}
    cells = tuple(types.CellType(decode(one)) for one in form["cells"])
    return types.FunctionType(code, names, code.co_name, tuple(map(decode, form["defaults"])), cells)
