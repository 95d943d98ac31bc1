"""What a captioner is told, and what it answers: records of request and reply, prompt templates, and how answers are read.

A captioner turns one chip (picture and record) into captions of several kinds; `Captioner` is what any of them has to offer.
What a model is told about a chip is in `facts`: visible landmarks only, their names as quoted data, and no coordinates. Nothing
of a chip reaches a template's instructions, and nothing in an answer is believed before `parse` has read it.

Source: our choice. The paper names Gemini as the writer; its prompt and settings were not published.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rsvlm.data.maps.taxonomy import printable_line
from rsvlm.errors import ConfigError, RsvlmError

if TYPE_CHECKING:
    from rsvlm import config

PROMPTS = Path(__file__).parent / "templates"
"""Folder of the prompt templates. A template that has been used is never edited: a new text is a new version."""

MOST_LANDMARKS, MOST_RELATIONS, LONGEST_NAME = 30, 12, 80
"""What a model is told of a chip at most: landmarks, relations between them, and characters of one name."""

REPAIRABLE = {
    "not_json": "it was not one JSON object",
    "wrong_schema": "a key was missing, or its value was not a text",
    "truncated": "it was cut off, so it has to be shorter",
    "empty_answer": "it was empty",
}
"""Reasons after which a model is asked once more, and what it is told then."""

PASSING = ("unavailable", "bad_request")
"""Reasons that are not kept in the cache: the next run asks again."""


class Failure(RsvlmError):
    """A request got no answer.

    Attributes:
        reason: One of `PASSING`.
        again: Whether asking again may help.
        wait_s: Time for which the server wants to be left alone, in seconds. If None, it did not say.
        charged: Whether the server may have charged for it all the same.
    """

    def __init__(self, message: str, reason: str, again: bool, wait_s: float | None = None, charged: bool = False):
        super().__init__(message)
        self.reason, self.again, self.wait_s, self.charged = reason, again, wait_s, charged


@dataclass(frozen=True)
class Request:
    """One chip to be captioned.

    Attributes:
        key: Key of the chip.
        image: Bytes of a PNG, JPEG or WebP picture.
        record: Its record, without captions.
    """

    key: str
    image: bytes
    record: dict


@dataclass(frozen=True)
class Reply:
    """What a captioner said about one chip.

    Attributes:
        captions: Kind to text, all kinds asked for. If None, there are no captions.
        refused: Why there are none: `blocked_prompt`, `blocked_answer`, `refused` (by the model's own choice), `bad_image`,
            `nothing_to_say`, one of `REPAIRABLE` or one of `PASSING`.
        usage: requests, tokens_in, tokens_out, cost, all of this chip's attempts together. A reply from the cache tells what
            it cost when it was paid, so that it equals the first one.
    """

    captions: dict[str, str] | None
    refused: str | None = None
    usage: dict = field(default_factory=dict)


class Captioner(Protocol):
    """Who writes captions.

    Attributes:
        identity: What decides its answers, without key and address: client, model, prompt, prompt_sha256, parameters.
        options: The section `captioner`; budget, concurrency, retries and batch are read from it.
    """

    identity: dict
    options: config.Captioner

    def ask(self, request: Request, complaint: str = "") -> Reply:
        """Ask once.

        Args:
            request: The chip.
            complaint: What was wrong with the previous answer, if there was one.

        Raises:
            Failure: There is no answer.
            RsvlmError: There will be none for any chip: wrong key, unknown model.
        """

    def weigh(self, request: Request) -> tuple[int, int]:
        """Estimate the tokens of a request and of its longest answer, rather too high than too low."""


# What a model is told


@dataclass(frozen=True)
class Prompt:
    """A template: instructions, and the message that carries a chip's data."""

    name: str
    sha256: str
    instructions: string.Template
    message: string.Template


def load_prompt(name: str) -> Prompt:
    """Read a prompt template.

    Args:
        name: Name of a file in `PROMPTS` without its ending, or the path of any `.txt` file. The file holds instructions, a line
            `=== message ===`, and the message; `$kinds`, `$language`, `$max_words`, `$extent` and `$data` stand for values.

    Raises:
        ConfigError: There is no such file, or it is no such template.
    """
    path = Path(name) if name.endswith(".txt") else PROMPTS / f"{name}.txt"
    if not name.endswith(".txt") and not re.fullmatch(r"[\w.-]+", name) or not path.is_file():
        known = ", ".join(sorted(path.stem for path in PROMPTS.glob("*.txt")))
        raise ConfigError(f"captioner.prompt '{name}' is neither a .txt file nor one of: {known}")
    data = path.read_bytes().replace(b"\r\n", b"\n")
    try:
        instructions, message = map(string.Template, data.decode().split("\n=== message ===\n"))
        wanted = {"kinds", "language", "max_words", "extent", "data"}
        used = {*instructions.get_identifiers(), *message.get_identifiers()}
        valid = instructions.is_valid() and message.is_valid()
    except ValueError:
        raise ConfigError(f"{path} is no prompt: expected UTF-8 text with one line '=== message ==='") from None
    if not valid or "data" not in message.get_identifiers() or not {"kinds"} <= used <= wanted:
        needs = "its message needs $data, $kinds has to be told, and no others than"
        raise ConfigError(f"{path} is no prompt: {needs} {', '.join(f'${name}' for name in sorted(wanted))}")
    return Prompt(path.stem, hashlib.sha256(data).hexdigest(), instructions, message)


def clean(text: object, longest: int = LONGEST_NAME) -> str:
    """Make one line of a text that strangers wrote, as `printable_line` does, and cut it where it is too long."""
    text = printable_line(str(text))
    return text if len(text) <= longest else f"{text[: longest - 1].rstrip()}…"


def facts(record: Mapping, language: str = "en") -> dict:
    """Collect what a model is told about a chip.

    Args:
        record: The chip's record: size_px, gsd_m (metres per pixel), landmarks, relations.
        language: ISO 639-1 code; a landmark's name in it is told beside its own.

    Returns:
        `extent` (words), `landmarks` (visible ones, most prominent first: category, position, and where there are any name,
        count, size) and `relations` (between those). Never a coordinate.
    """
    visible = [pair for pair in enumerate(record.get("landmarks") or ()) if pair[1].get("visible", True)][:MOST_LANDMARKS]
    landmarks, labels = [], {}
    for index, landmark in visible:
        category, name = clean(landmark["category"]).replace("_", " "), clean(landmark.get("name") or "")
        other, count = clean((landmark.get("names") or {}).get(language) or ""), landmark.get("count") or 1
        entry = {
            "name": name,
            "category": category,
            "position": landmark.get("position"),
            f"name_{language}": other if other != name else "",
            "count": count if count > 1 else None,
            "size": _size_words(landmark),
        }
        landmarks.append({key: value for key, value in entry.items() if value})
        labels[index] = name or f"{category} in the {entry['position']}"
    pairs = [pair for pair in record.get("relations") or () if pair["from"] in labels and pair["to"] in labels]
    relations = [
        {"thing": labels[p["to"]], "lies": f"about {_metres(p['distance_m'])} {p['direction']} of", "other": labels[p["from"]]}
        for p in pairs[:MOST_RELATIONS]
    ]
    side, pixel = _metres(float(record["size_px"]) * float(record["gsd_m"])), _two_digits(float(record["gsd_m"]))
    extent = f"about {side} by {side} of ground, at about {pixel} m per pixel"
    return {"extent": extent, "landmarks": landmarks, "relations": relations}


def compose(prompt: Prompt, record: Mapping, options: config.Captioner, complaint: str = "") -> tuple[str, str]:
    """Write the instructions and the message of one request, whole, as the model reads them.

    Args:
        prompt: The template.
        record: The chip's record.
        options: The section `captioner`, of which kinds, language and max_words are told.
        complaint: What was wrong with the previous answer, if there was one.

    Returns:
        Instructions and message.
    """
    data = facts(record, options.language)
    values = {
        "language": options.language,
        "max_words": options.max_words,
        "extent": data.pop("extent"),
        "kinds": ", ".join(f'"{kind}"' for kind in options.kinds),
        "data": json.dumps(data, ensure_ascii=False, indent=1),
    }
    message = prompt.message.substitute(values)
    if complaint:
        message += f"\nYour previous answer could not be used: {complaint}. Answer with the JSON object alone."
    return prompt.instructions.substitute(values), message


def schema(kinds: Sequence[str]) -> dict:
    """Return the JSON schema of an answer: one text for each kind, and nothing else."""
    texts = {kind: {"type": "string"} for kind in kinds}
    return {"type": "object", "properties": texts, "required": list(kinds), "additionalProperties": False}


def parse(text: object, kinds: Sequence[str]) -> tuple[dict[str, str] | None, str | None]:
    """Read a model's answer.

    Args:
        text: The answer: a JSON object, perhaps with other text around it.
        kinds: Kinds that have to be in it; others are ignored.

    Returns:
        Captions by kind in the order of `kinds`, and None; or None and one of `REPAIRABLE`.
    """
    if not isinstance(text, str) or not text.strip():
        return None, "empty_answer"
    start = text.find("{")
    try:
        value = json.JSONDecoder().raw_decode(text, start)[0] if start >= 0 else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return None, "not_json"
    captions = {kind: clean(value[kind], 4000) for kind in kinds if isinstance(value.get(kind), str)}
    return (captions, None) if len(captions) == len(kinds) and all(captions.values()) else (None, "wrong_schema")


def _size_words(landmark: Mapping) -> str:
    words = []
    if landmark.get("length_m"):
        words.append(f"about {_metres(landmark['length_m'])} long")
    elif area := landmark.get("area_m2"):
        unit, name = next((u, n) for u, n in ((1e6, "km²"), (1e4, "ha"), (1, "m²")) if area >= u or u == 1)
        words.append(f"about {_two_digits(area / unit)} {name}")
    if (landmark.get("share") or 0) >= 0.01:
        words.append(f"about {landmark['share']:.0%} of the picture")
    return ", ".join(words)


def _metres(length: float) -> str:
    return f"{_two_digits(length / 1000)} km" if length >= 1000 else f"{_two_digits(length)} m"


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"
