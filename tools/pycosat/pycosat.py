"""`solve` and `itersolve` of pycosat in plain Python: DPLL, that is unit propagation and branching.

reasoning-gym needs pycosat for its zebra puzzles only, but imports it always, and pycosat has no wheels. `make setup`
installs this in its place where the original cannot be compiled. A problem is a list of clauses, a clause a list of
non-zero integers: v for the variable v, -v for its negation. Left out: the options of the original (vars, verbose,
prop_limit), clause learning, speed.
"""

from collections.abc import Iterable, Iterator


def itersolve(clauses: Iterable[Iterable[int]]) -> Iterator[list[int]]:
    """Every assignment of the variables 1..max that satisfies all clauses, each once, as a list of signed variables."""
    problem = [list(dict.fromkeys(clause)) for clause in clauses]
    count = max((abs(literal) for clause in problem for literal in clause), default=0)
    containing: dict[int, list[list[int]]] = {}
    for clause in problem:
        for literal in clause:
            containing.setdefault(literal, []).append(clause)
    true: set[int] = set()

    def assign(literals: list[int], trail: list[int]) -> bool:
        """Makes the literals true with all that follows by unit propagation; False at a contradiction."""
        pending = list(literals)
        while pending:
            literal = pending.pop()
            if literal in true:
                continue
            if -literal in true:
                return False
            true.add(literal)
            trail.append(literal)
            for clause in containing.get(-literal, ()):
                if not any(other in true for other in clause):
                    free = [other for other in clause if -other not in true]
                    if not free:
                        return False
                    if len(free) == 1:
                        pending.append(free[0])
        return True

    def search(literals: list[int], start: int) -> Iterator[list[int]]:
        trail: list[int] = []
        if assign(literals, trail):
            variable = next((v for v in range(start, count + 1) if v not in true and -v not in true), None)
            if variable is None:
                yield [v if v in true else -v for v in range(1, count + 1)]
            else:
                yield from search([variable], variable + 1)
                yield from search([-variable], variable + 1)
        true.difference_update(trail)

    if all(problem):
        yield from search([clause[0] for clause in problem if len(clause) == 1], 1)


def solve(clauses: Iterable[Iterable[int]]) -> list[int] | str:
    """One satisfying assignment, or "UNSAT"."""
    return next(itersolve(clauses), "UNSAT")
