"""Files as they come: compressed, marked, cut off, with any line ends."""

from __future__ import annotations

import gzip
import json
import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from h1r.common.reading import DamagedError, blocks, clean, json_value, lines, whole
from h1r.errors import UserError
from h1r.records import BadLine, Problem, read_jsonl, write_jsonl

TEXT = "".join(f'{{"n": {n}, "said": "Zwölf Hühner, {"x" * (n % 97)} 雞"}}\n' for n in range(4000))


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


SHAPES: dict[str, Callable[[str], bytes]] = {
    "plain": str.encode,
    "gzip": lambda text: gzip.compress(text.encode()),
    "two gzip members and zeros behind": lambda text: (
        gzip.compress(text[:5000].encode()) + gzip.compress(text[5000:].encode()) + b"\0" * 700
    ),
    "zstd": lambda text: zstd(text.encode()),
    "a mark of UTF-8": lambda text: text.encode("utf-8-sig"),
    "UTF-16, marked": lambda text: text.encode("utf-16"),
    "UTF-16 of the other order": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-32, marked": lambda text: text.encode("utf-32"),
    "a mark in an archive": lambda text: gzip.compress(text.encode("utf-8-sig")),
    "Windows line ends": lambda text: text.replace("\n", "\r\n").encode(),
    "old Macintosh line ends": lambda text: text.replace("\n", "\r").encode(),
}


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.zst"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_is_what_its_bytes_say_whatever_its_name(tmp_path: Path, shape: str, name: str) -> None:
    (tmp_path / name).write_bytes(SHAPES[shape](TEXT))
    assert [line.decode() for _, line in lines(tmp_path / name)] == TEXT.splitlines()
    assert whole(tmp_path / name).splitlines() == TEXT.splitlines()


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_of_any_size_give_the_same_text(shape: str) -> None:
    data, rng, at = SHAPES[shape](TEXT[:3000]), random.Random(7), 0

    def read(_: int) -> bytes:
        nonlocal at
        at, start = at + rng.randint(1, 9), at
        return data[start:at]

    assert b"".join(blocks(read)).decode() == TEXT[:3000]


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_an_archive_that_is_cut_off_gives_its_whole_lines_and_then_says_so(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    rng = random.Random(3)
    text = "".join(f"{rng.getrandbits(400):x}\n" for _ in range(30_000))
    (tmp_path / "x.gz").write_bytes(compress(text.encode())[:-1000])
    seen: list[str] = []
    with pytest.raises(DamagedError, match="cut off"):
        seen.extend(line.decode() for _, line in lines(tmp_path / "x.gz"))
    assert len(seen) > 1000
    assert seen == text.splitlines()[: len(seen)]
    with pytest.raises(UserError, match="cut off"):
        whole(tmp_path / "x.gz")


def test_records_before_the_cut_are_read_and_the_cut_is_one_bad_line(tmp_path: Path) -> None:
    rng = random.Random(3)
    write_jsonl(tmp_path / "a", (Problem(str(n), f"{rng.getrandbits(900):x}", "1") for n in range(9000)))
    (tmp_path / "b").write_bytes(gzip.compress((tmp_path / "a").read_bytes())[:-9])
    bad: list[BadLine] = []
    kept = list(read_jsonl(tmp_path / "b", Problem, bad))
    assert kept == list(read_jsonl(tmp_path / "a", Problem))[: len(kept)]
    assert len(kept) > 1000
    assert [(one.line, one.why) for one in bad] == [(len(kept) + 1, "its gzip stream is cut off")]
    with pytest.raises(UserError, match="cut off"):
        list(read_jsonl(tmp_path / "b", Problem))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"a": "\\ud800"}', "half a surrogate pair"),
        (b'{"a": ["\\uDFFF x"]}', "half a surrogate pair"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8 \\(byte 0xed at 7\\)"),
        (b'{"a": "caf\xe9"}', "not UTF-8 \\(byte 0xe9 at 10\\)"),
        (b'{"a": ', "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b" ", "empty"),
        (b'{"a": ' + b"7" * 5000 + b"}", "a whole number of more than 4,300 digits"),
    ],
)
def test_a_line_that_is_no_text_says_why(line: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        json_value(line)


def test_a_whole_pair_and_a_mark_before_a_line_are_text() -> None:
    assert json_value(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_cleaning_takes_what_nobody_sees_and_keeps_what_joins_letters() -> None:
    assert clean("\ufeff one\u0000\u200b two\r\nthree\rfour \u2060") == "one two\nthree\nfour"
    assert clean("e\u0301 \u0915\u094d\u200d\u0937 \U0001f469\u200d\U0001f680") == (
        "\u00e9 \u0915\u094d\u200d\u0937 \U0001f469\u200d\U0001f680"
    )


def test_a_long_line_costs_time_and_memory_linear_in_its_length(tmp_path: Path) -> None:
    def cost(size: int) -> tuple[float, int]:
        (tmp_path / "x").write_bytes(json.dumps({"a": "word " * (size // 5)}).encode() + b"\n")
        tracemalloc.start()
        began = time.process_time()
        ((_, line),) = lines(tmp_path / "x")
        json_value(line)
        seconds = time.process_time() - began
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return seconds, peak

    _, memory = cost(32_000_000)
    assert memory < 5 * 32_000_000
    small, large = (min(cost(size)[0] for _ in range(3)) for size in (4_000_000, 32_000_000))
    assert large < 8 * 4 * max(small, 0.005)


@pytest.mark.parametrize("depth", [120, 600, 900, 5000])
@pytest.mark.parametrize("around", ["[{}]", '{{"a": {}}}'])
def test_what_is_nested_deeper_than_data_are_is_a_bad_line(depth: int, around: str) -> None:
    before, after = around.format("|").split("|")
    with pytest.raises(ValueError, match="nested too deep"):
        json_value(f"{before * depth}1{after * depth}".encode())
    shallow = json_value(f"[{', '.join(['{}'] * 500)}, {before * 50}1{after * 50}]".encode())
    assert len(shallow) == 501
