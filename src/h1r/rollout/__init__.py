"""Problems in, graded traces out: one road for RL, its pool, evaluation, test-time scaling and the teacher.

problems --prompts--> token ids --engine--> traces --verify--> verdicts --rewards--> numbers
                                  ^    |
                        replies --+    +--> turns        where an environment answers the model

environment.py     what the model talks to, and the registry of such
python_tool.py     one of them: the model runs Python in the sandbox
prompts.py         what the model is asked, for which problem, in which environment
conversations.py   several turns over an engine that generates one at a time
retry.py           the policy for traces that the engine fails at
pipeline.py        the parts put together
"""

from h1r.common.callable_package import make_callable
from h1r.rollout.pipeline import rollout

make_callable(__name__, rollout)

__all__ = ["rollout"]
