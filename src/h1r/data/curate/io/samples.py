"""Training samples as rows of Parquet, and packed rows of tokens.

A packed row is up to `seq_len` tokens of documents laid end to end:

    input_ids  loss_mask  document_lengths  document_weights  document_names  document_numbers  document_targets

`loss_mask` is 1 for a token that is to be predicted with loss: those of the last turn, or of every assistant turn where
tools are called (`chat.py`). A document longer than a row is right-trimmed, as the paper does beyond 36K. Its number is
its place among the samples of its shard, its targets are the tokens that are predicted with loss. Row groups are small,
so that one document can be read without its shard (`train/documents.py`).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from h1r.common.files import atomic
from h1r.data.chat import Encoded
from h1r.data.curate.drop_log import DropLog
from h1r.data.curate.io.files import write_rows
from h1r.data.curate.io.items import chunks
from h1r.data.packing import pack
from h1r.records import Sample, to_json

SAMPLES = pa.schema(
    [
        ("name", pa.string()),
        ("domain", pa.string()),
        ("place", pa.int64()),
        ("tokens", pa.int32()),
        ("loss_tokens", pa.int32()),
        ("weight", pa.float32()),
        ("sample", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.int8())),
    ]
)
PACKED = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.int8())),
        ("document_lengths", pa.list_(pa.int32())),
        ("document_weights", pa.list_(pa.float32())),
        ("document_names", pa.list_(pa.string())),
        ("document_numbers", pa.list_(pa.int32())),
        ("document_targets", pa.list_(pa.int32())),
    ]
)
READ_ROWS = 64
"""Rows with their tokens in memory as Python objects at once."""
PACK_TOKENS = 32 << 20
"""Tokens that are packed together: held in memory, at five bytes each, until their rows are full."""
GROUP_TOKENS = 1 << 18
"""Tokens in a row group of packed rows, about: what is read for one document, against what an index of all costs."""
LENGTH_BINS = tuple(2**power for power in range(5, 17))
"""Upper ends of the bins of the length histogram, in tokens; longer ones are in a last bin."""


_Kept = tuple[str, float, np.ndarray, np.ndarray]
"""Name, weight, token ids and loss mask of a sample that the mixture keeps, trimmed to a row."""


def sample_row(name: str, domain: str, place: int, sample: Sample, encoded: Encoded) -> tuple[Any, ...]:
    """A row of `SAMPLES`."""
    ids, mask = encoded.token_ids, encoded.loss_mask
    return name, domain, place, len(ids), sum(mask), sample.weight, to_json(sample), ids, mask


def write_packed(work: Path, shard: str, cutoffs: dict[str, int | None], seq_len: int) -> dict[str, Any]:
    """Writes packed/SHARD.parquet and packed/SHARD.jsonl from the samples that the mixture keeps; returns counts."""
    drop_log = DropLog(("mixture", "trace"))
    lengths: dict[str, Counter[int]] = {}
    totals: Counter[str] = Counter(rows=0, packed_tokens=0)
    (work / "packed").mkdir(parents=True, exist_ok=True)

    def kept(lines: TextIO) -> Iterator[_Kept]:
        with pq.ParquetFile(work / "samples" / f"{shard}.parquet") as file:
            for batch in file.iter_batches(batch_size=READ_ROWS):
                ids, masks = batch.column("input_ids"), batch.column("loss_mask")
                for at, row in enumerate(batch.drop_columns(["input_ids", "loss_mask"]).to_pylist()):
                    drop_log.take("mixture")
                    cutoff = cutoffs[row["domain"]]
                    if cutoff is None or row["place"] > cutoff:
                        source = json.loads(row["sample"])["metadata"]["source"]
                        reason = f"beyond the share of {row['domain']}"
                        drop_log.drop_row("mixture", (row["place"], row["name"], source), reason, "")
                        continue
                    lines.write(row["sample"] + "\n")
                    place = next((n for n, end in enumerate(LENGTH_BINS) if row["tokens"] <= end), len(LENGTH_BINS))
                    lengths.setdefault(row["domain"], Counter())[place] += 1
                    totals["tokens"] += row["tokens"]
                    totals["loss_tokens"] += row["loss_tokens"]
                    totals[f"{row['domain']}|samples"] += 1
                    totals[f"{row['domain']}|tokens"] += row["tokens"]
                    # Copies: the values of a batch would keep the whole batch in memory.
                    tokens, mask = (array[at].values.to_numpy()[:seq_len].copy() for array in (ids, masks))
                    yield row["name"], row["weight"], tokens, mask

    with (
        atomic(work / "packed" / f"{shard}.jsonl") as partial,
        open(partial, "w", encoding="utf-8") as lines,
    ):
        rows = _packed_rows(kept(lines), seq_len, totals)
        write_rows(work / "packed" / f"{shard}.parquet", PACKED, rows, batch=max(1, GROUP_TOKENS // seq_len))
    drop_log.write(work / "drops" / f"packed-{shard}.parquet")
    rows_written, packed_tokens = totals.pop("rows"), totals.pop("packed_tokens")
    return {
        "steps": drop_log.counts(),
        "lengths": {name: {str(k): v for k, v in sorted(found.items())} for name, found in sorted(lengths.items())},
        "totals": dict(sorted(totals.items())),
        "rows": rows_written,
        "packed_tokens": packed_tokens,
    }


def _packed_rows(documents: Iterable[_Kept], seq_len: int, totals: Counter[str]) -> Iterator[tuple[Any, ...]]:
    """Rows of `PACKED`; counts rows and tokens. A document is packed among at most `PACK_TOKENS` tokens of others."""
    first = 0
    for held in chunks(documents, sys.maxsize, PACK_TOKENS, lambda one: len(one[2])):
        names, weights, tokens, masks = zip(*held, strict=True)
        for row in pack([len(one) for one in tokens], range(len(held)), seq_len):
            totals["rows"] += 1
            totals["packed_tokens"] += sum(len(tokens[at]) for at in row)
            yield (
                np.concatenate([tokens[at] for at in row]),
                np.concatenate([masks[at] for at in row]),
                [len(tokens[at]) for at in row],
                [weights[at] for at in row],
                [names[at] for at in row],
                [first + at for at in row],
                [int(masks[at][1:].sum()) for at in row],
            )
        first += len(held)
