"""A user who is simulated: asked about a chip, it says what the truth says. So what labels are worth can be measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rsvlm.errors import DataError
from rsvlm.search import teaching
from rsvlm.search.teaching import Lesson, Space


def lessons(
    vectors: np.ndarray,
    about: Space,
    truth: np.ndarray,
    counts: Sequence[int],
    *,
    method: str = "auto",
    at_random: np.ndarray | None = None,
    step: int = 5,
) -> Iterator[tuple[np.ndarray, Lesson]]:
    """Teach a search by a user who labels what is proposed, `step` chips at a time.

    Args:
        vectors: (N, E) of norm 1, the chips that are searched and labelled.
        about: What `teaching.space` says of them and of the text.
        truth: (N,) bool, whether each chip shows what is looked for.
        counts: Numbers of labels after which a lesson is learnt in any case.
        method: As for `teaching.teach`, once there are labels.
        at_random: Chips in the order in which they are labelled, (N,), whatever is proposed. If None, what is proposed is labelled.
        step: Number of labels between two lessons.

    Yields:
        The chips that are labelled, in the order in which they were, and the lesson from them: first without a label, then every `step`
        and at each of `counts`, up to the last of them, or until every chip is labelled.

    Raises:
        DataError: There is not one truth for each chip; else as of `teaching.teach`.
    """
    truth = np.asarray(truth, bool)
    if truth.shape != (len(vectors),):
        raise DataError(f"truth of shape {truth.shape} for {len(vectors)} chips: expected one for each")
    labelled = np.empty(0, np.int64)
    while True:
        lesson = teaching.teach(vectors, about, labelled, truth[labelled], step, method if len(labelled) else "auto")
        yield labelled, lesson
        more = [count for count in counts if count > len(labelled)]
        if not more or len(labelled) == len(vectors):
            return
        until = min(len(labelled) + step, *more)
        chosen = lesson.proposals[: until - len(labelled)] if at_random is None else at_random[len(labelled) : until]
        labelled = np.concatenate([labelled, chosen])
