"""Writes docs/reference/recipes.md from the recipe tree itself: `make docs`; `--check` only compares."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from h1r.config import BenchmarkSection, CorpusSource, GeneratedSource, InspectSection, Recipe, Section
from h1r.config.trackers import TRACKER_KINDS

PAGE = Path(__file__).with_suffix(".md")
INTRODUCTION = """# Recipes

<!-- written by docs/reference/recipes.py from src/h1r/config (`make docs`); do not edit -->

A recipe is a TOML file. Every key has a default but `name`, and a key that is not listed here is refused. `extends =
"other.toml"` lays a recipe over another one (`"tiny"`: a built-in one), table by table, but for those that `replaces =
["scaling"]` lists. `h1r sft RECIPE --set rl.steps=5` changes one key for one run (`corpus.sources.0.share=2` that of
the first table in a list), and `--dry-run` prints what it all resolves to.
Section numbers are those of arXiv 2601.02346; "our choice" marks what the paper does not state. Defaults are the
paper's own; `recipes/tiny.toml` is the size for a laptop.
"""


def sections(kind: type[Section], place: str, defaults: Section | None = None) -> list[str]:
    """The Markdown of one table of the recipe and of the tables inside it, with the defaults that hold there."""
    lines = [f"\n## `[{place}]`" if place else "\n## Top level", ""]
    if kind.__doc__ and place:
        lines += [" ".join(kind.__doc__.split()), ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    inner: list[str] = []
    told = meanings(kind)
    for key, field in kind.model_fields.items():
        path = f"{place}.{key}" if place else key
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            inner += sections(field.annotation, path, field.default)
        elif path == "corpus.sources":
            inner += sections(GeneratedSource, f"[{path}]") + sections(CorpusSource, f"[{path}]")
        elif path == "eval.benchmarks":
            inner += sections(BenchmarkSection, f"[{path}]") + sections(InspectSection, f"[{path}]")
        elif path == "trackers":
            inner += [line for kind in TRACKER_KINDS.values() for line in sections(kind, f"[{path}]")]
        elif (rows := get_args(field.annotation)) and isinstance(rows[0], type) and issubclass(rows[0], Section):
            inner += sections(rows[0], f"[{path}]")
        elif rows and isinstance(rows[-1], type) and issubclass(rows[-1], Section):
            inner += sections(rows[-1], f"{path}.NAME")
        else:
            default = default_of(getattr(defaults, key, field.default))
            lines.append(f"| `{key}` | {type_of(field)} | {default} | {told.get(key, '')} |")
    return lines + inner


def type_of(field: FieldInfo) -> str:
    return escape(readable(field.annotation) + limits(field))


def readable(kind: Any) -> str:
    if args := get_args(kind):
        name = getattr(kind, "__name__", str(kind))
        if name == "Literal":
            return ", ".join(f"`{arg}`" for arg in args)
        if name in ("list", "tuple", "dict"):
            return "table" if name == "dict" else f"list of {readable(args[0])}"
        if hasattr(kind, "__metadata__"):
            return readable(args[0]) + "".join(limit(bound) for bound in kind.__metadata__)
        return " or ".join(readable(arg) for arg in args if arg is not type(None))
    return {"str": "string", "int": "integer", "float": "number", "bool": "true or false"}[kind.__name__]


def limits(field: FieldInfo) -> str:
    return "".join(limit(bound) for bound in field.metadata)


def limit(bound: Any) -> str:
    bounds = getattr(bound, "metadata", [bound])
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    found = [
        f"{sign} {getattr(item, name):g}" for item in bounds for name, sign in signs.items() if hasattr(item, name)
    ]
    return "".join(f", {text}" for text in found)


def default_of(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "unset"
    return f"`{json.dumps(value)}`"


def meanings(kind: type[Section]) -> dict[str, str]:
    """What stands under each key in the source of the table's class, and of those that it extends."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__[: kind.__mro__.index(Section)]):
        (tree,) = ast.parse(inspect.getsource(one)).body
        assert isinstance(tree, ast.ClassDef)
        for key, text in pairwise(tree.body):
            if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[ast.unparse(key.target)] = escape(" ".join(str(text.value.value).split()))
    return found


def escape(text: str) -> str:
    return text.replace("|", "\\|")


def page() -> str:
    return INTRODUCTION + "\n".join(sections(Recipe, "")) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
            sys.exit(f"{PAGE} is not what src/h1r/config says; run `make docs`")
    else:
        PAGE.write_text(page(), encoding="utf-8")
        print(f"wrote {PAGE}")
