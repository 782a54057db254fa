"""Negative controls: answers that solve nothing, graded before a problem, a test set or a scorer is trusted.

    accepted   the reference scores 1, and every control scores 0
    refused    a control earns: by name, for the item, or for its whole family

`answers` and `programs` say which controls a problem gets, `plain` when one of them is the reference after all,
`validate` has them graded and decides, `generated` takes a sample of generated families, `report` prints what was
refused.
"""

from h1r.verify.controls.answers import Control, controls_of, reference_text
from h1r.verify.controls.generated import examine_sampled, from_generator, sample_of_families
from h1r.verify.controls.validate import Examination, Refusal, Tally, examine

__all__ = [
    "Control",
    "Examination",
    "Refusal",
    "Tally",
    "controls_of",
    "examine",
    "examine_sampled",
    "from_generator",
    "reference_text",
    "sample_of_families",
]
