"""Imagery of servers of tiles and maps, fetched politely into a folder of tiles.

An address names no file but a pattern: XYZ or WMTS, `https://host/{z}/{x}/{y}.png`, or WMS, `https://host/wms?layers=NAME`. Behind a `#`,
which no server sees, it says which part is wanted: `#zoom=14&bbox=WEST,SOUTH,EAST,NORTH`. Tiles are fetched as pictures of the web are:
never from inside this machine or a private network, as robots.txt and other files of the site allow, at its pace, and none twice. Every
request names this package, and `contact` where one is given: some servers answer nobody who does not say who asks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import numpy as np

from rsvlm import config
from rsvlm.data import addresses
from rsvlm.data.imagery.chip_layout import MERCATOR_M, name_of
from rsvlm.data.imagery.remote import shown
from rsvlm.data.web import fetch
from rsvlm.errors import ConfigError, DataError
from rsvlm.records import files

log = logging.getLogger(__name__)

MOST = 20_000
"""Tiles of one place: more would take hours, at a pace that servers bear."""

_TILE_PX = 256  # side of a picture that a WMS is asked for
_MOST_NORTH = 85.05112877980659  # where Web Mercator ends
_PLACES = {
    "z": "z",
    "x": "x",
    "y": "y",
    "-y": "-y",
    "tilematrix": "z",
    "tilecol": "x",
    "tilerow": "y",
    "q": "q",
    "quadkey": "q",
}
_EXAMPLE = "https://host/{z}/{x}/{y}.png#zoom=14&bbox=-54.7,-25.5,-54.5,-25.3"
_ASKING = ("tile.openstreetmap.org", "openstreetmap.fr", "openstreetmap.de", "opentopomap.org", "tile.opencyclemap.org")
"""Hosts, and those below them, whose terms want to know who asks."""
_REFUSALS = (403, 418, 429)  # what servers answer that want to know it
_KINDS = {"jpg": "jpg", "png": "png", "webp": "webp"}  # as mosaics of tiles hold them


def is_server(where: str) -> bool:
    """Say whether a place is the address of a server of tiles or maps."""
    if not re.match(r"(?i)https?://", where):
        return False
    return bool(_names(where)) or _is_wms(where)


def local(where: str, folder: Path, allow_loopback: bool = False, progress: bool = True, contact: str = "") -> str:
    """Return where the imagery of a place lies on this machine: the place itself, or the folder into which its tiles were fetched.

    Args:
        where: As for `sources.open_imagery`, or the address of a server, as above.
        folder: Folder for the tiles of all servers; tiles that are there are not fetched again.
        allow_loopback: Also servers of this machine.
        progress: Show a bar.
        contact: Page or e-mail address that owners of servers are told, as `fetch.contact`.

    Raises:
        ConfigError: The address does not say which part is wanted, or far too much of it; or the server's terms ask for a contact.
        DataError: No tile could be had.
    """
    return str(fetch_tiles(where, folder, allow_loopback, progress, contact)) if is_server(where) else where


def fetch_tiles(where: str, folder: Path, allow_loopback: bool = False, progress: bool = True, contact: str = "") -> Path:
    """Fetch the tiles that an address names into a folder of its own inside a folder, as `z/x/y.ext`, and return it; as `local`."""
    pattern, _, wanted = where.partition("#")
    zoom, box = _wanted(wanted, where)
    host = (urlsplit(pattern).hostname or "").lower()
    if not contact and any(host == one or host.endswith(f".{one}") for one in _ASKING):
        raise ConfigError(
            f"{host} asks those who fetch from it to say who they are, and forbids much fetching: read its terms, and give a page or an "
            "e-mail address of yours, --contact"
        )
    tiles = tiles_in(zoom, box)
    if len(tiles) > MOST:
        raise ConfigError(
            f"{shown(pattern)} at zoom {zoom} is {len(tiles):,} tiles there, and {MOST:,} is the most that is fetched: give a smaller "
            "bbox or a lower zoom"
        )
    urls = {tile_address(pattern, *tile): tile for tile in tiles}
    if len(urls) < len(tiles):
        raise ConfigError(
            f"{shown(pattern)} gives several tiles one address: it needs {{z}}, {{x}} and {{y}}, as in {_EXAMPLE}"
        )
    digest = hashlib.sha256(where.encode()).hexdigest()[:6]
    place = folder / f"{name_of(urlsplit(pattern).hostname or 'tiles')}-z{zoom}-{digest}"
    # Each tile once, its neighbours after it: this is one host.
    options = config.Fetch(allow_loopback=allow_loopback, retry_failed=True, contact=contact)
    lacking = {url: tile for url, tile in urls.items() if not _is_there(place / "tiles", tile)}
    # A refusal is remembered, but one of nobody is none of somebody.
    journal = place / ("fetched" + (f"-{hashlib.sha256(contact.encode()).hexdigest()[:6]}" if contact else ""))
    summary = fetch.download(lacking, journal, options, progress=progress)
    got, refusals = len(urls) - len(lacking), 0
    for row in fetch.results(journal, lacking):
        kind = _KINDS.get(row.extension)
        refusals += row.status in _REFUSALS
        if row.reason != "ok" or kind is None:
            summary.counts.update({"of no kind that tiles are": 1} if row.reason == "ok" else {})
            continue
        z, x, y = urls[row.url]
        _put(fetch.image_path(journal, row), place / "tiles" / f"{z}" / f"{x}" / f"{y}.{kind}")
        got += 1
    missing = {reason: count for reason, count in summary.counts.items() if reason != "ok"}
    said = ", ".join(f"{count:,} {_meaning(reason)}" for reason, count in missing.items())
    if not contact and refusals:
        said += "; it may want to know who asks: give a page or an e-mail address of yours, --contact"
    if not got:
        raise DataError(f"no tile of {shown(pattern)} could be had: {said}")
    if missing:
        log.warning("%d of %d tiles of %s could not be had: %s", len(tiles) - got, len(tiles), shown(pattern), said)
    about = {"tiles": [], "scheme": "xyz", "bounds": list(box), "name": shown(pattern), "missing": missing}
    files.write_atomic(place / "tiles" / "tilejson.json", json.dumps(about | {"fetched": got}, indent=1))
    return place / "tiles"


def tiles_in(zoom: int, box: tuple[float, float, float, float]) -> list[tuple[int, int, int]]:
    """Return zoom, column and row of the tiles of Web Mercator that a box touches; west of its east, it reaches over the 180th meridian."""
    west, south, east, north = box
    side = 1 << zoom
    east += 360 if east < west else 0
    lat = np.radians(np.clip([north, south], -_MOST_NORTH, _MOST_NORTH))
    top, bottom = (1 - np.arcsinh(np.tan(lat)) / np.pi) / 2 * side
    left, right = ((edge + 180) / 360 * side for edge in (west, east))
    # An edge that runs along that of a tile touches none beyond it.
    columns = range(int(np.floor(left)), max(int(np.ceil(right - 1e-9)), int(np.floor(left)) + 1))
    rows = range(max(0, int(np.floor(top + 1e-9))), min(side, max(int(np.ceil(bottom - 1e-9)), int(np.floor(top)) + 1)))
    if len(columns) * len(rows) > 100 * MOST:
        raise ConfigError(f"zoom {zoom} is {len(columns) * len(rows):,} tiles there: give a smaller bbox or a lower zoom")
    return list(dict.fromkeys((zoom, x % side, y) for x in columns for y in rows))


def tile_address(pattern: str, zoom: int, x: int, y: int) -> str:
    """Return the address of one tile."""
    if _is_wms(pattern):
        return _map_address(pattern, zoom, x, y)
    quadkey = "".join(str((x >> bit & 1) + 2 * (y >> bit & 1)) for bit in range(zoom - 1, -1, -1))
    values = {"z": zoom, "x": x, "y": y, "-y": (1 << zoom) - 1 - y, "q": quadkey}
    return re.sub(r"\{([^{}]*)\}", lambda name: str(values[_PLACES[name[1].lower()]]), pattern)


def _map_address(pattern: str, zoom: int, x: int, y: int) -> str:
    """Return the address of a map, WMS GetMap, that is one tile."""
    parts = urlsplit(pattern)
    given = {name.upper(): value for name, value in parse_qsl(parts.query, keep_blank_values=True)}
    layers = given.get("LAYERS") or ""
    if not layers:
        raise ConfigError(f"{shown(pattern)} names no layer: add layers=NAME, as its GetCapabilities lists them")
    for name in ("BBOX", "WIDTH", "HEIGHT", "CRS", "SRS"):
        given.pop(name, None)
    version = given.get("VERSION", "1.3.0")
    side = 2 * MERCATOR_M / (1 << zoom)
    west, north = x * side - MERCATOR_M, MERCATOR_M - y * side
    asked = {"VERSION": version, "STYLES": "", "FORMAT": "image/png"} | given | {"SERVICE": "WMS", "REQUEST": "GetMap"}
    asked |= {"CRS" if version >= "1.3" else "SRS": "EPSG:3857", "WIDTH": _TILE_PX, "HEIGHT": _TILE_PX}
    asked |= {"BBOX": ",".join(f"{edge:.6f}" for edge in (west, north - side, west + side, north))}
    query = urlencode(asked, safe=",:/", quote_via=quote)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def _names(where: str) -> list[str]:
    """Return the names in braces of an address."""
    return re.findall(r"\{([^{}]*)\}", where.partition("#")[0])


def _is_wms(where: str) -> bool:
    asked = {
        name.upper(): value.upper()
        for name, value in parse_qsl(urlsplit(where.partition("#")[0]).query, keep_blank_values=True)
    }
    return not _names(where) and (asked.get("SERVICE") == "WMS" or asked.get("REQUEST") == "GETMAP" or "LAYERS" in asked)


def _wanted(fragment: str, where: str) -> tuple[int, tuple[float, float, float, float]]:
    """Read zoom and box behind the `#` of an address, and check the names in its braces."""
    unknown = [name for name in _names(where) if name.lower() not in _PLACES]
    if unknown:
        advice = "write one of its hosts" if unknown[0] in ("s", "S") or "switch" in unknown[0] else "write its value"
        raise ConfigError(
            f"{shown(where.partition('#')[0])} has '{{{unknown[0][:40]}}}', which is no number of a tile: {advice}"
        )
    given = dict(parse_qsl(fragment))
    try:
        zoom = int(given["zoom"])
        west, south, east, north = map(float, given["bbox"].split(","))
        fits = 0 <= zoom <= 24 and -90 <= south < north <= 90 and -180 <= west <= 360 and -180 <= east <= 360 and west != east
    except (KeyError, ValueError):
        fits = False
    if not fits:
        raise ConfigError(
            f"{shown(where.partition('#')[0])} needs, behind a #, the zoom level and the box in degrees that are wanted, as in {_EXAMPLE}"
        )
    return zoom, (west, south, east, north)


def _is_there(folder: Path, tile: tuple[int, int, int]) -> bool:
    z, x, y = tile
    return any((folder / f"{z}" / f"{x}" / f"{y}.{kind}").is_file() for kind in set(_KINDS.values()))


def _put(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that cannot be."""
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    with files.replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _meaning(reason: str) -> str:
    return addresses.REASONS[reason].meaning if reason in addresses.REASONS else reason
