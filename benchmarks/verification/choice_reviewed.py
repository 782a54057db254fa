"""Disagreements of `choice.py` that a person has looked at. Keys and values: `common.Reviewed`."""

_GUESS = "cut off before any answer; the record counts a letter drawn at random, which happened to be right"
_STATED = "the response names this option in words that the record's expression does not know"
_STRAY = "there is no answer; the cascade's last stage takes a letter with a full stop out of the reasoning"

_TWICE = (
    "the response answers, then answers four worked examples of its prompt, then answers again otherwise; the record"
    " takes its first word, the cascade its last"
)
_COMBINED = (
    "the response answers, and then adds the answer of a worked example of its prompt as a summary; a person takes the"
    " first, the cascade the last"
)
_REVISED = "the response states one option and then, as its final answer, another; the record takes the first"

_SEVERAL = "the response answers with several options; the record takes the first of them"
_DENIED_FIRST = "`The answer is (A) and (E) are not possible`, and in the end `The answer is (C)`; the record takes A"

_COMMON = {
    "mathstral-7B/10721": ("policy", _DENIED_FIRST),
    "Qwen1.5-72B-Chat/8667": ("ours", _SEVERAL),
    "Qwen1.5-72B-Chat/10457": ("ours", _SEVERAL),
    "Meta-Llama-3_1-70B-Instruct/3644": ("ours", _GUESS),
    "Meta-Llama-3_1-8B-Instruct/3644": ("ours", _GUESS),
    "Meta-Llama-3_1-8B-Instruct/8660": ("ours", _GUESS),
    "Meta-Llama-3_1-8B-Instruct/9846": ("ours", _GUESS),
    "Qwen1.5-72B-Chat/4500": ("ours", _STATED),
    "Qwen1.5-72B-Chat/10473": ("ours", _STATED),
    "Qwen1.5-72B-Chat/3886": ("recorded", _STRAY),
    "Qwen1.5-72B-Chat/8462": ("recorded", _STRAY),
    "Qwen1.5-72B-Chat/10721": ("recorded", _STRAY),
    "Qwen1.5-72B-Chat/11818": ("recorded", _STRAY),
}
_GEMINI = (3551, 4168, 4253, 4578, 7847, 7935, 7943, 8144, 8206, 8296, 8320, 8403, 8412, 8453, 8913)
_QWEN_COMBINED = (3553, 3715, 3773, 3944, 3981, 4253, 4428, 4568, 8289, 9064, 10357, 10382, 11796)
_QWEN_REVISED = (9281, 11293)

REVIEWED: dict[str, tuple[str, str]] = {
    **{f"mmlu_pro/{name}": found for name, found in _COMMON.items()},
    **{f"mmlu_pro_cascade/{name}": found for name, found in _COMMON.items()},
    **{f"mmlu_pro_cascade/gemini-1.5-pro-002/{number}": ("policy", _TWICE) for number in _GEMINI},
    **{f"mmlu_pro_cascade/Qwen1.5-72B-Chat/{number}": ("recorded", _COMBINED) for number in _QWEN_COMBINED},
    **{f"mmlu_pro_cascade/Qwen1.5-72B-Chat/{number}": ("policy", _REVISED) for number in _QWEN_REVISED},
}
