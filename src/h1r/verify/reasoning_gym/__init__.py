"""Procedural problems, judged by their family's scorer: the library's own, or ours where that would evaluate an answer.

grade     the verdict
plain     answers that a comparison of texts decides, in any process
scorers   ours, by family
formula   answers that are formulas, without `eval`
"""

from h1r.verify.reasoning_gym.grade import grade, score, warm

__all__ = ["grade", "score", "warm"]
