"""A reward of your own: thinking costs a little, so that of two right answers the shorter one earns more.

    h1r demo examples/own_reward.toml     RL with it, in about a minute; rl/metrics.jsonl has its mean in every step

A reward is one function. It gets a problem, the whole response with its thinking, and the verdict of the problem's
verifier, and returns a number. The recipe gives it a weight in `[rl.rewards]`, beside `correct` and `format`. It runs
in the trainer's own process on text of the model: it must end in time that grows with the length of the text.
"""

import h1r


@h1r.reward("brevity")
def brevity(problem: h1r.Problem, text: str, verdict: h1r.Verdict) -> float:
    """0 for an empty response, towards -1 for a long one: a right answer earns more than any wrong one."""
    return -len(text) / (len(text) + 200)
