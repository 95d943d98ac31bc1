"""Every caption checked against the landmarks it was written from: kept, repaired or rejected, with a named reason.

A caption model sees a picture and a list of landmarks, and may still invent a name, count wrongly, mix up east and west, print
coordinates, refuse, or do what a hostile name on the map told it. `check` reads a caption as a strict reader with the list in
hand would, by the rules of `audit_rules`: what wraps it is taken off, sentences that carry a fault are dropped where others remain, and
what cannot be mended for sure is rejected. `report` counts what became of captions, `sample_sheet` draws some for people to rate.

Source: our choice; how the paper's captions were checked was not published.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import json
import re
import tarfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rsvlm.data import reading
from rsvlm.data.captions import audit_extents, audit_rules, grammar
from rsvlm.errors import ConfigError, DataError, need
from rsvlm.records import files
from rsvlm.records.text import cell, one_line, sample

REASONS = {
    "empty": "nothing is left once wrapping and markup are taken off",
    "refusal": "the model declines, apologises or speaks of itself",
    "instruction": "the text gives or repeats orders, or advertises, as a hostile name on the map may ask for",
    "markup": "HTML, JSON, Markdown or template text inside the caption",
    "language": "not in the language asked for",
    "too long": "more words than allowed",
    "too short": "fewer than two words",
    "duplicate": "the same as another caption of the chip",
    "name not on the list": "a proper name that no visible landmark has",
    "wrong count": "a number of things that the list contradicts",
    "wrong direction": "a thing placed in another part of the chip, or on another side of another thing, than the list has it",
    "wrong extent": "a thing said to cover much more or less of the picture than the list has it",
    "coordinates": "degrees, grid references or plus codes",
    "street address": "a house number with a street",
    "postcode": "a postcode",
    "address on the web": "a web or e-mail address",
    "phone number": "a phone number",
    "wrapping": "quotation marks, code fences or a preamble around the caption (repaired)",
}
"""Why a caption was rejected or repaired."""

MIN_WORDS = 2
"""Shorter captions are rejected."""

STATUSES = ("kept", "repaired", "rejected")
"""What may become of a caption."""

EXAMPLES = 5
"""Examples that a report shows of each reason."""

_LONGEST = 20_000  # characters of a caption that are looked at


@dataclass(frozen=True)
class Finding:
    """What became of one caption."""

    kind: str  # its kind, as `full`
    status: str  # `kept`, `repaired` or `rejected`
    reasons: tuple[str, ...]  # of `REASONS`, in the order found; empty where it was kept
    details: tuple[str, ...]  # the words at fault, one per reason
    text: str  # the caption to use; empty where it was rejected
    original: str  # as it came


@dataclass(frozen=True)
class Verdict:
    """What became of the captions of one chip, in their order."""

    key: str
    findings: tuple[Finding, ...]

    @property
    def captions(self) -> dict[str, str]:
        """Captions to use, by kind: those kept, and those repaired as they now are."""
        return {finding.kind: finding.text for finding in self.findings if finding.text}

    def rows(self) -> list[dict]:
        """Return one JSON-able row `{key, stage, kind, status, reason, reasons, details, text, original}` per caption.

        `reason` is the first reason, for `rejected.jsonl`; `text` is the caption to use, or of a rejected one what was rejected.
        """
        return [
            {
                "key": self.key,
                "stage": "audit",
                "kind": finding.kind,
                "status": finding.status,
                "reason": finding.reasons[0] if finding.reasons else None,
                "reasons": list(finding.reasons),
                "details": list(finding.details),
                "text": finding.text or finding.original,
                "original": finding.original,
            }
            for finding in self.findings
        ]


def check(
    captions: Mapping[str, str],
    record: Mapping,
    language: str = "en",
    max_words: int = 120,
    detect: Callable[[str], str | None] | None = None,
) -> Verdict:
    """Check the captions of one chip against its landmarks.

    Args:
        captions: Texts by kind.
        record: The sample's record; `landmarks` with name, names, category, position, lon, lat, count, share and visible are
            read,
            `relations`, and `outline_lonlat` or `bbox_lonlat` to place the outline of what reaches over several sectors.
        language: ISO 639-1 code of the language wanted. Names, counts and directions are judged in English only.
        max_words: Longer captions are rejected.
        detect: From a text to the code of its language or none, as `language_detector()`; without it scripts and the commonest
            words decide, which tells English from other scripts and from six other languages, see `audit_rules.other_language`.

    Returns:
        The verdict; it never fails on a text or a name.
    """
    scene = audit_rules.Scene.of(record)
    findings, seen = [], set()
    for kind, original in captions.items():
        original = original if isinstance(original, str) else ""
        text, mended = _unwrap(original)
        masked, mentions = audit_rules.mask(text, scene)
        faults = _whole_faults(text, masked, language, max_words, detect)
        rejected = bool(faults)
        if not rejected:
            text, faults, rejected = _mend(text, masked, mentions, scene, language)
        folded = " ".join(re.findall(r"\w+", text.casefold()))
        if not rejected and folded in seen:
            faults, rejected = [*faults, ("duplicate", "")], True
        seen.add(folded)
        if mended and not rejected:
            faults = [("wrapping", ""), *faults]
        status = "rejected" if rejected else "repaired" if faults else "kept"
        reasons, text = dict(faults), "" if rejected else text
        findings.append(Finding(kind, status, tuple(reasons), tuple(reasons.values()), text, original[:_LONGEST]))
    return Verdict(str(record.get("key", "")), tuple(findings))


@functools.cache
def language_detector() -> Callable[[str], str | None]:
    """Return a function from a text to the ISO 639-1 code of its language, in lower case, or none where it cannot tell.

    Raises:
        MissingExtraError: lingua is not installed.
    """
    lingua = need("lingua", "data")
    # The full models take a gigabyte in every process; on sentences the small ones are as good.
    builder = lingua.LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode()
    detector = builder.with_minimum_relative_distance(0.05).build()

    def detect(text: str) -> str | None:
        language = detector.detect_language_of(text)
        return language.iso_code_639_1.name.lower() if language else None

    return detect


# Wrapping that can be taken off for sure

_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok)[,.!:]?\s+)?(?:(?:here(?:'s| is| are)|this is)\s+(?:the|a|an|your)\s+[\w\s,-]{0,40}?"
    r"(?:caption|description)s?\s*:|(?:image|picture|photo)\s+(?:shows|description)\s*:|(?:full|short|relational|brief|detailed)?"
    r"\s*(?:caption|description|answer|output)\s*\d*\s*:)\s*",
    re.I,
)
_INLINE = re.compile(r"</?(?:b|i|em|strong|p|span|br)\s*/?>|\*\*|(?<!\w)[*_](?=\w)|(?<=[\w.,])[*_](?!\w)", re.I)
_BULLET = re.compile(r"^\s*(?:#{1,6}|[-*•]|\d{1,2}[.)])\s+(?=\S)")
_QUOTES = {'"': '"', "“": "”", "'": "'", "«": "»", "„": "“", "‘": "’"}


def _unwrap(original: str) -> tuple[str, bool]:
    """Take wrapping off a caption; say whether there was any beyond white space."""
    came = unicodedata.normalize("NFC", original[:_LONGEST])
    text = came.strip()
    if len(text) > 6 and text.startswith("```") and text.endswith("```"):
        text = re.sub(r"^\w*\n", "", text[3:-3]).strip()
    if text.startswith("{") and text.endswith("}"):
        try:
            loaded = json.loads(text)
        except (ValueError, RecursionError):
            loaded = None
        if isinstance(loaded, dict) and len(loaded) == 1 and isinstance(value := next(iter(loaded.values())), str):
            text = value
    text = _visible(text).strip()
    if "*" in text or "_" in text or "<" in text:
        text = _INLINE.sub("", text)
    text = _PREAMBLE.sub("", _BULLET.sub("", text)).strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and not {text[0], text[-1]} & set(text[1:-1]):
        text = text[1:-1]
    text = " ".join(text.split())
    return text, text != " ".join(came.split())


def _visible(text: str) -> str:
    """Replace control and private characters by blanks, and drop those that turn the order of writing or show nothing."""
    if text.isprintable():
        return text
    kinds = [(c, unicodedata.category(c)) for c in text]
    # The two joiners are spelling in Persian and in Indian scripts. Private characters become blanks, for one is the mask.
    shown = ((c, kind) for c, kind in kinds if kind != "Cf" or c in "\u200c\u200d")
    return "".join(" " if kind in ("Cc", "Co", "Cs", "Cn") else c for c, kind in shown)


# Faults: of the whole caption, and of each sentence

_ABBREVIATION = re.compile(r"\b(?:St|Ste|Mt|Dr|Mr|Mrs|Ms|Av|Ave|approx|ca|No|vs|e\.g|i\.e|[A-Z])\.$")
_SENTENCE = re.compile(r"[.!?]+[\"”’')\]]*\s+(?=[\"“‘(\[]?(?:[^\W_a-z]|\ue000))")
_PRONOUN = re.compile(r"(?:It|Its|They|Their|These|Those|This|That|He|She|Both|Which|There it|Here)\b")


def _whole_faults(text: str, masked: str, language: str, max_words: int, detect) -> list[tuple[str, str]]:
    if not any(c.isalnum() for c in text):
        return [("empty", "")]
    if len(text) > 40 * max_words:
        return [("too long", f"{len(text)} characters")]
    if said := audit_rules.refusal(text):
        return [("refusal", said)]
    if worst := audit_rules.unsayable(text, masked, audit_rules.WORST):
        return [(reason, said[:80]) for reason, said in worst[:1]]
    words = text.count(" ") + 1
    if words > max_words:
        return [("too long", f"{words} words")]
    if other := audit_rules.other_language(masked, language, detect):
        return [("language", other)]
    # Scripts without spaces have long words.
    return [("too short", "")] if words < MIN_WORDS and text.isascii() else []


def _mend(
    text: str, masked: str, mentions: list, scene: audit_rules.Scene, language: str
) -> tuple[str, list[tuple[str, str]], bool]:
    """Drop the sentences at fault; return the text, the faults, and whether too little is left."""
    ends, start = [], 0
    for match in _SENTENCE.finditer(masked):
        if not _ABBREVIATION.search(masked[start : match.start() + 1]):
            ends.append((start, match.end()))
            start = match.end()
    # Most captions leak nothing: one look at the whole spares a look at every sentence.
    leaks = [reason for reason, _ in audit_rules.unsayable(text, masked)]
    faults: list[tuple[str, str]] = []
    sound, dropped = [], False
    for begin, end in [*ends, (start, len(text))]:
        named = [(a - begin, b - begin, owner) for a, b, owner in mentions if begin <= a < end]
        wrong = _sentence_faults(text[begin:end], masked[begin:end], named, scene, language, leaks)
        # What "it" means went with the sentence before.
        dropped = bool(wrong) or (dropped and _PRONOUN.match(masked, begin) is not None)
        faults += wrong
        if not dropped:
            sound.append(text[begin:end].strip())
    left = " ".join(sound)
    too_little = bool(faults) and (len(left.split()) < 3 or all(len(part.split()) < 3 for part in sound))
    return left, faults, too_little


def _sentence_faults(text, masked, named, scene, language, leaks) -> list[tuple[str, str]]:
    faults = audit_rules.unsayable(text, masked, leaks)
    if number := audit_rules.house_number(text, masked):
        faults.append(("street address", number))
    if name := audit_rules.unknown_name(masked, scene, language):
        faults.append(("name not on the list", name))
    if language == "en" and scene.marks:
        folded = grammar.fold(masked)
        faults += [("wrong count", said) for said in audit_rules.wrong_counts(folded, scene)]
        faults += [("wrong direction", said) for said in audit_rules.wrong_directions(folded, text, named, scene)]
        faults += [("wrong extent", said) for said in audit_extents.wrong_extents(folded, text, named, scene)]
    return faults


# Reports


def read(folder: Path | str) -> Iterator[dict]:
    """Yield the records of all shards below a folder, in the order of their names; pictures are not read.

    Raises:
        DataError: There is no shard, or one is broken; the file is named.
    """
    paths = reading.visible(Path(folder), "**/*.tar")
    if not paths:
        raise DataError(f"{folder} holds no shard (*.tar): give the folder of a finished build")
    for path in paths:
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    if member.isreg() and member.name.endswith(".json"):
                        yield json.loads(tar.extractfile(member).read())
        except (tarfile.TarError, ValueError, OSError) as error:
            raise DataError(f"{path} is broken ({error}): remove it and run the build again") from None


def report(source: Path | str | Iterable[Mapping], language: str = "en", max_words: int = 120) -> dict:
    """Count what became of captions, and why.

    Args:
        source: Rows as `Verdict.rows` gives them, or the folder of a build: its shards' records, with the rows they carry as
            `audit` or else checked now, and the rejected ones of `rejected.jsonl`.
        language: For records that are checked now, as `check`.
        max_words: As `check`.

    Returns:
        `{"captions", "kept", "repaired", "rejected", "kept_percent", "repaired_percent", "rejected_percent", "kinds": {kind:
        {status: count}}, "reasons": {reason: {"count", "rejected", "repaired", "percent", "meaning", "examples": [{key, kind,
        detail, original, text}]}}}`; percents are of all captions, reasons in falling order. A caption may have several reasons.

    Raises:
        DataError: The folder holds no shard, or a broken file.
    """
    rows = _rows(Path(source), language, max_words) if isinstance(source, (str, Path)) else source
    statuses, kinds, reasons = Counter(), defaultdict(Counter), {}
    for row in rows:
        status = row.get("status", "rejected")
        statuses[status] += 1
        kinds[str(row.get("kind", ""))][status] += 1
        row_reasons = row.get("reasons") or ([row["reason"]] if row.get("reason") else [])
        for reason, detail in itertools.zip_longest(row_reasons, (row.get("details") or ())[: len(row_reasons)], fillvalue=""):
            entry = reasons.setdefault(reason, {"count": 0, "rejected": 0, "repaired": 0, "examples": []})
            entry["count"] += 1
            entry[status] = entry.get(status, 0) + 1
            if len(entry["examples"]) < EXAMPLES:
                example = {"key": row.get("key", ""), "kind": row.get("kind", ""), "detail": detail}
                example["original"] = row.get("original") or row.get("text", "")
                example["text"] = row.get("text", "") if status == "repaired" else ""
                entry["examples"].append(example)
    total = sum(statuses.values())

    def percent(count: int) -> float:
        return round(100 * count / total, 2) if total else 0.0

    reasons = sorted(reasons.items(), key=lambda item: (-item[1]["count"], item[0]))
    return {
        "captions": total,
        **{status: statuses[status] for status in STATUSES},
        **{f"{status}_percent": percent(statuses[status]) for status in STATUSES},
        "kinds": {kind: dict(counts) for kind, counts in sorted(kinds.items())},
        "reasons": {
            reason: {**entry, "percent": percent(entry["count"]), "meaning": REASONS.get(reason, "")}
            for reason, entry in reasons
        },
    }


def _rows(folder: Path, language: str, max_words: int) -> Iterator[dict]:
    for record in read(folder):
        if "audit" in record:
            yield from (row for row in record["audit"] if row.get("status") != "rejected")
        else:
            yield from check(_captions(record), record, language, max_words).rows()
    path = folder / "rejected.jsonl"
    if not path.is_file():
        return
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError:
                raise DataError(f"{path}, line {number}, is no JSON: run the build again") from None
            if row.get("stage") == "audit":
                yield row


def _captions(record: Mapping) -> dict[str, str]:
    kinds = record.get("caption_kinds") or []
    return {kinds[n] if n < len(kinds) else f"caption {n + 1}": text for n, text in enumerate(record["captions"])}


def sample_sheet(source: Path | str | Iterable[Mapping], path: Path | str, count: int = 200, seed: int = 0) -> Path:
    """Write a CSV of captions for people to rate.

    Args:
        source: Folder of shards, or records with `key captions landmarks`.
        path: The CSV, UTF-8 with a mark at its beginning, so that spreadsheets read it as such.
        count: Captions drawn; all where there are fewer. Which ones depends on the seed, keys and kinds, not on their order.
        seed: Of the draw.

    Returns:
        The path. Columns: key, kind, caption, landmarks, then empty ones for the rating. A cell that a spreadsheet would take
        for a formula begins with an apostrophe.

    Raises:
        ConfigError: `count` is below 1.
        DataError: The folder holds no shard, or a broken one.
    """
    if count < 1:
        raise ConfigError(f"a sample sheet of {count} captions: ask for one or more")
    records = read(source) if isinstance(source, (str, Path)) else source
    drawn = sample(_lines(records), count, seed, key=lambda line: "\n".join(line[:2]))
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(["key", "kind", "caption", "landmarks", "true (1-5)", "fluent (1-5)", "what is wrong"])
    writer.writerows([*(cell(one_line(text)) for text in line), "", "", ""] for line in drawn)
    return files.write_atomic(path, "\ufeff" + buffer.getvalue())


def _lines(records: Iterable[Mapping]) -> Iterator[tuple[str, str, str, str]]:
    """Yield key, kind, caption and landmarks of every caption."""
    for record in records:
        marks = [mark for mark in record.get("landmarks") or () if mark.get("visible", True)][:20]
        parts = ([mark.get(name) for name in ("count", "category", "name", "position")] for mark in marks)
        landmarks = "; ".join(" ".join(str(part) for part in some if part) for some in parts)
        for kind, text in _captions(record).items():
            yield str(record.get("key", "")), kind, text, landmarks
