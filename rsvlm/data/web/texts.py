"""Texts beside images into captions worth keeping: cleaned, about the ground seen from above, in a wanted language, about nobody.

The cheap test comes first: one linear scan of whole batches for the words of a documented lexicon (`lexicon.json`). What survives,
a few in a hundred, is cleaned, looked through for personal data and for text that is aimed at a program, scored by a small
logistic regression on hashed words, and told its language. Every text that is rejected has one reason. All patterns run in time
proportional to the text: the package's own loops are bounded, the rest is RE2 in pyarrow.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from html import unescape
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsvlm.data.web.lexicon import Lexicon, Scorer, default_scorer, evidence, lexicon, score, strings, word_hashes
from rsvlm.errors import ConfigError, DataError, need

if TYPE_CHECKING:
    from rsvlm import config

REASONS = {
    "empty": "no text",
    "no_term": "no word of the lexicon: nothing says that the image was taken from above",
    "other_script": "mostly letters in which the lexicon has no word, as Chinese, Japanese, Thai or Arabic: nothing was looked for in them",
    "markup": "a script or other code is written into the text",
    "injection": "the text gives orders to a language model",
    "garbled": "characters were lost in a wrong encoding",
    "file_name": "the text is the name of a file or a camera's number",
    "too_few_words": "fewer words than web.min_words after cleaning; two letters count as one where no blanks stand between words, as in Chinese",
    "not_prose": "mostly digits and signs",
    "repetitive": "the same words again and again, as for search engines",
    "personal_email": "an e-mail address",
    "personal_phone": "a telephone number",
    "personal_handle": "a person's name on a network, as in @name",
    "adult": "nakedness or sex",
    "low_relevance": "relevance below web.min_relevance",
    "language": "a language outside web.languages",
}
"""Why a text is rejected, in the order of the tests; the first that applies is told."""

MAX_CHARACTERS = 4_000
"""Longer texts are cut before anything else is done with them."""


def text_stage(
    table: pa.Table | Sequence[str], options: config.Web, scorer: Scorer | None = None, words: Lexicon | None = None
) -> pa.Table:
    """Judge a batch of texts.

    Args:
        table: A table with a column `text`, as from `rsvlm.data.web.archives.read`, or texts alone.
        options: Languages, lengths and the least relevance.
        scorer: Scorer of relevance. If None, `default_scorer`.
        words: Lexicon. If None, the package's own.

    Returns:
        The table with the further columns `clean` (string; null where the cheap test failed), `relevance` (float32, 0 to 1; null
        where an earlier test failed), `language` (ISO 639-1, or empty where not told), `kept` (bool) and `reason` (a key of
        `REASONS`; empty where kept).

    Raises:
        DataError: The table has no column `text`.
        ConfigError: A language that is not known.
        MissingExtraError: The package that tells languages is not installed.
    """
    if not isinstance(table, pa.Table):
        table = pa.table({"text": strings([text and text[: 4 * MAX_CHARACTERS] for text in table])})
    if "text" not in table.column_names:
        raise DataError(f"expected a table with a column 'text', got {', '.join(table.column_names) or 'no column'}")
    words = words or lexicon()
    raw = table["text"].combine_chunks().cast(pa.large_string()).fill_null("")
    raw = pc.utf8_slice_codeunits(raw, 0, MAX_CHARACTERS)
    reasons = np.full(len(raw), "no_term", object)
    reasons[~_has(raw, r"[\pL\pN\pP\pS]")] = "empty"
    reasons[_in_other_script(raw, words)] = "other_script"
    # References, marks and invisible characters may hide a word: such texts are cleaned before they are tested.
    tested = np.flatnonzero(_has(pc.utf8_lower(raw), words.gate) | _has(raw, _HIDING))
    cleaned = clean(raw.take(pa.array(tested)).to_pylist(), words)
    clean_column = np.full(len(raw), None, object)
    clean_column[tested] = cleaned
    rows = tested[_has(pc.utf8_lower(strings(cleaned)), words.gate)]
    reasons[rows] = ""
    originals, texts = raw.take(pa.array(rows)), clean_column[rows]
    for reason, hit in _form_reasons(originals, texts, options).items():
        reasons[rows[hit & (reasons[rows] == "")]] = reason
    passed = reasons[rows] == ""
    rows, texts = rows[passed], texts[passed]
    relevance, languages = np.full(len(raw), np.nan, np.float32), np.full(len(raw), "", object)
    relevance[rows] = score(texts.tolist(), scorer or default_scorer(), words)
    passed = ~(relevance[rows] < options.min_relevance)
    reasons[rows[~passed]] = "low_relevance"
    rows, texts = rows[passed], texts[passed]
    if len(rows):
        languages[rows] = detect_languages(texts.tolist(), options.languages, words)
        if options.languages:
            # Names alone are of no language, and welcome in each.
            reasons[rows[~np.isin(languages[rows].astype(str), (*options.languages, ""))]] = "language"
        clean_column[rows] = [" ".join(text.split(" ")[: options.max_words]) for text in texts]
    table = table.append_column("clean", strings(clean_column.tolist()))
    table = table.append_column("relevance", pa.array(relevance, pa.float32(), mask=np.isnan(relevance)))
    table = table.append_column("language", pa.array(languages.tolist(), pa.string()))
    table = table.append_column("kept", pa.array(reasons == ""))
    return table.append_column("reason", pa.array(reasons.tolist(), pa.string()))


# Cleaning

_CONTROL = {code: " " for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
# Soft hyphens, zero-width and bidirectional signs, variation selectors, byte order marks, tags.
_INVISIBLE = {0xAD, 0x61C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070)}
_INVISIBLE |= {*range(0xFE00, 0xFE10), 0xFEFF, 0xFFFD, 0xFFF9, 0xFFFA, 0xFFFB, *range(0xE0000, 0xE0080)}
_CONTROL |= dict.fromkeys(_INVISIBLE)
_HIDING = (
    r"&[#A-Za-z]|%20|[\x{AD}\x{300}-\x{36F}\x{200B}-\x{200F}\x{202A}-\x{202E}\x{2060}-\x{206F}\x{FEFF}]|\pL_\pL|<[A-Za-z/!]"
)
_CODE = re.compile(r"<(/?)(?:script|style)\b[^<>]*>?", re.IGNORECASE)
_TAG = re.compile(r"<[A-Za-z/!?][^<>]*>?")
_EMOJI = re.compile(
    "[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u3030\u303d\u3297\u3299\u20e3\u231a-\u23ff\U000e0000-\U000e007f]+"
)
_LINK = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_EXTENSION = re.compile(r"\.(?:jpe?g|png|gif|webp|tiff?|bmp|svg|jp2|heic|pdf)\b", re.IGNORECASE)
_CAMERA = re.compile(
    r"\b(?:IMG|DSC[FN]?|DJI|GOPR|PXL|MVI|PANO|SAM|P|DCIM|CIMG|HPIM|IMGP|WP|VID|Screen\s?Shot|Screenshot)[\s_-]?\d{3,8}(?:[\s_-]\d{1,6}){0,3}\b"
)
_SIZE = re.compile(r"\b\d{2,5}\s?[xX]\s?\d{2,5}(?:\s?px)?\b")
_SERIAL = re.compile(
    r"\b(?:[0-9a-f]{16,}|(?<![.,\d])\d{7,}(?![.,\d])|[0-9A-F]{8}-(?:[0-9A-F]{4}-){3}[0-9A-F]{12})\b", re.IGNORECASE
)
_SIGNS = re.compile(r"([!?.,;:*~=+_#|<>-])(?:\s?\1){2,}")

_EMPTY = re.compile(r"[(\[{]\s*[)\]}]")  # brackets around what was taken out


def clean(texts: Sequence[str | bytes | None], words: Lexicon | None = None) -> list[str]:
    """Clean texts for use as captions: what a person would have written about the image, on one line.

    Character references are resolved once, tags, links, emoji, invisible and control characters are taken out, phrases of web
    pages ("click to enlarge"), file endings, camera numbers, and names of sites behind a bar or dash. Nothing is translated,
    completed or corrected, apart from UTF-8 that was read as Windows-1252.

    Args:
        texts: Strings of any kind, bytes (UTF-8, broken or not), or nothing.
        words: Lexicon with the phrases of web pages. If None, the package's own.

    Returns:
        A string for each, at most `MAX_CHARACTERS` long, perhaps empty.
    """
    words = words or lexicon()
    return [_clean(text, words) for text in texts]


def _clean(text: str | bytes | None, words: Lexicon) -> str:
    if isinstance(text, bytes):
        text = text[: 4 * MAX_CHARACTERS].decode("utf-8", "replace")
    text = (text or "")[:MAX_CHARACTERS]
    if "&" in text:
        try:
            text = unescape(text)
        except ValueError:  # a number with more digits than Python turns into one
            text = text.replace("&#", " ")
    if "Ã" in text or "â€" in text:
        with contextlib.suppress(UnicodeError):
            text = text.encode("cp1252").decode("utf-8")
    text = unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode().translate(_CONTROL))
    if "<" in text:
        parts = _CODE.split(text)
        text = parts[0] + "".join(part for slash, part in zip(parts[1::2], parts[2::2], strict=True) if slash)
        text = _TAG.sub(" ", text)
    text = _LINK.sub(" ", _EMOJI.sub(" ", text))
    if _EXTENSION.search(text) or (" " not in text.strip() and ("_" in text or "-" in text or "%20" in text)):
        text = _EXTENSION.sub(" ", text.replace("%20", " ").replace("_", " "))
        if " " not in text.strip():
            text = text.replace("-", " ")
    text = _SERIAL.sub(" ", _SIZE.sub(" ", _CAMERA.sub(" ", text)))
    text = " ".join(_EMPTY.sub(" ", words.boilerplate.sub(" ", text)).split())
    text = _SIGNS.sub(r"\1", words.sites.sub("", text))
    if "|" in text or "»" in text:
        text = _main_part(text, words)
    if opening := words.opening.match(text):
        text = text[opening.end() :]
    return " ".join(text.split()).strip(" -–—|_:;,•·*~>/\\")


def _main_part(text: str, words: Lexicon) -> str:
    """Of `Harbour from above | Photo blog | Site`, the first part that has three words, else the longest."""
    parts = [part.strip() for part in re.split(r"[|»]", text)]
    return next((part for part in parts if part.count(" ") >= 2), max(parts, key=len))


# Form and personal data

_MARKUP = r"(?i)<\s*/?\s*(?:script|iframe|object|embed|svg|style)|javascript\s*:|\bon(?:error|load|click|mouseover)\s*=|<\?php|\{\{|\$\{|document\.cookie"
_INJECTION = (
    r"(?i)(?:ignore|disregard|forget|override)\s+(?:\w+\s+){0,3}(?:previous|prior|above|earlier|preceding|your)\s+(?:\w+\s+)?"
    r"(?:instruction|prompt|rule|direction|message|context)|system\s*prompt|<\|[a-z_]{2,20}\|>|\[/?INST\]|<<SYS>>"
    r"|\byou are (?:now )?(?:an? )?(?:AI|assistant|chatbot|language model|ChatGPT|DAN\b)|\bas an? (?:AI|large) language model"
    r"|\b(?:assistant|system|user)\s*:\s*(?:you|ignore|please)|do not (?:mention|reveal|follow) (?:this|these|your) (?:instruction|prompt)"
    r"|respond only with|new instructions?\s*:"
)
_EMAIL = (
    r"(?i)[a-z0-9._%+-](?:@|%40)[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){0,4}\.[a-z]{2,24}\b"
    r"|\b[a-z0-9._-]{1,64}\s?[\[({]\s?at\s?[\])}]\s?[a-z0-9-]{1,63}\s?(?:[\[({]\s?dot\s?[\])}]|\.)"
    r"|\b[a-z0-9._-]{2,64} at [a-z0-9-]{1,63}(?: dot [a-z0-9-]{1,63}){0,3} dot [a-z]{2,24}\b"
    r"|\b[a-z0-9-]{1,40}[._+][a-z0-9._+-]{1,40}\s{0,3}@\s{0,3}[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){0,4}\.[a-z]{2,24}\b"
)
# Numbers of plates and sheets look like those of telephones, and are taken out before. National numbers count at the start, behind a
# mark, or behind a word that leads to a number. Decimal points never separate the groups of the first pattern: coordinates are no
# numbers.
_PLATE = (
    r"(?i)\b(?:plate|sheet|frame|tile|scene|path|row|orbit|grid|roll|strip|negative|block|parcel|barcode|isbn|blatt|feuille|planche|hoja"
    r"|foglio)s?\b[ .:#]{0,3}[0-9][0-9 /-]*"
)
_LEAD = (
    r"(?i:^|[:;,|(]\s{0,2}|\b(?:tel|phone|telephone|call|ring|dial|whatsapp|fax|telefon|tél|mobile|cell|contact|number|request|order|"
    r"orders|from|at|on|us)\b[ .:]{0,3})"
)
_PHONE = (
    r"(?:^|[^0-9A-Za-z.])\+[1-9][0-9]{0,2}[ /-]?\(?[0-9]{1,4}\)?(?:[ /-]?[0-9]{2,4}){2,4}(?:$|[^0-9.])"
    + r"|(?:^|[^0-9A-Za-z.])00[1-9][0-9]{0,2}[ /-]?\(?[0-9]{1,4}\)?(?:[ /-]?[0-9]{2,4}){2,4}(?:$|[^0-9.])"
    + rf"|{_LEAD}\(?0(?:[0-9]{{2}}\)?[ /-]?[0-9]{{4}}[ -]?[0-9]{{4}}|[0-9]{{3}}\)?[ /-]?[0-9]{{3}}[ -]?[0-9]{{4}}"
    + r"|[0-9]{4}\)?[ /-]?[0-9]{3}[ -]?[0-9]{3}|[0-9]{2,4}\)?[ /-][0-9]{6,8}|[1-9](?:[ .][0-9]{2}){4})(?:$|[^0-9.])"
    + r"|(?:^|[^0-9.-])(?:1[ .-])?(?:\([0-9]{3}\) ?[0-9]{3}[ -][0-9]{4}|[2-9][0-9]{2}-[0-9]{3}-[0-9]{4}"
    + r"|[2-9][0-9]{2} [2-9][0-9]{2}[ -][0-9]{4})(?:$|[^0-9.])|\b[0-9]{3}\.[0-9]{3}\.[0-9]{4}\b"
    + r"|(?i:\b(?:tel|phone|call|whatsapp|fax|telefon|tél)\b[ .:]{0,3}(?:us |at |on ){0,2}\+?[0-9(][0-9() /-]{5,20}[0-9])"
    + r"|(?i:\b(?:mobile|cell)(?: phone| number| no)?(?: ?[.:] ?| )(?:\+|0|\()[0-9() /-]{7,20}[0-9])"
)
_HANDLE = r"(?:^|[^A-Za-z0-9_.@/])@[A-Za-z_][A-Za-z_][A-Za-z0-9_.]{2,}"

_ADULT = (
    r"(?i)\b(?:nudes?|nudity|nudists?|naked|topless|porno?|pornographic|xxx|nsfw|erotica?|sexy|sex|sexual|nackt\w{0,4}|fkk|desnud[ao]s?|nue?s?"
    r" (?:à|sur|dans)|seins nus|nuas?)\b"
)


def _form_reasons(originals: pa.Array, texts: np.ndarray, options: config.Web) -> dict[str, np.ndarray]:
    """Tests of form, most telling first: for each reason which texts it hits."""
    cleaned = strings(texts.tolist())
    hashes, starts = word_hashes(cleaned)
    counts = np.diff(starts)
    unspaced, runs = (
        pc.count_substring_regex(cleaned, f"[{_UNSPACED}]{sign}").to_numpy(zero_copy_only=False) for sign in ("", "+")
    )
    enough = np.maximum(counts, counts - runs + (unspaced + 1) // 2) >= options.min_words
    lengths = np.maximum(pc.utf8_length(cleaned).to_numpy(zero_copy_only=False), 1)
    letters = pc.count_substring_regex(cleaned, r"\pL").to_numpy(zero_copy_only=False)
    lost = pc.count_substring_regex(originals, "\ufffd").to_numpy(zero_copy_only=False)
    text = np.repeat(np.arange(len(counts), dtype=np.uint64), counts)
    pairs = np.unique(np.stack([text, hashes]), axis=1)[0].astype(np.int64)
    distinct = np.bincount(pairs, minlength=len(counts))
    unescaped = strings([as_shown(item[:MAX_CHARACTERS]) for item in originals.to_pylist()])
    either = [originals, unescaped, cleaned]
    return {
        "markup": np.any([_has(column, _MARKUP) for column in either], axis=0),
        "injection": np.any([_has(column, _INJECTION) for column in either], axis=0),
        "garbled": (lost > 2) & (lost > 0.05 * lengths),
        "file_name": ~enough & (_has(originals, _FILE) | (counts == 0)),
        "too_few_words": ~enough,
        "not_prose": letters < 0.3 * lengths,
        "repetitive": (counts >= 12) & (distinct < 0.5 * counts),
        "personal_email": np.any([_has(column, _EMAIL) for column in either], axis=0),
        "personal_phone": np.any([_has(pc.replace_substring_regex(c, _PLATE, " "), _PHONE) for c in either[1:]], axis=0),
        "personal_handle": _has(cleaned, _HANDLE),
        "adult": _has(cleaned, _ADULT),
    }


_FILE = r"(?i)\.(?:jpe?g|png|gif|webp|tiff?|bmp|jp2)\b|^[^ ]*[_-][^ ]*$|\b(?:IMG|DSC|DJI)_?[0-9]"


_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"  # scripts without blanks between words
_OTHER = r"[^\p{Latin}\p{Cyrillic}\PL]"
_OURS = r"[\p{Latin}\p{Cyrillic}]"


def _in_other_script(column: pa.Array, words: Lexicon) -> np.ndarray:
    """Tell which texts are mostly in letters that no word of the lexicon is written in."""
    result = _has(column, _OTHER)
    if result.any() and not _has(strings([words.gate]), _OTHER)[0]:
        foreign = column.filter(pa.array(result))
        other, ours = (pc.count_substring_regex(foreign, script).to_numpy(zero_copy_only=False) for script in (_OTHER, _OURS))
        result[result] = other > ours
        return result
    return np.zeros(len(column), bool)


_SHOWN = dict.fromkeys(_INVISIBLE) | {0xFF20: "@", 0xFE6B: "@"}


def as_shown(text: str) -> str:
    """Return a text as a reader sees it: references resolved, nothing invisible, every form of @ the same."""
    if "&" in text and not re.search(r"&#\d{30}", text):
        text = unescape(text)
    return text if text.isascii() else text.translate(_SHOWN)


def _has(column: pa.Array, pattern: str) -> np.ndarray:
    """Which texts match, by RE2: in time proportional to their length whatever they hold."""
    return pc.fill_null(pc.match_substring_regex(column, pattern), False).to_numpy(zero_copy_only=False)


# Languages

COMMON = tuple("en de fr es it pt nl pl ru tr sv cs hu ro id vi ja zh ko ar".split())
"""Languages that are told apart, with those asked for: fewer rivals make short texts easier."""

LEAST, LEAST_OF_NAMES, FUNCTION_WORD, TERM, ENOUGH = 1e-3, 0.1, 3.0, 5.0, 12
"""Least probability that the detector is believed, in running text and among names; points, in logits, of a function word and of
a lexicon term; letters in small words that make running text. Our choice, on examples."""

_SPLIT = re.compile(r"[\s\d/.,;:()\"'’&-]+")
_OTHER_SCRIPT = re.compile("[\u0370-\u1dff\u2c00-\ufaff]")


@functools.cache
def _detector(codes: tuple[str, ...]):
    lingua = need("lingua", "data")
    known = {language.iso_code_639_1.name.lower(): language for language in lingua.Language.all()}
    if unknown := sorted(set(codes) - set(known)):
        raise ConfigError(f"web.languages: {', '.join(unknown)} not known; choose from {', '.join(sorted(known))}")
    languages = [known[code] for code in sorted(set(codes) | set(COMMON))]
    # The accurate mode takes 430 MB and four times as long; what it gains on names of places the lexicon gives, too.
    return lingua.LanguageDetectorBuilder.from_languages(*languages).with_low_accuracy_mode().build()


def check_languages(codes: Sequence[str], words: Lexicon | None = None) -> None:
    """Stop at languages in which no text could be kept.

    Args:
        codes: ISO 639-1 codes, as of `web.languages`.
        words: Lexicon of the terms. If None, the package's own.

    Raises:
        ConfigError: A code is unknown, or the lexicon has no term in its language.
    """
    words = words or lexicon()
    known = sorted({code for code, weight in zip(words.languages, words.weights, strict=True) if code and weight > 0})
    if lacking := [code for code in codes if code not in known]:
        raise ConfigError(
            f"web.languages: the lexicon has no term in {', '.join(lacking)}, so no text could be kept; "
            f"choose from {', '.join(known)}, or add terms to rsvlm/data/web/lexicon.json"
        )


def detect_languages(texts: Sequence[str], wanted: Sequence[str] = (), words: Lexicon | None = None) -> list[str]:
    """Tell the language of short texts full of names.

    Names say little about the language of the text around them, so words in capitals are left out where enough others remain.
    To what the detector then finds, function words and the lexicon's terms add evidence: it alone takes "orthophoto of" for German.

    Args:
        texts: Cleaned texts.
        wanted: ISO 639-1 codes that must be among those told apart.
        words: Lexicon of the evidence. If None, the package's own.

    Returns:
        An ISO 639-1 code for each, or empty where there are names alone, as in "Landsat, Lake Chad, 1973".

    Raises:
        ConfigError: A code that is not known.
        MissingExtraError: The package lingua is not installed.
    """
    words = words or lexicon()
    detector = _detector(tuple(wanted))
    terms = evidence(*word_hashes(texts), words)[2]
    languages = []
    for text, term in zip(texts, terms, strict=True):
        parts = [word for word in _SPLIT.split(text) if word]
        plain = [word for word in parts if word.islower()]
        enough = sum(map(len, plain)) >= ENOUGH
        lower = {word.lower() for word in parts}
        points = Counter({code: FUNCTION_WORD * len(lower & listed) for code, listed in words.function_words.items()})
        points[term] += TERM if term else 0
        if not enough and not any(points.values()) and not _OTHER_SCRIPT.search(text):
            languages.append("")
            continue
        logits = {}
        for value in detector.compute_language_confidence_values(" ".join(plain) if enough else text):
            code = value.language.iso_code_639_1.name.lower()
            logits[code] = math.log(max(value.value, LEAST if enough else LEAST_OF_NAMES)) + points[code]
        languages.append(max(logits, key=logits.get, default=""))
    return languages
