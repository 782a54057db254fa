"""The structs that Python hands to C have the same fields on both sides, as far as their sizes tell."""

from __future__ import annotations

import ctypes

import pytest

from h1r.kernels.cpu.build import library, obstacle
from h1r.kernels.cpu.structs import STRUCTS, Sampler, check_sizes


class Grown(ctypes.Structure):
    _fields_ = [("sampler", Sampler), ("another", ctypes.c_void_p)]


def test_a_struct_that_was_changed_on_one_side_alone_is_an_error_when_the_library_is_loaded() -> None:
    if why := obstacle():
        pytest.skip(why)
    check_sizes(library())
    size = ctypes.sizeof(Sampler)
    with pytest.raises(RuntimeError, match=f"`sampler` of the C kernels has {size} bytes and its mirror .* {size + 8}"):
        check_sizes(library(), {**STRUCTS, "sampler": Grown})
