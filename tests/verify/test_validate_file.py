import json
from pathlib import Path
from typing import Any

import pytest

from h1r.cli import main
from h1r.common.reading import BLOCK_BYTES
from h1r.config import ControlsSection
from h1r.verify.controls.file import Validation

GOOD = {"reference": "1234", "problem": "How many?", "id": "good"}
WIDE = {"reference": "1234", "metadata": {"tolerance": 0.9999}, "family": "wide"}


def written(path: Path, *lines: Any) -> Path:
    file = path / "problems.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def validated(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--validate", *arguments])
    return int(ended.value.code or 0), capsys.readouterr().out


def test_each_line_is_accepted_or_refused_in_its_place(tmp_path, capsys):
    lines = [
        GOOD,
        WIDE,
        {"reference": "B", "verifier": "choice", "prediction": "is not read"},
        "no JSON",
        {"prediction": "5"},
        {"reference": "5", "metadata": {"decimals": "two"}},
    ]
    code, out = validated(capsys, str(written(tmp_path, *lines)), "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    items, families = [row for row in rows if "line" in row], [row for row in rows if "line" not in row]
    assert code == 1
    assert [row["line"] for row in items] == [1, 2, 3, 4, 5, 6]
    assert [row["accepted"] for row in items] == [True, False, True, False, False, False]
    assert items[0]["id"] == "good"
    assert items[1]["reason"].startswith("a control earns: ")
    assert items[3]["reason"] == items[4]["reason"] == "the line cannot be read"
    assert "`reference` is missing" in items[4]["detail"]
    assert "`decimals` is 'two'" in items[5]["detail"]
    assert {row["family"]: row["refused"] for row in families if row["verifier"] == "math_lenient"} == {
        "default": 1,
        "wide": 1,
    }


def test_the_exit_code_is_zero_when_all_is_accepted(tmp_path, capsys):
    code, out = validated(capsys, str(written(tmp_path, GOOD)))
    assert code == 0
    assert out.startswith("1  accepted\n")
    assert "Negative controls" in out


def test_a_family_that_one_constant_solves_ends_with_an_error_and_its_share_is_an_option(tmp_path, capsys):
    same = [{"reference": "7", "problem": f"How many, {n}?", "family": "sevens"} for n in range(30)]
    file = str(written(tmp_path, *same))
    code, out = validated(capsys, file)
    assert code == 1
    assert out.count("accepted") == 30
    assert "one constant wins (7)" in " ".join(out.replace("│", " ").split())
    assert validated(capsys, file, "--constant-share", "1")[0] == 0


def test_families_are_counted_over_all_of_a_long_file(tmp_path):
    padding = "x" * (BLOCK_BYTES // 8)
    file = written(tmp_path, *({"reference": str(n), "verifier": "exact", "padding": padding} for n in range(100, 140)))
    validation = Validation(file, ControlsSection())
    assert [row["line"] for row in validation.rows() if row["accepted"]] == list(range(1, 41))
    assert validation.tally["exact|default"].items == 40


def test_shares_out_of_range_are_one_sentence(tmp_path, capsys):
    assert main(["verify", str(written(tmp_path, GOOD)), "--validate", "--share", "2"]) == 2
    assert capsys.readouterr().err.startswith("h1r: --share is 2; give a share from 0 to 1")
