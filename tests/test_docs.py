"""What the pages say of the tree is true: files and modules that they name exist."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    # The log tells of files as they were on its day
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "log"),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+\.(?:py|c|h|toml|sh))`", page.read_text(encoding="utf-8"))
    places = (ROOT, ROOT / "src", ROOT / "src" / "h1r")
    missing = [name for name in named if not any((place / name).exists() for place in places)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_and_names_that_a_page_imports_exist(page: Path) -> None:
    for module, names in re.findall(
        r"^\s*from (h1r[.a-z_0-9]*) import ([A-Za-z_0-9, ]+)$", page.read_text(encoding="utf-8"), re.MULTILINE
    ):
        found = importlib.import_module(module)
        for name in names.split(","):
            assert hasattr(found, name.strip()), f"{module}.{name.strip()}"
