"""Disagreements of `math.py` that a person has looked at. Keys and values: `common.Reviewed`."""

_CLOCK = "4:30 p.m. is the reference; the record compared a prediction that its own extraction had cut to 4:30"
_CUT_OFF = (
    "the box stands inside the thinking and the response was cut off before its answer; ours reads the answer only"
)
_FORMAT = "the right number, but the record wants it immediately after ####, and here a sentence or heading follows"

_CHAIN = "the prediction states 1/2 = 10/9; ours takes no value from a false equality"

_LAST_NUMBER = (
    "the response states the right number; the record took a later one (of days, of the goal) or a lone comma"
)
_NUMBER_AFTER_ANSWER = (
    18,
    36,
    56,
    73,
    123,
    166,
    335,
    358,
    362,
    412,
    431,
    472,
    482,
    537,
    538,
    543,
    555,
    595,
    623,
    638,
    669,
    674,
    677,
    705,
    708,
    767,
    792,
    799,
    839,
    849,
    903,
    909,
    986,
    1051,
    1078,
    1085,
    1141,
    1262,
)

REVIEWED: dict[str, tuple[str, str]] = {
    **{f"qwen_math/3/{sample}": ("ours", _CLOCK) for sample in range(8)},
    "qwen_math/72/7": ("ours", "10{,}000 is 10000"),
    "areal/aime24__openmath-nemotron-1.5b_all30_n2/1/0": ("policy", _CUT_OFF),
    "areal/aime24__openmath-nemotron-1.5b_all30_n2/1/1": ("policy", _CUT_OFF),
    "areal/aime24__openmath-nemotron-1.5b_all30_n2/5/0": ("policy", _CUT_OFF),
    "areal/aime24__openmath-nemotron-1.5b_all30_n2/22/0": ("ours", "cut off inside the thinking, and nothing is boxed"),
    "equivalence/ba922da01d93": ("ours", "1 - 1/e is not 1 + 1/e"),
    "equivalence/a3cbd21c55ac": ("policy", _CHAIN),
    "equivalence/2726f1243916": ("recorded", "a person reads the choice C out of the prose of the reference"),
    **{f"qwen_coder_anywhere/{row}": ("ours", _LAST_NUMBER) for row in _NUMBER_AFTER_ANSWER},
    "qwen_coder_anywhere/434": ("recorded", "a loop of false equalities, cut off: it concludes nothing"),
    "qwen_coder_anywhere/551": ("ours", "the response says -17; a later sentence says 17 less"),
    "qwen_coder_anywhere/636": ("ours", "the response boxes 1050J, with J unknown"),
    "qwen_coder_anywhere/798": ("ours", "the response concludes 0; the record took the number of hours"),
    **{f"qwen_coder/{row}": ("policy", _FORMAT) for row in (34, 76, 258, 441, 508, 946, 1008, 1076)},
}
