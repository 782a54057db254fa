"""What the pages say of the tree is true: files and modules that they name exist."""

import importlib
import re
from pathlib import Path

import pytest
from markdown.extensions.toc import slugify

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


def test_the_index_of_the_log_has_every_entry_in_its_order_with_the_anchor_of_the_site() -> None:
    log = ROOT / "docs" / "log"
    index = (log / "index.md").read_text(encoding="utf-8")
    pages = re.findall(r"^## \[.*\]\((.*)\)$", index, re.MULTILINE)
    assert sorted(pages) == sorted(page.name for page in log.glob("*.md") if page.name != "index.md")
    expected = [
        f"- [{heading}]({page}#{slugify(heading, '-')})"
        for page in pages
        for heading in re.findall(r"^## (.+)$", (log / page).read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert re.findall(r"^- .*$", index, re.MULTILINE) == expected


def test_no_merge_has_left_a_piece_of_one_entry_in_another() -> None:
    """What is pasted by mistake stands a second time, twenty words in a row outside of tables, or goes on in the middle
    of a sentence behind a full stop."""
    seen: dict[tuple[str, ...], str] = {}
    twice = []
    for page in [ROOT / "CHANGELOG.md", *sorted((ROOT / "docs" / "log").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        words = re.sub(r"^\|.*", "", text, flags=re.MULTILINE).split()
        for start in range(len(words) - 19):
            run = tuple(words[start : start + 20])
            if run in seen:
                twice.append(f"{page.name}, {seen[run]}: {' '.join(run)}")
            seen[run] = page.name
        assert re.findall(r"[^\n]\n#+ .*|^#+ .*\n[^\n].*", text, re.MULTILINE) == [], page.name
        assert re.findall(r"[^\n|]*[^.]\.\n *(?!datatrove)[a-z]+[ ,;].*", text) == [], f"{page.name}: half a sentence"
    assert twice == []
