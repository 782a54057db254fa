"""DeepConf of a request to `h1r serve` on an engine, and the run of `h1r solve` on it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from engine_subjects import SECTION, Letters

sys.path.append(str(Path(__file__).resolve().parents[1] / "serve"))

from served_model import LIMITS, NAME, VERIFIER, running

from h1r.common import plugins
from h1r.config import Recipe
from h1r.engine.protocol import Engine
from h1r.engine.streaming import StreamingEngine
from h1r.records import Problem, content_id
from h1r.scaling.answers import extract_for, groups_for
from h1r.scaling.ballot import Solution
from h1r.scaling.parameters import DeepConf
from h1r.scaling.run import ScalingRun, problem_seed
from h1r.serve.engine_thread import EngineThread
from h1r.serve.local import Local
from h1r.serve.model import Model
from h1r.verify import open_backend

PROMPT = [5, 9, 11]
PROBLEM = Problem(content_id(str(PROMPT)), str(PROMPT), "", "first-character")
RECIPE = Recipe.model_validate(
    {
        "name": NAME,
        "scaling": {
            "budgets": [12], "warmup": 4, "keep_top": 0.5, "warmup_votes": "all", "window": 4, "top_k": 5,
            "max_tokens": 24, "temperature": 1.0, "top_p": 0.95,
        },
    }
)  # fmt: skip


def first_character(folder: Path) -> None:
    """Registers the verifier of `PROBLEM`."""
    own = folder / "first_character.py"
    own.write_text(VERIFIER, encoding="utf-8")
    plugins.load_plugins([str(own)])


def solution_on(engine: Engine) -> Solution:
    """What `h1r solve` comes to on the engine."""
    with open_backend(RECIPE.verify) as pool:
        (solution,) = ScalingRun(
            engine, [PROMPT], DeepConf.from_section(RECIPE.scaling, 12), seeds=[problem_seed(3, PROBLEM.id)],
            extract=extract_for(PROBLEM), groups=[groups_for(PROBLEM, pool.verify_many)],
        ).solve()  # fmt: skip
    return solution


def reply_of(engine: StreamingEngine) -> dict[str, Any]:
    """Of `h1r serve` on the engine, which a thread of its own steps."""
    engine.begin()
    owner = EngineThread(engine, SECTION.max_sequences)
    try:
        ends, sizes = engine.eos_token_ids, (engine.vocab_size, engine.max_model_len)
        model = Model(NAME, RECIPE, Letters(), owner, sizes, ends)
        with running(Local(model, LIMITS), LIMITS) as server:
            options = {"verifier": PROBLEM.verifier, "return_traces": "tokens"}
            body = {"model": NAME, "prompt": PROMPT, "seed": 3, "deepconf": options}
            reply = server.client.post("/v1/completions", json=body)
        model.verifying.close()
    finally:
        owner.close()
        engine.end()
    assert reply.status_code == 200, reply.text
    return dict(reply.json())
