"""Disagreements over code that a person has looked at: record id -> (who is right, why). See `common.Reviewed`."""

REVIEWED: dict[str, tuple[str, str]] = {}

_LATER_TESTS = "a later release changed the task's tests; the solution fails the assert of MBPP's own prompt"
for _model in (
    "custom_finetuned_models-llama3_base_dpo",
    "custom_finetuned_models-llama3_instruct_dpo",
    "meta-llama-Meta-Llama-3-8B-Instruct",
    "meta-llama-Meta-Llama-3-8B",
    "mistralai-Mistral-7B-Instruct-v0.2",
):
    REVIEWED[f"base/mbpp/{_model}/Mbpp/87"] = ("ours", _LATER_TESTS)
REVIEWED["base/mbpp/custom_finetuned_models-llama3_base_dpo/Mbpp/123"] = (
    "policy",
    "right but quadratic: it ends within 6 s a test, not within the record's limit of about one",
)

_ALONE = "the record runs the solution alone, without the imports that its prompt makes"
for _number in (0, 3, 4, 6, 7, 9, 12, 14, 17, 20, 22, 28, 29):
    REVIEWED[f"check/humaneval/custom_finetuned_models-llama3_base_dpo/HumanEval/{_number}"] = ("policy", _ALONE)

_MOCKED = (
    "the record runs a program as a function with a stand-in for stdin, which names and `readlines` do not survive"
)
for _name in ("abc344_b", "abc399_c", "arc183_c", "arc184_d"):
    REVIEWED[f"livecodebench/{_name}"] = ("ours", _MOCKED)
REVIEWED["livecodebench/3438"] = (
    "policy",
    "the record shows the arguments as the solution left them, so this test was another",
)
REVIEWED["livecodebench/3763"] = ("policy", "the package `sortedcontainers` is installed here and was not there")
for _name in ("3411", "abc380_d"):
    REVIEWED[f"livecodebench/{_name}"] = (
        "policy",
        "1 GiB of memory is spent here before the time is; the record allows 4 GB",
    )
REVIEWED["livecodebench/abc341_f"] = (
    "policy",
    "a search without bound: memory is spent first here, at 1 GiB and at 4; which comes first depends on the machine",
)

REVIEWED["humaneval_plus/HumanEval/32"] = (
    "ours",
    "on 4 of 200 inputs the reference's zero is none (the polynomial is -36 to -680 there); EvalPlus asks only that "
    "its value be at most 1e-4, so a negative one passes",
)
REVIEWED["plus/humaneval/custom_finetuned_models-llama3_base_dpo/HumanEval/31"] = (
    "policy",
    "trial division up to 123456791: right, and within some seconds, not within the record's one",
)

_SLOW = "right, but slow on the named input: within 2 s here, not within the record's limit of about one"
_EQUAL = "the result on the named input equals the reference's; why the record has a failure it does not say"
_EARLIER = "an input of the earlier release asks for a loop of 100 million steps, which takes more than 2 s"
for _run, _verdict in {
    "humaneval/custom_finetuned_models-llama3_base_dpo/HumanEval/15": ("policy", _SLOW),
    "humaneval/custom_finetuned_models-mistral2_instruct_dpo/HumanEval/139": ("ours", _EQUAL),
    "mbpp/custom_finetuned_models-llama3_base_dpo/Mbpp/287": ("policy", _SLOW),
    "mbpp/custom_finetuned_models-llama3_instruct_dpo/Mbpp/287": ("policy", _SLOW),
    "mbpp/custom_finetuned_models-llama3_instruct_dpo/Mbpp/599": ("policy", _EARLIER),
    "mbpp/meta-llama-Meta-Llama-3-8B/Mbpp/599": ("policy", _EARLIER),
    "mbpp/meta-llama-Meta-Llama-3-8B/Mbpp/566": ("ours", _EQUAL),
    "mbpp/meta-llama-Meta-Llama-3-8B-Instruct/Mbpp/137": ("ours", _EQUAL),
    "mbpp/custom_finetuned_models-mistral2_instruct_dpo/Mbpp/558": (
        "policy",
        "the release that made the record has an own rule for this task, besides the reference",
    ),
}.items():
    REVIEWED[f"plus/{_run}"] = _verdict
