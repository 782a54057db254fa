"""A verifier of your own: answers that are sets, in any order, with a share of the reward for a part of the set.

    h1r demo examples/own_verifier.toml     curation, SFT, RL and evaluation with it, in about a minute

A verifier is one function. It gets a problem and the part of a response after `</think>`, and returns a reward from 0
to 1, or a `Verdict` that also says which answer it read. Model output is hostile: the function runs in a process of its
own, without files, network or other processes, and one that hangs or fails costs that answer only.
"""

import h1r
from h1r.records import Problem, Verdict
from h1r.response.extract import last_boxed


@h1r.verifier("letter_set", answer_form=r"\boxed{%s}", confined=True)
def grade(problem: Problem, answer: str) -> Verdict:
    r"""The overlap of the two sets: |both| / |either|. `\boxed{c, a, b}` is as right as `\boxed{a, b, c}`."""
    found = last_boxed(answer)
    if found is None:
        return Verdict(0.0, error="no answer in a box", reason="not_extracted")
    given, wanted = (set(text.replace(",", " ").split()) for text in (found, problem.answer))
    return Verdict(len(given & wanted) / len(given | wanted), extracted=found)
