"""A simulated user says what the truth says of what is proposed, or of chips at random, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from rsvlm.errors import DataError
from rsvlm.search import simulated, teaching


@pytest.fixture(scope="module")
def chips():
    """40 chips around two directions, of which the first is what is looked for, and a text between them."""
    rng = np.random.default_rng(0)
    truth = np.arange(40) % 4 == 0
    vectors = np.where(truth[:, None], [1.0, 0, 0, 0], [0, 1.0, 0, 0]) + 0.3 * rng.normal(size=(40, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, teaching.space(vectors, np.array([1.0, 0.9, 0, 0])), truth


def test_what_is_proposed_is_labelled_and_each_lesson_is_that_of_its_labels(chips):
    vectors, about, truth = chips
    steps = list(simulated.lessons(vectors, about, truth, [3, 12], step=5))
    assert [len(labelled) for labelled, _ in steps] == [0, 3, 8, 12]
    for (before, lesson), (labelled, _) in zip(steps, steps[1:]):
        new = labelled[len(before) :]
        assert (labelled[: len(before)] == before).all() and (new == lesson.proposals[: len(new)]).all()
    labelled, lesson = steps[-1]
    again = teaching.teach(vectors, about, labelled, truth[labelled], 5)
    assert lesson.method == "classifier" and (lesson.scores == again.scores).all()


def test_chips_at_random_are_labelled_in_their_order_with_any_method(chips):
    vectors, about, truth = chips
    order = np.random.default_rng(1).permutation(40)
    steps = list(simulated.lessons(vectors, about, truth, [10], method="rocchio", at_random=order))
    assert [len(labelled) for labelled, _ in steps] == [0, 5, 10] and steps[-1][1].method == "rocchio"
    assert (steps[-1][0] == order[:10]).all()


def test_it_ends_when_every_chip_is_labelled_and_refuses_other_truths(chips):
    vectors, about, truth = chips
    order = np.arange(40)
    labelled, lesson = list(simulated.lessons(vectors, about, truth, [1000], at_random=order, step=15))[-1]
    assert len(labelled) == 40 and not len(lesson.proposals)
    with pytest.raises(DataError, match="one for each"):
        next(simulated.lessons(vectors, about, truth[:-1], [5]))
