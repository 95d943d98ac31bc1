"""What the owner of a site reserves: robots.txt, tdmrep.json, ai.txt, headers and the page's own marks, read as they are meant.

`read_robots`, `read_tdmrep` and `read_ai_txt` read the files of a site, `objections` the headers of an answer, `page_objections`
the marks in a page. A wish that is plainly meant holds however it is spelled: who misspells a refusal does not consent.
"""

from __future__ import annotations

import contextlib
import difflib
import email.utils
import json
import re
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protego import Protego

AGENT = "rsvlm"
"""The name by which robots.txt and X-Robots-Tag address this program."""

OBJECTIONS = frozenset(
    {"noai", "noimageai", "noml", "noindex", "noimageindex", "none", "unavailable_after", "tdm-reservation", "content-usage"}
)
"""What is honoured of headers and pages, for everybody or for `AGENT`: directives, a date that has passed, and reservations.

Source: our choice, as img2dataset's default, with what has come into use since.
"""

ROBOTS_BYTES = 500 * 1024

_FIELDS = ("useragent", "disallow", "allow", "noindex", "crawldelay", "requestrate", "contentsignal", "contentusage")
_GUESSES = 200  # names of fields that are compared letter by letter; nobody mistypes more
_JUNK = "\ufeff\u200b\u200c\u200d\u2060\udca0\"'"  # what editors leave behind, and a no-break space of Latin-1
_REFUSED, _GRANTED = ("n", "no", "0", "false", "disallow", "deny"), ("y", "yes", "1", "true", "allow")
# Categories of use that training a model on pictures and texts falls under.
_TRAINING = re.compile(
    r"\b(?:train-?ai|ai-?train(?:ing)?|train-?genai|genai-?train(?:ing)?|genai|ai|tdm|bots|all)\s*[=:]\s*\"?([a-z0-9]+)"
)
_VALUED = re.compile(r"max-[a-z-]{1,30} ?[:=] ?[^ ,;|]*")
_UNAVAILABLE = re.compile(
    r"unavailable[_-]after ?[:=]?((?:[ ,-]*(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
    r"[a-z]*\.?|[0-9][0-9:./+-]*(?:st|nd|rd|th)?(?:t[0-9:.+-]+)?z?|[+-][0-9:]+|[a-z]{0,4}t|utc|z|am|pm)(?![a-z0-9]))*)"
)
_WORD = re.compile(r"([\w.*-]*(?:/[0-9.]+)?) ?:|[^ ,;/|:]+")  # the name of a robot with its colon, or a directive


@dataclass(frozen=True)
class Robots:
    """The rules of one robots.txt that hold for us; none: everything is allowed."""

    rules: Protego | None = None
    usage: Protego | None = None  # where training is allowed, as rules of Content-Signal and Content-Usage say
    crawl_delay_s: float = 0.0

    def refusal(self, target: str) -> str:
        """Return why a path with its query may not be asked for, as a key of `addresses.REASONS`, or nothing.

        The longest rule decides, and allow among equals; among equal wishes about use, the refusal.

        Source: RFC 9309, section 2.2.2.
        """
        address = "http://_" + _spelled(target)
        if self.rules and not self.rules.can_fetch(address, AGENT):
            return "robots_disallowed"
        return "content_usage" if self.usage and not self.usage.can_fetch(address, AGENT) else ""

    def allows(self, target: str) -> bool:
        """Tell whether a path with its query may be asked for."""
        return not self.refusal(target)


def read_robots(data: bytes, for_all: bool = False) -> Robots:
    """Read the rules of a robots.txt that hold for us.

    Groups that name us are joined; the group of `*` counts only where none does. `Crawl-delay`, `Request-rate`, `Content-Signal`
    and `Content-Usage`, no part of the standard, belong to their group; the last two count for everybody outside of one. Also read
    is what is plainly meant: names with letters wrong, or a blank for the colon; whole addresses for paths, and paths without their
    first slash; `Noindex` for `Disallow`; files in UTF-16, or packed. Of `Allow`, only the right spelling is read.

    Protego reads the grammar, from a text in which we settle where its answers differ:

    - it takes a name that begins ours (`rsv`) for ours, and one with a version (`rsvlm/1.0`) not: others become `other`;
    - it takes `%2F` and `/` for two things also in a query, `$` at a rule's end also for a plain dollar, and a `%` that stands
      alone for the beginning of every code: see `_spelled`;
    - it lets a path without its first slash match nothing, and takes the folder of an allowed `index.html` for allowed;
    - it reads text, and splits it at every sign that Unicode takes for an end: we percent-encode all but ASCII.

    Args:
        data: The file; what lies beyond `ROBOTS_BYTES` is not read.
        for_all: Whether rules before the first group hold for everybody; the standard passes them over.

    Source: RFC 9309.
    """
    from protego import Protego

    lines, group, names = [], set(), set()
    delays, pending = defaultdict(float), 0.0
    uses: dict[str, dict[str, bool]] = defaultdict(dict)
    if for_all:
        lines, group, names = ["user-agent: *"], {"*"}, {"*"}
    for field, value in _records(data):
        naming = bool(lines) and lines[-1].startswith("user-agent")
        if field == "useragent":
            if not naming:
                group, pending = set(), 0.0
            for part in value.split(","):
                token = re.match(r"\*(?=\s|$)|[A-Za-z_-]*", part.strip())[0].lower()
                token = token if token in (AGENT, "*") else "other"
                lines.append(f"user-agent: {token}")
                group, names = group | {token}, names | {token}
                delays[token] = max(delays[token], pending)
        elif field in ("allow", "disallow", "noindex"):
            # Nothing of others is kept: a hostile file has thousands.
            lines.append(_rule(field == "allow", value) if group & {AGENT, "*"} else "disallow:")
        elif field in ("crawldelay", "requestrate"):
            pending = max(pending, _delay_s(field, value))
            delays |= {name: max(delays[name], pending) for name in group}
        elif refused := _training_refused(value):
            path = re.match(r"(?:[/*]|https?://)\S*", value)
            for name in group or {""}:
                _note(uses[name], path[0] if path else "/", refused == "refused")
            lines += ["disallow:"] if naming else []
    scope = AGENT if AGENT in names else "*"
    for path, refused in uses[""].items():
        _note(uses[scope], path, refused)
    return Robots(Protego.parse("\n".join(lines)), _protego(uses[scope]), delays[scope])


def _records(data: bytes) -> Iterable[tuple[str, str]]:
    """Give the lines of a robots.txt that hold something for us, as a name of `_FIELDS` and a value in ASCII."""
    fields: dict[str, str] = {name: name for name in _FIELDS} | {"contentsignals": "contentsignal"}
    for line in re.split(r"[\r\n]+", _text(data)):
        line = line.partition("#")[0].strip().strip(_JUNK).strip()
        match = re.match(r"([A-Za-z][A-Za-z\s_-]{0,30}?)\s{0,9}[:=]\s*(.*)", line)
        match = match or re.match(r"([Uu][Ss][Ee][Rr][\s_-]?[A-Za-z]+|[A-Za-z-]+)\s+(\S+)$", line)
        if not match:
            continue
        name = re.sub(r"[\s_-]+", "", match[1]).lower()
        if name not in fields and len(fields) < _GUESSES and 6 <= len(name) <= 12:
            near = difflib.get_close_matches(name, ("disallow", "useragent"), 1, 0.8)
            fields[name] = near[0] if near else ""
        if field := fields.get(name):
            value = match[2].strip().strip(_JUNK).strip().encode("utf-8", "surrogateescape")
            yield field, re.sub(rb"[^\t -~]", lambda sign: b"%%%02X" % sign[0][0], value).decode("ascii")


def _text(data: bytes) -> str:
    """Make text of a site's file, also of one that is packed or in UTF-16; half a line at its limit is left out."""
    if data.startswith(b"\x1f\x8b"):
        with contextlib.suppress(zlib.error):
            data = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(data, ROBOTS_BYTES + 1)
    if len(data) > ROBOTS_BYTES:
        data = data[:ROBOTS_BYTES].rpartition(b"\n")[0]  # half a rule would be another rule
    head = data[:64]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    if len(head) > 7 and head[0::2].count(0) + head[1::2].count(0) > len(head) // 3:
        return data.decode("utf-16-be" if head[0] == 0 else "utf-16-le", "replace")
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _rule(allowed: bool, value: str) -> str:
    """Write a rule as Protego reads it as it is meant."""
    path = re.sub(r"^https?://[^/]*/?", "/", value, flags=re.IGNORECASE)
    path = path if path[:1] in "/*" else f"/{path}"
    anchor = "$" if path.endswith("$") else "*" if path.endswith("/index.html") else ""
    return f"{'allow' if allowed else 'disallow'}: {_spelled(path.removesuffix('$'))}{anchor}"


def _spelled(path: str) -> str:
    """Spell in one way what means one thing: a slash or question mark in a query, a dollar that is no anchor, a lone percent."""
    path, mark, query = re.sub("%(?![0-9A-Fa-f]{2})", "%25", path).partition("?")
    query = re.sub("%3f", "?", re.sub("%2f", "/", query, flags=re.IGNORECASE), flags=re.IGNORECASE)
    return re.sub(r"%24|\$", "%00", path + mark + query)


def _delay_s(field: str, value: str) -> float:
    """Read a distance between requests, in seconds; 0 where it is no number."""
    if field == "crawldelay":
        match = re.match(r"[0-9]{1,12}(?:[.,][0-9]{1,12})?(?:e[0-9])?", value)
        return float(match[0].replace(",", ".")) if match else 0.0
    match = re.match(r"([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*([smh]?)", value)
    return int(match[2]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[3]] / int(match[1]) if match and int(match[1]) else 0.0


def _training_refused(value: str) -> str:
    """Read preferences about use, as in `search=yes, ai-train=no`: `refused`, `granted`, or nothing where training is not named."""
    answers = set(_TRAINING.findall(value.lower()))
    return "refused" if answers & set(_REFUSED) else "granted" if answers & set(_GRANTED) else ""


def _note(uses: dict[str, bool], path: str, refused: bool) -> None:
    uses[path] = refused or uses.get(path, False)


def _protego(uses: dict[str, bool]) -> Protego | None:
    """Make rules of paths that are reserved or not; none where nothing is."""
    from protego import Protego

    if not any(uses.values()):
        return None
    return Protego.parse("\n".join(["user-agent: *", *(_rule(not refused, path) for path, refused in uses.items())]))


def read_tdmrep(data: bytes) -> Robots:
    """Read what a site's `/.well-known/tdmrep.json` reserves; the longest of several locations decides.

    A file that is no JSON, but says `"tdm-reservation": 1`, reserves everything.

    Source: TDM Reservation Protocol, W3C community group, section on the file in the origin server.
    """
    text, uses = _text(data), {}
    try:
        rules = json.loads(text)
    except (ValueError, RecursionError):
        rules = []
        if re.search(r"tdm-reservation[\"']?\s*[:=]\s*[\"']?(?:1|true)\b", text, re.IGNORECASE):
            uses["/"] = True
    for rule in rules if isinstance(rules, list) else [rules]:
        if not isinstance(rule, dict):
            continue
        rule = {str(name).strip().lower().replace("_", "-"): value for name, value in rule.items()}
        value, location = str(rule.get("tdm-reservation")).strip().lower(), rule.get("location") or "/"
        for path in location if isinstance(location, list) else [location]:
            if value in ("1", "1.0", "true", "yes", "0", "0.0", "false", "no"):
                path = re.sub(rb"[^!-~]", lambda sign: b"%%%02X" % sign[0][0], str(path).strip().encode("utf-8", "replace"))
                _note(uses, path.decode("ascii"), value[0] in "1ty")
    return Robots(usage=_protego(uses))


def read_ai_txt(data: bytes) -> Robots:
    """Read a site's `/ai.txt`: rules as in robots.txt, of what may be learnt from; or a line `Training: deny`.

    A page, as some servers send it for whatever they do not have, says nothing.

    Source: the form of Spawning, ai.txt; the line is of another proposal of that name.
    """
    text = _text(data)
    if text.lstrip().startswith("<"):
        return Robots()
    if re.search(
        r"^[ \t]{0,9}(?:ai-?)?training[ \t]{0,9}:[ \t]{0,9}(?:deny|denied|no|none|disallow|forbid|false|conditional)",
        text,
        re.I | re.M,
    ):
        return Robots(usage=_protego({"/": True}))
    return read_robots(data, for_all=True)


def directives_of(text: str) -> set[str]:
    """Return directives of an X-Robots-Tag, or of a page's `<meta name=robots>`, that hold for everybody or for us.

    They stand apart by commas, semicolons, slashes or blanks. `agent: directive` holds for that agent up to the end of the line.
    Of directives with a value of their own only `unavailable_after` is returned, where its date has passed or cannot be read.
    """
    text = re.sub(r"\s+", " ", text.lower())
    text = _UNAVAILABLE.sub(lambda match: " unavailable_after " if _has_passed(match[1]) else " ", _VALUED.sub(" ", text))
    text = re.sub(r"\bno[ _-](?=(?:ai|ml|index|imageai|imageindex)\b)", "no", text)
    directives, ours = set(), True
    for match in _WORD.finditer(text):
        if match[1] is None:
            directives |= {match[0]} if ours else set()
        elif match[1] in OBJECTIONS:  # a colon too many
            directives |= {match[1]} if ours else set()
        else:
            ours = match[1].partition("/")[0] in ("", "*", AGENT)
    return directives


def _has_passed(date: str) -> bool:
    """Tell whether a date has passed; one that cannot be read has, words without a digit are none."""
    if not re.search(r"\d", date):
        return False
    date = date.strip(" ,-")
    for read in (email.utils.parsedate_to_datetime,) if re.search("[a-z]{3}", date) else (datetime.fromisoformat,):
        with contextlib.suppress(ValueError, OverflowError, TypeError):
            moment = read(date.upper())
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() < time.time()
    years = re.findall(r"\b[12]\d{3}\b", date)
    return not years or int(years[0]) <= time.gmtime().tm_year


def objections(headers: Iterable[tuple[str, str]]) -> set[str]:
    """Return those of `OBJECTIONS` that an answer's headers hold, as names and values.

    Source: the headers X-Robots-Tag; TDM-Reservation of the TDM Reservation Protocol; Content-Usage of the IETF's AI preferences,
    and Content-Signal, its name in robots.txt.
    """
    directives = set()
    for name, value in headers:
        name = name.strip().lower()
        if name == "x-robots-tag":
            directives |= directives_of(value) & OBJECTIONS
        elif name == "tdm-reservation" and re.match(r"[\s\"']*(?:1|true|yes)\b", value.lower()):
            directives.add("tdm-reservation")
        elif name in ("content-usage", "content-signal", "content-signals") and _training_refused(value) == "refused":
            directives.add("content-usage")
    return directives


def page_objections(attributes: dict[str, str]) -> set[str]:
    """Return those of `OBJECTIONS` that a page's `<meta>` holds: as a name, or in place of a header.

    Args:
        attributes: The attributes of the element, by their names in lower case.
    """
    about = next(filter(None, (attributes.get(name, "") for name in ("name", "property", "http-equiv"))), "").lower()
    content = attributes.get("content", "")
    if {"robots", AGENT} & set(re.split(r"[\s,;/|]+", about)):
        return directives_of(content) & OBJECTIONS
    return objections([(about, content)])


def refusal_of(headers: Iterable[tuple[str, str]]) -> str:
    """Return why an answer's headers forbid its use, as a key of `addresses.REASONS`, or nothing."""
    objected = objections(headers)
    own = {"tdm-reservation": "tdm_reserved", "content-usage": "content_usage"}
    return next((reason for name, reason in own.items() if name in objected), "x_robots" if objected else "")
