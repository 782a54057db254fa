r"""The words in which a benchmark's own authors ask a judge, for problems whose metadata names one: `"judge": "hle"`.

    hle   Humanity's Last Exam (arXiv 2501.14249): JUDGE_PROMPT of hle_eval/run_judge_results.py in the repository
          centerforaisafety/hle at 26dca2e (MIT), its slips of the pen included. The judge also reads the confidence
          that the answer states, 100 where it states none
    amo   AMO-Bench (arXiv 2510.26768, appendix A): SCORE_PROMPT of utils.py in meituan-longcat/AMO-Bench at 7929a3c
          (MIT), for answers that are descriptions. The authors ask five times and take the majority: `"votes": 5`

The prompt is one user message. Question, reference and response are put into it as they are, but for what no tokenizer
may see (`prompt.clean`); texts that are too long lose their middle. The response is all that follows the thinking; of
AMO-Bench what follows "### The final answer is:", where it is there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from h1r.response.control_tokens import clean
from h1r.verify.judge.prompt import shortened

_FINAL_ANSWER = re.compile(r"(?:### )?(?:the )?final answer(?: is)?:?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Official:
    """`template` has {question}, {response} and {correct_answer}; `form` is that of the reply (`forms.FORMS`).

    `final_only`: the response begins behind its last "final answer" heading.
    """

    template: str
    form: str
    final_only: bool = False


OFFICIAL = {
    "hle": Official(
        r"""Judge whether the following [response] to [question] is correct or not based on the precise and unambiguous [correct_answer] below.

[question]: {question}

[response]: {response}

Your judgement must be in the format and criteria specified below:

extracted_final_answer: The final exact answer extracted from the [response]. Put the extracted answer as 'None' if there is no exact, final answer to extract from the response.

[correct_answer]: {correct_answer}

reasoning: Explain why the extracted_final_answer is correct or incorrect based on [correct_answer], focusing only on if there are meaningful differences between [correct_answer] and the extracted_final_answer. Do not comment on any background to the problem, do not attempt to solve the problem, do not argue for any answer different than [correct_answer], focus only on whether the answers match.

correct: Answer 'yes' if extracted_final_answer matches the [correct_answer] given above, or is within a small margin of error for numerical problems. Answer 'no' otherwise, i.e. if there if there is any inconsistency, ambiguity, non-equivalency, or if the extracted answer is incorrect.


confidence: The extracted confidence score between 0|\%| and 100|\%| from [response]. Put 100 if there is no confidence score available.""",  # noqa: E501
        "hle",
    ),
    "amo": Official(
        """For the following math problem, we have the reference answer and the student's answer.
Determine whether the student's answer is equivalent to the reference answer.
If equivalent, output "Correct".
If not equivalent, output "Incorrect".

### Problem
{question}

### Reference Answer
{correct_answer}

### Student Answer
{response}

Now, please provide your judgment.
Please strictly follow the format below to summarize your conclusion at the end of your judgment:
### Conclusion: Correct/Incorrect
If the answer involves a decimal approximation, it must be accurate to at least four decimal places.""",
        "conclusion",
        final_only=True,
    ),
}
"""Name -> the words, as a problem's metadata names them."""


def official_messages(
    official: Official, question: str, reference: str, answer: str, limit: int
) -> list[dict[str, str]]:
    """The chat that asks for a verdict; `limit`: characters of the question, and of the response."""
    headings = list(_FINAL_ANSWER.finditer(answer)) if official.final_only else []
    response = answer[headings[-1].end() :].strip() if headings else answer.strip()
    texts = {
        "question": clean(shortened(question, limit)),
        "correct_answer": clean(reference),
        "response": clean(shortened(response, limit)),
    }
    content = re.sub(r"\{(question|correct_answer|response)\}", lambda match: texts[match[1]], official.template)
    return [{"role": "user", "content": content}]
