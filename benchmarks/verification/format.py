"""How often the detectors of the format reward call real text degenerate, or mixed in language.

`complete` are thinking traces that ended, and whole chats: every alarm there is to be looked at. `cut_off` are thinking
traces at their token limit; `unanswered` are short responses that were cut off before an answer, in which base models
loop. The question's own writing systems are known to the detector where the data set has the question.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

from h1r.response.format import is_coherent
from h1r.response.language import is_one_language
from verification.common import DATA, Context, rows

ENDED = re.compile(r"(?:<｜end▁of▁sentence｜>|<\|im_end\|>)\s*\Z")


def texts() -> Iterator[tuple[str, str, str, str]]:
    """(set, id, question, response)."""
    for file in sorted((DATA / "areal_rollouts").glob("*.jsonl.gz")):
        for row in rows(f"areal_rollouts/{file.name}"):
            kind = "complete" if ENDED.search(row["completion"]) else "cut_off"
            name = f"areal/{file.name.removesuffix('.jsonl.gz')}/{row['task_id']}/{row['sample_idx']}"
            yield kind, name, row["prompt"], row["completion"]
    for number, row in enumerate(rows("intellect3_sft_256/intellect3_sft_256.jsonl.gz")):
        asked = "\n".join(str(turn["content"]) for turn in row["prompt"])
        yield "complete", f"intellect/{number}", asked, row["completion"][-1]["content"]
    for row in rows("mmlu_pro_sample/model_outputs_stem.jsonl.gz"):
        kind = "answered" if "answer is" in row["output"] else "unanswered"
        yield kind, f"mmlu_pro/{row['model']}/{row['question_id']}", "", row["output"]


def detectors(context: Context) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    seconds = {"degenerate": 0.0, "mixed": 0.0}
    chars = 0
    for kind, name, question, text in texts():
        counts = found.setdefault(kind, {"texts": 0, "degenerate": 0, "mixed": 0, "alarms": []})
        start = time.perf_counter()
        degenerate = not is_coherent(text)
        middle = time.perf_counter()
        mixed = not is_one_language(text, question)
        seconds["degenerate"] += middle - start
        seconds["mixed"] += time.perf_counter() - middle
        chars += len(text)
        counts["texts"] += 1
        counts["degenerate"] += degenerate
        counts["mixed"] += mixed
        if mixed or (degenerate and kind == "complete"):
            counts["alarms"].append(f"{name}: {'degenerate' if degenerate else 'mixed'}: {text[-80:]!r}")
    return {**found, "megabytes_per_s": {name: round(chars / 1e6 / spent, 1) for name, spent in seconds.items()}}


SECTIONS = {"detectors": detectors}
