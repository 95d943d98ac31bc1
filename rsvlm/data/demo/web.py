"""A small web of our own, with pictures from above among others, so that a crawl can be run and scored without the Internet.

Everything is drawn or cut from files that come with the packages of the demo (`web_pictures`). Because we made it, the truth about
every picture and every text is known (`labels.parquet`), and each stage of the filter can be scored. The web is served on loopback
addresses, one per host, and captured into a WARC file by visiting it.

Half of the hosts are held back: their overhead pictures come from the other half of the Earth and in styles that no host for
training shows, their photographs from other sources.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import html
import http.client
import http.server
import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from rsvlm.data.demo import web_pictures
from rsvlm.errors import DataError
from rsvlm.model import images
from rsvlm.records import files
from rsvlm.records.text import batched

ROOMS = ("data/demo/web*", "model/images")
"""Rooms whose files decide what is made here, for `stages.source_hash`."""

PORT = 8917
HOSTS = (
    "earth-notes orbit-gallery field-survey coast-watch slow-travel kitchen-diary campus-news atlas-shop terra-images river-lab "
    "city-blog open-charts"
).split()
"""Hosts of the demo, by the last number of their loopback address (from 127.0.0.2 on); every second one is held back."""

_TRAPS = "missing, forbidden by robots.txt, noai, broken, copy, moved, one pixel, banner, moved inward".split(", ")
_PERIOD = 91  # of the traps, ten pictures apart; odd: they come to training hosts and to held-back ones

_WHAT = "coastline, delta, desert, mountain range, island chain, river valley, farmland, snow cover, peninsula, bay".split(
    ", "
)
_WHERE = "Patagonia, the Sahara, Borneo, the Andes, Scandinavia, the Gobi, Madagascar, Anatolia, the Yukon, Tasmania".split(
    ", "
)
_GOOD = (
    "Satellite image of the {what} in {where}",
    "{where} seen from space: a {what} in natural colour",
    "Aerial view of a {what}, {where}",
    "Overhead imagery of the {what} near {where}, true colour composite",
    "Landsat scene of {where} showing the {what}",
    "Remote sensing image: {what} and clouds over {where}",
    "Bird's-eye view of the {what} of {where}",
    "Earth observation: the {what} of {where} from orbit",
)
_FOREIGN = (
    "Satellitenbild der Küste bei {where}, aufgenommen im Sommer letzten Jahres",
    "Image satellite de la côte près de {where}, prise pendant l'été dernier",
    "Imagen de satélite de la costa cerca de {where}, tomada durante el verano pasado",
)
_BAD = (
    "My cat asleep on the sofa on a sunny afternoon",
    "Fresh coffee with milk on a wooden table in the morning",
    "Quarterly sales of the company compared with the year before",
    "Portrait of the new director of the institute in her office",
    "Satellite dish on the roof of our neighbour's house",
    "Recipe card for a quick tomato soup with basil leaves",
    "Team photo after the annual football tournament in town",
    "Logo of the conference with the name of the sponsor",
)
_JUNK = (
    "IMG_{n}.jpg",
    "DSC0{n}",
    "click to enlarge",
    "image",
    "photo {n}",
    "🛰️🛰️🛰️",
    "write to editor{n}@example.org for prints of this satellite image",
)


def make(folder: Path, seed: int = 0, pictures: int = 720) -> pd.DataFrame:
    """Write the sites and their truth into a folder; the same seed gives the same bytes.

    Args:
        folder: Folder for `sites/HOST/...`, `answers.json` (what the server does for odd paths) and `labels.parquet`.
        seed: Seed of every choice.
        pictures: Number of pictures on all hosts together.

    Returns:
        One row per picture: `host path held_back overhead style text relevant language trap`, where `relevant` says that the text
        is about a picture from above, and `trap` names what keeps it from being had (empty: nothing).

    Raises:
        MissingExtraError: The packages with the pictures are not installed.
    """
    folder = Path(folder)
    rng = np.random.default_rng([seed, 0x3EB])
    rows, answers = [], {}
    for number in range(pictures):
        host_number = number % len(HOSTS)
        host, held_back = HOSTS[host_number], host_number % 2 == 1
        turn, place = divmod(number % _PERIOD, 10)
        trap = _TRAPS[turn] if place == 7 else ""
        is_overhead = bool(rng.random() < 0.45) or trap == "copy"  # of what is rejected anyway, nobody notices a copy
        if is_overhead:
            styles = web_pictures.OVERHEAD_STYLES + (web_pictures.HELD_BACK_STYLES * 2 if held_back else ())
            style = str(rng.choice(styles))
            array = web_pictures.from_above(style, rng, (0.5, 1.0) if held_back else (0.0, 0.5))
        else:
            style = str(rng.choice(web_pictures.OTHER_STYLES))
            array = web_pictures.other(style, held_back, rng)
        relevant = bool(rng.random() < (0.85 if is_overhead else 0.15)) or trap == "copy"
        text, language = _text(relevant, rng)
        if trap == "copy":
            text, language = _GOOD[number % len(_GOOD)].format(what=_WHAT[number % 10], where=_WHERE[number % 9]), "en"
        path, data = _encode(array, number, rng)
        row = {"host": host, "path": path, "held_back": held_back, "overhead": is_overhead, "style": style, "text": text}
        row |= {"relevant": relevant and language != "", "language": language, "trap": trap}
        rows.append(row)
        _place(folder, row, data, answers)
        if trap == "copy":
            smaller = images.resize(array, int(array.shape[0] * 0.8), int(array.shape[1] * 0.8))
            rows.append(row | {"path": f"copies/{number}.jpg", "trap": "is a copy"})
            _place(folder, rows[-1], web_pictures.encode(smaller, "JPEG", 70), answers)
    labels = pd.DataFrame(rows)
    for host, part in labels.groupby("host", sort=False):
        _pages(folder / "sites" / host, host, part.to_dict("records"), rng)
    files.write_atomic(folder / "answers.json", json.dumps(answers, indent=1))
    with files.replacing(folder / "labels.parquet") as path:
        labels.to_parquet(path, index=False)
    return labels


# Sites


def _encode(array: np.ndarray, number: int, rng: np.random.Generator) -> tuple[str, bytes]:
    """Return the path and the bytes of a picture, of a kind drawn at random."""
    kind = str(rng.choice(["jpg", "jpg", "png", "webp"]))
    path = f"img/{number:04d}.{kind}"
    if kind == "png":
        return path, images.encode_png(array)
    if kind == "webp":
        return path, web_pictures.encode(array, "WEBP", 80)
    return path, web_pictures.encode(array, "JPEG", int(rng.integers(55, 95)))


def _text(relevant: bool, rng: np.random.Generator) -> tuple[str, str]:
    """Write an alt-text; the language is empty where the text says nothing."""
    if relevant and rng.random() < 0.08:
        return str(rng.choice(_FOREIGN)).format(where=rng.choice(_WHERE)), "other"
    if rng.random() < 0.1:
        return str(rng.choice(_JUNK)).format(n=int(rng.integers(100, 9999))), ""
    if not relevant:
        return str(rng.choice(_BAD)), "en"
    text = str(rng.choice(_GOOD)).format(what=rng.choice(_WHAT), where=rng.choice(_WHERE))
    return text + str(rng.choice(["", "", " | Our Site", " (click to enlarge)", " 🌍", " &amp; surroundings"])), "en"


def _place(folder: Path, row: dict, data: bytes, answers: dict) -> None:
    """Write the file of a picture as its trap has it; odd answers of the server go into `answers`."""
    host, path, trap = row["host"], row["path"], row["trap"]
    place = _public(path, trap)
    if trap == "missing":
        return
    if trap == "broken":
        data = data[: len(data) // 3]
    elif trap == "one pixel":
        data = images.encode_png(np.zeros((1, 1, 3), np.uint8))
    elif trap == "banner":
        data = images.encode_png(np.tile(np.arange(70, dtype=np.uint8)[:, None, None] * 3, (1, 700, 3)))
    elif trap == "noai":
        answers[f"{host}/{path}"] = {"headers": {"X-Robots-Tag": "noai, noimageai"}}
    elif trap in ("moved", "moved inward"):
        place = f"moved/{path}"
        target = "http://169.254.169.254/latest/meta-data/" if trap == "moved inward" else f"/{place}"
        answers[f"{host}/{path}"] = {"status": 302, "headers": {"Location": target}}
    files.write_atomic(folder / "sites" / host / place, data)


def _public(path: str, trap: str) -> str:
    return f"private/{path}" if trap == "forbidden by robots.txt" else path


def _pages(folder: Path, host: str, rows: list[dict], rng: np.random.Generator) -> None:
    files.write_atomic(folder / "robots.txt", "User-agent: *\nDisallow: /private/\nAllow: /\n")
    links = []
    for number, part in enumerate(batched(rows, 8)):
        body = "\n".join(_markup(row, int(rng.integers(6))) for row in part)
        title = f"{host.replace('-', ' ').title()}, page {number + 1}"
        base, charset = '<base href="/">' if number % 2 else "", "iso-8859-1" if number % 3 == 2 else "utf-8"
        head = f'<!doctype html><html><head><meta charset="{charset}"><title>{title}</title>{base}</head>'
        data = f"{head}<body><h1>{title}</h1>\n{body}\n</body></html>".encode(charset, "xmlcharrefreplace")
        files.write_atomic(folder / f"page{number}.html", data)
        links.append(f'<li><a href="page{number}.html">{title}</a></li>')
    files.write_atomic(folder / "index.html", f"<!doctype html><title>{host}</title><ul>{''.join(links)}</ul>")


def _markup(row: dict, kind: int) -> str:
    source, text = "/" + _public(row["path"], row["trap"]), html.escape(row["text"], quote=True)
    forms = (
        f'<h2>From the archive</h2><p><img src="{source}" alt="{text}"></p>',
        f'<figure><img src="{source}" alt=""><figcaption>{text}</figcaption></figure>',
        f'<img srcset="{source} 1x" src="{source}" alt="{text}">',
        f'<img class="lazy" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" data-src="{source}" alt="{text}">',
        f'<table><tr><td><IMG ALT="{text}" SRC={source}></td><td>more</td></tr></table>',
        f'<picture><source srcset="{source}"><img src="{source}" alt="{text}"></picture>',
    )
    return forms[kind]


# Serving and capturing


@contextlib.contextmanager
def serve(folder: Path, port: int = PORT) -> Iterator[dict[str, str]]:
    """Serve the sites on loopback for as long as the context lasts.

    Args:
        folder: Folder written by `make`.
        port: Port of all hosts; 0 takes any that are free.

    Yields:
        The address of each host, as in `http://127.0.0.2:8917`. Where the system has one loopback address only, all hosts share
        127.0.0.1 and differ by port.

    Raises:
        DataError: The folder holds no sites, or the port is taken.
    """
    folder = Path(folder).resolve()
    if not (folder / "answers.json").is_file():
        raise DataError(f"{folder} holds no demo web: make one with rsvlm.data.demo.web.make")
    answers = json.loads((folder / "answers.json").read_text())
    addresses = {}
    with contextlib.ExitStack() as stack:
        for number, host in enumerate(HOSTS):
            server = _listen(number, port, functools.partial(_Handler, folder / "sites" / host, host, answers))
            addresses[host] = "http://{}:{}".format(*server.server_address)
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
        yield addresses


def _listen(number: int, port: int, handler: functools.partial) -> http.server.ThreadingHTTPServer:
    try:
        return http.server.ThreadingHTTPServer((f"127.0.0.{number + 2}", port), handler)
    except OSError as error:
        with contextlib.suppress(OSError):
            return http.server.ThreadingHTTPServer(("127.0.0.1", port + number if port else 0), handler)
        raise DataError(f"port {port} of 127.0.0.{number + 2} cannot be had ({error}): stop what uses it") from error


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    types = {".html": "text/html", ".txt": "text/plain", ".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}

    def __init__(self, root: Path, host: str, answers: dict, *arguments):
        self.root, self.host, self.answers = root, host, answers
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.lstrip("/") or "index.html"
        answer = self.answers.get(f"{self.host}/{path}", {})
        file = (self.root / path).resolve()
        inside = file.is_relative_to(self.root.resolve()) and file.is_file()
        body = file.read_bytes() if inside and "status" not in answer else b""
        self.send_response_only(answer.get("status", 200 if inside else 404))
        self.send_header("Content-Type", self.types.get(file.suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.get("headers", {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        """Keep the terminal quiet."""


def capture(addresses: dict[str, str], warc: Path) -> int:
    """Visit every page that the hosts' front pages link to, write the answers to a WARC file, and return how many there are.

    Args:
        addresses: Addresses of the hosts, from `serve`.
        warc: File to write, `.warc.gz`, one compressed member per record, as crawlers write them.
    """
    records = []
    for address in addresses.values():
        parts = urlsplit(address)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
        paths = ["/"]
        for path in paths:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            if path == "/":
                names = [piece.split('"')[0] for piece in body.decode().split('href="')[1:]]
                paths += [f"/{name}" for name in names]
            head = f"HTTP/1.1 {answer.status} {answer.reason}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in answer.getheaders())
            records.append(_record(f"{address}{path}", head.encode() + b"\r\n" + body))
        connection.close()
    files.write_atomic(warc, b"".join(gzip.compress(record, 6, mtime=0) for record in records))
    return len(records)


def _record(url: str, answer: bytes) -> bytes:
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, url)}>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(answer)}\r\n\r\n"
    )
    return head.encode() + answer + b"\r\n\r\n"
