"""A language model as the grader: `grade` asks it, `prompt` words the question, `cache` keeps its judgements."""
