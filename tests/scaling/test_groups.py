import itertools

from hypothesis import given
from hypothesis import strategies as st

from h1r.scaling.answer_groups import AnswerGroups


def close(left, right):
    """Symmetric, not transitive: 0 ~ 1 and 1 ~ 2, but not 0 ~ 2."""
    return abs(int(left) - int(right)) <= 1


def same_number(left, right):
    return float(left) == float(right)


answers = st.lists(st.one_of(st.none(), st.integers(0, 12).map(str)), max_size=25)


@given(st.lists(st.sampled_from(["1", "1.0", "1.00", "2", "2.0", "3", None]), max_size=30))
def test_groups_of_a_transitive_equivalence_are_its_classes(given_answers):
    centres = AnswerGroups(same_number)(given_answers)
    for (one, centre), (other, of_other) in itertools.combinations(zip(given_answers, centres, strict=True), 2):
        if one is None or other is None:
            assert (one is None) == (centre is None)
        else:
            assert (centre == of_other) == same_number(one, other)


@given(answers)
def test_every_group_is_a_star_around_its_most_frequent_answer(given_answers):
    centres = AnswerGroups(close)(given_answers)
    for answer, centre in zip(given_answers, centres, strict=True):
        if answer is not None:
            assert close(answer, centre)
            assert given_answers.count(centre) >= given_answers.count(answer)
    for one, other in itertools.combinations(set(centres) - {None}, 2):
        assert not close(one, other)


@given(answers, st.randoms(use_true_random=False))
def test_groups_depend_on_how_often_answers_are_given_and_not_on_what_was_seen_before(given_answers, random):
    used = AnswerGroups(close)
    for _ in range(3):
        used([random.choice(given_answers) for _ in given_answers])
    assert used(given_answers) == AnswerGroups(close)(given_answers)


def test_a_form_between_two_others_joins_the_more_frequent_one():
    assert AnswerGroups(close)(["0", "1", "2", "2"]) == ["0", "2", "2", "2"]
    assert AnswerGroups(close)(["0", "0", "1", "2"]) == ["0", "0", "0", "2"]


def test_each_pair_is_compared_once_and_in_one_order():
    asked = []

    def equivalent(one, other):
        asked.append((one, other))
        return False

    groups = AnswerGroups(equivalent)
    for order in itertools.permutations(["a", "bb", "c"]):
        groups(order)
    assert sorted(asked) == [("a", "bb"), ("a", "c"), ("c", "bb")]


def test_comparisons_of_a_problem_are_bounded():
    asked = []

    def equivalent(one, other):
        asked.append((one, other))
        return False

    many = [str(number) for number in range(300)]
    assert AnswerGroups(equivalent, max_pairs=100)([*many, "7", "7"])[-1] == "7"
    assert len(asked) == 100
