"""The tests of a problem, in every form that data sets have."""

import base64
import json
import pickle
import zlib

import pytest

from h1r.verify.code.problem_tests import CallTests, CheckTests, StdinTests, TestsError, parse_tests, sampled, size


def test_pairs_of_input_and_output_run_a_program():
    tests = parse_tests([{"input": "1\n", "output": "2\n"}, {"input": "3", "output": "4", "testtype": "stdin"}])
    assert tests == StdinTests([("1\n", "2\n"), ("3", "4")])


def test_columns_of_inputs_and_outputs_run_a_program():
    assert parse_tests({"inputs": ["1", "2"], "outputs": ["a", "b"]}) == StdinTests([("1", "a"), ("2", "b")])
    assert parse_tests({"inputs": [["1", "2"]], "outputs": [["a", "b"]]}) == StdinTests([("1\n2", "a\nb")])


def test_livecodebench_function_tests_have_a_json_value_a_line():
    tests = parse_tests([{"input": "[1, 2]\n3", "output": "[4]", "testtype": "functional"}], {"func_name": "f"})
    assert isinstance(tests, CallTests)
    assert (tests.entry, tests.arguments, tests.expected) == ("f", [[[1, 2], 3]], [[4]])
    assert tests.prelude
    assert tests.from_json


def test_packed_private_tests_are_unpacked():
    cases = [{"input": "1", "output": "2", "testtype": "stdin"}]
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()
    assert parse_tests(packed) == StdinTests([("1", "2")])


def test_public_tests_of_a_column_of_their_own_come_first():
    public, private = ([{"input": str(n), "output": str(2 * n), "testtype": "stdin"}] for n in (1, 2))
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(private)))).decode()
    found = parse_tests(packed, {"public_test_cases": json.dumps(public)})
    assert found == StdinTests([("1", "2"), ("2", "4")])
    assert parse_tests(packed, {"public_test_cases": ""}) == StdinTests([("2", "4")])
    with pytest.raises(TestsError, match="public_test_cases"):
        parse_tests({"inputs": ["1"], "outputs": ["2"]}, {"public_test_cases": json.dumps(public)})


def test_packed_tests_that_would_run_code_are_refused():
    class Bomb:
        def __reduce__(self):
            return print, ("ran",)

    packed = base64.b64encode(zlib.compress(pickle.dumps(Bomb()))).decode()
    with pytest.raises(TestsError, match="cannot be read"):
        parse_tests(packed)


def test_apps_function_tests_lose_the_list_around_each_result():
    tests = parse_tests({"fn_name": "f", "inputs": [[1, 2]], "outputs": [[3]]})
    assert (tests.arguments, tests.expected) == ([[1, 2]], [3])


def test_humaneval_has_its_prompt_and_check():
    tests = parse_tests({"test": "def check(c): assert c(1)"}, {"entry_point": "f", "prompt": "import math\n"})
    assert isinstance(tests, CheckTests)
    assert (tests.names, tests.setup, tests.entry) == (["f"], "import math\n", "f")
    assert tests.tests[0].endswith("check(f)\n")
    assert not tests.prelude


def test_evalplus_has_a_reference_for_what_is_expected():
    tests = parse_tests({"base_input": [[1]], "plus_input": [[2]], "canonical_solution": "    return 1"},
                        {"entry_point": "f", "prompt": "def f(x):\n"})  # fmt: skip
    assert (tests.arguments, tests.reference, tests.setup) == ([[1], [2]], "def f(x):\n    return 1", "def f(x):\n")


def test_leetcode_tests_are_test_code_with_common_modules():
    tests = parse_tests({"functional": "def check(candidate):\n    assert candidate(1) == 2\ncheck(Solution().f)"})
    assert (tests.names, tests.prelude) == (["Solution"], True)


def test_assertions_name_the_tested_function():
    assert parse_tests(["assert add(1, 2) == 3", "assert add(len([1]), 2) == abs(-3)"]).names == ["add"]
    assert parse_tests(["assert gcd(4, 6) == 2", "assert gcd(1, 6) == 1"]).names == ["gcd"]


def test_the_tested_code_cannot_take_a_name_that_the_assertions_rely_on():
    assert "isinstance" not in parse_tests(["assert isinstance(f(1), int)"]).names


@pytest.mark.parametrize("tests", [None, [], {}, {"inputs": [], "outputs": []}, 3, {"inputs": ["1"], "outputs": []},
                                   [{"input": "1"}], {"test": "x"}, ["assert True"], "not base64!",
                                   {"base_input": [[1], [2]], "expected": [1], "entry_point": "f"}])  # fmt: skip
def test_what_is_in_no_known_form_is_refused(tests):
    with pytest.raises(TestsError):
        parse_tests(tests)


def test_a_sample_is_the_same_for_every_answer_and_keeps_the_order():
    tests = StdinTests([(str(number), "") for number in range(100)])
    one, again, other = (sampled(tests, 10, seed) for seed in ("a", "a", "b"))
    assert one == again != other
    assert size(one) == 10
    assert [int(case[0]) for case in one.cases] == sorted(int(case[0]) for case in one.cases)


def test_a_sample_keeps_arguments_beside_their_results():
    tests = CallTests("f", [[number] for number in range(50)], expected=list(range(50)))
    some = sampled(tests, 5, "seed")
    assert [arguments[0] for arguments in some.arguments] == some.expected
    assert sampled(tests, 60, "seed") is tests
    assert size(sampled(CheckTests(["a", "b", "c"], ["f"]), 2, "seed")) == 2
    with pytest.raises(ValueError, match="max_tests"):
        sampled(tests, 0, "seed")


@pytest.mark.parametrize(
    "test",
    [
        "@patch('random.randint', return_value=3)\ndef test_a(fake):\n    assert roll() == 3\n",
        "from unittest import mock\n\ndef test_a():\n    with mock.patch('solution.now') as now:\n"
        "        assert roll() == 3\n",
        "import unittest\n\nclass T(unittest.TestCase):\n    @unittest.mock.patch.dict('os.environ', {'A': '1'})\n"
        "    def test_a(self):\n        self.assertEqual(roll(), 1)\n",
        "def test_a(monkeypatch):\n    monkeypatch.setenv('A', '1')\n    assert roll() == 1\n",
        "def test_a(mocker):\n    assert roll() == 1\n",
        "def test_a(tmp_path):\n    (tmp_path / 'given').write_text('1')\n    assert roll(tmp_path / 'given') == 1\n",
        "import unittest, tempfile\n\nclass T(unittest.TestCase):\n    def setUp(self):\n"
        "        self.place = tempfile.mkdtemp()\n\n    def test_a(self):\n"
        "        self.assertEqual(roll(self.place), 0)\n",
        "def test_a():\n    with open('given.csv', 'w') as file:\n        file.write('1')\n"
        "    assert roll('given.csv') == 1\n",
    ],
)
def test_tests_that_share_a_process_or_files_with_the_tested_code_are_refused(test):
    with pytest.raises(TestsError, match="another process"):
        parse_tests({"test": test}, {"entry_point": "roll"})


@pytest.mark.parametrize(
    "test",
    [
        "from unittest import mock\n\ndef test_a():\n    assert roll(mock.Mock().value) is None\n",
        "def test_a():\n    with open('/usr/share/dict/words') as file:\n        assert roll(file.read()) == 1\n",
        "def test_patch():\n    assert roll('patch') == 1\n",
        "def test_a(capsys):\n    roll()\n    assert capsys.readouterr().out == '1\\n'\n",
        "@patch('sys.stdout', new_callable=io.StringIO)\ndef test_a(out):\n    roll()\n"
        "    assert out.getvalue() == '1\\n'\n",
        "def test_a():\n    assert roll([1]).copy() == [1]\n",
    ],
)
def test_tests_that_share_calls_and_results_alone_are_taken(test):
    assert isinstance(parse_tests({"test": test}, {"entry_point": "roll"}), CheckTests)
