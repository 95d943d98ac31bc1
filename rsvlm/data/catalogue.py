"""What is known of the field's benchmarks: what each is, where it is from, its numbers and traps, its classes, and prompts.

The facts are in `benchmarks.json`, the names of classes in `classes.json`, the sentences that a class name is put into in
`prompt_sets.json`; a fact that was not seen first-hand is marked there.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from pathlib import Path

from rsvlm.errors import DataError

_COLUMNS = "name title task splits classes layout where licence paper traps hashes sources verified unsure".split()


def rows() -> list[dict]:
    """Return one row per known benchmark: what it is, from where, with what numbers and traps.

    Keys are `name title task splits classes layout where licence paper traps hashes sources verified unsure`. `splits` maps a name to
    the expected numbers, `layout` is a little tree as text, `hashes` maps a file to its MD5, `sources` are the public pages in which
    facts were looked up, and `verified` is false where one was seen nowhere; `unsure` then says which.
    """
    rows = []
    for name, entry in _file("benchmarks.json")["benchmarks"].items():
        words = _file("classes.json").get(entry.get("class_list"), {"verified": True})
        unsure = "; ".join(text for text in (entry.get("unsure"), words.get("unsure")) if text)
        row = {"name": name, "classes": None, "hashes": {}, "sources": []} | entry | {"layout": "\n".join(entry["layout"])}
        row |= {"verified": entry["verified"] and words["verified"], "unsure": unsure}
        rows.append({column: row[column] for column in _COLUMNS})
    return copy.deepcopy(rows)


def populations() -> dict[tuple[str, str], dict]:
    """Return of each benchmark and split the number of `images`, and where known of `captions`, and their `sketch` (see `text.sketch`)."""
    known = {}
    for name, entry in _file("benchmarks.json")["benchmarks"].items():
        for split, numbers in entry["splits"].items():
            if "images" in numbers:
                sketch = entry.get("sketches", {}).get(split)
                known[name, split] = numbers | ({"sketch": sketch} if sketch else {})
    return known


def class_names(name: str) -> list[str]:
    """Return a benchmark's classes in the words the text tower reads, in the order of the labels."""
    title, entry = find(name)
    if "class_list" not in entry:
        raise DataError(f"{title} has no class list here ({entry.get('unsure', 'none is known')}): read it with its images")
    return list(class_list(entry["class_list"])[1])


def prompt_set(name: str) -> list[str]:
    """Return the templates of a prompt set, each with `{class}`; `prompt_sets.json` says where each is from."""
    if name not in (sets := prompt_sets()):
        raise DataError(f"unknown prompt set '{name}': choose one of {', '.join(sets)}")
    return list(sets[name]["templates"])


def prompt_sets() -> dict[str, dict]:
    """Return all prompt sets: name → `templates source verified`, and `unsure` where not verified."""
    return {name: content for name, content in _file("prompt_sets.json").items() if name != "about"}


def find(name: str, task: str | None = None) -> tuple[str, dict]:
    """Return the name and the entry of a benchmark, by its name or by another that no other benchmark of that task has."""
    everything = _file("benchmarks.json")["benchmarks"]
    known = {n: entry for n, entry in everything.items() if task in (None, entry["task"])}
    names = [n for n in known if key_of(n) == key_of(name)]
    names += [n for n, entry in known.items() if key_of(name) in map(key_of, entry.get("aliases", ()))]
    if names:
        return names[0], known[names[0]]
    other = next((f"{n} is for {entry['task']}" for n, entry in everything.items() if key_of(n) == key_of(name)), None)
    raise DataError(f"{other or f'unknown benchmark {name!r}'}: for {task or 'anything'} choose one of {', '.join(known)}")


def scene_of(file: str, entry: dict) -> str | None:
    """Return the scene class that a file's name or folder tells, in words; None where it tells none."""
    if "class_from" not in entry:
        return None
    parent, _, base = file.rpartition("/")
    labels, words = class_list(entry["class_list"])
    scene = None
    if entry["class_from"] == "folder":
        scene = parent.rpartition("/")[2] or base.rpartition("_")[0]
    elif entry["class_from"] == "prefix" and (match := re.match(r"([A-Za-z]+)_\d", base)):
        scene = match[1]
    elif entry["class_from"] == "order" and (match := re.fullmatch(r"([1-9]\d{0,3})\.\w+", base)):
        place = (int(match[1]) - 1) // 100  # files 1 … 2100, a hundred of each class
        return words[place] if place < len(words) else None
    return (words[labels[key_of(scene)]] if key_of(scene) in labels else words_of(scene)) if scene else None


@functools.cache
def _file(file: str) -> dict:
    return json.loads(Path(__file__).with_name(file).read_text(encoding="utf-8"))


def key_of(text: str) -> str:
    """Return a name without case, blanks and signs, by which names are compared."""
    return re.sub(r"[\W_]", "", text.casefold())


def words_of(folder: str) -> str:
    """Return the name of a folder in words: `BaseballField` and `baseball_field` are `baseball field`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[_\s]+", " ", folder).strip().casefold()


@functools.cache
def class_list(name: str) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return labels by the key of a folder's name, and the words of each label."""
    entry = _file("classes.json")[name]
    labels = {key_of(folder): label for label, folder in enumerate(entry["folders"])}
    labels |= {key_of(other): labels[key_of(folder)] for other, folder in entry.get("other_names", {}).items()}
    return labels, tuple(entry.get("words", {}).get(folder, words_of(folder)) for folder in entry["folders"])
