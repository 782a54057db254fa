"""Reading JSON from a process that is not trusted takes what was agreed to before it is read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.sandbox.untrusted_json import exceeds, read_object
from h1r.sandbox.values import FrameReader, Opaque, checked_set, decode, dump_frame, encode

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab[]{},"\\é') | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='a["\\,'), inner, max_size=4),
    max_leaves=12,
)


def counted(value) -> tuple[int, int]:
    """(lists and objects, their own number and the commas between what is in them), by walking."""
    if not isinstance(value, (list, dict)):
        return 0, 0
    items = value if isinstance(value, list) else value.values()
    inner = [counted(item) for item in items]
    containers = 1 + sum(one for one, _ in inner)
    return containers, 1 + max(len(inner) - 1, 0) + sum(signs for _, signs in inner)


@given(VALUES, st.integers(0, 12), st.integers(0, 20), st.booleans())
def test_what_stands_in_texts_is_not_counted(value, max_containers, max_values, ascii_only):
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    containers, signs = counted(value)
    assert exceeds(body, max_containers, max_values) is (containers > max_containers or signs > max_values)


@pytest.mark.parametrize("item", ["[]", "{}", '{"!":"tuple","v":[1,2]}', '{"!":1}', "[" * 300 + "]" * 300])
def test_a_frame_of_millions_of_containers_is_refused_unread(item):
    body = '{"value":[' + ",".join([item] * ((8 << 20) // (len(item) + 1))) + "]}"
    reader = FrameReader(len(body))
    reader.feed(len(body).to_bytes(4, "big") + body.encode())
    with pytest.raises(ValueError, match="more values"):
        reader.next()


def test_a_frame_of_millions_of_numbers_is_read():
    numbers = list(range(1_000_000))
    reader = FrameReader(8 << 20)
    reader.feed(dump_frame({"value": numbers}))
    message = reader.next()
    assert message is not None
    assert decode(message["value"]) == numbers


@pytest.mark.parametrize("body", [b'["a"]', b"1", b"[" * 3000, b'{"a"', '{"a":1}'.encode("utf-16"), b'{"a":"\xff"}'])
def test_what_is_no_object_in_utf_8_is_refused(body):
    with pytest.raises(ValueError, match=r"."):
        read_object(body, 10_000, 10_000)


def test_a_set_of_values_that_equal_nothing_is_refused():
    with pytest.raises(ValueError, match="colliding"):
        checked_set([Opaque("x")] * 3 + [Opaque("x") for _ in range(100)])


@given(st.lists(st.lists(st.integers(0, 3), max_size=2).map(tuple) | st.integers(0, 3) | st.booleans(), max_size=300))
def test_a_set_in_which_few_share_a_hash_is_the_set(items):
    assert checked_set(items) == set(items)
    assert decode(json.loads(json.dumps(encode(set(items))))) == set(items)
