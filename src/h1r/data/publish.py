"""What a run has curated as a data set for others: a directory that `datasets.load_dataset` and the hub read.

    README.md                 a card with the configurations, how many rows each has, and where they come from
    sft/train-00000.parquet   messages (role, content, thinking), and what samples.jsonl says of each
    rl/train-00000.parquet    problems of the RL pool
    held_out/test-00000.parquet   problems for evaluation only

`load_dataset(DIRECTORY, "sft")` gives the rows. Held-out problems are there so that others keep them out too. What
differs from row to row (`metadata`, `difficulty`) is JSON text, since columns of a data set have one type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from h1r.common.files import read_json, replace_directory
from h1r.common.prose import markdown_table
from h1r.common.reading import lines
from h1r.errors import UserError

SETS = {
    "sft": ("samples.jsonl", "train"),
    "rl": ("problems_rl.jsonl", "train"),
    "held_out": ("held_out.jsonl", "test"),
}
"""Configuration -> file of the curation, and the split that it becomes."""
_ROWS = 1024
_PART_BYTES = 256 << 20
"""Of rows as JSON, before a new file begins."""
_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string()), ("thinking", pa.string())])
SAMPLE = pa.schema(
    [("problem_id", pa.string()), ("messages", pa.list_(_MESSAGE)), ("family", pa.string()), ("category", pa.string()),
     ("difficulty_class", pa.string()), ("weight", pa.float64()), ("metadata", pa.string())]
)  # fmt: skip
PROBLEM = pa.schema(
    [("id", pa.string()), ("question", pa.string()), ("answer", pa.string()), ("verifier", pa.string()),
     ("family", pa.string()), ("category", pa.string()), ("source", pa.string()), ("difficulty", pa.string()),
     ("metadata", pa.string())]
)  # fmt: skip


def export_data(run: Path, target: Path) -> Path:
    """Writes the data set of a run. `UserError` for a run that has curated nothing, and a target that is there."""
    stage = run / "curate"
    if not (stage / "summary.json").exists():
        raise UserError(f"{run} has no finished curation; give a run of h1r curate")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already; give another --out")
    replace_directory(target, lambda place: _write(stage, place, run.resolve().name))
    return target


def _write(stage: Path, place: Path, name: str) -> None:
    counts = {}
    for config, (file, split) in SETS.items():
        if (stage / file).exists() and (count := _parquet(stage / file, place / config, split, config == "sft")):
            counts[config] = count
    if not counts:
        raise UserError(f"{stage} holds no sample and no problem")
    (place / "README.md").write_text(_card(name, counts, read_json(stage / "summary.json")), encoding="utf-8")


def _parquet(source: Path, folder: Path, split: str, is_sample: bool) -> int:
    """Writes the rows of a file in parts; how many there were."""
    schema, number, count, size = SAMPLE if is_sample else PROBLEM, 0, 0, 0
    writer: pq.ParquetWriter | None = None
    for rows, chars in _batches(source, schema):
        if writer is None:
            folder.mkdir(exist_ok=True)
            writer = pq.ParquetWriter(folder / f"{split}-{number:05d}.parquet", schema, compression="zstd")
        writer.write_table(pa.Table.from_pylist(rows, schema))
        count, size = count + len(rows), size + chars
        if size >= _PART_BYTES:
            writer.close()
            writer, number, size = None, number + 1, 0
    if writer is not None:
        writer.close()
    return count


def _batches(source: Path, schema: pa.Schema) -> Iterator[tuple[list[dict[str, Any]], int]]:
    rows: list[dict[str, Any]] = []
    chars = 0
    for _, line in lines(source):
        rows.append(_row(json.loads(line), schema))
        chars += len(line)
        if len(rows) == _ROWS:
            yield rows, chars
            rows, chars = [], 0
    if rows:
        yield rows, chars


def _row(found: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    texts = {key: json.dumps(found.get(key) or {}, ensure_ascii=False) for key in ("metadata", "difficulty")}
    return {name: texts[name] if name in texts else found.get(name) for name in schema.names}


def _card(name: str, counts: dict[str, int], summary: dict[str, Any]) -> str:
    """In the hub's form: the configurations as YAML, then what a person wants to know."""
    text = ["---", "tags: [open-h1r]", "configs:"]
    for config in counts:
        split = SETS[config][1]
        text += [f"- config_name: {config}", "  data_files:", f"  - split: {split}", f"    path: {config}/*.parquet"]
    text += ["---", "", f"# {name}", "", "Curated by Open-H1R.", ""]
    rows = [(f"`{config}`", f"{count:,}") for config, count in counts.items()]
    text.append(markdown_table(["configuration", "rows"], rows))
    text = [*text, "", "Sources: " + ", ".join(sorted(summary["sources"])) + ". Their licences are their own."]
    return "\n".join([*text, "", "`held_out` is for evaluation: train on nothing that overlaps it.", ""])
