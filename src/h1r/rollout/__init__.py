"""Problems in, graded traces out: one road for RL, its pool, evaluation, test-time scaling and the teacher.

problems --prompts--> token ids --engine--> traces --verify--> verdicts --rewards--> numbers

prompts.py    what the model is asked, and which problem it is for
retry.py      the policy for traces that the engine fails at
pipeline.py   the parts put together
"""
