import gzip
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from in_memory import decontaminate

from h1r.config import GeneratedSource
from h1r.data.curate.io.generated import GeneratedProblems
from h1r.data.curate.rules.decontaminate import HeldOutIndex
from h1r.records import Problem

DATA = Path(os.environ.get("H1R_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
HABIT = "where m and n are relatively prime positive integers find the value of m plus n please"
LONG = "A rectangular garden with a pond in its middle is fenced on all of its sides by the owner who has 40 metres"


def problems(questions: list[str], family: str = "f", verifier: str = "math") -> list[Problem]:
    return [Problem(f"{family}{n}", question, "1", verifier, family) for n, question in enumerate(questions)]


def evidence(question: str, held_out: str, **kwargs: str) -> str | None:
    index = HeldOutIndex(problems([held_out], **kwargs))
    return evidences(index, problems([question], **kwargs)[0]).get(0)


def evidences(index: HeldOutIndex, problem: Problem) -> dict[int, str]:
    return {held: found.evidence for held, found in index.overlaps(problem).items()}


def test_another_typesetting_of_a_question_is_exact() -> None:
    assert evidence(r"Find \( \tfrac{x}{2} - 1 \) at x = 4", r"find $\frac x2-1$ at $x=4$.") == "exact"


def test_another_operator_is_another_question() -> None:
    assert evidence("Find x + 1 at x = 4", "Find x - 1 at x = 4") is None


def test_a_short_question_inside_a_longer_prompt_is_contained() -> None:
    held_out = "Compute $5 - 3 + 6$ quickly."
    prompt = "Solve this. Compute $5-3+6$ quickly. Let's think step by step and put the answer in a box."
    assert evidence(prompt, held_out) == "contained"
    assert evidence(prompt.replace("+6", "+6 + 7"), held_out) is None
    assert evidence("Solve this. Compute 5 + 3 - 6 quickly.", held_out) is None


def test_half_of_a_question_with_ten_tokens_in_a_row_is_evidence_and_less_is_not() -> None:
    words = [f"{chr(97 + n)}word" for n in range(20)]
    held_out = " ".join(words)
    assert evidence(" ".join(["Begin", *words[2:12], "end"]), held_out) == "ngram"
    assert evidence(" ".join(["Begin", *words[2:11], "end"]), held_out) is None
    broken = [*words[:6], "other", *words[7:13]]
    assert evidence(" ".join(broken), held_out) is None
    index = HeldOutIndex(problems([held_out]))
    (found,) = index.overlaps(problems([" ".join(["Begin", *words[2:14], "end"])])[0]).values()
    assert found.coverage == 0.6
    assert found.run == " ".join(words[2:14])


def test_what_is_near_and_stays_is_told_with_the_condition_that_keeps_it() -> None:
    words = [f"{chr(97 + n)}word" for n in range(20)]
    index = HeldOutIndex(
        problems([" ".join(words), "The 3 dogs and 17 cats of Tom ran round 40 trees in 6 hours, all of them."])
    )

    def near(question: str) -> list[tuple[str, float]]:
        return [(one.why, one.coverage) for one in index.look_up(problems([question])[0]).near.values()]

    assert near(" ".join(["Begin", *words[2:11], "end"])) == [("less than the coverage", 0.45)]
    assert near(" ".join([*words[:6], "other", *words[7:13]])) == [("no run as long", 0.6)]
    assert near("The 3 dogs and 17 cats of Tom ran round 50 trees in 9 hours, all of them.") == [
        ("other numbers", pytest.approx(10 / 18))
    ]
    assert near(" ".join(words[:5])) == []


def test_a_question_made_of_stock_phrases_is_found_whole() -> None:
    stock = "How many of the positive integers less than one hundred are divisible by seven or by eleven"
    index = HeldOutIndex(problems([f"{stock}, {end}?" for end in ("and even", "and odd", "and prime", "and square")]))
    asked = problems([f"{stock}, and prime? Think step by step and give only the number at the end of your answer."])[0]
    assert evidences(index, asked) == {2: "contained"}


def test_other_numbers_are_another_problem() -> None:
    held_out = "A tank of 340 litres is filled by a pipe that gives 17 litres a minute; when will the tank be full?"
    assert evidence(held_out.replace("340", "510").replace("17", "15"), held_out) is None
    assert evidence(f"Think. {held_out} Say it in minutes.", held_out) == "contained"


def test_a_habit_of_the_benchmark_is_no_evidence() -> None:
    held_out = problems([f"Alpha{n * 'x'} beta is a thing, {HABIT}" for n in range(10)])
    index = HeldOutIndex(held_out, boilerplate_share=0.05)
    assert evidences(index, problems([f"Something else, {HABIT}"])[0]) == {}
    strict = HeldOutIndex(held_out, boilerplate_share=1.0)
    assert set(evidences(strict, problems([f"Something else, {HABIT}"])[0]).values()) == {"ngram"}


def test_a_small_benchmark_does_not_blind_the_rule() -> None:
    held_out = problems([LONG, "Something short and quite different"])
    assert set(HeldOutIndex(held_out).overlaps(problems([f"{LONG}. Hint: think"])[0])) == {0}


def test_one_generator_may_use_its_template_again_but_not_the_question() -> None:
    assert evidence(f"{LONG} of rope", f"{LONG} of wire", verifier="reasoning_gym") is None
    assert evidence(f"{LONG} of rope", f"{LONG} of rope", verifier="reasoning_gym") == "exact"


def test_a_generator_does_not_excuse_another_source() -> None:
    index = HeldOutIndex(problems([LONG], family="a", verifier="reasoning_gym"))
    assert evidences(index, problems([LONG + " of rope"], family="b", verifier="reasoning_gym")[0]) == {0: "contained"}
    assert evidences(index, problems([LONG + " of rope"], family="a")[0]) == {0: "contained"}


def test_the_report_counts_each_benchmark_by_its_strongest_evidence() -> None:
    held_out = [*problems([LONG, LONG + " of wire"], family="a"), *problems(["Compute 5 - 3 + 6 quickly."], family="b")]
    train = problems([LONG, "Compute 5 - 3 + 6 quickly", "Nothing of the kind", "Nothing at all"], family="t")
    kept, dropped, report = decontaminate(train, HeldOutIndex(held_out))
    assert [item.id for item in kept] == ["t2", "t3"]
    assert [(item.id, item.reason) for item in dropped] == [
        ("t0", "exact overlap with held-out"),
        ("t1", "exact overlap with held-out"),
    ]
    one = {"exact": 1, "contained": 0, "ngram": 0, "total": 1, "percent": 25.0}
    assert report == {"a": {"held_out": 2, "held_out_hit": 2, **one}, "b": {"held_out": 1, "held_out_hit": 1, **one}}


def test_nothing_to_check_is_an_empty_report() -> None:
    assert decontaminate([], HeldOutIndex([])) == ([], [], {})


@pytest.mark.parametrize("family", ["chain_sum", "aiw", "string_manipulation", "knights_knaves"])
def test_fresh_problems_of_a_generator_are_clean_against_its_held_out_ones(family: str) -> None:
    stream = GeneratedProblems(GeneratedSource(family=family), 0).problems()
    unique = list({item.id: item for item in itertools.islice(stream, 200)}.values())
    assert decontaminate(unique[40:], HeldOutIndex(unique[:40]))[1] == []


def lines(path: str) -> Iterator[dict[str, Any]]:
    opener = gzip.open if path.endswith(".gz") else open
    with opener(DATA / path, "rt", encoding="utf-8") as handle:
        yield from (json.loads(line) for line in handle if line.strip())


@pytest.fixture(scope="module")
def benchmarks() -> HeldOutIndex:
    """MATH-500, MATH test, AIME 2024-25 with HMMT, GSM8K test."""
    if not (DATA / "math500" / "test.jsonl").exists():
        pytest.skip(f"no real data at {DATA}; set H1R_DATA")
    return HeldOutIndex(
        [
            *problems([row["problem"] for row in lines("math500/test.jsonl")], "math500"),
            *problems([row["problem"] for row in lines("math_test_full/test.jsonl.gz")], "math_test"),
            *problems([row["problem"] for row in lines("comp_math_24_25/test.jsonl")], "competitions"),
            *problems([row["question"] for row in lines("gsm8k/test.jsonl")], "gsm8k"),
        ]
    )


def test_deepscaler_overlaps_math_and_competitions(benchmarks: HeldOutIndex) -> None:
    """The prompts end in an instruction, so an exact match alone would find nothing."""
    prompts = [
        row[0]["content"]
        for path in sorted((DATA / "deepscaler_difficulty").glob("*.parquet"))
        for row in pyarrow.parquet.read_table(path)["prompt"].to_pylist()
    ]
    asked = "Let's think step by step and output the final answer within \\boxed{}."
    known = {"math500": 5, "math_test": 50, "competitions": 34}
    cut_prompts = problems([prompt.replace(asked, "") for prompt in prompts])
    _, dropped, cut = decontaminate(cut_prompts, benchmarks)
    hit = {one.id for one in dropped}
    whole = [prompt for prompt, one in zip(prompts, cut_prompts, strict=True) if one.id in hit]
    _, _, as_given = decontaminate(problems(whole), benchmarks)
    for name, least in known.items():
        assert cut[name]["exact"] >= least
        assert as_given[name]["total"] >= least
        assert as_given[name]["held_out_hit"] >= cut[name]["held_out_hit"] - 1


def test_aime_overlaps_math500(benchmarks: HeldOutIndex) -> None:
    with gzip.open(DATA / "aime_1983_2023" / "aime.json.gz", "rt", encoding="utf-8") as handle:
        questions = [row["problem"] for row in json.load(handle)]
    assert decontaminate(problems(questions), benchmarks)[2]["math500"]["exact"] >= 6


def test_math_train_overlaps_its_own_test(benchmarks: HeldOutIndex) -> None:
    with gzip.open(DATA / "math_train" / "math.json.gz", "rt", encoding="utf-8") as handle:
        questions = [row["problem"] for row in json.load(handle)]
    assert decontaminate(problems(questions), benchmarks)[2]["math_test"]["total"] >= 10


def test_gsm8k_train_is_not_in_its_test(benchmarks: HeldOutIndex) -> None:
    questions = [row["question"] for row in lines("gsm8k/train.jsonl")]
    report = decontaminate(problems(questions), benchmarks)[2]["gsm8k"]
    assert report["exact"] == report["contained"] == 0
    assert report["percent"] < 0.1


def test_a_formula_in_another_typesetting_is_found() -> None:
    written = r"Evaluate \left(\sqrt{5}+\sqrt{6}+\sqrt{7}\right)\left(\sqrt{5}-\sqrt{6}+\sqrt{8}\right) at once"
    held = r"Evaluate (\sqrt 5+\sqrt6+\sqrt7)(\sqrt 5-\sqrt6+\sqrt8) exactly"
    over = r"Let $x={4\over{(\sqrt5+1)(\root 4\of5+1)(\root 8\of5+1)(\root{16}\of5+1)}}.$ Find $(x+1)^{48}$."
    frac = r"Let $x=\frac{4}{(\sqrt{5}+1)(\sqrt[4]{5}+1)(\sqrt[8]{5}+1)(\sqrt[16]{5}+1)}.$ Find $(x+1)^{48}$, Tom."
    index = HeldOutIndex([Problem("a", held, "1"), Problem("b", over, "1")])
    assert evidences(index, Problem("p", written, "1")) == {0: "contained"}
    assert evidences(index, Problem("q", frac, "1")) == {1: "contained"}


def test_a_phrase_of_three_different_held_out_questions_is_no_leak() -> None:
    close = "The answer can be written as m/n where m and n are relatively prime positive integers. Find m + n."
    held = [Problem(f"h{n}", f"Question {n} of another kind. {close}", "1", family=f"b{n % 5}") for n in range(3)]
    asked = Problem("p", f"How likely is the 1 of 2 of a die? {close}", "7")
    assert HeldOutIndex(held).overlaps(asked) == {}
    assert set(evidences(HeldOutIndex(held[1:]), asked).values()) == {"ngram"}


def test_drawing_code_is_no_overlap() -> None:
    code = "[asy] size(150); draw((0,0)--(4,0)--(4,3)--cycle); label(A, (0,0), SW); label(B, (4,0), SE); [/asy]"
    assert evidence(f"How long is the third side? {code}", f"What is the area in square units? {code}") is None


@pytest.mark.parametrize(
    ("held", "before", "behind", "other"),
    [
        (
            "一个水池有三百四十升水，每分钟流出１７升，问多少分钟以后水池里还剩下一半的水？",
            "请回答：",
            "请写出步骤。",
            "一个农夫有三只羊和五只鸡，问他的动物一共有多少条腿？",
        ),
        (
            "水そうに三百四十リットルの水があり、毎分１７リットル流れ出ます。水が半分になるのは何分後ですか。",
            "次の問いに答えなさい。",
            "途中の式も書きなさい。",
            "農夫は羊を三頭とにわとりを五羽飼っています。足は全部で何本ありますか。",
        ),
        (
            "ถังใบหนึ่งมีน้ำสามร้อยสี่สิบลิตรและน้ำไหลออกนาทีละ１７ลิตรอีกกี่นาทีน้ำจึงจะเหลือครึ่งถัง",
            "จงตอบคำถามต่อไปนี้",
            "พร้อมแสดงวิธีทำ",
            "ชาวนาคนหนึ่งมีแกะสามตัวและไก่ห้าตัวสัตว์ทั้งหมดมีกี่ขา",
        ),
    ],
    ids=["Chinese", "Japanese", "Thai"],
)
def test_scripts_without_spaces_and_full_width_digits_are_found(
    held: str, before: str, behind: str, other: str
) -> None:
    assert evidence(f"{before}{held.replace('１７', '17')}{behind}", held) == "contained"
    assert evidence(other, held) is None


def aime_history() -> list[dict[str, Any]]:
    with gzip.open(DATA / "aime_1983_2023" / "aime.json.gz", "rt", encoding="utf-8") as handle:
        return list(json.load(handle))


@pytest.fixture(scope="module")
def aime(benchmarks: HeldOutIndex) -> list[str]:
    return [row["problem"] for row in aime_history()]


def test_the_history_of_aime_is_not_in_its_last_two_years(aime: list[str]) -> None:
    recent = [*lines("aime24/test.jsonl"), *lines("aime25/test.jsonl")]
    index = HeldOutIndex(problems([row["problem"] for row in recent], "aime"))
    assert decontaminate(problems(aime), index)[1] == []


def test_aime_problems_that_benchmarks_took_are_found(aime: list[str], benchmarks: HeldOutIndex) -> None:
    _, dropped, _ = decontaminate(problems(aime), benchmarks)
    exact = sum(one.reason.startswith("exact") for one in dropped)
    assert exact >= 41
    assert 97 <= len(dropped) <= 41 + 110


def test_math_train_loses_few_problems_for_parts_of_benchmarks(benchmarks: HeldOutIndex) -> None:
    with gzip.open(DATA / "math_train" / "math.json.gz", "rt", encoding="utf-8") as handle:
        questions = [row["problem"] for row in json.load(handle)]
    _, dropped, _ = decontaminate(problems(questions), benchmarks)
    assert sum(one.reason.startswith("ngram") for one in dropped) < 100
