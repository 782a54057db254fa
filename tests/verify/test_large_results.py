"""Results too large to be sent: compared by a digest that is made where they are, and fooled by nothing."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.sandbox import Limits
from h1r.sandbox.digest import digest, is_beyond
from h1r.sandbox.values import encode
from h1r.verify.code.execute import judge
from h1r.verify.code.problem_tests import CallTests

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from([0.5, 1.0, 1e300]),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
    max_leaves=12,
)
SMALL = Limits(time_s=1.0, total_s=20.0, output_bytes=20_000)
REFERENCE = "def f(n):\n    return [(str(i), i) for i in range(n)]\n"


def large(code: str, slot, reference: str = REFERENCE, limits: Limits = SMALL, **options):
    """The result of `f(3)`, which is small, and `f(5000)`, which takes some 100 KB."""
    return judge(slot, code, "python", CallTests("f", [[3], [5000]], reference=reference, **options), limits)


def typed(value: object) -> object:
    """A value in which 1 and True differ, and so do texts and numbers."""
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [typed(item) for item in value]
    return type(value).__name__, value


def has_digest(value: object) -> bool:
    """Not what a tolerance applies to."""
    items = value if isinstance(value, (list, tuple)) and value else [value]
    return any(not isinstance(item, float) for item in items)


@given(PLAIN.filter(has_digest), PLAIN.filter(has_digest))
def test_digests_are_equal_exactly_when_values_and_types_are(one, other):
    assert (digest(one) == digest(other)) is (typed(one) == typed(other))


@given(PLAIN)
def test_the_digest_does_not_depend_on_what_else_refers_to_a_part(value):
    apart = json.loads(json.dumps(["x", "red", 10**6]))
    shared = ["x", "red", 1_000_000]
    assert digest([*[shared] * 3, value]) == digest([*[list(apart) for _ in range(3)], value])


@given(PLAIN)
def test_what_is_called_too_large_takes_more_than_that_as_json(value):
    size = len(json.dumps(encode(value), separators=(",", ":")))
    assert not is_beyond(value, size + 3)


def test_a_large_value_is_noticed_wherever_it_is_large():
    assert is_beyond([0] * 6000, 10_000)
    assert is_beyond([[["x" * 10_001]]], 10_000)
    assert is_beyond(tuple((index,) for index in range(4000)), 10_000)
    assert not is_beyond([0] * 3000, 10_000)
    assert not is_beyond("x" * 20_000, 10_000)  # a text is sent, or refused, as it is


class Text(str):
    """A text with a mind of its own."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


@pytest.mark.parametrize("part", [1j, {1}, {1: 2}, Text("x"), type("L", (list,), {})(), object(), b"x"])
def test_only_exact_types_with_one_meaning_have_a_digest(part):
    for value in (part, [part], [["x", (part,)]], [*["x"] * 5000, part]):
        with pytest.raises(ValueError, match="with a"):
            digest(value)


@pytest.mark.parametrize("value", [1.0, [1.0, 2.0], (1.0,)])
def test_what_a_tolerance_applies_to_has_none(value):
    with pytest.raises(ValueError, match="floats"):
        digest(value)


def test_a_right_result_passes_that_could_not_be_sent(slot):
    assert large(REFERENCE, slot).correct
    assert large("def f(n):\n    return list(zip(map(str, range(n)), range(n)))\n", slot).correct


@pytest.mark.parametrize(
    "wrong",
    [
        "[(str(i), i) for i in range(n - 1)] + [(str(n - 1), n)]",
        "[(str(i), i) for i in range(n + 1)]",
        "tuple((str(i), i) for i in range(n))",
        "[[str(i), i] for i in range(n)]",
        "[(str(i), str(i)) for i in range(n)]",
        "[(str(i), i) for i in range(n)][::-1]",
        "[]",
    ],
)
def test_a_wrong_result_of_that_size_fails(wrong, slot):
    result = large(f"def f(n):\n    return {wrong} if n > 3 else [(str(i), i) for i in range(n)]\n", slot)
    assert result.failures == [(1, "wrong answer", "wrong")]


TRICKS = {
    "equal_list": "class L(list):\n    def __eq__(self, other): return True\ndef f(n): return L(right(n)[:-1] + [0])",
    "equal_text": "class T(str):\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\n"
    "def f(n): return [(T(a), b) for a, b in right(n)[:-1]] + [(T('x'), 0)]",
    "lying_length": "class L(list):\n    def __len__(self): return 5000\ndef f(n): return L(right(n)[: n % 5000])",
    "one_digest": "import hashlib\nclass H:\n    def update(self, data): pass\n    def hexdigest(self): return ''\n"
    "hashlib.sha256 = H\ndef f(n): return right(n)[:-1] + [('x', 0)]",
    "one_form": "import marshal\nmarshal.dumps = lambda value, version=2: b''\n"
    "def f(n): return right(n)[:-1] + [('x', 0)]",
    "all_plain": "import h1r.sandbox.digest as d\nd._kinds = lambda value: set()\nd.PLAIN = frozenset()\n"
    "def f(n): return right(n)[:-1] + [(float('nan'), 0)]",
    "guessed_digest": "import json, os, struct\ndef send(m):\n    b = json.dumps(m).encode()\n"
    "    os.write(3, struct.pack('!I', len(b)) + b)\n"
    "def f(n):\n    if n > 3:\n        send({'large': True})\n        send({'value': {'!': 'digest', 'v': '0' * 64}})\n"
    "    return right(n)",
    "digest_of_nothing": "import json, os, struct\ndef send(m):\n    b = json.dumps(m).encode()\n"
    "    os.write(3, struct.pack('!I', len(b)) + b)\n"
    "def f(n):\n    if n > 3:\n        send({'value': {'!': 'digest', 'v': None}})\n    return right(n)",
}


@pytest.mark.parametrize("name", TRICKS)
def test_no_trick_with_digests_earns_anything(name, slot):
    right = "def right(n):\n    return [(str(i), i) for i in range(n)]\n"
    assert not large(right + TRICKS[name], slot).correct


def test_a_result_is_not_taken_for_a_digest_where_the_reference_is_small(slot):
    code = "def f(n):\n    return [(str(i), i) for i in range(n if n == 3 else 5001)]\n"
    small = "def f(n):\n    return [(str(i), i) for i in range(min(n, 4))]\n"
    assert large(code, slot, reference=small).failures == [(1, "output limit exceeded", "crash")]


SLOW_DIGEST = """
import marshal, time
form = marshal.dumps
def slow(value, version):
    time.sleep(1.5)
    return form(value, version)
marshal.dumps = slow
"""


def test_the_time_for_the_digest_is_not_the_tests(slot):
    assert large(SLOW_DIGEST + REFERENCE, slot).correct  # two stretches of 1.5 s each, at a limit of 1 s


def test_time_that_was_asked_for_is_given_once_and_for_large_results_only(slot, monkeypatch):
    monkeypatch.setattr("h1r.verify.code.run_calls.DIGEST_LIMIT_S", 2.0)
    ask = "import json, os, struct, time\nb = json.dumps({'large': True}).encode()\n"
    ask += "def more(): os.write(3, struct.pack('!I', len(b)) + b)\n"
    endless = "def f(n):\n    while n > 3:\n        more()\n        time.sleep(0.5)\n"
    endless += "    return [(str(i), i) for i in range(n)]\n"
    assert not large(ask + endless, slot).correct
    small = CallTests("f", [[4]], expected=[1])
    patient = "def f(n):\n    more()\n    time.sleep(1.5)\n    return 1\n"
    assert not judge(slot, ask + patient, "python", small, SMALL).correct


def test_a_digest_that_does_not_end_has_a_limit(slot, monkeypatch):
    monkeypatch.setattr("h1r.verify.code.run_calls.DIGEST_LIMIT_S", 1.0)
    limits = dataclasses.replace(SMALL, total_s=60.0)
    endless = SLOW_DIGEST.replace("1.5", "100")
    assert large(endless + REFERENCE, slot, limits=limits).failures == [(1, "time limit exceeded", "time")]
