"""Checks that a run's report.json holds what users may rely on, and that each number can be one."""

import json
import sys
from pathlib import Path


def check(report: dict) -> None:
    for stage in ("base", "sft", "rl"):
        value = report["pass_at_1"][stage]
        assert 0 <= value <= 1, f"pass_at_1.{stage} = {value}"
    assert report["scaling"]["budget"] >= 1, report["scaling"]
    for method in ("majority", "deepconf"):
        found = report["scaling"][method]
        assert 0 <= found["accuracy"] <= 1, f"scaling.{method}: {found}"
        assert found["tokens"] > 0, f"scaling.{method}: {found}"
    assert report["scaling"]["deepconf"]["tokens"] <= report["scaling"]["majority"]["tokens"], report["scaling"]
    assert report["wall_seconds"] > 0, report["wall_seconds"]
    assert report["peak_rss_bytes"] > 0, report["peak_rss_bytes"]
    assert isinstance(report["seed"], int), report["seed"]


if __name__ == "__main__":
    path = Path(sys.argv[1])
    check(json.loads(path.read_text(encoding="utf-8")))
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    assert "<svg" in page or "data:image" in page, f"{path.with_suffix('.html')} holds no plot"
    print(f"{path} and its page are complete")
