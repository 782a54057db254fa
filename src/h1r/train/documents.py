"""What SFT trains on: documents of tokens, in memory or in the packed shards that a curation wrote.

    samples.jsonl    read, tokenised and kept in memory                          samples from elsewhere
    packed/*.parquet documents read when a batch needs them, by their row group  what a curation writes

Both give the same documents in the same order, so training on one or the other gives the same bits. Of shards a process
holds lengths, targets and weights, and the row groups that it read last. Which documents make up a batch is decided
from lengths alone (`sft.Batches`); a process reads only those that it runs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from h1r.common.progress import note
from h1r.common.prose import counted
from h1r.data.chat import Encoded, encode_samples
from h1r.errors import UserError
from h1r.records import Sample, read_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CACHE_BYTES = 64 << 20
"""Decoded row groups that a process keeps, in bytes."""
_BYTES_PER_TOKEN = 5
_INDEX = ["document_lengths", "document_weights", "document_numbers", "document_targets"]


@dataclass(frozen=True)
class Document:
    """One sample as tokens: `loss[i]` says whether token i is predicted with loss, `weight` scales its losses."""

    ids: list[int]
    loss: list[int]
    weight: float
    source: int = 0
    """Its number in `sft.mixture`."""

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def targets(self) -> int:
        """Tokens predicted with loss; the first of a document never is."""
        return sum(self.loss[1:])


class StoredDocument:
    """A document of packed shards: `ids` and `loss` are read when asked for."""

    __slots__ = ("_place", "_shards", "length", "source", "targets", "weight")

    def __init__(self, shards: PackedDocuments, place: int, length: int, targets: int, weight: float) -> None:
        self._shards, self._place, self.source = shards, place, shards.source
        self.length, self.targets, self.weight = length, targets, weight

    @property
    def ids(self) -> list[int]:
        found: list[int] = self._shards.read(self._place)[0].tolist()
        return found

    @property
    def loss(self) -> list[int]:
        found: list[int] = self._shards.read(self._place)[1].tolist()
        return found


Documents = Sequence[Document] | Sequence[StoredDocument]


def read_samples(
    path: Path, tokenizer: PreTrainedTokenizerFast, system_prompt: str | None, seq_len: int
) -> list[Document]:
    """The samples of a JSONL file as documents. `UserError` when there is none, or none with an answer in `seq_len`."""
    samples = list(read_jsonl(path, Sample))
    if not samples:
        raise UserError(f"{path} is empty; loosen the recipe's [curate] rules")
    return documents_of(samples, path, tokenizer, seq_len, system_prompt)


def documents_of(
    samples: Sequence[Sample],
    path: Path,
    tokenizer: PreTrainedTokenizerFast,
    seq_len: int,
    system_prompt: str | None = None,
    source: int = 0,
) -> list[Document]:
    """Samples that were read from `path` as documents. `UserError` when none has an answer in `seq_len`."""
    encoded = encode_samples(tokenizer, samples, system_prompt)
    documents = to_documents(encoded, [sample.weight for sample in samples], seq_len, source)
    if not documents:
        raise UserError(f"sft.seq_len = {seq_len} cuts off every answer in {path}; raise it")
    _tell_left_out(len(samples) - len(documents), len(samples), seq_len)
    return documents


def to_documents(encoded: Sequence[Encoded], weights: Sequence[float], seq_len: int, source: int = 0) -> list[Document]:
    """Samples as documents, right-trimmed to `seq_len`; those with no token left to predict are left out."""
    documents = []
    for one, weight in zip(encoded, weights, strict=True):
        document = Document(one.token_ids[:seq_len], one.loss_mask[:seq_len], weight, source)
        if any(document.loss[1:]):
            documents.append(document)
    return documents


def _tell_left_out(count: int, of: int, seq_len: int) -> None:
    if count:
        note(
            f"{count} of {of} samples are left out: none of their first {counted(seq_len, 'token')} "
            f"(sft.seq_len) carries loss"
        )


class PackedDocuments(Sequence[StoredDocument]):
    """The documents of the shards in a directory, in the order of the samples: shard by shard, by their numbers.

    Right-trimmed to `seq_len`; those with no token left to predict are left out. source: their number in `sft.mixture`.
    Raises `UserError` for a directory without shards, a file that is no shard, and when nothing is left.
    """

    def __init__(self, directory: Path, seq_len: int, source: int = 0) -> None:
        self.source = source
        self._paths = sorted(directory.glob("*.parquet"))
        if not self._paths:
            raise UserError(f"{directory} holds no packed shard (*.parquet); give a directory that `h1r curate` wrote")
        self._files: dict[int, pq.ParquetFile] = {}
        self._groups: OrderedDict[tuple[int, int], tuple[Any, Any, Any]] = OrderedDict()
        self._held = 0
        parts = [_index(path, number, seq_len) for number, path in enumerate(self._paths)]
        index = np.concatenate(parts)
        if not len(index):
            raise UserError(f"the shards in {directory} are empty; loosen the recipe's [curate] rules")
        self._index = index[index["targets"] > 0]
        if not len(self._index):
            raise UserError(f"sft.seq_len = {seq_len} cuts off every answer in {directory}; raise it")
        _tell_left_out(len(index) - len(self._index), len(index), seq_len)

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, place: int) -> StoredDocument: ...
    @overload
    def __getitem__(self, place: slice) -> list[StoredDocument]: ...
    def __getitem__(self, place: int | slice) -> StoredDocument | list[StoredDocument]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        row = self._index[place]
        return StoredDocument(self, place, int(row["length"]), int(row["targets"]), float(row["weight"]))

    def fingerprint(self) -> list[list[Any]]:
        """What tells these shards from others: name and bytes of each file."""
        return [[path.name, path.stat().st_size] for path in self._paths]

    def read(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids [length] int32 and loss mask [length] int8 of a document."""
        row = self._index[place]
        ids, mask, starts = self._group(int(row["shard"]), int(row["group"]))
        start = starts[row["row"]] + row["offset"]
        return ids[start : start + row["length"]], mask[start : start + row["length"]]

    def _group(self, shard: int, group: int) -> tuple[Any, Any, Any]:
        """Flat ids and mask of a row group, and where its rows start in them."""
        key = (shard, group)
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        if shard not in self._files:
            if len(self._files) == 64:  # open files, of which a process may not have many
                self._files.pop(next(iter(self._files))).close()
            self._files[shard] = pq.ParquetFile(self._paths[shard], memory_map=True)
        ids, mask = self._files[shard].read_row_group(group, columns=["input_ids", "loss_mask"]).columns
        rows = ids.combine_chunks()
        found = (_flat(ids), _flat(mask), rows.offsets.to_numpy() - rows.offsets[0].as_py())
        self._groups[key] = found
        self._held += len(found[0]) * _BYTES_PER_TOKEN
        while self._held > CACHE_BYTES and len(self._groups) > 1:
            self._held -= len(self._groups.popitem(last=False)[1][0]) * _BYTES_PER_TOKEN
        return found


_DOCUMENT = np.dtype(
    [("shard", np.int32), ("group", np.int32), ("row", np.int32), ("offset", np.int32), ("length", np.int32),
     ("targets", np.int32), ("weight", np.float32), ("number", np.int32)]
)  # fmt: skip


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    """The values of a column of lists, end to end."""
    values: np.ndarray = column.combine_chunks().flatten().to_numpy()
    return values


def _index(path: Path, shard: int, seq_len: int) -> np.ndarray:
    """A row of `_DOCUMENT` for every document of a shard, by number. Tokens are looked at only where they are cut."""
    try:
        with pq.ParquetFile(path) as file:
            if missing := [name for name in _INDEX if name not in file.schema_arrow.names]:
                raise UserError(
                    f"{path} has no column `{missing[0]}`, so it is no packed shard of this version; run `h1r curate` "
                    "anew"
                )
            found = _documents(file, seq_len)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file ({error}); delete the run's `curate` and run it anew") from None
    found["shard"] = shard
    return found[np.argsort(found["number"], kind="stable")]


def _documents(file: pq.ParquetFile, seq_len: int) -> np.ndarray:
    table = file.read(columns=_INDEX)
    lengths, weights, numbers, targets = (_flat(table.column(name)) for name in _INDEX)
    in_row = table.column("document_lengths").combine_chunks().value_lengths().to_numpy()
    row = np.repeat(np.arange(len(in_row)), in_row)
    rows_in_group = np.array([file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)], np.int64)
    first_row = np.cumsum(rows_in_group) - rows_in_group
    ends = np.cumsum(lengths, dtype=np.int64)
    row_start = np.concatenate([[0], ends])[np.cumsum(in_row) - in_row]
    found = np.zeros(len(lengths), _DOCUMENT)
    found["group"] = np.searchsorted(first_row, row, side="right") - 1
    found["row"] = row - first_row[found["group"]]
    found["offset"] = ends - lengths - row_start[row]
    found["length"], found["targets"] = np.minimum(lengths, seq_len), targets
    found["weight"], found["number"] = weights, numbers
    cut = np.flatnonzero(lengths > seq_len)
    for group in np.unique(found["group"][cut]):
        column = file.read_row_group(int(group), columns=["loss_mask"]).column(0)
        mask, starts = _flat(column), column.combine_chunks().offsets.to_numpy()
        for at in cut[found["group"][cut] == group]:
            start = starts[found["row"][at]] - starts[0] + found["offset"][at]
            found["targets"][at] = mask[start + 1 : start + seq_len].sum()
    return found
