"""Mathematical equality of an answer and the reference. `tiers` is the way in; `types` says what answers there are.

extract   where the answer stands in a response         parse      formulas to expression trees
clean     one spelling for what is typeset in many      value      whether two trees are equal, in bounded time
text      limits of what is read, and its commas        units      what stands after a number; `unit_table` has them
read      the typed answer that a text states           quantities those of several units; `siunitx` its macros
compare   whether two typed answers are the same        region     sets of real numbers as intervals
symbolic  math-verify, for what `read` leaves open      names      what a named answer names
"""

from h1r.verify.math.tiers import (
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
