"""What the tests of teaching share: made-up archives; and inputs and outputs of `teaching` and `confidence` for whoever writes them again: `python tests/teaching_cases.py` makes the file.

Vectors are made up. Numbers hold to one part in ten thousand, orders and proposals exactly.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from rsvlm.search import confidence, teaching

FILE = Path(__file__).parent / "search" / "teaching_cases.json"
N, E = 150, 12


def archive(n: int = 400, seed: int = 0, kinds: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors (n, 24) of several kinds around a common middle, a direction that only half points to one kind, and which are of it."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, kinds, n)
    vectors = rng.normal(size=(kinds, 24))[kind] + 0.9 * rng.normal(size=(n, 24)) + 1
    direction = vectors[kind == 0].mean(axis=0) + 1.5 * rng.normal(size=24)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), direction / np.linalg.norm(direction), kind == 0


def precision(order: np.ndarray, truth: np.ndarray) -> float:
    hits = truth[order]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return vectors (N, E) and a direction (E,), of norm 1 but for rounding, and (N,) which chips are yes."""
    rng = np.random.default_rng(3)
    kind = rng.integers(0, 6, N)
    vectors = rng.normal(size=(6, E))[kind] + 1.1 * rng.normal(size=(N, E)) + 0.8
    direction = vectors[kind == 2].mean(axis=0) + 1.2 * rng.normal(size=E)
    vectors, direction = (part / np.linalg.norm(part, axis=-1, keepdims=True) for part in (vectors, direction))
    return vectors.round(5), direction.round(5), kind == 2


def cases() -> dict:
    """Return the content of the file."""
    vectors, direction, truth = inputs()
    about = teaching.space(vectors, direction)
    order = np.argsort(-(vectors @ direction), kind="stable")
    some = {
        "no labels": order[:0],
        "one yes": order[truth[order]][:1],
        "three labels": order[[0, 5, 40]],
        "six labels, none yes": order[~truth[order]][:6],
        "seven labels": order[[0, 1, 2, 8, 15, 16, 60]],
        "thirty labels": order[np.arange(0, 90, 3)],
    }
    result = []
    for name, rows in some.items():
        yes = truth[rows]
        lesson = teaching.teach(vectors, about, rows, yes, count=10)
        learnt = asdict(lesson)
        entry = {"name": name, "rows": rows, "yes": yes, "count": 10, "lesson": learnt}
        entry["on_labels"] = confidence.precision_on_labels(lesson.classifier, yes) if lesson.classifier else None
        entry["expectations"] = confidence.expectations(lesson, rows, yes, (10, 50))
        told = confidence.history(vectors, about, rows, yes)
        result.append(entry | {"history": told, "enough": confidence.enough(told)})
    groups = [{"n": n, "ks": ks, "edges": confidence.groups(n, ks)[-12:]} for n, ks in ((150, [10]), (2600, [10, 2345]))]
    content = {
        "vectors": vectors, "direction": direction, "space": asdict(about), "uniforms": teaching.uniforms(2, 3, 5),
        "last_edges_of_groups": groups, "cases": result,
    }  # fmt: skip
    return json.loads(json.dumps(content, default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        exact = value.dtype.kind != "f"
        return (
            value.tolist()
            if exact
            else [_plain(one) for one in value]
            if value.ndim > 1
            else [float(f"{x:.8g}") for x in value]
        )
    return value.item() if isinstance(value, np.generic) else str(value)


if __name__ == "__main__":
    FILE.write_text(json.dumps(cases()) + "\n")
