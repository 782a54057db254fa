"""Loading users' own modules and files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from h1r.common import plugins
from h1r.config import Recipe, load_recipe
from h1r.config.text import to_toml
from h1r.errors import UserError


def written(folder: Path, text: str, name: str = "own.py") -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_a_file_is_imported_once_under_a_name_that_its_path_gives(tmp_path: Path) -> None:
    path = written(tmp_path, "import pathlib\nwith open(__file__ + '.runs', 'a') as runs: runs.write('x')\n")
    plugins.load_plugins([path, path])
    assert Path(f"{path}.runs").read_text() == "x"
    assert sys.modules[plugins.module_name(path)].__file__ == path


def test_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a", "WHICH = 1"), written(tmp_path / "b", "WHICH = 2")
    plugins.load_plugins([first, second])
    assert [plugins.import_file(path).WHICH for path in (first, second)] == [1, 2]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named"),
        ("1 +", "SyntaxError"),
        ("1 / 0", "ZeroDiv"),
        ("raise SystemExit(0)", "SystemExit: 0"),  # or the command would end as if it had done its work
    ],
)
def test_a_file_that_cannot_be_imported_is_one_sentence(tmp_path: Path, text: str, why: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError, match=rf"^plugin `.*own\.py` cannot be imported \({why}.*; mend it, or take it"):
        plugins.load_plugins([path])
    assert plugins.module_name(path) not in sys.modules


def test_a_module_and_a_file_that_are_not_there_are_named(tmp_path: Path) -> None:
    for plugin in ("no_such.module", str(tmp_path / "none.py")):
        with pytest.raises(UserError, match=f"plugin `{plugin}` cannot be imported"):
            plugins.load_plugins([plugin])


def test_an_installed_package_adds_a_part_by_its_entry_point(tmp_path: Path) -> None:
    written(
        tmp_path,
        "from h1r.common.registry import Registry\nSHAPES = Registry('shape')\nSHAPES.register('round')(int)\n",
        "shapes_of_mine.py",
    )
    written(tmp_path / "mine-1.0.dist-info", "Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", "METADATA")
    written(tmp_path / "mine-1.0.dist-info", "[h1r.plugins]\nmine = shapes_of_mine\n", "entry_points.txt")
    code = "from h1r.common.plugins import load_installed; import sys; load_installed(); "
    code += (
        "assert 'shapes_of_mine' in sys.modules; from shapes_of_mine import SHAPES; assert SHAPES.names() == ['round']"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; {code}"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_script_is_imported_by_other_processes_as_a_file(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "from h1r.common.plugins import importable, module_name\n"
        "assert importable(__name__) == (module_name(__file__), __file__)\n"
        "assert importable('json') == ('json', None)\n",
    )
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


NOTED = "import os\nos.environ['H1R_TEST_PLUGIN'] = __file__\n"


def test_a_recipe_loads_its_plugins_by_paths_from_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("H1R_TEST_PLUGIN", raising=False)
    path = written(tmp_path / "folder", NOTED)
    written(tmp_path / "folder", 'name = "base"\nplugins = ["own.py", "json.tool"]', "base.toml")
    top = written(tmp_path, 'extends = "folder/base.toml"\nname = "top"', "top.toml")
    recipe = load_recipe(top)
    assert os.environ["H1R_TEST_PLUGIN"] == path
    assert recipe.plugins == [path, "json.tool"]


def test_whoever_validates_a_stored_recipe_has_its_plugins(tmp_path: Path) -> None:
    path = written(tmp_path, NOTED)
    stored = Recipe(name="x", plugins=[path]).model_dump_json()
    code = "import os, sys; from h1r.config import Recipe; Recipe.model_validate_json(sys.argv[1]); "
    done = subprocess.run(
        [sys.executable, "-c", code + "print(os.environ['H1R_TEST_PLUGIN'])", stored],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == path, done.stderr


def test_a_recipe_with_plugins_is_written_and_read_back(tmp_path: Path) -> None:
    recipe = Recipe(name="x", plugins=[written(tmp_path, "")])
    assert load_recipe(written(tmp_path, to_toml(recipe), "x.toml")) == recipe


def test_a_recipe_whose_plugin_fails_is_one_sentence(tmp_path: Path) -> None:
    recipe = written(tmp_path, 'name = "x"\nplugins = ["own.py"]', "x.toml")
    with pytest.raises(UserError, match=r"plugin `.*/own\.py` cannot be imported \(FileNotFoundError"):
        load_recipe(recipe)
    with pytest.raises(UserError, match="`plugins` = 3 is refused"):
        load_recipe(recipe, {"plugins": 3})


def test_what_lies_beside_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from h1r.evals.answers import recipe_of

    monkeypatch.delenv("H1R_TEST_PLUGIN", raising=False)
    path = written(tmp_path / "run", NOTED)
    written(tmp_path / "run", f'{{"name": "x", "seed": 3, "plugins": ["{path}"]}}', "recipe.json")
    assert recipe_of(str(tmp_path / "run")).seed == 3
    assert "H1R_TEST_PLUGIN" not in os.environ
    assert recipe_of(str(tmp_path / "run"), {"plugins": [path]}).plugins == [path]
    assert os.environ["H1R_TEST_PLUGIN"] == path
