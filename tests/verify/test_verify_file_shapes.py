"""What `h1r verify` makes of files as they come: no verdict is wrong, and what could not be read is told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest

from h1r.cli import main


def verified(path: Path) -> int:
    try:
        return main(["verify", str(path), "--json", "--workers", "1"])
    except SystemExit as ended:
        return int(ended.code or 0)


RIGHT = json.dumps({"prediction": "42", "reference": "42\u200b"}) + "\n"


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(RIGHT.encode() * 2),
        pa.compress(RIGHT.encode() * 2, codec="zstd", asbytes=True),
        (RIGHT * 2).encode("utf-8-sig"),
        (RIGHT * 2).encode("utf-16"),
        (RIGHT * 2).replace("\n", "\r").encode(),
    ],
    ids=["gzip", "zstd", "a mark", "UTF-16", "bare CR"],
)
def test_files_of_every_encoding_are_graded(tmp_path: Path, data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_bytes(data)
    assert verified(tmp_path / "x") == 0
    assert [json.loads(line)["reward"] for line in capsys.readouterr().out.splitlines()] == [1.0, 1.0]


def test_a_file_that_is_cut_off_ends_with_an_error_behind_the_verdicts_of_its_whole_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(RIGHT.encode() * 3, 0)[:-12])
    assert verified(tmp_path / "x") == 2
    told = capsys.readouterr()
    assert [json.loads(line)["reward"] for line in told.out.splitlines()] == [1.0, 1.0]
    assert "its gzip stream is cut off" in told.err


def test_a_file_of_which_no_line_can_be_graded_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").write_bytes(b'{"prediction": "caf\xe9", "reference": "1"}\n\x93NUMPY\n')
    assert verified(tmp_path / "x") == 2
    told = capsys.readouterr()
    assert "not UTF-8 (byte 0xe9 at 19)" in json.loads(told.out.splitlines()[0])["error"]
    assert "no line could be graded" in told.err
