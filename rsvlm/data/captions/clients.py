"""Who is asked for captions: the offline grammar, Gemini, or any server that speaks OpenAI's protocol.

Each client turns a request into one call and the answer into a `Reply`; it keeps nothing, and does not ask again by itself. How
a server fails becomes one of three things: a `Failure`, after which asking again may help, an error that stops the run, or a
reply with a reason. The vendors' own packages are imported when a client is made. Their texts are cleaned before they are
shown, and a key never leaves this room: not into a message, a record of the captioner, or another process.

Source: our choice. The paper names Gemini as the writer; its prompt and settings were not published.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import math
import os
import random
import re
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rsvlm.data import addresses
from rsvlm.data.captions import grammar
from rsvlm.data.captions.prompts import Captioner, Failure, Reply, Request, clean, compose, load_prompt, parse, schema
from rsvlm.errors import ConfigError, DataError, RsvlmError, need
from rsvlm.model import images
from rsvlm.records import stages

if TYPE_CHECKING:
    from rsvlm import config

log = logging.getLogger(__name__)

_PICTURES = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"RIFF", "image/webp"))
_BLOCKED = frozenset(
    "SAFETY RECITATION LANGUAGE BLOCKLIST PROHIBITED_CONTENT SPII IMAGE_SAFETY IMAGE_PROHIBITED_CONTENT IMAGE_RECITATION"
    " MODEL_ARMOR".split()
)
_TRANSPORT = ("httpx", "httpx2", "httpcore", "httpcore2")


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
        version = stages.source_hash(*grammar.ROOMS)[:12]
        parameters = {"kinds": list(options.kinds), "seed": seed}
        self.identity = {"client": "grammar", "model": f"grammar-{version}", "prompt": None, "parameters": parameters}

    def ask(self, request: Request, complaint: str = "") -> Reply:
        """Write captions of the record; the picture is not looked at."""
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
        parameters = {name: getattr(options, name) for name in names} | {"kinds": list(options.kinds)}
        self.identity = {"client": self.client, "model": self.model, "prompt": self.prompt.name}
        self.identity |= {"prompt_sha256": self.prompt.sha256, "parameters": parameters}
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
        try:
            return send()
        except Exception as error:
            # The libraries raise many kinds, and their own texts and contexts may hold what must not be shown.
            problem = error
        return self._fail(problem, without)

    def _judge(self, response, weights: tuple[int, int]) -> Reply:
        """Read captions, reason and tokens from an answer; where it does not tell tokens, the weights stand for them."""
        try:
            text, refused, cut, *tokens = self._read(response)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return Reply(None, "not_json")
        captions, wrong = (None, None) if refused else parse(text, self.options.kinds)
        counts = [c if isinstance(c, int) and c >= 0 else w for c, w in zip(tokens, weights, strict=True)]
        refused = "truncated" if wrong and cut else refused or wrong
        return Reply(captions, refused, {"tokens_in": counts[0], "tokens_out": counts[1]})

    def _fail(self, error: Exception, without: frozenset[str]) -> None:
        """Turn a library's exception into one of ours, in a place where it does not become its context."""
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if not isinstance(status, int):
            cause = error.__cause__ or error
            if not any(type(e).__module__.split(".")[0] in _TRANSPORT for e in (error, cause)):
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
            unknown = f"the server does not know the model '{self.model}' or this address ({said})"
            raise ConfigError(f"{unknown}: see base_url, model")
        if status == 402 or "insufficient_quota" in body:
            raise RsvlmError(f"the account has no credit left ({said}): what was paid is kept; run again later")
        if status in (408, 409, 425, 429) or status >= 500:
            wait_s = addresses.retry_after_s(getattr(response, "headers", {}).get("retry-after"))
            if wait_s is None and (delay := re.search(r"retryDelay\W+(\d{1,15}(?:\.\d+)?)s", body)):  # Google's own detail
                wait_s = float(delay[1])
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
        genai = need("google.genai", "llm")
        options = genai.types.HttpOptions(
            base_url=self.address,
            timeout=math.ceil(self.options.timeout_s * 1000),
            # The client would send the key along a redirect, to anywhere.
            client_args={"follow_redirects": False},
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

    def _read(self, response) -> tuple[str | None, str | None, bool, int | None, int | None]:
        usage = response.usage_metadata
        thoughts = (usage.thoughts_token_count or 0) if usage else 0
        tokens = (usage.prompt_token_count, (usage.candidates_token_count or 0) + thoughts) if usage else (None, None)
        if response.prompt_feedback and response.prompt_feedback.block_reason:
            return None, "blocked_prompt", False, *tokens
        candidate = (response.candidates or [None])[0]
        reason = getattr(candidate.finish_reason, "value", None) if candidate else None
        if reason in _BLOCKED:
            return None, "blocked_answer", False, *tokens
        parts = (candidate.content.parts if candidate and candidate.content else None) or ()
        return "".join(part.text or "" for part in parts if not part.thought), None, reason == "MAX_TOKENS", *tokens

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
        openai, timeout_s = need("openai", "llm"), self.options.timeout_s
        web = openai.DefaultHttpxClient(follow_redirects=False, timeout=timeout_s)
        options = {"base_url": self.address, "timeout": timeout_s, "max_retries": 0, "http_client": web}
        return openai.OpenAI(api_key=self._key or "none", **options)

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
        settings = {
            "temperature": self.options.temperature,
            "response_format": {"type": "json_schema", "json_schema": form},
            **({"reasoning_effort": "none"} if vendor else {}),
            **({limit: self.options.max_output_tokens * (2 if complaint else 1)} if limit else {}),
        }
        settings = {name: value for name, value in settings.items() if name not in without}
        return self._client.chat.completions.create(model=self.model, messages=messages, **settings)

    def _read(self, response) -> tuple[str | None, str | None, bool, int | None, int | None]:
        usage, choice = response.usage, response.choices[0]
        tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
        if choice.finish_reason == "content_filter":
            return None, "blocked_answer", False, *tokens
        refused = "refused" if choice.message.refusal else None
        return choice.message.content, refused, choice.finish_reason == "length", *tokens


def _picture_type(data: bytes) -> str | None:
    return next((kind for start, kind in _PICTURES if data.startswith(start)), None)
