"""What needs all records at once, from narrow tables on disk: DuckDB, whose memory is bounded and which spills.

Each function reads the Parquet tables that a pass wrote and writes one, whole or not at all, in an order of its own, so
that its bytes do not depend on how the tables were cut.
"""

from __future__ import annotations

import bisect
import itertools
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from h1r.data.curate.io.files import write_rows
from h1r.data.curate.joins.keys import content
from h1r.data.curate.rules.dedup import jaccard, shingles
from h1r.data.curate.rules.meaning import Embed, alike, open_embedder

ALL_PAIRS = 64
"""Records of equal bands that are compared each with each; of more, one is compared with those that are no copies."""
KEY_BYTES, BAND_BYTES, TEXT_BYTES = 128, 128, 4096
"""Memory that a row of keys, of bands costs while rows of equal hash are found: 90 to 120 as measured; and that of a
question with what sorting takes, an estimate."""
PAIRS = pa.schema([("ordinal", pa.int64()), ("first", pa.int64())])
TWINS = pa.schema([("ordinal", pa.int64()), ("twin", pa.string()), ("reason", pa.string()), ("first", pa.int64())])


class Joins:
    """A database over the tables under `work`; use as a context manager."""

    def __init__(self, work: Path, memory_mb: int) -> None:
        self.work = work
        self._memory_mb = memory_mb
        self._scratch = work / "spill"
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._database = duckdb.connect(
            config={
                "memory_limit": f"{memory_mb}MB",
                "temp_directory": str(self._scratch),
                "threads": 2,
                "preserve_insertion_order": False,
            }
        )

    def __enter__(self) -> Joins:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def exact(self) -> None:
        """keys -> exact.parquet (copies of an earlier record, with its id) and suspects.parquet (block shared)."""
        self._view("keys")
        self._view("held_keys")
        self._run("create or replace table twins (ordinal bigint, first bigint)")
        parts = self._parts("keys", KEY_BYTES)
        for low, high in parts:
            self._run(f"""
                insert into twins
                with here as (select question, ordinal from keys where question between {low} and {high}),
                     same as (select question, min(ordinal) as first from here group by all having count(*) > 1)
                select ordinal, first from here join same using (question) where first < ordinal
            """)
        self._copy("exact", """
            select t.ordinal, f.id as twin,
                   case when k.answer = f.answer then 'same question'
                        else 'same question, answer written otherwise' end as reason, t.first
            from twins t join keys k using (ordinal) join keys f on f.ordinal = t.first order by t.ordinal
        """)  # fmt: skip
        self._run("create or replace table suspects (ordinal bigint)")
        for low, high in parts:
            self._run(f"""
                insert into suspects
                with left_over as (select ordinal, block from keys anti join twins using (ordinal)
                                   where block between {low} and {high}
                                   union all select ordinal, block from held_keys
                                   where block between {low} and {high}),
                     shared as (select block from left_over group by block having count(*) > 1)
                select ordinal from left_over semi join shared using (block)
            """)
        self._copy("suspects", "select ordinal from suspects order by ordinal")
        self._run("drop table twins; drop table suspects")

    def near(
        self,
        templates: Mapping[str, Set[str]],
        threshold: float,
        content_threshold: float,
        embedder: str | None = None,
        meaning_threshold: float = 1.0,
    ) -> None:
        """bands, texts -> near.parquet: records whose question nearly is that of a held-out one or of an earlier one.

        Held-out questions have negative ordinals, so they come first. A record is dropped for a twin that is kept. With
        an embedder those that mean the same are such twins too.
        """
        self._view("bands")
        self._view("texts")

        def pairs() -> Iterator[tuple[int, int]]:
            for low, high in self._parts("bands", BAND_BYTES):
                self._run(f"""
                    create or replace table groups as
                    select row_number() over () as number, members from (
                        select distinct list(ordinal order by ordinal) as members
                        from bands where block between {low} and {high}
                        group by block, band, hash having count(*) > 1
                    )
                """)
                members = self._rows(f"""
                    select number, ordinal, question, family
                    from (select number, unnest(members) as ordinal from groups)
                    join (from texts where block between {low} and {high}) using (ordinal) order by number, ordinal
                """)
                for _, rows in itertools.groupby(members, lambda row: row[0]):
                    yield from _twins(rows, templates, threshold, content_threshold)
            if embedder is not None:
                yield from self._alike(open_embedder(embedder), meaning_threshold)

        # No output: in which order groups and ranges of blocks come is nobody's business.
        proposed, found = self._scratch / "pairs.parquet", self._scratch / "found.parquet"
        write_rows(proposed, PAIRS, pairs())
        rows = self._rows(f"select distinct ordinal, first from {_table(proposed)} order by ordinal, first")
        write_rows(found, PAIRS, _dropped(rows))
        self._copy("near", f"""
            select f.ordinal, t.id as twin,
                   case when f.first < 0 then 'nearly a held-out question'
                        else 'nearly the same question' end as reason,
                   f.first
            from {_table(found)} f join texts t on t.ordinal = f.first order by f.ordinal
        """)  # fmt: skip
        self._run("drop table groups")
        proposed.unlink()
        found.unlink()

    def _alike(self, embed: Embed, threshold: float) -> Iterator[tuple[int, int]]:
        """(later, earlier) of questions of one block that mean the same."""
        for low, high in self._parts("texts", TEXT_BYTES):
            rows = self._rows(f"""
                select block, ordinal, question from texts where block between {low} and {high} order by block, ordinal
            """)
            for _, block in itertools.groupby(rows, lambda row: row[0]):
                if len(found := [(ordinal, question) for _, ordinal, question in block]) > 1:
                    yield from alike(found, embed, threshold)

    def length_classes(self, easy_share: float, hard_share: float) -> dict[str, tuple[float, float]]:
        """lengths -> family: (easy up to, hard from), in characters, by the rule of `difficulty.length_class`."""
        self._view("lengths")
        rows = self._rows(f"""
            with counted as (select family, length, count(*) as here from lengths group by all),
                 placed as (
                     select family, length,
                            sum(here) over (partition by family order by length) as as_short,
                            sum(here) over (partition by family order by length desc) as as_long,
                            sum(here) over (partition by family) as size
                     from counted
                 )
            select family,
                   coalesce(max(length) filter (as_short <= {easy_share} * size), -1.0),
                   coalesce(min(length) filter (as_long <= {hard_share} * size), 1e308)
            from placed group by family order by family
        """)
        return {family: (easy, hard) for family, easy, hard in rows}

    def mixture(self, shares: dict[str, float], by: str) -> dict[str, dict[str, Any]]:
        """samples -> domain: {samples, tokens, kept_samples, kept_tokens, cutoff}.

        The largest subset in which the domains have their shares; a sample stays when its `place`, a hash, is at most
        `cutoff`. Without shares all stay. A domain without a share goes; one with a share and no sample has zeros, and
        the others keep their shares to each other.
        """
        self._view("sample_sizes")
        size = "1" if by == "samples" else "tokens"
        rows = list(self._rows(
            f"select domain, count(*)::bigint, sum(tokens)::bigint, sum({size})::bigint from sample_sizes "
            "group by domain order by domain"
        ))  # fmt: skip
        found: dict[str, dict[str, Any]] = {}
        wanted = {domain: shares.get(domain, 0.0) if shares else 1.0 for domain, *_ in rows}
        total = min((amount / wanted[domain] for domain, _, _, amount in rows if wanted[domain]), default=0.0)
        for domain, samples, tokens, amount in rows:
            target = amount if not shares else min(amount, round(total * wanted[domain]))
            cutoff, kept_samples, kept_tokens = next(self._rows(f"""
                with ordered as (
                    select place, tokens, sum({size}) over (order by place, name rows unbounded preceding) as amount
                    from sample_sizes where domain = $1
                )
                select max(place), count(*)::bigint, coalesce(sum(tokens), 0)::bigint from ordered where amount <= $2
            """, [domain, target]))  # fmt: skip
            found[domain] = {
                "samples": samples, "tokens": tokens, "kept_samples": kept_samples, "kept_tokens": kept_tokens,
                "cutoff": cutoff,
            }  # fmt: skip
        nothing = {"samples": 0, "tokens": 0, "kept_samples": 0, "kept_tokens": 0, "cutoff": None}
        return found | {domain: dict(nothing) for domain in sorted(shares) if domain not in found}

    def _view(self, name: str) -> None:
        self._run(f"create or replace view {name} as select * from {_table(self.work / name / '*.parquet')}")

    def _parts(self, view: str, row_bytes: int) -> list[tuple[int, int]]:
        """Ranges of a 64-bit hash, both ends included, each with rows of a view that fit in half of the memory.

        What compares only rows of equal hash is done range by range: DuckDB spills, but its grouping needs memory for
        what it merges in the end, and fails without it.
        """
        rows = next(self._rows(f"select count(*) from {view}"))[0]
        count = max(1, math.ceil(rows * row_bytes / (self._memory_mb * 1e6 / 2)))
        ends = [2**64 * number // count - 2**63 for number in range(count + 1)]
        return [(low, high - 1) for low, high in itertools.pairwise(ends)]

    def _run(self, query: str) -> None:
        self._database.execute(query)

    def _rows(self, query: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        cursor = self._database.execute(query, list(parameters) or None)
        while rows := cursor.fetchmany(2048):
            yield from rows

    def _copy(self, name: str, query: str) -> None:
        """The rows of a query as a Parquet file that pyarrow writes, so that its bytes depend on the rows alone."""
        cursor = self._database.execute(query)
        schema = TWINS if name != "suspects" else pa.schema([("ordinal", pa.int64())])
        write_rows(self.work / f"{name}.parquet", schema, iter(cursor.fetchone, None))


def _table(path: Path) -> str:
    """A Parquet file, or all that a pattern matches, in a query."""
    return "read_parquet('" + str(path).replace("'", "''") + "')"


def _dropped(pairs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Of (later, earlier), sorted: for each record with a twin that stays itself, the first such pair."""
    gone = array("q")  # in order, since the pairs are
    for ordinal, first in pairs:
        if (not gone or gone[-1] != ordinal) and not _in_sorted(gone, first):
            gone.append(ordinal)
            yield ordinal, first


def _in_sorted(values: array[int], value: int) -> bool:
    place = bisect.bisect_left(values, value)
    return place < len(values) and values[place] == value


def _twins(
    rows: Iterator[tuple[Any, ...]], templates: Mapping[str, Set[str]], threshold: float, content_threshold: float
) -> Iterator[tuple[int, int]]:
    """(later, earlier) for the pairs of a group that truly are near duplicates."""
    kept: list[tuple[int, frozenset[str], frozenset[str]]] = []
    for count, (_, ordinal, question, family) in enumerate(rows):
        whole, rest = shingles(question), content(question, templates.get(family, frozenset())) or frozenset()
        is_copy = False
        for other, other_whole, other_rest in kept:
            if (
                ordinal >= 0
                and jaccard(whole, other_whole) >= threshold
                and jaccard(rest, other_rest) >= content_threshold
            ):
                is_copy = True
                yield ordinal, other
        if count < ALL_PAIRS or not is_copy:
            kept.append((ordinal, whole, rest))


def lookup(path: Path, first: int, last: int) -> dict[int, tuple[Any, ...]]:
    """The rows of a table sorted by ordinal whose ordinal is in [first, last], by ordinal."""
    table = pq.read_table(path, filters=[("ordinal", ">=", first), ("ordinal", "<=", last)])
    columns = [table.column(name).to_pylist() for name in table.column_names if name != "ordinal"]
    rows: Iterable[tuple[Any, ...]] = zip(*columns, strict=True) if columns else itertools.repeat(())
    return dict(zip(table.column("ordinal").to_pylist(), rows, strict=False))
