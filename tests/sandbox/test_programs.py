"""Programs in each language: how they read their input, by what they are compiled, what they may print."""

import shutil

import pytest

from h1r.sandbox import Isolation, Limits, SandboxPool, builds, refusal, toolchains
from h1r.verify.code.execute import judge
from h1r.verify.code.problem_tests import CallTests, CheckTests, StdinTests

SUM = StdinTests([("2 5\n", "7"), ("30 4\n", "34")])
LEVELS = (Isolation.NAMESPACES, Isolation.BUBBLEWRAP, Isolation.LANDLOCK)


@pytest.fixture(scope="module", params=LEVELS, ids=lambda level: level.name)
def each_slot(request):
    if why := refusal(request.param):
        pytest.skip(why)
    with SandboxPool(level=request.param.name) as pool, pool.lease() as slot:
        yield slot


@pytest.fixture(scope="module")
def slot():
    if refusal(Isolation.NAMESPACES) and refusal(Isolation.LANDLOCK):
        pytest.skip("tested code cannot be confined here")
    with SandboxPool() as pool, pool.lease() as slot:
        yield slot


def needs(language: str) -> None:
    if toolchains.executable(language) is None:
        pytest.skip(f"no {toolchains.TOOLS[language]}")


READERS = {
    "opened": "print(sum(map(int, open('/dev/stdin').read().split())))",
    "descriptor": "import pathlib; print(sum(map(int, pathlib.Path('/proc/self/fd/0').read_text().split())))",
    "bytes": "with open('/dev/fd/0', 'rb') as f: print(sum(map(int, f.readline().split())))",
    "replaced": "import sys; sys.stdin = open('/dev/stdin'); print(sum(map(int, input().split())))",
    "both": "first = open('/dev/stdin').read(); assert input() == first.strip(); print(sum(map(int, first.split())))",
}


@pytest.mark.parametrize("name", READERS)
def test_input_can_be_opened_by_its_path(each_slot, name):
    assert judge(each_slot, READERS[name], "python", SUM).failures == []


def test_programs_in_other_languages_open_their_input_by_its_path(each_slot):
    programs = {
        "javascript": "const t = require('fs').readFileSync('/dev/stdin', 'utf8').split(' ').map(Number);\n"
        "console.log(t[0] + t[1]);",
        "c": '#include <stdio.h>\nint main(void) { int a, b; freopen("/dev/stdin", "r", stdin);'
        ' scanf("%d %d", &a, &b); printf("%d", a + b); }',
    }
    for language, code in programs.items():
        if toolchains.executable(language) is not None:
            assert judge(each_slot, code, language, SUM).failures == [], language


def test_a_large_input_can_be_opened_by_its_path(slot):
    text = "7 " * 20_000_000
    code = "print(len(open('/dev/stdin').read()))"
    tests = StdinTests([(text, str(len(text)))])
    assert judge(slot, code, "python", tests, Limits(scratch_bytes=1 << 20)).failures == []


def test_integers_have_50000_digits_and_no_more(slot):
    power = "n = int(input())\nprint(len(str(10 ** n)), len(str(int('1' * n))))"
    assert judge(slot, power, "python", StdinTests([("49999", "50000 49999")])).failures == []
    assert judge(slot, power, "python", StdinTests([("50001", "50002 50001")])).failures[0].reason == "crash"
    calls = CallTests("f", [[49_999]], expected=[10**49_999 + 1])
    assert judge(slot, "def f(n): return int('1' + '0' * (n - 1) + '1')", "python", calls).failures == []
    assert judge(slot, "def f(n): return str(10 ** n)", "python", CheckTests(["assert len(f(49999)) == 50000",
                 "assert int(f(9000)) == 10 ** 9000"], ["f"])).failures == []  # fmt: skip


CPP = {
    "17": "#include <iostream>\n#include <optional>\nint main() { std::optional<int> a; int b, c; std::cin >> b >> c;"
    " a = b; std::cout << *a + c; }",
    "20": "#include <compare>\n#include <iostream>\n#include <ranges>\nint main() { int a, b, s = 0; "
    " std::cin >> a >> b; for (int i : std::views::iota(0, a)) s += i >= 0; std::cout << s + b; }",
    "14": "#include <algorithm>\n#include <iostream>\n#include <iterator>\nusing namespace std;\nint data[2];\n"
    "int main() { cin >> data[0] >> data[1]; cout << data[0] + data[1]; }",
}


@pytest.mark.parametrize("standard", CPP)
def test_cpp_compiles_by_the_standard_that_it_is_written_in(slot, standard):
    needs("cpp")
    if standard > toolchains.newest_cpp(toolchains.executable("cpp")):
        pytest.skip("the compiler is older")
    assert judge(slot, CPP[standard], "cpp", SUM).failures == []


def test_the_standard_that_is_named_comes_first(slot):
    needs("cpp")
    code = "#include <iostream>\nint main() { std::cout << __cplusplus / 100; }"
    seen = {language: judge(slot, code, language, StdinTests([("", expected)])).correct
            for language, expected in (("cpp14", "2014"), ("cpp17", "2017"), ("cpp", "2017"))}  # fmt: skip
    assert seen == {"cpp14": True, "cpp17": True, "cpp": True}


@pytest.mark.parametrize(
    ("code", "source"),
    [
        ("import java.util.*;\npublic class Answer {", "Answer.java"),
        ("public final class Answer {", "Answer.java"),
        ("public record Answer(int x) {", "Answer.java"),
        ("class Answer { // public class Other\n}", "Main.java"),
        ("class A {}\nclass B { public static void main(String[] a) {} }", "Main.java"),
    ],
)
def test_a_java_file_is_named_after_its_public_class(code, source):
    assert next(builds.attempts("java", code, "/usr/bin/javac")).argv[-1] == source


JAVA = {
    "public": "import java.util.*;\npublic class Answer { static class Node { int v; }\n"
    "public static void main(String[] a) { Scanner s = new Scanner(System.in);"
    " System.out.println(s.nextInt() + s.nextInt()); } }",
    "second class has main": "class A { static int deep(int n) { return n == 0 ? 0 : 1 + deep(n - 1); } }\n"
    "class B { public static void main(String[] x) { java.util.Scanner s = new java.util.Scanner(System.in);"
    " System.out.println(s.nextInt() + s.nextInt() + A.deep(50000) - 50000); } }",
    "package": "package contest;\nimport java.io.*;\npublic class Main { public static void main(String[] a) throws"
    " Exception { String[] p = new BufferedReader(new FileReader(\"/dev/stdin\")).readLine().split(\" \");"
    " System.out.println(Integer.parseInt(p[0]) + Integer.parseInt(p[1])); } }",
}  # fmt: skip


@pytest.mark.parametrize("name", JAVA)
def test_java_starts_the_class_with_main(slot, name):
    needs("java")
    assert judge(slot, JAVA[name], "java", SUM).failures == []


def test_java_has_its_memory_limit_as_its_heap(slot):
    needs("java")
    code = "public class Main { public static void main(String[] a) { System.out.print(new byte[%d << 20].length); } }"
    limits = Limits(memory_bytes=512 << 20)
    assert judge(slot, code % 200, "java", StdinTests([("", str(200 << 20))]), limits).correct
    result = judge(slot, code % 600, "java", StdinTests([("", str(600 << 20))]), limits)
    assert "OutOfMemoryError" in result.failures[0].why or result.failures[0].reason == "crash"


@pytest.mark.parametrize("language", ["java", "go", "rust"])
def test_code_that_does_not_compile_is_a_compile_error(slot, language):
    needs(language)
    assert judge(slot, "this is no program", language, SUM).failures == [(0, "compile error", "crash")]


def test_a_language_without_its_compiler_is_no_verdict(slot, monkeypatch):
    from h1r.sandbox import SandboxError

    monkeypatch.setattr(shutil, "which", lambda name: None)
    toolchains.executable.cache_clear()
    try:
        with pytest.raises(SandboxError, match="no go on this machine"):
            judge(slot, "package main", "go", SUM)
    finally:
        toolchains.executable.cache_clear()
