"""Two problems in SciCode's own columns, with the solver and scorer of inspect_evals."""

from pathlib import Path

import h5py
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_evals.scicode.prompt_templates import SUBPROBLEM_PROMPT
from inspect_evals.scicode.scorer import verify
from inspect_evals.scicode.solver import solve_scicode_problem

PROBLEMS = {"91": ("double", "half"), "92": ("square",)}
TESTS = {"double": "double(4) == target", "half": "half(4) == target", "square": "square(4) == target"}
RIGHT = {"double": 8.0, "half": 2.0, "square": 16.0}


def record(number: str) -> dict[str, object]:
    steps = [
        {
            "step_number": f"{number}.{place}",
            "step_description_prompt": f"Write a function {name}(x).",
            "step_background": "",
            "ground_truth_code": None,
            "function_header": f"def {name}(x):",
            "test_cases": [f"assert {TESTS[name]}"],
            "return_line": "    return y",
        }
        for place, name in enumerate(PROBLEMS[number], 1)
    ]
    return {
        "problem_name": f"problem_{number}", "problem_id": number, "problem_description_main": "Functions of a number.",
        "problem_background_main": "", "problem_io": "", "required_dependencies": "import numpy as np",
        "sub_steps": steps, "general_solution": None, "general_tests": [],
    }  # fmt: skip


@task
def stand_ins(data: str) -> Task:
    path = Path(data)
    with h5py.File(path, "w") as file:
        for number, names in PROBLEMS.items():
            for place, name in enumerate(names, 1):
                file[f"{number}.{place}/test1/var1"] = RIGHT[name]
    samples = [
        Sample(input=number, id=number, metadata=record(number), files={"test_data.h5": str(path)})
        for number in PROBLEMS
    ]
    return Task(
        dataset=MemoryDataset(samples), solver=[solve_scicode_problem(SUBPROBLEM_PROMPT)], scorer=verify(60),
        sandbox=("docker", "Dockerfile"),
    )  # fmt: skip
