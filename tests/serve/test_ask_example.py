"""examples/04-deepconf-vllm/ask.py, through `h1r serve` in front of a server that streams likeliest tokens."""

from __future__ import annotations

import re
from pathlib import Path

from scripted_server import doubtful, scripted
from served_model import eventually

import warm

ASK = Path(__file__).resolve().parents[2] / "examples" / "04-deepconf-vllm" / "ask.py"


def test_deepconf_in_front_of_any_server_stops_doubtful_traces_and_spends_less(tmp_path: Path) -> None:
    with scripted(pause_s=0.002) as model:
        options = ["scaling.window=4", "scaling.keep_top=0.5", "scaling.voter=majority", "scaling.warmup_votes=all"]
        process = warm.start("serve", model.url, "--port", 0, *(word for one in options for word in ("--set", one)))

        def url() -> str | None:
            assert process.poll() is None, process.stderr.read_text()
            found = re.search(r"serving .* at (http://\S+/v1)", process.stderr.read_text())
            return found[1] if found else None

        try:
            assert eventually(lambda: url() is not None, 120)
            asked = ["What is 6 * 7?", "--url", url(), "--budget", 24, "--warmup", 6, "--max-tokens", 64]
            done = warm.run(warm.PYTHON, ASK, *asked, cwd=tmp_path)
        finally:
            process.kill()
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    told = dict(re.findall(r"^(\w+) +([\d,]+) tokens", done.stdout, flags=re.MULTILINE))
    spent = {method: int(tokens.replace(",", "")) for method, tokens in told.items()}
    assert spent["deepconf"] < spent["majority"]
    assert re.search(r"^majority .* 0 of 24 traces stopped; 42: 16, 7: 8$", done.stdout, flags=re.MULTILINE)
    (stopped,) = re.findall(r"^deepconf .* (\d+) of \d+ traces stopped; 42: ", done.stdout, flags=re.MULTILINE)
    assert 0 < int(stopped) <= sum(map(doubtful, range(24)))


def test_a_server_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    done = warm.run(warm.PYTHON, ASK, "6 * 7?", "--url", "http://127.0.0.1:9/v1", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "no server answers at http://127.0.0.1:9/v1; start one with `h1r serve`, or give --url\n"
