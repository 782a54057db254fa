"""chain_sum, products, gcd, lcm, count_bits, prime_factorization, coin_flip: from the numbers in the question."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator

from h1r.data.solvers.base import Worked, add_lines, product_lines, shuffled, sum_lines, told_sum_lines
from h1r.records import Problem

MAX_LISTED = 12
"""Multiples, or differences, that a trace lists at most."""


def chain_sum(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """`4 - 1 - 7`: from the left; pluses before minuses; any order of the signed terms."""
    found = re.search(r"problem: (-?\d+(?: [+-] -?\d+)*) =", problem.question)
    if found is None:
        return
    first, *rest = re.findall(r"(?:^|[+-] )-?\d+", found.group(1))
    terms = [int(first)] + [int(part[2:]) * (-1 if part[0] == "-" else 1) for part in rest]
    answer = str(sum(terms))
    if len(terms) == 1:
        yield Worked([answer], answer)
        return
    yield Worked(told_sum_lines(terms), answer)
    positive, negative = [t for t in terms if t >= 0], [-t for t in terms if t < 0]
    if positive and len(negative) > 1:
        plus, minus = sum(positive), sum(negative)
        yield Worked(sum_lines(positive) + sum_lines(negative) + add_lines(plus, -minus), answer)
    while True:
        yield Worked(told_sum_lines(shuffled(terms, rng)), answer)


def products(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """`23 * 45`: by the places of one factor, of the other, units first, repeated addition for small ones."""
    found = re.search(r"multiplication: (-?\d+(?: \* -?\d+)*)\.", problem.question)
    if found is None:
        return
    factors = [int(part) for part in found.group(1).split(" * ")]
    answer = str(math.prod(factors))
    yield Worked(_chain_product(factors, ascending=False), answer)
    for ascending in (True, False):
        yield Worked(_chain_product(factors[::-1], ascending), answer)
    yield Worked(_chain_product(factors, ascending=True), answer)
    if len(factors) == 2 and 2 <= min(factors) <= 9:
        small, other = min(factors), max(factors)
        yield Worked(sum_lines([other] * small), answer)
    for _ in range(len(factors)):
        yield Worked(_chain_product(shuffled(factors, rng), rng.random() < 0.5), answer)


def _chain_product(factors: list[int], ascending: bool) -> list[str]:
    lines: list[str] = []
    total = factors[0]
    for factor in factors[1:]:
        lines += product_lines(total, factor, ascending)
        total *= factor
    return lines or [str(total)]


def gcd(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """Euclid's remainders; Euclid's differences where they are few; prime factors."""
    found = re.search(r"numbers: (\d+(?:, \d+)*)\.", problem.question)
    if found is None:
        return
    numbers = [int(part) for part in found.group(1).split(", ")]
    answer = str(math.gcd(*numbers))
    yield Worked(_fold_gcd(numbers), answer)
    differences = _differences(numbers)
    if differences:
        yield Worked(differences, answer)
    if min(numbers) > 0:
        yield Worked([f"{n} = {' * '.join(map(str, factorise(n) or [1]))}" for n in numbers], answer)
    for _ in range(len(numbers)):
        yield Worked(_fold_gcd(shuffled(numbers, rng)), answer)


def _remainders(a: int, b: int) -> list[str]:
    a, b = max(a, b), min(a, b)
    lines = []
    while b:
        lines.append(f"{a} % {b} = {a % b}")
        a, b = b, a % b
    return lines


def _fold_gcd(numbers: list[int]) -> list[str]:
    lines: list[str] = []
    common = numbers[0]
    for number in numbers[1:]:
        lines += _remainders(common, number)
        common = math.gcd(common, number)
    return lines or [str(common)]


def _differences(numbers: list[int]) -> list[str]:
    """Subtracts the smaller from the larger until they are equal; nothing when that takes too many lines."""
    lines: list[str] = []
    common = numbers[0]
    for number in numbers[1:]:
        a, b = max(common, number), min(common, number)
        while a != b:
            if len(lines) == MAX_LISTED or b == 0:
                return []
            lines.append(f"{a} - {b} = {a - b}")
            a, b = max(a - b, b), min(a - b, b)
        common = a
    return lines


def lcm(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """Euclid, then one number over the gcd times the other; multiples of the larger where they are few."""
    found = re.search(r"numbers: (\d+(?:, \d+)*)$", problem.question.strip())
    if found is None:
        return
    numbers = [int(part) for part in found.group(1).split(", ")]
    if min(numbers) < 1:
        return
    answer = str(math.lcm(*numbers))
    yield Worked(_fold_lcm(numbers), answer)
    if len(numbers) == 2:
        large, small = max(numbers), min(numbers)
        count = math.lcm(large, small) // large
        if count <= MAX_LISTED:
            yield Worked([f"{large * k} % {small} = {large * k % small}" for k in range(1, count + 1)], answer)
    yield Worked(_fold_lcm(numbers[::-1]), answer)
    for _ in range(len(numbers)):
        yield Worked(_fold_lcm(shuffled(numbers, rng)), answer)


def _fold_lcm(numbers: list[int]) -> list[str]:
    lines: list[str] = []
    multiple = numbers[0]
    for number in numbers[1:]:
        common = math.gcd(multiple, number)
        lines += _remainders(multiple, number)
        if common > 1:
            lines.append(f"{multiple} / {common} = {multiple // common}")
        lines += product_lines(multiple // common, number)
        multiple = math.lcm(multiple, number)
    return lines or [str(multiple)]


def count_bits(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """Halving with a running count of odd numbers; taking off powers of two; the binary digits."""
    found = re.search(r"number (\d+)\?", problem.question)
    if found is None:
        return
    number = int(found.group(1))
    answer = str(number.bit_count())
    halving, count = [], 0
    for shift in range(number.bit_length()):
        count += number >> shift & 1
        halving.append(f"{number >> shift} {'odd' if number >> shift & 1 else 'even'} {count}")
    yield Worked(halving or ["0 even 0"], answer)
    taking, rest = [], number
    while rest:
        power = 1 << rest.bit_length() - 1
        taking.append(f"{rest} - {power} = {rest - power}")
        rest -= power
    if taking:
        yield Worked([*taking, f"{answer} powers of 2"], answer)
    yield Worked([f"{number} = {number:b}", f"{answer} ones"], answer)


def factorise(number: int) -> list[int]:
    """Prime factors, ascending; none for 1."""
    factors, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return [*factors, number] if number > 1 else factors


def prime_factorization(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """Dividing by the smallest prime first, by the largest first, in any order."""
    found = re.search(r"factorization of (\d+)\.", problem.question)
    if found is None:
        return
    number = int(found.group(1))
    factors = factorise(number)
    answer = " × ".join(map(str, factors))
    yield Worked(_divisions(number, factors), answer)
    yield Worked(_divisions(number, factors[::-1]), answer)
    for _ in range(len(factors)):
        yield Worked(_divisions(number, shuffled(factors, rng)), answer)


def _divisions(number: int, factors: list[int]) -> list[str]:
    lines = []
    for factor in factors:
        lines.append(f"{number} / {factor} = {number // factor}")
        number //= factor
    return lines


def coin_flip(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """Binomial coefficients over 2^n; "at least" also by what is left out."""
    found = re.search(r"(exactly|at least) (\d+) heads in (\d+) fair", problem.question)
    if found is None:
        return
    exact, k, n = found.group(1) == "exactly", int(found.group(2)), int(found.group(3))
    wanted = [k] if exact else list(range(k, n + 1))
    ways = sum(math.comb(n, i) for i in wanted)
    answer = f"{ways}/{2**n}"
    for order in (wanted, wanted[::-1]):
        chosen = [math.comb(n, i) for i in order]
        for symmetric in (False, True):
            lines = [_choose(n, i, symmetric) for i in order]
            yield Worked([*lines, *sum_lines(chosen), f"2^{n} = {2**n}"], answer)
    if not exact and k > 0:
        left_out = [math.comb(n, i) for i in range(k)]
        lines = [_choose(n, i, False) for i in range(k)]
        lines += [*sum_lines(left_out), f"2^{n} = {2**n}", f"{2**n} - {sum(left_out)} = {ways}"]
        yield Worked(lines, answer)


def _choose(n: int, k: int, symmetric: bool) -> str:
    """`C(6,4) = C(6,2) = 6 * 5 / 2 = 15`."""
    small = min(k, n - k) if symmetric else k
    name = f"C({n},{k})" if small == k else f"C({n},{k}) = C({n},{small})"
    if small < 2:
        return f"{name} = {math.comb(n, k)}"
    over = " * ".join(str(n - i) for i in range(small))
    return f"{name} = {over} / {math.factorial(small)} = {math.comb(n, k)}"
