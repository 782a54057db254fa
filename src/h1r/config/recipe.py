"""A whole recipe, and reading it: TOML in, every mistake one sentence."""

from __future__ import annotations

import difflib
import json
import reprlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError, model_validator

from h1r.common.packaged import packaged
from h1r.common.plugins import is_file, load_plugins
from h1r.config.ablation import AblationSection
from h1r.config.base import Count, Section
from h1r.config.corpus import CorpusSection, CorpusSource, GeneratedSource
from h1r.config.data import (
    ChatSection,
    CurateSection,
    ProblemsSection,
    RLPoolSection,
    TokenizerSection,
)
from h1r.config.generate import BenchmarkSection, EngineSection, EvalSection, InspectSection, ScalingSection
from h1r.config.judge import JudgeSection
from h1r.config.rollout import EnvironmentSection, RolloutSection
from h1r.config.trackers import TRACKER_KINDS, TrackerSection
from h1r.config.train import ClusterSection, LoraSection, ModelSection, ParallelSection, RLSection, SFTSection
from h1r.config.verify import ControlsSection, VerifySection
from h1r.errors import UserError

_MOVED = {"corpus.verify_time_s": "verify.time_limit_s", "problems.sources": "corpus.sources"}
"""Keys of earlier versions -> what they are called now. Old recipes and runs still hold them."""
_BUILT_IN = packaged("recipes")
PLACEHOLDERS = ("CHECKPOINT", "DATA")
"""What stands in a recipe of `h1r init` where a person's own belongs."""
_KINDS = ("reasoning_gym", "jsonl", "json", "csv", "parquet", "hub", "inspect")


class Recipe(Section):
    """One experiment. `extends` in the TOML file names a recipe that this one is laid over: a file beside it, or a
    built-in one. Tables are merged key by key, but for those that `replaces` lists ("rl.rewards"): of these nothing is
    taken over."""

    name: str
    """The run's name; its directory is `runs/NAME` unless `--out` says otherwise."""
    seed: int = 0
    """Of weights, order and sampling. The choice of problems has its own, `problems.seed`."""
    threads: Count = 0
    """CPU threads for torch; 0 leaves torch's own choice."""
    plugins: list[str] = []
    """Modules ("package.module") and files ("path/to/file.py", relative to this recipe's file) with verifiers, rewards
    and other parts of your own. Each is imported, so its code runs, wherever the recipe is read."""
    model: ModelSection = ModelSection()
    tokenizer: TokenizerSection = TokenizerSection()
    chat: ChatSection = ChatSection()
    problems: ProblemsSection = ProblemsSection()
    curate: CurateSection = CurateSection()
    corpus: CorpusSection = CorpusSection()
    rl_pool: RLPoolSection = RLPoolSection()
    sft: SFTSection = SFTSection()
    rl: RLSection = RLSection()
    lora: LoraSection = LoraSection()
    parallel: ParallelSection = ParallelSection()
    cluster: ClusterSection = ClusterSection()
    engine: EngineSection = EngineSection()
    rollout: RolloutSection = RolloutSection()
    environment: EnvironmentSection = EnvironmentSection()
    eval: EvalSection = EvalSection()
    scaling: ScalingSection = ScalingSection()
    verify: VerifySection = VerifySection()
    controls: ControlsSection = ControlsSection()
    ablation: AblationSection = AblationSection()
    judge: JudgeSection = JudgeSection()
    trackers: list[TrackerSection] = []
    """Services that get the numbers of every stage, besides the JSON lines that a run always has. May change within a
    run."""

    @model_validator(mode="before")
    @classmethod
    def _load_plugins(cls, data: Any) -> Any:
        """Here, since every process that works on a recipe validates it, and then knows what plugins register."""
        named = data.get("plugins") if isinstance(data, dict) else None
        if not isinstance(named, list | tuple) or not all(isinstance(one, str) for one in named):
            return data
        found = [str(Path(one).resolve()) if is_file(one) else one for one in named]
        load_plugins(found)
        return {**data, "plugins": found}


def load_recipe(path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Reads a TOML recipe, lays it over the ones it `extends`, then `overrides` ({"rl.steps": 5}) over both.

    A run directory's `recipe.json`, which is already resolved, is read the same way.

    Its plugins are imported. Every mistake raises `UserError`: missing file, TOML syntax (with its line), unknown key
    (with the nearest known one), value out of range, a plugin that cannot be imported.
    """
    return resolve(_read_toml(Path(path), ()), overrides, str(path))


def resolve(tree: dict[str, Any], overrides: dict[str, Any] | None, place: str) -> Recipe:
    """The recipe of a tree of keys with `overrides` laid over it; `place` is where messages say that it came from."""
    for key, value in (overrides or {}).items():
        _set(tree, key.split("."), value)
    if left := next(_placeholders(tree), None):
        raise UserError(f'{place}: `{left[0]}` is still "{left[1]}"; put your own in, there or by --set {left[0]}=...')
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        # Without the `kind` of a source, which names its union and is no key.
        wrong = ".".join(str(part) for part in error.errors()[0]["loc"] if part not in _KINDS)
        # An override holds the wrong key, or is one of a table whose keys do not go together.
        given = next((k for k in overrides or () if f"{wrong}.".startswith(f"{k}.") or k.startswith(f"{wrong}.")), None)
        raise UserError(f"{place if given is None else f'--set {given}'}: {_explain(error)}") from None


def _placeholders(tree: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, placeholder) of what nobody has put their own in for."""
    keys = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in keys:
        here = f"{place}.{key}" if place else str(key)
        if isinstance(value, str) and value in PLACEHOLDERS and not Path(value).exists():
            yield here, value
        yield from _placeholders(value, here)


def find_recipe(name: str) -> Path:
    """A path as it is; a bare name that is no file is looked up among the recipes that come with the package.

    `UserError` for a bare name that is neither.
    """
    path = Path(name)
    if path.exists() or path.suffix or len(path.parts) != 1:
        return path
    if (found := _BUILT_IN / f"{name}.toml").exists():
        return found
    names = ", ".join(sorted(file.stem for file in _BUILT_IN.glob("*.toml")))
    raise UserError(f"no recipe {name}: neither a file nor one of the built-in ones ({names}); check the name")


def _read_toml(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise UserError(f"{path}: recipes extend each other in a circle; remove one `extends`")
    try:
        text = path.read_text(encoding="utf-8-sig")
        tree = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UserError(f"cannot read recipe {path}: {error.strerror or error}; check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; a recipe is a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}; mend that line") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg}); give the TOML recipe instead") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a recipe is a table of keys; give a TOML recipe")
    named = tree.get("plugins")
    if isinstance(named, list):
        here = path.resolve().parent
        tree["plugins"] = [str(here / one) if isinstance(one, str) and is_file(one) else one for one in named]
    base, replaces = tree.pop("extends", None), tree.pop("replaces", [])
    if base is None:
        if replaces:
            raise UserError(f"{path}: `replaces` is for a recipe that `extends` another; remove it")
        return tree
    beside = path.parent / str(base)
    below = _read_toml(beside if beside.is_file() else _extended(path, str(base)), (*seen, path.resolve()))
    for key in replaces if isinstance(replaces, list) else [replaces]:
        _remove(below, key, path)
    return _merge(below, tree)


def _extended(path: Path, base: str) -> Path:
    """The built-in recipe `base`, or the missing file beside `path` by that name."""
    try:
        found = find_recipe(base)
    except UserError as error:
        raise UserError(f"{path}: extends {error}") from None
    return found if found.parent == _BUILT_IN else path.parent / base


def _remove(tree: dict[str, Any], key: Any, path: Path) -> None:
    """Takes the table `key` ("rl.rewards") out of the tree of an extended recipe."""
    *parents, last = str(key).split(".")
    for parent in parents:
        inner = tree.get(parent)
        tree = inner if isinstance(inner, dict) else {}
    if last not in tree:
        raise UserError(f"{path}: `replaces` names `{key}`, which the extended recipe does not set; remove it there")
    del tree[last]


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _set(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    """Sets one key of a tree; a number reaches into a list of tables, as in `corpus.sources.0.share`."""
    at: Any = tree
    for depth, key in enumerate(keys, 1):
        name, whole = ".".join(keys), ".".join(keys[: depth - 1])
        place: str | int = key
        if isinstance(at, list):
            if not key.isdecimal() or int(key) >= len(at):
                raise UserError(
                    f"`{name}` cannot be set: `{whole}` is a list of {len(at)}; take a number below that, counted from "
                    "0, or set the list whole"
                )
            place = int(key)
        elif not isinstance(at, dict):
            raise UserError(f"`{name}` cannot be set: `{whole}` is no table; set that key whole")
        if depth == len(keys):
            at[place] = value
        elif isinstance(place, int):
            at = at[place]
        else:
            at = at.setdefault(place, {})


def _explain(error: ValidationError) -> str:
    """One sentence for the first complaint, with the nearest known key for an unknown one."""
    detail = error.errors()[0]
    parts = [str(part) for part in detail["loc"]]
    asked = parts[:2] == ["eval", "benchmarks"]
    place = ".".join(part for at, part in enumerate(parts) if not _is_tag(parts, at))
    if place in _MOVED:
        return f"key `{place}` of an earlier version is now `{_MOVED[place]}`; give the value to that, and remove this"
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(parts[-1], _known_keys(parts[:-1]), n=1)
        meant = ".".join([*place.split(".")[:-1], *near])
        return f"unknown key `{place}`" + (f"; did you mean `{meant}`?" if near else "; remove it")
    if detail["type"] == "missing":
        return f"key `{place}` is missing; add it"
    if detail["type"] in ("union_tag_not_found", "union_tag_invalid"):
        return f"`{place}` needs a `kind`: one of {', '.join(_KINDS[1:] if asked else _KINDS[:-1])}"
    message = detail["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not place:
        return message
    if isinstance(detail["input"], dict):  # a rule about a table's keys, which names them
        return f"[{place}] is refused: {message}"
    return f"`{place}` = {reprlib.repr(detail['input'])} is refused: {message}"


def _is_tag(parts: list[str], at: int) -> bool:
    """Whether a part of a place is the `kind` of a table in a list, which pydantic names behind its number."""
    lists = {"eval": ("benchmarks", 3), "corpus": ("sources", 3), "trackers": ("", 2)}
    name, place = lists.get(parts[0], ("", -1))
    return at == place and name in ("", parts[1]) and parts[at] in (*_KINDS, *TRACKER_KINDS)


def _known_keys(parts: list[str]) -> list[str]:
    found: Any = Recipe
    for part in parts:
        if part.isdigit() or (part == "sources" and found is CorpusSection):
            continue
        if part in _KINDS:
            ours = {"reasoning_gym": GeneratedSource, "inspect": InspectSection}
            found = ours.get(part, BenchmarkSection if parts[0] == "eval" else CorpusSource)
            continue
        if part in TRACKER_KINDS and parts[0] == "trackers":
            found = TRACKER_KINDS[part]
            continue
        info = getattr(found, "model_fields", {}).get(part)
        if info is None:
            return []
        found = info.annotation
        rows = get_args(found)
        if rows and isinstance(rows[0], type) and issubclass(rows[0], Section):
            found = rows[0]
    return list(getattr(found, "model_fields", {}))
