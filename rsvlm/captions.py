"""Captions from landmarks: the prompt, the clients that ask a model, and the loop that pays for nothing twice.

A captioner turns one chip (picture and record) into captions of several kinds: the offline grammar, Gemini, or any server that
speaks OpenAI's protocol. `caption_all` puts a cache, a budget, retries and a limit of requests on their way around any of
them. What a model is told about a chip is in `facts`: visible landmarks only, their names as quoted data, and no coordinates.

Answers are kept in one SQLite file and written in the transaction that books what they cost, so a killed run has paid for what
is in the cache and for the requests that were on their way. The file uses a rollback journal, not a write-ahead log, because
the latter breaks on folders that several machines share.

Source: our choice. The paper names Gemini as the writer; its prompt and settings were not published.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import itertools
import json
import logging
import math
import os
import random
import re
import sqlite3
import string
import threading
import time
import unicodedata
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from rsvlm import images, runs
from rsvlm.errors import ConfigError, DataError, MissingExtraError, RsvlmError

if TYPE_CHECKING:
    from rsvlm import config

log = logging.getLogger(__name__)

PROMPTS = Path(__file__).parent / "prompts"
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

LONGEST_WAIT_S = 600.0
"""A server that asks for more patience than this is taken to be unavailable."""

PATIENCE = 3
"""So many requests in a row given up, with no answer in between, and the run stops instead of losing chips."""


POLL_S = 30.0
"""Time between two looks at a batch job, in seconds."""

MOST_BATCH_BYTES = 12_000_000
"""Bytes of pictures in one batch job at most: as base64, with the texts, they stay below the 20 MB that Gemini takes."""


class BudgetExhausted(RsvlmError):
    """The next request might cost more than the budget has left; what was paid for is in the cache."""


class Failure(RsvlmError):
    """A request got no answer.

    Attributes:
        reason: One of `PASSING`.
        again: Whether asking again may help.
        wait_s: How long the server wants to be left alone, in seconds; none: it did not say.
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
        captions: Kind to text, all kinds asked for; none when there are no captions.
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


@dataclass(frozen=True)
class Budget:
    """What a cache folder may cost over all its runs; none: no limit. Prices are of a million tokens."""

    max_requests: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self):
        if self.max_cost is not None and not self.price_in + self.price_out > 0:
            raise ConfigError("captioner.max_cost needs prices: set captioner.price_in and captioner.price_out")

    @classmethod
    def of(cls, options: config.Captioner) -> Budget:
        """Take the budget from the options."""
        return cls(options.max_requests, options.max_tokens, options.max_cost, options.price_in, options.price_out)

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Price tokens, in the currency of the prices."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


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
        found = {*instructions.get_identifiers(), *message.get_identifiers()}
        valid = instructions.is_valid() and message.is_valid()
    except ValueError:
        raise ConfigError(f"{path} is no prompt: expected UTF-8 text with one line '=== message ==='") from None
    if not valid or "data" not in message.get_identifiers() or "kinds" not in found or not found <= wanted:
        placeholders = ", ".join(f"${name}" for name in sorted(wanted))
        raise ConfigError(
            f"{path} is no prompt: its message needs $data, $kinds has to be told, and no others than {placeholders}"
        )
    return Prompt(path.stem, hashlib.sha256(data).hexdigest(), instructions, message)


def clean(text: object, longest: int = LONGEST_NAME) -> str:
    """Make one line of a text that strangers wrote: no control characters, no invisible turns of direction, not too long."""
    text = unicodedata.normalize("NFC", str(text)).encode("utf-8", "ignore").decode()
    # Joiners (U+200C, U+200D) are spelling in many scripts; the other format characters can hide or turn what follows.
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Co", "Cn") or c in "\u200c\u200d")
    text = " ".join(text.split())
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
    side_m = float(record["size_px"]) * float(record["gsd_m"])
    pixel = f"{float(record['gsd_m']):.2g}"
    told, labels = [], {}
    for index, landmark in enumerate(record.get("landmarks") or ()):
        if not landmark.get("visible", True) or len(told) == MOST_LANDMARKS:
            continue
        category = clean(landmark["category"]).replace("_", " ")
        entry = {"name": clean(landmark.get("name") or ""), "category": category, "position": landmark.get("position")}
        other = clean((landmark.get("names") or {}).get(language) or "")
        entry |= {f"name_{language}": other} if other and other != entry["name"] else {}
        entry |= {"count": landmark["count"]} if (landmark.get("count") or 1) > 1 else {}
        entry["size"] = _size_words(landmark)
        told.append({name: value for name, value in entry.items() if value})
        labels[index] = entry["name"] or f"{category} in the {entry['position']}"
    pairs = [pair for pair in record.get("relations") or () if pair["from"] in labels and pair["to"] in labels]
    relations = [
        {"thing": labels[p["to"]], "lies": f"about {_metres(p['distance_m'])} {p['direction']} of", "other": labels[p["from"]]}
        for p in pairs[:MOST_RELATIONS]
    ]
    extent = f"about {_metres(side_m)} by {_metres(side_m)} of ground, at about {pixel} m per pixel"
    return {"extent": extent, "landmarks": told, "relations": relations}


def compose(prompt: Prompt, record: Mapping, options: config.Captioner, complaint: str = "") -> tuple[str, str]:
    """Write the instructions and the message of one request, whole, as the model reads them.

    Args:
        prompt: The template.
        record: The chip's record.
        options: kinds, language and max_words are told.
        complaint: What was wrong with the previous answer, if there was one.

    Returns:
        Instructions and message.
    """
    told = facts(record, options.language)
    data = {"landmarks": told["landmarks"], "relations": told["relations"]}
    values = {"language": options.language, "max_words": options.max_words, "extent": told["extent"]}
    values["kinds"] = ", ".join(f'"{kind}"' for kind in options.kinds)
    values["data"] = json.dumps(data, ensure_ascii=False, indent=1)
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


# Who is asked

_STORE_VERSION = 1
_PICTURES = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"RIFF", "image/webp"))
_BLOCKED = {"SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"}
_BLOCKED |= {"IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR"}


def open_captioner(options: config.Captioner, seed: int = 0) -> Captioner:
    """Make the captioner that the options name; nothing is sent yet.

    Args:
        options: The section `captioner`.
        seed: Of the grammar's choices; models are not seeded, what they wrote is in the cache.

    Raises:
        ConfigError: No key in the environment, an address that is none, no model, or an unknown prompt.
        MissingExtraError: The client's package is not installed.
    """
    if options.kind == "grammar":
        return Grammar(options, seed)
    return Gemini(options) if options.kind == "gemini" else OpenAI(options)


class Grammar:
    """The offline grammar: free, and the same captions for the same record."""

    def __init__(self, options: config.Captioner, seed: int = 0):
        self.options, self.seed = options, seed
        version = runs.source_hash("grammar", follow=False)[:12]
        parameters = {"kinds": list(options.kinds), "seed": seed}
        self.identity = {"client": "grammar", "model": f"grammar-{version}", "prompt": None, "parameters": parameters}

    def ask(self, request: Request, complaint: str = "") -> Reply:
        """Write captions of the record; the picture is not looked at."""
        from rsvlm import grammar

        written = grammar.write_map(request.record, random.Random(zlib.crc32(f"{self.seed} {request.key}".encode())), 3)
        captions = {kind: written[kind] for kind in self.options.kinds if written.get(kind)}
        return Reply(captions) if captions else Reply(None, "nothing_to_say")

    def weigh(self, request: Request) -> tuple[int, int]:
        """Tell that nothing is paid."""
        return 0, 0


class _Server:
    """What both clients share: options, key, prompt, and how failures are read."""

    client = variable = model = address = ""

    def __init__(self, options: config.Captioner):
        self.options = options
        self.prompt = load_prompt(options.prompt)
        self.model = options.model or type(self).model
        self.address = options.base_url or type(self).address
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
            # The address itself is not shown: a key may stand in it.
            raise ConfigError("captioner.base_url is no plain http(s) address of a server: expected https://host[:port]/path")
        self._key = os.environ.get(self.variable, "").strip()
        if not self._key and not options.base_url:
            raise ConfigError(f"no key: put it into the environment variable {self.variable}, or name a server by base_url")
        if self._key and not re.fullmatch(r"[!-~]+", self._key):
            raise ConfigError(f"the environment variable {self.variable} holds no key: keys have no spaces and only ASCII")
        names = ("temperature", "max_output_tokens", "language", "max_words")
        self.identity = {
            "client": self.client,
            "model": self.model,
            "prompt": self.prompt.name,
            "prompt_sha256": self.prompt.sha256,
            "parameters": {name: getattr(options, name) for name in names} | {"kinds": list(options.kinds)},
        }
        self._without: frozenset[str] = frozenset()
        self._client = self._connect()

    def __reduce__(self):
        # A key never travels: another process reads its own environment.
        return type(self), (self.options,)

    def weigh(self, request: Request) -> tuple[int, int]:
        """Estimate tokens: a third of the text's bytes, and a generous share for the picture."""
        width = height = 0
        with contextlib.suppress(DataError):  # `ask` refuses what is no picture
            width, height = images.read_size(request.image)
        text = sum(len(part.encode()) for part in compose(self.prompt, request.record, self.options))
        return text // 3 + max(1500, width * height // 700), self.options.max_output_tokens

    def ask(self, request: Request, complaint: str = "") -> Reply:
        """Ask once, as `Captioner.ask` says."""
        kind = _picture_type(request.image)
        if kind is None:
            return Reply(None, "bad_image")
        without = self._without  # as it is now: other threads may learn more while the server thinks
        response = self._call(lambda: self._send(kind, request, complaint, without), without)
        return self._judge(response, self.weigh(request))

    def _call(self, send: Callable, without: frozenset[str] = frozenset()):
        """Return a library's answer, None for one that it could not read, or raise one of our errors."""
        problem = None
        try:
            return send()
        except Exception as error:
            # The libraries raise many kinds, and their own texts and contexts may hold what must not be shown.
            problem = error
        return self._fail(problem, without)

    def _judge(self, response, weights: tuple[int, int]) -> Reply:
        """Read captions, reason and tokens from an answer; where it does not tell tokens, the weights stand for them."""
        try:
            text, refused, tokens_in, tokens_out = self._read(response)
            cut = self._was_cut(response)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return Reply(None, "not_json")
        captions, wrong = (None, None) if refused else parse(text, self.options.kinds)
        counts = [c if isinstance(c, int) and c >= 0 else w for c, w in zip((tokens_in, tokens_out), weights, strict=True)]
        refused = "truncated" if wrong and cut else refused or wrong
        return Reply(captions, refused, {"tokens_in": counts[0], "tokens_out": counts[1]})

    def _fail(self, error: Exception, without: frozenset[str]) -> None:
        """Turn a library's exception into one of ours, in a place where it does not become its context."""
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if not isinstance(status, int):
            cause = error.__cause__ or error
            if not any(
                type(e).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2") for e in (error, cause)
            ):
                # An answer that the library could not read, or a mistake of ours: the kind of error tells which.
                log.warning("an answer could not be read (%s)", type(error).__name__)
                return
            name = type(cause).__name__
            raise Failure(f"the server gave no answer ({name})", "unavailable", True, charged="Connect" not in name)
        words = self._scrub(getattr(error, "message", None) or "")
        body = f"{words} {getattr(error, 'details', None) or getattr(error, 'body', None) or ''}"  # looked at, never shown
        said = f"{status}{f': {words}' if words else ''}"
        if status in (401, 403) or (status == 400 and re.search(r"API_KEY_INVALID|API key not valid", body)):
            raise ConfigError(f"the server refuses the key ({status}): look at the environment variable {self.variable}")
        if status in (404, 405) or 300 <= status < 400:
            raise ConfigError(
                f"the server does not know the model '{self.model}' or this address ({said}): see base_url, model"
            )
        if status == 402 or "insufficient_quota" in body:
            raise RsvlmError(f"the account has no credit left ({said}): what was paid is kept; run again later")
        if status in (408, 409, 425, 429) or status >= 500:
            wait_s = _patience(getattr(response, "headers", {}), body)
            raise Failure(f"the server is busy or broken ({said})", "unavailable", True, wait_s)
        named = [name for name in self.droppable if name in body.lower() and name not in without]
        if named:
            # Servers differ in what they know; the prompt alone also asks for JSON, and the other settings are tuning.
            log.warning("the server does not take '%s' (%s): going on without it", named[0], said)
            self._without |= {named[0]}
            raise Failure(f"the server does not take '{named[0]}'", "bad_request", True, 0.0)
        raise Failure(f"the server takes this request for wrong ({said})", "bad_request", False)

    def _scrub(self, text: object) -> str:
        text = str(text)
        return clean(text.replace(self._key, "***") if self._key else text, 300)


class Gemini(_Server):
    """Gemini, by its own client: picture and landmarks in, an object of captions out."""

    client, variable, model = "gemini", "GEMINI_API_KEY", "gemini-3.5-flash-lite"
    address = "https://generativelanguage.googleapis.com/"
    droppable = ("thinking", "schema")

    def _connect(self):
        try:
            from google import genai
            from google.genai import types
        except ImportError:
            raise MissingExtraError('the package google-genai is not installed: pip install "rsvlm[llm]"') from None
        # Redirects are not followed: the client would send the key along, to anywhere.
        arguments = {"follow_redirects": False}
        options = types.HttpOptions(
            base_url=self.address, timeout=math.ceil(self.options.timeout_s * 1000), client_args=arguments
        )
        return genai.Client(api_key=self._key or "none", vertexai=False, http_options=options)

    def _content(self, kind: str, request: Request, complaint: str, without: frozenset[str]) -> tuple:
        from google.genai import types

        instructions, message = compose(self.prompt, request.record, self.options, complaint)
        picture = types.Part.from_bytes(data=request.image, mime_type=kind)
        content = types.Content(role="user", parts=[picture, types.Part.from_text(text=message)])
        settings = types.GenerateContentConfig(
            system_instruction=instructions,
            temperature=self.options.temperature,
            max_output_tokens=self.options.max_output_tokens * (2 if complaint else 1),
            response_mime_type="application/json",
            response_json_schema=None if "schema" in without else schema(self.options.kinds),
            # Thoughts are paid, and count as output: captions need few.
            thinking_config=None if "thinking" in without else types.ThinkingConfig(thinking_level="MINIMAL"),
            # The client would send further requests by itself; each one has to pass the budget.
            automatic_continuation=False,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )
        return [content], settings

    def _send(self, kind: str, request: Request, complaint: str, without: frozenset[str]):
        contents, settings = self._content(kind, request, complaint, without)
        return self._client.models.generate_content(model=self.model, contents=contents, config=settings)

    def _read(self, response) -> tuple[str | None, str | None, int | None, int | None]:
        usage = response.usage_metadata
        thoughts = (usage.thoughts_token_count or 0) if usage else 0
        tokens = (usage.prompt_token_count, (usage.candidates_token_count or 0) + thoughts) if usage else (None, None)
        if response.prompt_feedback and response.prompt_feedback.block_reason:
            return None, "blocked_prompt", *tokens
        candidate = (response.candidates or [None])[0]
        reason = getattr(candidate.finish_reason, "value", None) if candidate else None
        if reason in _BLOCKED:
            return None, "blocked_answer", *tokens
        parts = (candidate.content.parts if candidate and candidate.content else None) or ()
        return "".join(part.text or "" for part in parts if not part.thought), None, *tokens

    def _was_cut(self, response) -> bool:
        return bool(response.candidates) and getattr(response.candidates[0].finish_reason, "value", "") == "MAX_TOKENS"

    def post(self, requests: Mapping[str, Request]) -> str:
        """Start one batch job.

        Args:
            requests: Chips by digest; their pictures together have to stay below 20 MB as base64.

        Returns:
            Name of the job.

        Raises:
            Failure: The server did not take it.
        """
        from google.genai import types

        without, inlined = self._without, []
        for digest, request in requests.items():
            contents, settings = self._content(_picture_type(request.image) or "image/png", request, "", without)
            inlined.append(types.InlinedRequest(contents=contents, config=settings, metadata={"digest": digest}))
        job = self._call(lambda: self._client.batches.create(model=self.model, src=inlined), without)
        if not getattr(job, "name", None):
            raise Failure("the server did not name the batch job", "unavailable", False, charged=True)
        return job.name

    def collect(self, job: str) -> dict[str, Reply] | None:
        """Fetch the replies of a batch job by digest; None while it runs.

        Raises:
            Failure: It ended without replies.
        """
        done = self._call(lambda: self._client.batches.get(name=job))
        state = getattr(getattr(done, "state", None), "value", "JOB_STATE_PENDING")
        if state in ("JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED"):
            raise Failure(f"batch job {clean(job)} ended as {state}: run the same again", "unavailable", False)
        if state not in ("JOB_STATE_SUCCEEDED", "JOB_STATE_PARTIALLY_SUCCEEDED"):
            return None
        replies = {}
        for one in (done.dest and done.dest.inlined_responses) or ():
            if digest := (one.metadata or {}).get("digest"):
                replies[digest] = self._judge(one.response, (0, 0)) if one.response else Reply(None, "unavailable")
        return replies


class OpenAI(_Server):
    """Any server that speaks OpenAI's protocol for chats with pictures: the vendor's, vLLM, llama.cpp and others."""

    client, variable, model, address = "openai", "OPENAI_API_KEY", "gpt-5.4-mini", "https://api.openai.com/v1"
    droppable = ("max_completion_tokens", "max_tokens", "temperature", "reasoning_effort", "response_format")

    def _connect(self):
        if self.options.base_url and not self.options.model:
            raise ConfigError("captioner.model is empty: name the model that the server at captioner.base_url serves")
        try:
            import openai
        except ImportError:
            raise MissingExtraError('the package openai is not installed: pip install "rsvlm[llm]"') from None
        web = openai.DefaultHttpxClient(follow_redirects=False, timeout=self.options.timeout_s)
        key = self._key or "none"
        return openai.OpenAI(
            api_key=key, base_url=self.address, timeout=self.options.timeout_s, max_retries=0, http_client=web
        )

    def _send(self, kind: str, request: Request, complaint: str, without: frozenset[str]):

        instructions, message = compose(self.prompt, request.record, self.options, complaint)
        url = f"data:{kind};base64,{base64.b64encode(request.image).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": message}]
        messages = [{"role": "system", "content": instructions}, {"role": "user", "content": content}]
        form = {"name": "captions", "strict": True, "schema": schema(self.options.kinds)}
        vendor = not self.options.base_url
        # Newer servers know the first name alone, older ones the second alone.
        limits = ["max_completion_tokens", "max_tokens"] if vendor else ["max_tokens", "max_completion_tokens"]
        limit = next((name for name in limits if name not in without), None)
        asked = {"temperature": self.options.temperature, "response_format": {"type": "json_schema", "json_schema": form}}
        asked |= {"reasoning_effort": "none"} if vendor else {}
        asked = {name: value for name, value in asked.items() if name not in without}
        asked |= {limit: self.options.max_output_tokens * (2 if complaint else 1)} if limit else {}
        return self._client.chat.completions.create(model=self.model, messages=messages, **asked)

    def _read(self, response) -> tuple[str | None, str | None, int | None, int | None]:
        usage = response.usage
        tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
        choice = response.choices[0]
        if choice.finish_reason == "content_filter":
            return None, "blocked_answer", *tokens
        return choice.message.content, "refused" if choice.message.refusal else None, *tokens

    def _was_cut(self, response) -> bool:
        return response.choices[0].finish_reason == "length"


def _picture_type(data: bytes) -> str | None:
    return next((kind for start, kind in _PICTURES if data.startswith(start)), None)


def _patience(headers: Mapping, body: str) -> float | None:
    """Read how long a server wants to be left alone, in seconds: from Retry-After, or from Google's error details."""
    value = headers.get("retry-after")
    if value is None:
        found = re.search(r"retryDelay\W+(\d+(?:\.\d+)?)s", body)
        value = found.group(1) if found else ""
    try:
        wait_s = float(value)
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(wait_s, 0.0) if math.isfinite(wait_s) else None


# What is paid, and kept


def caption_all(
    requests: Iterable[Request],
    captioner: Captioner,
    cache: Path | str,
    budget: Budget | None = None,
    *,
    sleep: Callable[[float], object] | None = None,
) -> Iterator[tuple[str, Reply]]:
    """Caption chips, in their order; what is in the cache is not asked for again.

    Args:
        requests: The chips; a few times `concurrency` of them (or `batch`) are held in memory.
        captioner: Who is asked. The grammar is free: it is asked directly, without threads, budget or cache.
        cache: Folder of the cache and its accounts; made where it is missing. Several processes, also of several machines
            whose shared folder has working locks, may use one.
        budget: What the folder may cost over all its runs, the requests of killed runs included; none: that of the options.
        sleep: Waits so many seconds; none: a wait that ends early when the run stops.

    Yields:
        Key and reply. A chip without captions is a reply with a reason.

    Raises:
        BudgetExhausted: The next request might cost more than is left. Every answer paid for is in the cache.
        ConfigError: The server refuses the key, or does not know the model.
        RsvlmError: Requests fail one after the other: the server is down, or takes all of them for wrong.
        DataError: The cache cannot be read or written.
    """
    if isinstance(captioner, Grammar):
        yield from ((request.key, captioner.ask(request)) for request in requests)
        return
    options = captioner.options
    budget = budget or Budget.of(options)
    concurrency, batch = options.concurrency, options.batch
    with contextlib.closing(_Store(Path(cache))) as store:
        run = _Run(captioner, store, budget, options.retries, sleep)
        if batch:
            if not hasattr(captioner, "post"):
                raise ConfigError(f"the client '{captioner.identity['client']}' has no batch jobs: set batch to 0")
            for chunk in _chunks(requests, batch):
                yield from run.obtain_batch(chunk)
            return
        waiting: deque[tuple[Request, str, Reply | Future]] = deque()
        asked: dict[str, Future] = {}
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="caption")
        try:
            for request in requests:
                digest = _digest(captioner.identity, request)
                # What is being asked is looked up first: it moves from there into the cache, never the other way.
                reply = asked.get(digest) or store.find(digest)
                if reply is None:
                    reply = asked[digest] = pool.submit(run.obtain, request, digest)
                waiting.append((request, digest, reply))
                while waiting and (len(waiting) >= 4 * concurrency or _is_there(waiting[0][2])):
                    yield run.take(*waiting.popleft(), asked)
            while waiting:
                yield run.take(*waiting.popleft(), asked)
        finally:
            # Requests on their way are paid for: wait for them, so that their answers are kept.
            run.halt()
            pool.shutdown(wait=True, cancel_futures=True)
        run.check_end()


def spent(cache: Path | str) -> dict[str, float]:
    """Return what a cache folder has cost over all its runs: requests, tokens, cost.

    Raises:
        DataError: The cache cannot be read.
    """
    with contextlib.closing(_Store(Path(cache))) as store:
        return store.totals()


class _Stopped(Exception):
    """Another thread met an error first."""


class _Run:
    """What the threads of one `caption_all` share: the accounts, the failures in a row, the first error."""

    def __init__(self, captioner: Captioner, store: _Store, budget: Budget, retries: int, sleep: Callable | None):
        self.captioner, self.store, self.budget, self.retries = captioner, store, budget, retries
        self.stop = threading.Event()
        self.sleep = sleep or self.stop.wait
        self.room = threading.Condition()
        self.flying = self.answered = self.failed = self.heaviest = 0
        self.last = ""
        self.error: BaseException | None = None
        self.chance = random.Random()

    def obtain(self, request: Request, digest: str) -> Reply:
        """Ask until there is a reply; runs in a thread."""
        try:
            return self._obtain(request, digest)
        except BaseException as error:
            with self.room:
                if self.error is None and not isinstance(error, _Stopped):
                    self.error = error
            self.halt()
            raise

    def halt(self) -> None:
        """Let threads that wait give up; what is on its way comes home."""
        self.stop.set()
        with self.room:
            self.room.notify_all()

    def take(self, request: Request, digest: str, reply: Reply | Future, asked: dict) -> tuple[str, Reply]:
        """Wait for a reply."""
        if isinstance(reply, Future):
            try:
                reply = reply.result()
            except BaseException:
                if self.error is None:
                    raise
                reply = None
            if reply is None:
                self.halt()
                raise self.error
            asked.pop(digest, None)
        return request.key, reply

    def check_end(self) -> None:
        """Do not take a server that never answered for one that has nothing to say.

        Raises:
            RsvlmError: No request was answered.
        """
        if self.failed and not self.answered and self.last.startswith("unavailable"):
            raise RsvlmError(f"no request was answered, the last because {self.last}: run again when the server is up")

    def _obtain(self, request: Request, digest: str) -> Reply:
        usage = {"requests": 0, "tokens_in": 0, "tokens_out": 0, "cost": 0.0}
        complaint, tries = "", 0
        while True:
            claim = self.claim(request, complaint)
            reply = failure = None
            try:
                reply = self.captioner.ask(request, complaint)
            except Failure as caught:
                failure = caught
            except BaseException:
                self.settle(claim, (0, 0))
                raise
            if failure is None:
                tokens = (reply.usage.get("tokens_in", claim[0]), reply.usage.get("tokens_out", claim[1]))
                final = reply.refused not in REPAIRABLE or bool(complaint)
            else:
                tokens = claim if failure.charged else (0, 0)
            self._add(usage, tokens)
            if failure is None:
                reply = Reply(reply.captions, reply.refused, dict(usage))
                self.settle(claim, tokens, digest if final else None, reply)
                if final:
                    return reply
                complaint = REPAIRABLE[reply.refused]
                continue
            self.settle(claim, tokens)
            wait_s = failure.wait_s
            if wait_s is None:  # half of it certain, half by chance, so that threads do not come back together
                wait_s = min(2.0**tries, 60.0) * self.chance.uniform(0.5, 1.0)
            tries += wait_s > 0
            if not failure.again or tries > self.retries or wait_s > LONGEST_WAIT_S:
                return self._give_up(request, failure, usage)
            log.info("chip %s: %s; asking again in %.1f s", request.key, failure, wait_s)
            self.sleep(wait_s)
            if self.stop.is_set():
                raise _Stopped

    def _give_up(self, request: Request, failure: Failure, usage: dict) -> Reply:
        with self.room:
            self.failed, self.last = self.failed + 1, f"{failure.reason}: {failure}"
            failed = self.failed
        log.warning("chip %s: given up, %s", request.key, failure)
        if failed >= PATIENCE:
            raise RsvlmError(f"{failed} requests in a row were given up, the last because {self.last}. What was paid is kept")
        return Reply(None, failure.reason, dict(usage))

    def _add(self, usage: dict, tokens: tuple[int, int]) -> None:
        for name, value in zip(usage, (1, *tokens, self.budget.cost(*tokens)), strict=True):
            usage[name] += value

    def claim(self, request: Request, complaint: str = "") -> tuple[int, int]:
        """Set aside what the next request may cost; wait for those on their way where only they stand in the way.

        Returns:
            Tokens in and out that were set aside.

        Raises:
            BudgetExhausted: It does not fit.
        """
        weight_in, weight_out = self.captioner.weigh(request)
        with self.room:
            while not self.stop.is_set():
                claim = (max(weight_in, self.heaviest), weight_out * (2 if complaint else 1))
                short = self.store.claim(self.budget, claim)
                if short is None:
                    self.flying += 1
                    return claim
                if not self.flying:
                    raise self._exhausted(short)
                self.room.wait()
        raise _Stopped

    def _exhausted(self, short: str) -> BudgetExhausted:
        return BudgetExhausted(
            f"{short}. Answers paid for are kept in {self.store.path}: raise the budget, run the same again"
        )

    def settle(self, claim: tuple[int, int], tokens: tuple[int, int], digest: str | None = None, reply: Reply | None = None):
        """Book what a request did cost in place of what was set aside, and keep its reply, in one transaction."""
        kept = digest is not None and reply.refused not in PASSING
        try:
            self.store.settle(self.budget, claim, tokens, digest if kept else None, reply)
        finally:
            with self.room:
                self.flying -= 1
                if reply is not None:
                    self.answered, self.failed = self.answered + 1, 0
                    self.heaviest = max(self.heaviest, tokens[0])
                self.room.notify_all()

    def obtain_batch(self, chunk: Sequence[Request]) -> Iterator[tuple[str, Reply]]:
        """Ask for many chips by one job; a job that an earlier run started is waited for, not paid again."""
        digests = [_digest(self.captioner.identity, request) for request in chunk]
        for job in self.store.jobs(digests):
            self._collect(job)
        missing = {d: request for d, request in zip(digests, chunk, strict=True) if self.store.find(d) is None}
        short, claims = None, {}
        for digest, request in missing.items():
            claim = self.captioner.weigh(request)
            short = self.store.claim(self.budget, claim)
            if short is not None:
                break
            claims[digest] = claim
        passing: dict[str, Reply] = {}
        if claims:
            job = self._persist(lambda: self.captioner.post({digest: missing[digest] for digest in claims}))
            self.store.add_job(job, claims)
            passing = self._collect(job)
        for digest, request in zip(digests, chunk, strict=True):
            reply = self.store.find(digest) or passing.get(digest)
            if reply is None:
                raise self._exhausted(short)
            yield request.key, reply

    def _collect(self, job: str) -> dict[str, Reply]:
        """Wait for a job and keep its replies; return those that are not kept."""
        claims, passing, replies = self.store.claims(job), {}, None
        while replies is None:
            try:
                replies = self._persist(lambda: self.captioner.collect(job))
            except Failure as failure:
                if not failure.again:  # the job is lost; what was set aside for it stays booked
                    self.store.drop_job(job)
                raise
            if replies is None:
                self.sleep(POLL_S)
        for digest, claim in claims.items():
            reply = replies.get(digest) or Reply(None, "unavailable")
            tokens = (reply.usage.get("tokens_in", 0), reply.usage.get("tokens_out", 0))
            usage = {"requests": 0, "tokens_in": 0, "tokens_out": 0, "cost": 0.0}
            self._add(usage, tokens)
            reply = Reply(reply.captions, reply.refused, usage)
            if reply.refused in PASSING:
                passing[digest] = reply
            self.store.settle(self.budget, claim, tokens, None if reply.refused in PASSING else digest, reply)
        self.store.drop_job(job)
        return passing

    def _persist(self, call: Callable):
        """Call until there is an answer, `retries` times at most."""
        for attempt in itertools.count():
            try:
                return call()
            except Failure as failure:
                if not failure.again or attempt >= self.retries:
                    raise
                wait_s = failure.wait_s
            self.sleep(min(2.0**attempt, 60.0) if wait_s is None else min(wait_s, LONGEST_WAIT_S))


class _Store:
    """The cache and its accounts: one SQLite file, safe with several threads and processes, whole after any kill."""

    def __init__(self, folder: Path):
        self.path = folder / "captions.sqlite"
        self.lock = threading.Lock()
        self.database = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder} cannot be made ({error.strerror}): name another folder for the cache") from None
        with self._transaction(connect=True) as execute:
            version = execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _STORE_VERSION):
                raise DataError(
                    f"{self.path} is of version {version}, not {_STORE_VERSION}: move it away, or name another folder"
                )
            if version == 0:
                execute("CREATE TABLE replies (digest TEXT PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID")
                execute("CREATE TABLE jobs (digest TEXT PRIMARY KEY, job TEXT, tokens_in INTEGER, tokens_out INTEGER)")
                execute("CREATE TABLE totals (requests INTEGER, tokens_in INTEGER, tokens_out INTEGER, cost REAL)")
                execute("INSERT INTO totals VALUES (0, 0, 0, 0.0)")
                execute(f"PRAGMA user_version = {_STORE_VERSION}")

    def close(self) -> None:
        """Close the file."""
        if self.database is not None:
            self.database.close()

    @contextlib.contextmanager
    def _transaction(self, connect: bool = False, begin: str = "BEGIN IMMEDIATE") -> Iterator[Callable]:
        """Run statements all or none, one thread and one process at a time."""
        problem = None
        with self.lock:
            try:
                if connect:
                    self.database = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
                    self.database.execute("PRAGMA journal_mode = TRUNCATE")
                    self.database.execute("PRAGMA synchronous = FULL")
                self.database.execute(begin)
                try:
                    yield self.database.execute
                    self.database.execute("COMMIT")
                except BaseException:
                    if self.database.in_transaction:
                        self.database.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                problem = error
        if problem is not None:
            raise DataError(f"the cache {self.path} cannot be used ({problem}): free the disk, or move the file away")

    def find(self, digest: str) -> Reply | None:
        """Return a kept reply."""
        with self._transaction(begin="BEGIN") as execute:  # readers do not wait for each other
            row = execute("SELECT reply FROM replies WHERE digest = ?", (digest,)).fetchone()
        return Reply(**json.loads(row[0])) if row else None

    def claim(self, budget: Budget, tokens: tuple[int, int]) -> str | None:
        """Book a request with the most that it may cost; or say what stands against it, and book nothing."""
        with self._transaction() as execute:
            requests, tokens_in, tokens_out, cost = execute("SELECT * FROM totals").fetchone()
            limits = (
                ("requests", budget.max_requests, requests, 1),
                ("tokens", budget.max_tokens, tokens_in + tokens_out, sum(tokens)),
                ("cost", budget.max_cost, cost, budget.cost(*tokens)),
            )
            for name, most, used, more in limits:
                if most is not None and used + more > most + 1e-9:
                    return f"the budget captioner.max_{name}={most:g} is used up: {used:g} so far, and the next needs up to {more:g}"
            self._book(execute, 1, *tokens, budget.cost(*tokens))
        return None

    def settle(self, budget: Budget, claim: tuple[int, int], tokens: tuple[int, int], digest: str | None, reply: Reply | None):
        """Book the true cost in place of the claim, and keep the reply if it has a digest."""
        with self._transaction() as execute:
            more = [new - old for new, old in zip(tokens, claim, strict=True)]
            self._book(execute, 0, *more, budget.cost(*tokens) - budget.cost(*claim))
            if digest is not None:
                text = json.dumps(asdict(reply), ensure_ascii=False)
                execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (digest, text))

    def totals(self) -> dict[str, float]:
        """Return what was spent."""
        with self._transaction() as execute:
            row = execute("SELECT * FROM totals").fetchone()
        return dict(zip(("requests", "tokens_in", "tokens_out", "cost"), row, strict=True))

    def add_job(self, job: str, claims: Mapping[str, tuple[int, int]]) -> None:
        """Write down which chips a batch job is about."""
        with self._transaction() as execute:
            for digest, claim in claims.items():
                execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?)", (digest, job, *claim))

    def jobs(self, digests: Sequence[str]) -> list[str]:
        """Return the unfinished jobs that are about any of these chips."""
        with self._transaction() as execute:
            found = [execute("SELECT job FROM jobs WHERE digest = ?", (digest,)).fetchone() for digest in digests]
        return sorted({row[0] for row in found if row})

    def claims(self, job: str) -> dict[str, tuple[int, int]]:
        """Return the chips of a job and what was set aside for each."""
        with self._transaction() as execute:
            rows = execute("SELECT digest, tokens_in, tokens_out FROM jobs WHERE job = ?", (job,)).fetchall()
        return {digest: (tokens_in, tokens_out) for digest, tokens_in, tokens_out in rows}

    def drop_job(self, job: str) -> None:
        """Forget a job."""
        with self._transaction() as execute:
            execute("DELETE FROM jobs WHERE job = ?", (job,))

    @staticmethod
    def _book(execute: Callable, requests: int, tokens_in: int, tokens_out: int, cost: float) -> None:
        change = "requests = requests + ?, tokens_in = tokens_in + ?, tokens_out = tokens_out + ?, cost = cost + ?"
        execute(f"UPDATE totals SET {change}", (requests, tokens_in, tokens_out, cost))


def _digest(identity: Mapping, request: Request) -> str:
    """Name an answer by what decides it: who is asked, with which prompt, about which picture and which landmarks."""
    told = facts(request.record, (identity.get("parameters") or {}).get("language") or "en")
    parts = {"identity": identity, "image": hashlib.sha256(request.image).hexdigest(), "facts": told}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _is_there(reply: Reply | Future) -> bool:
    return isinstance(reply, Reply) or reply.done()


def _chunks(requests: Iterable[Request], most: int) -> Iterator[list[Request]]:
    chunk: list[Request] = []
    for request in requests:
        if chunk and (len(chunk) == most or sum(len(r.image) for r in chunk) + len(request.image) > MOST_BATCH_BYTES):
            yield chunk
            chunk = []
        chunk.append(request)
    if chunk:
        yield chunk
