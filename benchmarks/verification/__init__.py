"""The families of `benchmarks/verify.py`, one module each.

A module of this package is a family when it has

    SECTIONS: dict[str, Callable[[Context], dict[str, Any]]]

`verify.py` finds it by that, and runs each section by name; nothing else needs to know of it. What families share
(reading recorded judgements, measuring agreement, listing disagreements) is in `common.py`. Disagreements that a person
has looked at stand in the family's own table, `FAMILY_reviewed.py`.
"""
