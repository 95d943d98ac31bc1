"""A page into candidates: the address of an image and a text that somebody wrote beside it, with what the page says about both.

Pages go through a tokenizer of our own that takes one look at each character and builds no tree: nested mark-up of 18 kB makes a
standard tree builder take 860 MB, and of 60 kB more than a machine has, because the standard re-opens formatting elements in every
paragraph. Every text is kept as data: nothing here follows a link, runs a script or opens a connection.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import unescape
from urllib.parse import quote, urldefrag, urljoin, urlsplit

from rsvlm.data.web.reservations import objections, page_objections
from rsvlm.errors import need

REASONS = {
    "bad_url": "the address is no http or https address, cannot be joined to its page's, or is too long",
    "duplicate_on_page": "the same address with the same text stands on the page before",
    "no_text": "an image without alternative text, title, label or caption, or a row without a text",
    "no_url": "an image without an address that leads anywhere, as with pixels written into the page",
    "too_many_on_page": "one page may give only so many candidates",
}
"""Why an image on a page gave no candidate."""

COLUMNS = ("url", "text", "page", "title", "heading", "source", "kind", "robots")
"""What a candidate consists of, all text.

`url` is absolute; `text` as written, entities resolved, cut at `MAX_TEXT` characters; `page`, `title` and `heading` (the nearest
before the image) are empty for tables; `source` says where it was read: `file:offset:record id`, or `file:row`; `kind` is `img`
(alternative text), `srcset` (the same, with the address from a list of sizes), `title` (where there is no alternative text: the
title or label of the image, or the title of the link around it), `figure` (a caption) or `table`; `robots` holds the page's
directives for machines, sorted and joined by commas, from the page and from the server's headers.
"""

LISTED = 1_000
"""Items of one reason and file that are listed one by one; more are counted."""


class Counts(Counter):
    """What a reader counted, by name, with the first `LISTED` items of each reason in `listed`."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.listed: list[dict] = []

    def reject(self, reason: str, source: str = "", url: str = "", page: str = "", n: int = 1) -> None:
        """Count what gave no candidate, and list where it stands.

        Args:
            reason: Why, a key of `REASONS` here or in another reader.
            source: Place in the file.
            url: Address of the picture, as it is written there.
            page: Address of the page.
            n: Number of items.
        """
        self[reason] += n
        if self[reason] <= LISTED or n > 1:
            # What may be an address of e-mail is not written down: the place says enough.
            url, page = ("" if "@" in address or "%40" in address else address[:MAX_URL] for address in (url, page))
            row = {"url": url, "page": page, "reason": reason, "source": source}
            self.listed.append(row | ({"n": n} if n > 1 else {}))


MAX_TEXT = 10_000
MAX_URL = 4_096
MAX_PER_PAGE = 1_000
"""Limits of one text and address (characters) and of one page (candidates)."""

# What scripts put in the place of the address once the picture is looked at; the last two often hold something else.
_LAZY = ("data-src", "data-original", "data-lazy-src", "data-hi-res-src", "data-lazy", "data-url")
_PICTURE = re.compile(r"\.(?:jpe?g|png|gif|webp|tiff?|bmp|jp2|avif)(?:$|[?#&;/!,:])", re.IGNORECASE)
_PICTURE_FOLDER = re.compile(
    r"(?:^|[/_.-])(?:images?|imgs?|photos?|pictures?|media|uploads?|thumbs?|files?)[/_.?-]", re.IGNORECASE
)
_PLACEHOLDER = re.compile(
    r"blank|placeholder|spacer|loading|loader|lazy|pixel|1x1|transparent|dummy|gr[ae]y|empty|default|wait|clear\.gif|\.svg$",
    re.IGNORECASE,
)
_TEMPLATE_SIGNS = ("{{", "{%", "${", "<%", "[[")
_SWITCHES = frozenset("true false null none undefined auto lazy eager yes no on off".split())
_LAZY_SETS = ("data-srcset", "data-lazy-srcset")
# Formats that `rsvlm.model.images` does not read; a <picture> offers the others, too.
_UNREAD = ("image/avif", "image/svg", "image/jxl", "image/heic")
# What most addresses look like; nothing is to be done for them but to put them behind their host.
_PLAIN_URL = re.compile(r"(https?://[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?)?/(?!/)[A-Za-z0-9/?=&%+,;:@!$()*~_.-]*")
_NO_HOST = re.compile(r"[\s<>\"{}|\\^`]")
# The look at the first letter saves three quarters of the time.
_TAG = re.compile(
    r"<(?:(!--)|[!?]|(/?)((?=[bfhimnstxBFHIMNSTX]|[pP][iI\s]|[aA][mM\s]|[dD][dD])(?:[aA](?=\s[^<>]{0,500}\btitle)"
    r"|(?:[pP]|[dD][dD])(?=\s[^<>]{0,200}\bwp-caption-text)|(?i:img|source|picture|figure|figcaption|h[1-6]|base|meta|title|script|style"
    r"|textarea|iframe|xmp|noembed|noframes|amp-img|amp-anim)))(?=[\s/>]))"
)
_COMMENT_END = re.compile(r"--!?>")
_RAW = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in ("title", "script", "style", "textarea", "iframe", "xmp", "noembed", "noframes")
}
# Signs that stand alone, as a quote that never closes, are passed over.
_ATTRIBUTE = re.compile(
    r"[\s/=\"']*([^\s/>=\"'][^\s/>=]*)(?:\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>\"'][^\s>]*)|(?=[>\"'])))?"
)
_REFERENCE = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_INLINE = re.compile(r"</?(?:a|abbr|b|em|font|i|mark|q|s|small|span|strong|sub|sup|u)(?=[\s/>])[^<>]*>?", re.IGNORECASE)
_CODE = re.compile(r"<(/?)(?:script|style)(?=[\s/>])[^<>]*>?", re.IGNORECASE)
_ANY_TAG = re.compile(r"<[A-Za-z/!?][^<>]*>?")
_OFFER = re.compile(r"[\s,]*(\S+)")
_DESCRIPTOR = re.compile(r"\s*([\d.]{1,12})([wx])\s*")


def page_rows(html: str, page: str, source: str = "", robots: str = "", counts: Counts | None = None) -> list[tuple]:
    """Find the images of a page that have a text.

    An image in a figure gives one candidate for its alternative text and one for the caption. Of several sizes the largest is
    taken, in a format that `rsvlm.model.images` reads; an address kept back for late loading goes before `src` where it looks like a
    picture's or `src` like a placeholder's. The time is proportional to the length of the page whatever it holds, except sorting.

    Args:
        html: The page.
        page: Address of the page.
        source: Place of the page, written into each candidate.
        robots: Directives that the server sent with the page.
        counts: Receives reasons as in `REASONS`.

    Returns:
        Rows of text in the order of `COLUMNS`.
    """
    counts = Counts() if counts is None else counts
    scan = _scan(html)
    base = absolute_url(scan.base, page) or page
    robots = ",".join(sorted(scan.robots | set(filter(None, robots.split(",")))))
    title, headings = _plain(scan.title), {}
    rows, seen = [], set()
    captioned = {reference for reference, _, kind, _ in scan.images if kind == "figure"}
    for reference, text, kind, heading in scan.images:
        if not text.strip():
            if reference in captioned:
                continue
            url = absolute_url(reference, base) if counts["no_text"] < LISTED else ""
            counts.reject("no_text", source, url or reference, page)
            continue
        if not reference:
            counts.reject("no_url", source, "", page)
            continue
        url = absolute_url(reference, base)
        if url is None:
            counts.reject("bad_url", source, reference, page)
        elif (url, text) in seen:
            counts.reject("duplicate_on_page", source, url, page)
        elif len(rows) >= MAX_PER_PAGE:
            counts.reject("too_many_on_page", source, url, page)
        else:
            seen.add((url, text))
            if heading not in headings:
                headings[heading] = _plain(html[slice(*scan.headings[heading])]) if heading >= 0 else ""
            rows.append((url, text[:MAX_TEXT], page, title, headings[heading], source, kind, robots))
    return rows


def absolute_url(reference: str | None, base: str = "") -> str | None:
    """Return an address in full and without fragment, or nothing where it is no http or https address.

    Blanks and letters outside ASCII in path and query are percent-encoded, so that one image has one spelling; backslashes before
    the query are slashes, as in browsers: what is checked is then what is asked for.

    Args:
        reference: An address, perhaps relative.
        base: The address that it is relative to.
    """
    if not reference or len(reference) > MAX_URL:
        return None
    if (plain := _PLAIN_URL.fullmatch(reference)) and "/." not in reference:
        if plain[1]:
            return reference
        if origin := _PLAIN_URL.match(base):
            if origin[1] and len(origin[1]) + len(reference) <= MAX_URL:
                return origin[1] + reference
    text = _slashed(re.sub(r"[\t\r\n]", "", reference).strip("".join(map(chr, range(33)))))
    try:
        if base and not text.startswith(("http://", "https://")):
            text = urljoin(_slashed(base), text)
        text = urldefrag(text).url
        parts = urlsplit(text)
        is_http = parts.scheme in ("http", "https") and parts.hostname and not _NO_HOST.search(parts.netloc)
        if not (is_http and text.isprintable()):
            return None
    except ValueError:
        return None
    if not text.isascii() or " " in text:
        # Bytes of a broken encoding are dropped: no server answers to them.
        rest = text[len(parts.scheme) + 3 + len(parts.netloc) :].encode("utf-8", "ignore").decode()
        text = f"{parts.scheme}://{parts.netloc}{quote(rest, safe='/?&=%:@!$()*+,;~[]' + chr(39))}"
    return text if len(text) <= MAX_URL else None


def _slashed(text: str) -> str:
    if "\\" not in text:
        return text
    end = re.search(r"[?#]|$", text).start()
    return text[:end].replace("\\", "/") + text[end:]


def decode(body: bytes, charset: str | None) -> str:
    """Make text of a page's bytes: by its byte order mark, as UTF-8 where they are, else as the server, the page or its letters say.

    Args:
        body: The page as served, unpacked.
        charset: The encoding that the server told, if any; one that browsers do not know is passed over.

    Raises:
        MissingExtraError: The package that tells encodings is not installed.
    """
    encoding = need("resiliparse.parse.encoding", "data")

    def guess() -> str | None:
        return encoding.detect_encoding(body, max_len=8192, from_html_meta=True)

    for mark, name in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if body.startswith(mark):
            return body.decode(name, "replace")
    # UTF-8 does not fit by chance, so it goes before what is declared; in it, a few bytes may be broken.
    if not body.isascii() and (text := _as_utf8(body)) is not None:
        return text
    # Mapping leaves encodings of texts alone: Python has others, that unpack or run rules.
    declared = charset and encoding.map_encoding_to_html5(charset, fallback_utf8=False)
    for name in (declared, guess()):
        try:
            if name and (name != "utf-8" or body.isascii()):
                return body.decode(name)
        except (UnicodeError, LookupError):
            continue
    return body.decode("cp1252" if _is_latin(body) else declared or "utf-8", "replace")


def decode_cell(value: object, counts: Counter | None = None) -> str:
    """Make text of a table's cell; nothing where it holds no text.

    Args:
        value: Bytes, or text in which bytes that are no UTF-8 are half characters, as Python's `surrogateescape` makes them.
        counts: Receives `windows_1252` where the cell was read so.
    """
    if isinstance(value, str):
        if value.isascii() or not _ESCAPED.search(value):
            return value
        value = value.encode("utf-8", "surrogateescape") if not _HALF.search(value) else value.encode("utf-8", "replace")
    if not isinstance(value, bytes):
        return ""
    if (text := _as_utf8(value)) is not None:
        return text
    if counts is not None and _is_latin(value):
        counts["windows_1252"] += 1
    return value.decode("cp1252" if _is_latin(value) else "utf-8", "replace")


_ESCAPED = re.compile("[\udc80-\udcff]")
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def _as_utf8(data: bytes) -> str | None:
    """UTF-8 in which less is broken than whole, or nothing."""
    try:
        return data.decode()
    except UnicodeError:
        text = data.decode("utf-8", "replace")
        lost = text.count("\ufffd")
        return text if len(text) - len(text.encode("ascii", "ignore")) > 2 * lost else None


def _is_latin(data: bytes) -> bool:
    """Tell by their places that high bytes are accented letters of a Latin script: they stand alone or by twos."""
    runs = re.findall(rb"[\x80-\xff]+", data[:1_000_000])
    return sum(len(run) > 2 for run in runs) <= 0.05 * len(runs)


def served_robots(headers: Iterable[tuple[str, str]]) -> str:
    """Directives for machines in a server's headers, as `page_rows` takes them."""
    return ",".join(sorted(objections(headers)))


# The tokenizer


@dataclass
class _Scan:
    """What one pass over a page collects."""

    base: str = ""
    title: str = ""
    robots: set[str] = field(default_factory=set)
    headings: list[tuple[int, int]] = field(default_factory=list)  # start and end of each
    images: list[tuple[str, str, str, int]] = field(default_factory=list)  # address, text, kind and number of the heading


def _scan(html: str) -> _Scan:
    scan, position, unclosed = _Scan(), 0, set()
    figures: list[list] = []  # open figures: addresses of their images, and the caption's start and end
    sources: list[dict] | None = None
    open_heading, link, uncaptioned = False, ("", 0), None  # title and end of the last link with one; the last picture
    while match := _TAG.search(html, position):
        position, name = match.end(), (match[3] or "").lower()
        if match[1]:
            # `<!-->` is a whole comment; `--!>` ends one, too.
            end = _COMMENT_END.search(html, match.start() + 2)
            if end and end.start() == match.start() + 2 and end[0] == "--!>":
                end = _COMMENT_END.search(html, end.end())
            if not end:
                break  # as browsers do: the rest is a comment
            position = end.end()
            continue
        if not name:  # `<!DOCTYPE>`, `<?xml ?>`, `<![CDATA[`: up to the next sign that ends a tag, whatever else is in it
            position = _after_tag(html, position)
            continue
        closing = bool(match[2])
        if name[0] == "h":
            if open_heading:
                scan.headings[-1] = (scan.headings[-1][0], match.start())
            open_heading = not closing
            if open_heading:
                position = _after_tag(html, position)
                scan.headings.append((position, position + 2000))
        elif name in ("figure", "figcaption"):
            if figures and figures[-1][1] >= 0 and figures[-1][2] < 0:
                figures[-1][2] = match.start()
            if name == "figure":
                if not closing:
                    figures.append([[], -1, -1])
                elif figures:
                    _close_figure(scan, html, figures.pop())
            elif not closing and figures and figures[-1][1] < 0:
                position = _after_tag(html, position)
                figures[-1][1] = position
        elif name == "picture":
            sources = None if closing else []
        elif closing:
            continue
        elif name in _RAW:
            start = _after_tag(html, position)
            if name not in unclosed:
                if end := _RAW[name].search(html, start):
                    if name == "title" and not scan.title:
                        scan.title = html[start : min(end.start(), start + 2000)]
                    position = end.end()
                else:  # remembered, so that a thousand of them do not search to the end a thousand times
                    unclosed.add(name)
        else:
            attributes, position = _attributes(html, position)
            if name in ("img", "amp-img", "amp-anim"):
                reference, kind = _best_reference(attributes, sources or ())
                heading = len(scan.headings) - 1
                text = attributes.get("alt", "")
                if not text.strip():
                    inside = link[1] <= match.start() < link[1] + 1000 and html.find("</a", link[1], match.start()) < 0
                    others = (attributes.get("title"), attributes.get("aria-label"), link[0] if inside else "")
                    text, kind = next(((other, "title") for other in others if other and other.strip()), (text, kind))
                scan.images.append((reference, text, kind, heading))
                uncaptioned = (reference, heading)
                if figures:
                    figures[-1][0].append((reference, heading))
                sources = None if sources is None else []
            elif name == "a":
                link = (attributes.get("title", ""), position)
            elif name in ("p", "dd"):
                if uncaptioned and (caption := _plain(_until(html, _after_tag(html, position), name))):
                    scan.images.append((uncaptioned[0], caption, "figure", uncaptioned[1]))
                uncaptioned = None
            elif name == "source" and sources is not None:
                sources.append(attributes)
            elif name == "base" and not scan.base:
                scan.base = attributes.get("href", "")
            elif name == "meta":
                scan.robots |= page_objections(attributes)
    while figures:
        _close_figure(scan, html, figures.pop())
    return scan


def _close_figure(scan: _Scan, html: str, figure: list) -> None:
    pictures, start, end = figure
    if start >= 0 and pictures:
        end = len(html) if end < 0 else end
        if caption := _plain(html[start : min(end, start + 2 * MAX_TEXT)]):
            scan.images += [(reference, caption, "figure", heading) for reference, heading in pictures[:MAX_PER_PAGE]]


def _until(html: str, start: int, name: str, most: int = 2000) -> str:
    """What stands between a tag and its closing one, as far as it is looked at."""
    part = html[start : start + most]
    end = part.lower().find(f"</{name}")
    return part if end < 0 else part[:end]


def _after_tag(html: str, position: int) -> int:
    """Where a tag ends whose attributes do not matter; at its name's end where it does not end."""
    end = html.find(">", position, position + 5000)
    return end + 1 if end >= 0 else position


def _attributes(html: str, position: int) -> tuple[dict[str, str], int]:
    """Read a tag's attributes from the end of its name; the first of a name counts, as in browsers."""
    attributes: dict[str, str] = {}
    while match := _ATTRIBUTE.match(html, position):
        value = match[2] or match[3] or match[4] or ""
        attributes.setdefault(match[1].lower(), _resolve(value) if "&" in value else value)
        position = match.end()
    return attributes, position


def _resolve(text: str) -> str:
    """Resolve character references that end in a semicolon; `&copy=1` in an address is none."""
    return _REFERENCE.sub(lambda match: unescape(match[0]), text)


def _plain(html: str) -> str:
    """The text of a fragment: no tags, references resolved, blanks joined."""
    if "<" in html:
        parts = _CODE.split(html)
        # Text, slash, text, slash, ...: what follows an opening tag up to the closing one is no text.
        html = parts[0] + "".join(text for slash, text in zip(parts[1::2], parts[2::2], strict=True) if slash)
        html = _ANY_TAG.sub(" ", _INLINE.sub("", html))
    return " ".join(_resolve(html).split())


def _best_reference(attributes: dict[str, str], sources: tuple | list) -> tuple[str, str]:
    """The largest image that an <img> and its <picture> offer, and whether its address is a list's."""
    read = [source for source in sources if not source.get("type", "").strip().lower().startswith(_UNREAD)]
    sets = [source.get("srcset") or source.get("data-srcset", "") for source in read]
    sets += [attributes[name] for name in (*_LAZY_SETS, "srcset") if name in attributes]
    if offers := [offer for one in sets for offer in _offers(one)]:
        # Widths say more than densities; of equals the first.
        return max(offers, key=lambda offer: (offer[1] == "w", offer[2]))[0], "srcset"
    plain = _address(attributes.get("src", ""))
    late = [(name, _address(attributes[name])) for name in _LAZY if attributes.get(name)]
    late = [(name, value) for name, value in late if not (value.isdigit() or value.lower() in _SWITCHES)]
    for name, value in late:
        if value and (_PICTURE.search(value) or name in _LAZY[:4] and _PICTURE_FOLDER.search(value)):
            return value, "img"
    if not plain or late and _PLACEHOLDER.search(plain):
        plain = next((value for _, value in late if value), plain)
    return plain, "img"


def _address(value: str) -> str:
    """An attribute's value where it may be an address; nothing for written-in pixels and templates that a script fills in."""
    value = value.strip()
    is_template = any(sign in value for sign in _TEMPLATE_SIGNS)
    return "" if is_template or value[:5].lower() == "data:" else value


def _offers(srcset: str) -> list[tuple[str, str, float]]:
    """Read `a.jpg 480w, b.jpg 2x, c.jpg` as addresses with unit and number."""
    offers, position, srcset = [], 0, srcset[:100_000]
    # Addresses may hold commas, as in pixels written into the page, but do not end in one.
    while match := _OFFER.match(srcset, position):
        address, position = match[1], match.end()
        unit, number = "x", 1.0
        if address.endswith(","):
            address = address.rstrip(",")
        else:
            end = srcset.find(",", position)
            end = len(srcset) if end < 0 else end
            if descriptor := _DESCRIPTOR.fullmatch(srcset[position : min(end, position + 100)]):
                unit = descriptor[2]
                number = float(descriptor[1]) if descriptor[1].count(".") < 2 and descriptor[1] != "." else 0.0
            position = end
        if _address(address):
            offers.append((address, unit, number))
    return offers
