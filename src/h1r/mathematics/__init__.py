"""Mathematical equality of an answer and the reference. `tiers` is the way in; `types` says what answers there are.

extract     where the answer stands in a response, with `sentences` and their `cues`
clean       one spelling for what is typeset in many: `siunitx`, `qualifiers`, `vectors`
text        limits of what is read, and its commas
read        the typed answer that a text states: `prose` and `phrases`, `numerals` (numbers in words), `digits`,
            `layouts` (what stands in rows), `units` with `unit_table`, `quantities` of several units
parse       formulas to expression trees
compare     whether two typed answers are the same: `names` of answers, open `constants`, `region`s of the line
value       whether two trees are equal, in bounded time
symbolic    math-verify, for what `read` leaves open
question    the formulas of a question; `restated`, `forms` and `shape`: what restates it or lacks its form
"""

from h1r.mathematics.tiers import (
    equivalent,
    grade,
    grade_lenient,
    normalise,
    parse_number,
    quick,
    quick_lenient,
    tier_one,
    warm,
)

__all__ = [
    "equivalent",
    "grade",
    "grade_lenient",
    "normalise",
    "parse_number",
    "quick",
    "quick_lenient",
    "tier_one",
    "warm",
]
