"""Prompts in, traces out: one folder an engine, and what engines share."""

from h1r.common.callable_package import make_callable
from h1r.common.engines import engine

make_callable(__name__, engine)  # `@h1r.engine("mine")`
