import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.config import Recipe, load_recipe, resolve
from h1r.config.text import parse_override, to_toml
from h1r.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipe_is_valid_and_named_after_its_file(path: Path) -> None:
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("[rl]\nstpes = 3", r"unknown key `rl.stpes`; did you mean `rl.steps`\?"),
        (
            "[sft.optimizer]\nlearning_rate = 1.0\nwieght_decay = 1.0",
            r"unknown key `sft.optimizer.wieght_decay`; did you mean `sft.optimizer.weight_decay`",
        ),
        ("qqqqqq = 1", r"unknown key `qqqqqq`; remove it"),
        ("[rl]\nsteps = 0", r"`rl.steps` = 0 is refused: input should be greater than 0"),
        ("[rl]\nsteps = 'many'", r"`rl.steps` = 'many' is refused"),
        ("[rl.backfill]\noverdraw = 1e308", r"`rl.backfill.overdraw` = 1e\+308 is refused"),
        ("[eval]\ntop_p = 1.5", r"`eval.top_p` = 1.5 is refused"),
        ("[scaling]\nbudgets = [4]\nwarmup = 8", r"budgets must be at least warmup \(8\)"),
        ("[model]\npreset = 'tiny'\ncheckpoint = 'x'", r"set `preset` or `checkpoint`, not both"),
        ("[[corpus.sources]]\nfamily = 'x'", r"`corpus.sources.0` needs a `kind`"),
        ("[[corpus.sources]]\nkind = 'jsonl'\nname = 'x'", r"key `corpus.sources.0.path` is missing; add it"),
        ("model = 5", r"`model` = 5 is refused"),
        ("[rl\n", r"not valid TOML: .*line 2"),
    ],
)
def test_mistake_in_a_recipe_is_one_sentence_naming_file_and_place(tmp_path: Path, body: str, sentence: str) -> None:
    path = write(tmp_path / "bad.toml", f"name = 'bad'\n{body}")
    with pytest.raises(UserError, match=rf"bad\.toml: .*{sentence}") as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_missing_name_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="key `name` is missing; add it"):
        load_recipe(write(tmp_path / "x.toml", "seed = 1"))


@pytest.mark.parametrize("text", [b"\xff\xfe", b"name = '\xff'"])
def test_bytes_that_are_no_text_are_a_sentence(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.toml").write_bytes(text)
    with pytest.raises(UserError, match="not UTF-8"):
        load_recipe(tmp_path / "x.toml")


def test_missing_and_directory_paths_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read recipe .*none\.toml: No such file"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(UserError, match="Is a directory"):
        load_recipe(tmp_path)


def test_extending_recipe_lies_over_its_base_table_by_table(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", "name = 'base'\nseed = 3\n[rl]\nsteps = 7\nnum_generations = 4\n")
    recipe = load_recipe(write(tmp_path / "top.toml", "extends = 'base.toml'\nname = 'top'\n[rl]\nsteps = 9\n"))
    assert (recipe.name, recipe.seed, recipe.rl.steps, recipe.rl.num_generations) == ("top", 3, 9, 4)


def test_recipes_that_extend_each_other_in_a_circle_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", "extends = 'b.toml'\nname = 'a'")
    write(tmp_path / "b.toml", "extends = 'a.toml'\nname = 'b'")
    with pytest.raises(UserError, match="circle"):
        load_recipe(tmp_path / "a.toml")


def test_an_extended_preset_gives_way_to_a_checkpoint_when_unset(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", "name = 'base'\n[model]\npreset = '0.5b'\n")
    top = write(tmp_path / "top.toml", "extends = 'base.toml'\nname = 'top'\n[model]\npreset = ''\ncheckpoint = 'x'\n")
    assert (load_recipe(top).model.preset, load_recipe(top).model.checkpoint) == (None, "x")
    assert Recipe(name="bare").model.preset == "tiny"


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("rl.steps=5", "rl.steps", 5),
        ("sft.optimizer.learning_rate = 1e-3", "sft.optimizer.learning_rate", 1e-3),
        ("scaling.budgets=[8, 16]", "scaling.budgets", [8, 16]),
        ("model.preset=tiny", "model.preset", "tiny"),
        ('chat.system_prompt="a=b"', "chat.system_prompt", "a=b"),
        ("rl.normalise_std=false", "rl.normalise_std", False),
    ],
)
def test_override_is_parsed_as_toml_and_a_bare_word_as_a_string(text: str, key: str, value: object) -> None:
    assert parse_override(text) == (key, value)


@pytest.mark.parametrize("text", ["rl.steps", "=5", ""])
def test_override_that_sets_nothing_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="write key=value"):
        parse_override(text)


def test_overrides_win_and_a_wrong_one_is_a_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "x.toml", "name = 'x'\n[rl]\nsteps = 7\n")
    assert load_recipe(path, {"rl.steps": 2, "seed": 9}).rl.steps == 2
    with pytest.raises(UserError, match=r"`rl\.steps\.more` cannot be set: `rl\.steps` is no table"):
        load_recipe(path, {"rl.steps.more": 2})


def test_a_mistake_in_an_override_names_the_override_and_one_in_the_file_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.toml", "name = 'x'\n")
    for override, sentence in (
        ({"rl.setps": 2}, r"^--set rl\.setps: unknown key `rl\.setps`; did you mean `rl\.steps`\?"),
        ({"rl": {"steps": 0}}, r"^--set rl: `rl\.steps` = 0 is refused"),
        ({"engine.kind": "server"}, r"^--set engine\.kind: \[engine\] is refused: kind = \"server\" needs url"),
        ({"rl.backfill.max_age": "old"}, r"^--set rl\.backfill\.max_age: "),
    ):
        with pytest.raises(UserError, match=sentence):
            load_recipe(path, override)
    with pytest.raises(UserError, match=r"^.*x\.toml: unknown key `rl\.stpes`"):
        load_recipe(write(path, "name = 'x'\n[rl]\nstpes = 2\n"), {"rl.steps": 2})


def test_a_key_of_an_earlier_version_says_what_it_is_called_now(tmp_path: Path) -> None:
    path = write(tmp_path / "x.toml", "name = 'x'\n[corpus]\nverify_time_s = 3\n")
    with pytest.raises(
        UserError,
        match=r"x\.toml: key `corpus\.verify_time_s` of an earlier version is now `verify\.time_limit_s`; give",
    ):
        load_recipe(path)


text = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


@given(
    name=text,
    prompt=st.none() | text,
    knobs=st.dictionaries(
        text, st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | text | st.lists(text)
    ),
    rate=st.floats(1e-12, 1e3),
)
def test_resolved_toml_reads_back_as_the_same_recipe(
    tmp_path_factory: pytest.TempPathFactory, name: str, prompt: str | None, knobs: dict[str, object], rate: float
) -> None:
    recipe = Recipe.model_validate(
        {
            "name": name,
            "chat": {"system_prompt": prompt},
            "corpus": {
                "sources": [
                    {"kind": "reasoning_gym", "family": "x", "knobs": knobs},
                    {"kind": "jsonl", "name": "y", "path": name},
                ]
            },
            "sft": {"optimizer": {"learning_rate": rate}},
        }
    )
    path = tmp_path_factory.mktemp("toml") / "x.toml"
    path.write_text(to_toml(recipe), encoding="utf-8", newline="")
    assert load_recipe(path) == recipe


def test_resolved_json_of_a_run_reads_back_as_the_same_recipe(tmp_path: Path) -> None:
    recipe = Recipe(name="x", seed=4)
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    assert load_recipe(tmp_path / "recipe.json") == recipe


def test_every_recipe_key_is_in_the_documentation_as_it_is_now() -> None:
    subprocess.run([sys.executable, ROOT / "docs" / "reference" / "recipes.py", "--check"], check=True, timeout=120)


def test_every_recipe_key_has_a_meaning() -> None:
    page = (ROOT / "docs" / "reference" / "recipes.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (`\w+`) \|.*\|  \|$", page, flags=re.MULTILINE) == []


def test_a_number_in_a_key_reaches_into_a_list_of_tables():
    tree = {"name": "lists", "corpus": {"sources": [{"kind": "reasoning_gym", "family": "chain_sum"} for _ in "ab"]}}
    recipe = resolve(tree, {"corpus.sources.1.share": 2, "corpus.sources.0.knobs.min_terms": 3}, "here")
    assert [source.share for source in recipe.corpus.sources] == [1.0, 2.0]
    assert recipe.corpus.sources[0].knobs == {"min_terms": 3}


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("corpus.sources.2.share", r"`corpus.sources` is a list of 1; take a number below that"),
        ("corpus.sources.first.share", r"`corpus.sources` is a list of 1"),
        ("corpus.sources.0.shar", r"^--set corpus.sources.0.shar: unknown key .*did you mean `corpus.sources.0.share`"),
        ("corpus.sources.0.share", r"^--set corpus.sources.0.share: .*share` = -1 is refused"),
        ("name.0", r"`name` is no table"),
    ],
)
def test_a_number_that_leads_nowhere_is_one_sentence(key, sentence):
    tree = {"name": "lists", "corpus": {"sources": [{"kind": "reasoning_gym", "family": "chain_sum"}]}}
    with pytest.raises(UserError, match=sentence):
        resolve(tree, {key: -1}, "here")


def float_keys(table: dict[str, object], before: str = "") -> list[str]:
    found = []
    for name, value in table.items():
        if isinstance(value, dict):
            found += float_keys(value, f"{before}{name}.")
        elif isinstance(value, float):
            found.append(before + name)
    return found


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_no_number_of_a_recipe_is_infinite(value: float) -> None:
    keys = float_keys(load_recipe(ROOT / "recipes" / "tiny.toml").model_dump())
    assert len(keys) > 40
    for key in keys:
        with pytest.raises(UserError, match=f"{key}` = {value} is refused"):
            load_recipe(ROOT / "recipes" / "tiny.toml", {key: value})
