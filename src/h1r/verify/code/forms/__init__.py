"""The forms in which data sets hold the tests of a problem, a file for each family.

    programs     pairs or columns of input and output                  LiveCodeBench, Codeforces, CodeContests, TACO
    referees     checkers and interactors beside them                  Codeforces, open-r1
    functions    arguments and results of a function                   LiveCodeBench, APPS, DeepCoder, SYNTHETIC-1
    leetcode     raw LeetCode: lists and trees, classes call by call
    evalplus     inputs and a reference solution                       EvalPlus
    assertions   test code                                             MBPP, HumanEval, AceCode, LeetCode
    collected    test functions and cases that nothing calls           KodCode, BigCodeBench
    packed       texts: JSON, or compressed                            LiveCodeBench's private tests

Each reads JSON text or objects, and refuses by name what it cannot read.
"""
