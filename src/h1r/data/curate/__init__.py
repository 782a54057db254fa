"""Curation of files at scale: shards in, shards out, in memory that does not grow with the corpus.

    sources -> read -> sound -> distinct -> traced -> weighed -> packed rows
                         |         ^  |         ^          |  ^
                         v         |  v         |          v  |
                       keys -> exact, block    near      lengths, shares      joins over all records (DuckDB, on disk)

A record is an `Item`: a problem with the traces it has. Between the arrows lie Parquet files of `shard_records` records
each; an arrow is a pass whose task takes one file and writes one file (`execute.py`: processes, or Ray Data). A task's
output depends on its input and the recipe only, appears whole or not at all, and is done when its `.json` exists. So
a killed run goes on where it was, and where and in which order tasks run changes no byte.

What needs all records at once (duplicates, boilerplate, length quantiles, shares of the mixture) is computed between
passes from narrow tables of keys, by a database that spills to disk. `plan.py` has the order of it all.
"""
