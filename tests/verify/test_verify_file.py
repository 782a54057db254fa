import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from h1r.cli import main
from h1r.common.reading import BLOCK_BYTES
from h1r.errors import UserError
from h1r.verify import Verifier, register
from h1r.verify.batch import IN_FLIGHT, MAX_LINE_BYTES, chunks, verify_file


def verdicts(tmp_path: Path, *lines: object, **options: object) -> list[dict]:
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return list(verify_file(path, **options))  # type: ignore[arg-type]


def test_every_line_gets_its_verdict_in_order(tmp_path):
    found = verdicts(
        tmp_path,
        {"prediction": "1/2", "reference": "0.5"},
        {"prediction": r"\int_0^1 x\,dx", "reference": r"\frac{1}{2}"},
        {"prediction": "<think>hm</think>So it is \\boxed{7}.", "reference": "7"},
        {"prediction": "12 m", "reference": "12 cm", "label": "ignored"},
        {"prediction": 5, "reference": 5},
    )
    assert [row["line"] for row in found] == [1, 2, 3, 4, 5]
    assert [row["reward"] for row in found] == [1.0, 1.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("verifier", ["math_lenient", "exact"])
def test_a_bare_answer_needs_no_box_unless_the_verifier_is_math(tmp_path, verifier):
    (row,) = verdicts(tmp_path, {"prediction": "Alice", "reference": "alice", "verifier": verifier})
    assert row["reward"] == 1.0


@pytest.mark.parametrize("prediction", ["31", "Altogether there are 31.", "<think>add</think>There are 31."])
def test_math_takes_a_box_and_nothing_else_in_a_file_too(tmp_path, prediction):
    lines = ({"prediction": text, "reference": "31"} for text in (prediction, rf"{prediction} \boxed{{31}}"))
    bare, boxed = verdicts(tmp_path, *lines, verifier="math")
    assert (bare["reward"], bare["reason"], bare["verifier"]) == (0.0, "not_extracted", "math")
    assert boxed["reward"] == 1.0


def test_a_line_that_cannot_be_read_is_a_verdict_of_zero_in_its_place(tmp_path):
    register(Verifier("test-not-there", grade="no_such_module:grade"))
    good = {"prediction": "5", "reference": "5"}
    bad = [
        ("junk", "not JSON"),
        ([1], "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        ({"prediction": "5"}, "`reference` is missing"),
        ({"reference": "5"}, "`prediction` is missing"),
        ({"prediction": ["5"], "reference": "5"}, "`prediction` is neither a text nor a number"),
        ({**good, "verifier": "mth"}, "use one of `math`"),
        ({**good, "metadata": 3}, "`metadata` is no object"),
        ({**good, "verifier": "test-not-there"}, "cannot be loaded"),
        ({**good, "metadata": {"decimals": "two"}}, "`decimals` is 'two'"),
    ]
    found = verdicts(tmp_path, *(line for pair in bad for line in (good, pair[0])), good)
    assert [row["line"] for row in found] == list(range(1, 2 * len(bad) + 2))
    assert [row["reward"] for row in found] == [1.0, 0.0] * len(bad) + [1.0]
    for row, (_, why) in zip(found[1::2], bad, strict=True):
        assert why in row["error"]


def test_an_id_comes_back_and_metadata_reaches_the_verifier(tmp_path):
    line = {"prediction": "0.67", "reference": "2/3", "id": "a"}
    strict, rounded = verdicts(tmp_path, line, {**line, "id": ["b"], "metadata": {"decimals": 2}})
    assert (strict["id"], strict["reward"]) == ("a", 0.0)
    assert (rounded["id"], rounded["reward"]) == (["b"], 1.0)


def test_blank_lines_count_as_lines_but_get_no_verdict(tmp_path):
    found = verdicts(tmp_path, "", {"prediction": "5", "reference": "5"}, "  ", "x")
    assert [row["line"] for row in found] == [2, 4]


def test_files_longer_than_what_is_read_at_once_keep_their_order(tmp_path):
    padding = "x" * (BLOCK_BYTES // 50)
    count = 50 * (IN_FLIGHT + 2)
    found = verdicts(tmp_path, *({"prediction": str(n), "reference": "7", "padding": padding} for n in range(count)))
    assert [row["line"] for row in found] == list(range(1, count + 1))
    assert [row["line"] for row in found if row["reward"]] == [8]


def test_a_line_without_end_is_set_aside_and_the_next_one_read():
    long = b"x" * (MAX_LINE_BYTES + 1)
    found = [line for chunk in chunks(io.BytesIO(b"a\n" + long + b"\nb\n" + long)) for line in chunk]
    assert found == [(1, b"a"), (2, None), (3, b"b"), (4, None)]


def test_memory_does_not_grow_with_the_file(tmp_path):
    padding = "x" * 9_000

    def peak_kib(lines: int) -> int:
        path = tmp_path / f"{lines}.jsonl"
        with path.open("w") as handle:
            for number in range(lines):
                handle.write(json.dumps({"prediction": number, "reference": 7, "padding": padding}) + "\n")
        code = (
            "import resource, sys; from h1r.verify.batch import verify_file\n"
            "assert sum(1 for _ in verify_file(sys.argv[1])) == int(sys.argv[2])\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        run = subprocess.run([sys.executable, "-c", code, path, str(lines)], capture_output=True, text=True, check=True)
        return int(run.stdout)

    small, large = peak_kib(2_000), peak_kib(10_000)  # 18 and 90 MB of text
    assert large < small + 10_000


def test_a_pipe_gets_its_verdicts_as_it_goes():
    line = b'{"prediction": "5", "reference": "5"}\n'
    command = [sys.executable, "-u", "-m", "h1r.cli", "verify", "-", "--json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in (1, 2):
            process.stdin.write(line)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["line"] == number  # the pipe is still open
        process.stdin.close()
        assert process.wait(30) == 0


def test_the_command_prints_one_json_verdict_per_line_and_nothing_else(tmp_path, capsys):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"prediction": "1/2", "reference": 0.5}\nnonsense\n{"prediction": "\\ud83d", "reference": "7"}\n')
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(path), "--json"])
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["reward"] for line in out.splitlines()] == [1.0, 0.0, 0.0]
    assert err == ""


def test_a_reader_that_goes_away_ends_the_command_without_a_traceback(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"prediction": "5", "reference": "5"}\n' * 20_000)
    shell = f"{sys.executable} -m h1r.cli verify {path} | head -n 1"
    run = subprocess.run(shell, shell=True, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("1  1  5")
    assert "Traceback" not in run.stderr


def test_what_the_caller_got_wrong_is_one_sentence(tmp_path, capsys):
    with pytest.raises(UserError, match="cannot read"):
        list(verify_file(tmp_path / "missing.jsonl"))
    with pytest.raises(UserError, match="Is a directory"):
        list(verify_file(tmp_path))
    with pytest.raises(UserError, match="unknown verifier"):
        verdicts(tmp_path, {"prediction": "5", "reference": "5"}, verifier="mth")
    assert main(["verify", str(tmp_path / "missing.jsonl")]) == 2
    assert capsys.readouterr().err.startswith("h1r: cannot read")
