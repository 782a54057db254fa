"""How a solution's results are compared, and what its limits do."""

import contextlib
import json
import time

import pytest

from h1r.sandbox import Limits, toolchains
from h1r.sandbox.builds import COMPILE_LIMITS
from h1r.sandbox.programs import RUNNABLE
from h1r.sandbox.values import checked_set
from h1r.verify.code import run_checks
from h1r.verify.code.compare import same_output, same_value
from h1r.verify.code.execute import judge
from h1r.verify.code.problem_tests import CallTests, CheckTests, StdinTests, parse_tests
from machine import slowness

QUICK = Limits(time_s=1.0, total_s=4.0)


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("  1 2  \n3", "1 2\n3", True),
        ("1  2", "1 2", True),
        ("1.0", "1", True),
        ("1e3", "1000.0", True),
        ("0.3333333", "0.3333334", False),
        ("1\n\n2", "1\n2", False),
        ("1\n2", "2\n1", False),
        ("yes", "YES", False),
        ("nan", "nan", True),
        ("nan", "1", False),
        ("", "", True),
        ("", "0", False),
        ("1_0", "10", False),
        ("٣", "3", False),
    ],
)
def test_outputs_are_compared_line_by_line_and_numbers_by_value(actual, expected, same):
    assert same_output(actual, expected) is same


def test_a_tolerance_is_absolute_or_relative():
    assert same_output("0.3333333", "0.3333334", tolerance=1e-6)
    assert same_output("3333333.0", "3333334.0", tolerance=1e-6)
    assert not same_output("0.333", "0.334", tolerance=1e-6)
    assert not same_output("yes", "0.334", tolerance=1.0)


@pytest.mark.parametrize(
    ("actual", "expected", "atol", "same"),
    [
        (1, 1.0, 0, True),
        (True, 1, 0, True),
        ((1, 2), [1, 2], 0, False),
        ([0.1 + 0.2], [0.3], 0, False),
        ([0.1 + 0.2], [0.3], 1e-6, True),
        ((0.3,), [0.3000001], 1e-6, False),
        ({"a": 0.3}, {"a": 0.3000000001}, 1e-6, True),
        ({"a": 0.3}, {"b": 0.3}, 1e-6, False),
        (float("nan"), float("nan"), 1e-6, True),
        (float("inf"), 1.0, 1e-6, False),
        ("1", 1, 1e-6, False),
        (None, 0, 1e-6, False),
        (1 + 1j, 1 + 1j, 0, True),
    ],
)
def test_values_are_compared_by_type_and_within_the_tolerance(actual, expected, atol, same):
    assert same_value(actual, expected, atol) is same


def test_rules_for_sets_for_any_result_and_for_roots():
    assert same_value([2, 1, 1], (1, 2), 0, "set")
    assert not same_value([1, 3], (1, 2), 0, "set")
    assert not same_value(7, (1, 2), 0, "set")
    assert same_value("match", True, 0, "not_none")
    assert same_value(None, False, 0, "not_none")
    assert not same_value(None, True, 0, "not_none")
    assert same_value(2.0, None, 1e-4, "root", [[-4, 0, 1]])
    assert not same_value(1.0, None, 1e-4, "root", [[-4, 0, 1]])


def test_a_range_is_never_listed_to_be_compared_as_a_set():
    started = time.process_time()
    assert not same_value(range(10**18), [1, 2], 0, "set")
    assert not same_value(range(10**30), [1, 2], 0, "set")
    assert same_value(range(1, 3), [2, 1, 1], 0, "set")
    assert time.process_time() - started < 1.0 * slowness()


@pytest.mark.parametrize("spread", [0, 1000, 40_000])
def test_keys_made_to_collide_are_refused_in_any_company(spread):
    alike = [number * (2**61 - 1) for number in range(50_000)]
    started = time.process_time()
    with pytest.raises(ValueError, match="colliding"):
        checked_set([*range(1, spread), *alike])
    assert time.process_time() - started < 5.0 * slowness()
    assert len(checked_set([*range(50_000), *map(float, range(50_000)), *map(str, range(1000))])) == 51_000


def test_a_frame_at_the_edge_of_what_can_be_read_is_a_failure_and_no_error(slot):
    """Whatever depth the parser of JSON just bears, what is printed or sent on later bears a little less."""
    deepest = 0
    for depth in (1 << power for power in range(20, -1, -1)):
        with contextlib.suppress(RecursionError):
            json.loads("[" * (deepest + depth) + "]" * (deepest + depth))
            deepest += depth
    for depth in range(min(deepest, 100_000) - 40, min(deepest, 100_000) + 2, 3):
        for key in ("raised", "value"):
            code = f"""
import os, struct
body = b'{{"{key}": ' + b'[' * {depth} + b']' * {depth} + b'}}'
def f():
    os.write(3, struct.pack('!I', len(body)) + body)
"""
            for tests in (CallTests("f", [[]], expected=[1]), CheckTests(["assert f() == 1"], ["f"])):
                assert not judge(slot, code, "python", tests, QUICK).correct


def test_the_limit_holds_for_one_test_and_not_for_all(slot):
    code = "import time\ntime.sleep(0.4)\nprint(input())"
    cases = [(str(number), str(number)) for number in range(4)]
    assert judge(slot, code, "python", StdinTests(cases), Limits(time_s=1.0, total_s=30.0)).correct
    calls = CallTests("f", [[number] for number in range(4)], expected=list(range(4)))
    slow = "import time\ndef f(x):\n    time.sleep(0.4)\n    return x"
    assert judge(slot, slow, "python", calls, Limits(time_s=1.0, total_s=30.0)).correct
    result = judge(slot, slow, "python", calls, Limits(time_s=0.2, total_s=30.0))
    assert result.failures == [(0, "time limit exceeded", "time")]


def test_all_tests_together_have_a_limit_too(slot):
    code = "import time\ntime.sleep(0.4)\nprint(input())"
    result = judge(slot, code, "python", StdinTests([("1", "1")] * 20), Limits(time_s=1.0, total_s=1.0))
    assert not result.correct
    assert 0 < result.passed < 20


def test_the_first_failure_ends_the_run_unless_all_are_wanted(slot):
    tests = StdinTests([("1", "1"), ("2", "x"), ("3", "x"), ("4", "4")])
    assert judge(slot, "print(input())", "python", tests, QUICK).failures == [(1, "wrong answer", "wrong")]
    every = judge(slot, "print(input())", "python", tests, QUICK, stop=False)
    assert (every.passed, [failure.number for failure in every.failures]) == (2, [1, 2])


def test_a_call_that_ends_its_process_costs_only_its_own_test(slot):
    code = "import os\ndef f(x):\n    if x == 1: os._exit(0)\n    return x"
    calls = CallTests("f", [[0], [1], [2]], expected=[0, 1, 2])
    result = judge(slot, code, "python", calls, QUICK, stop=False)
    assert (result.passed, result.failures) == (2, [(1, "the process ended before its result", "crash")])


def test_memory_is_limited(slot):
    small = Limits(time_s=5.0, memory_bytes=256 << 20)
    tests = StdinTests([("", "300000000")])
    assert not judge(slot, "print(len(bytearray(300_000_000)))", "python", tests, small).correct
    assert judge(slot, "print(len(bytearray(300_000_000)))", "python", tests, Limits()).correct


def test_arguments_keep_their_types(slot):
    code = "def f(*a): return [type(x).__name__ for x in a] + [type(a[0][0]).__name__]"
    arguments = [(1,)], (1, 2), {3}, {1: "a"}, 1j, b"x", 10**30
    calls = CallTests("f", [list(arguments)], [["list", "tuple", "set", "dict", "complex", "bytes", "int", "tuple"]])
    assert judge(slot, code, "python", calls, QUICK).correct


def test_a_solution_that_goes_on_where_the_prompt_stops(slot):
    prompt = 'import math\n\ndef helper(x):\n    return x + 1\n\ndef f(x):\n    """Adds one."""\n'
    check = {"test": "def check(c):\n    assert c(1) == helper(1)"}
    metadata = {"entry_point": "f", "prompt": prompt}
    for solution in ("    return x + 1\n", "def f(x):\n    return helper(x)\n", "def f(x): return math.floor(x + 1.5)"):
        assert judge(slot, solution, "python", parse_tests(check, metadata), QUICK).correct, solution
        calls = parse_tests({"base_input": [[1]], "expected": [2]}, metadata)
        assert judge(slot, solution, "python", calls, QUICK).correct, solution


def test_expected_results_come_from_the_reference(slot):
    tests = parse_tests(
        {"base_input": [[2], [3]], "canonical_solution": "def f(x): return x * x"}, {"entry_point": "f"}
    )
    assert judge(slot, "def f(x): return x ** 2", "python", tests, QUICK).correct
    assert not judge(slot, "def f(x): return 2 * x", "python", tests, QUICK).correct
    broken = parse_tests({"base_input": [[2]], "canonical_solution": "def f(x): return 1 / 0"}, {"entry_point": "f"})
    with pytest.raises(ValueError, match="the reference fails"):
        judge(slot, "def f(x): return 1", "python", broken, QUICK)


def test_leetcode_gives_trees_and_lists_and_common_modules(slot):
    functional = """
def check(candidate):
    assert candidate(root=tree_node([1, 2, 3]), head=list_node([1, 2])) == [3, 2]
    assert is_same_list(Solution().turn(list_node([1, 2])), list_node([2, 1]))
    assert is_same_tree(Solution().same(tree_node([1, None, 2])), tree_node([1, None, 2]))
check(Solution().sizes)
"""
    solution = """
class Solution:
    def sizes(self, root: Optional[TreeNode], head: Optional[ListNode]) -> List[int]:
        count = lambda node: 0 if node is None else 1 + count(node.left) + count(node.right)
        length = 0
        while head:
            length, head = length + 1, head.next
        return [count(root), length]
    def turn(self, head):
        before = None
        while head:
            head.next, before, head = before, head, head.next
        return before
    def same(self, root):
        return root
"""
    tests = parse_tests({"functional": functional})
    assert judge(slot, solution, "python", tests, QUICK).correct
    assert not judge(slot, solution.replace("return before", "return None"), "python", tests, QUICK).correct


def test_classes_of_the_tested_code_are_tested_through_their_methods(slot):
    tests = CheckTests(["s = Stack()\ns.push(3)\ns.push(4)\nassert s.pop() == 4\nassert len(s) == 1"], ["Stack"])
    code = "class Stack(list):\n    def push(self, x): self.append(x)"
    plain = "class Stack:\n    def __init__(self): self.x = []\n    def push(self, x): self.x.append(x)\n"
    plain += "    def pop(self): return self.x.pop()\n    def __len__(self): return len(self.x)"
    assert judge(slot, plain, "python", tests, QUICK).correct
    assert not judge(slot, code.replace("append(x)", "append(0)"), "python", tests, QUICK).correct


def test_an_exception_reaches_the_test_that_expects_it(slot):
    test = "try:\n    f(-1)\nexcept ValueError as error:\n    assert 'neg' in str(error)\nelse:\n    assert False"
    good = "def f(x):\n    raise ValueError('negative')"
    assert judge(slot, good, "python", CheckTests([test], ["f"]), QUICK).correct
    assert not judge(slot, good.replace("ValueError", "KeyError"), "python", CheckTests([test], ["f"]), QUICK).correct


DOUBLE = {
    "python": "print(2 * int(input()))",
    "cpp": "#include <iostream>\nint main() { long x; std::cin >> x; std::cout << 2 * x << std::endl; }",
    "c": "#include <stdio.h>\nint main(void) { long x; scanf(\"%ld\", &x); printf(\"%ld\\n\", 2 * x); }",
    "javascript": "console.log(2 * Number(require('fs').readFileSync(0, 'utf8')))",
    "java": "import java.util.*;\npublic class Twice {\n  static class Inner {}\n  public static void main(String[] a)"
    " { System.out.println(2 * new Scanner(System.in).nextLong()); } }",
    "go": 'package main\nimport "fmt"\nfunc main() { var x int; fmt.Scan(&x); fmt.Println(2 * x) }',
    "rust": "use std::io;\nfn main() { let mut line = String::new(); io::stdin().read_line(&mut line).unwrap();"
    ' println!("{}", 2 * line.trim().parse::<i64>().unwrap()); }',
}  # fmt: skip


@pytest.mark.parametrize("language", RUNNABLE)
def test_programs_of_each_language_pass_and_fail(slot, language):
    if language != "python" and toolchains.executable(language) is None:
        pytest.skip(f"no {toolchains.TOOLS[language]}")
    tests = StdinTests([("4", "8"), ("-1", "-2")])
    assert judge(slot, DOUBLE[language], language, tests, Limits()).correct
    assert judge(slot, DOUBLE[language].replace("2 *", "3 *"), language, tests, Limits()).failures == [
        (0, "wrong answer", "wrong")
    ]


THREADS = """
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
void *wait(void *unused) { usleep(200000); return 0; }
int depth(int n) { volatile char kept[200]; kept[0] = n; return n == 0 ? 0 : 1 + depth(n - 1) + 0 * kept[0]; }
int main() {
    pthread_t threads[16];
    for (int i = 0; i < 16; i++)
        if (pthread_create(threads + i, 0, wait, 0)) return 1;
    for (int i = 0; i < 16; i++) pthread_join(threads[i], 0);
    printf("%d", depth(800000));
}
"""


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_a_compiled_program_has_many_threads_and_a_deep_stack(slot, language):
    if toolchains.executable(language) is None:
        pytest.skip(f"no {toolchains.TOOLS[language]}")
    result = judge(slot, THREADS, language, StdinTests([("", "800000")]), Limits())
    assert result.failures == []


def test_code_that_does_not_compile_says_so_and_nothing_of_what_it_read(slot, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a secret line\n")
    tests = StdinTests([("", "")])
    for code in ("int main() { return x; }", f'#include "{secret}"\nint main() {{}}'):
        result = judge(slot, code, "cpp", tests, Limits())
        assert not result.correct
        assert result.failures == [(0, "compile error", "crash")]


def test_a_compilation_has_a_limit(slot, monkeypatch):
    import dataclasses

    from h1r.sandbox import builds

    monkeypatch.setattr(builds, "COMPILE_LIMITS", dataclasses.replace(COMPILE_LIMITS, time_s=1.0, total_s=1.0))
    endless = '#include "/dev/zero"\nint main() {}'
    assert not judge(slot, endless, "cpp", StdinTests([("", "")]), QUICK).correct


def test_function_tests_are_for_python_only(slot):
    with pytest.raises(ValueError, match="Python"):
        judge(slot, "int f();", "cpp", CallTests("f", [[1]], [1]), QUICK)


def test_a_report_without_the_nonce_of_its_run_is_no_pass(slot, monkeypatch):
    """The test code of one run cannot vouch for another: the parent expects its own number, drawn anew."""
    nonces = iter(["a" * 32, "b" * 32])
    monkeypatch.setattr(run_checks.secrets, "token_hex", lambda _: next(nonces))
    monkeypatch.setattr(run_checks.hmac, "compare_digest", lambda given, own: given == own and given == "b" * 32)
    tests = CheckTests(["assert f() == 1"], ["f"])
    assert not judge(slot, "def f(): return 1", "python", tests, QUICK).correct
    assert judge(slot, "def f(): return 1", "python", tests, QUICK).correct
