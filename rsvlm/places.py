"""A Places API over HTTP: everything inside a box, as raw features.

The key goes into a header and nowhere else; the address is HTTPS and public, redirects are not followed, replies are limited
and checked; a circle that gives as many places as one reply can hold is cut in four and asked again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from rsvlm import addresses, files, tiles
from rsvlm.errors import ConfigError, DataError
from rsvlm.mapfiles import Origin, Raw, Reader, need
from rsvlm.taxonomy import category_of_code, clean_text

TYPES = (
    "airport amusement_park athletic_field beach bus_station campground cemetery church farm ferry_terminal gas_station "
    "golf_course heliport hindu_temple historical_landmark hospital international_airport marina monument mosque national_park "
    "park parking playground plaza rv_park school shopping_mall sports_complex stadium swimming_pool synagogue train_station "
    "university water_park zoo"
)
"""Types that a Places API is asked for: those of its documented table that can be seen from above."""

PER_CIRCLE = 20
"""Most places in one reply."""

LARGEST_M = 50_000.0
"""Largest radius of a circle, in metres."""

MAX_REQUESTS = 400
"""Most requests for one box."""

MAX_BYTES = 5_000_000
"""Largest reply."""


def places_reader(
    where: str, box: Sequence[float] | None, cache: Path | str | None, allow_loopback: bool
) -> tuple[Reader, Origin]:
    """Choose a Places API, as `mapfiles.file_reader` does a file; the arguments and errors are those of `read_places`.

    Raises:
        ConfigError: There is no box.
        MissingExtraError: The package for HTTP is not installed.
    """
    base, _, _ = _address(where, allow_loopback)
    if box is None:
        raise ConfigError(f"{where} needs a region: give a bounding box, or imagery that has one")
    need("httpx2")
    name = f"Places API ({urlsplit(base).hostname})"
    origin = (name, "terms of the API: not to be kept or passed on", name)
    return lambda counts: read_places(where, box, counts, cache, allow_loopback), origin


def read_places(
    where: str,
    bbox_lonlat: Sequence[float],
    counts: Counter,
    cache: Path | str | None = None,
    allow_loopback: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Raw]:
    """Ask a Places API for everything inside a box; the key is that of the environment variable GOOGLE_MAPS_API_KEY.

    A circle that gives as many places as one reply can hold is cut in four and asked again.

    Args:
        where: `places:https://host`, with `?query=words` to search by text, or `?types=a,b` for other types.
        bbox_lonlat: `west, south, east, north` in degrees.
        counts: Reasons for places that were left out are counted here.
        cache: Folder for replies; a reply found there costs no request. None: nothing is kept.
        allow_loopback: The host may be this machine, over plain HTTP.
        sleep: Waits between attempts, in seconds.

    Yields:
        The places.

    Raises:
        ConfigError: No key, a key that is refused, or an address that must not be asked.
        DataError: The server gives up, answers something else than places, or the box needs too many requests.
    """
    import httpx2

    base, options, key = _address(where, allow_loopback)
    levels = 0 if "query" in options else max(0, math.ceil(math.log2(_radius_m(bbox_lonlat) / LARGEST_M)))
    if 4**levels > MAX_REQUESTS:
        raise DataError(f"{where}: the box {list(bbox_lonlat)} is too large for a Places API: take a smaller region")
    with httpx2.Client(timeout=30.0, follow_redirects=False, trust_env=False) as client:
        yield from _search(
            base, options, tuple(bbox_lonlat), counts, lambda url, body: _ask(client, url, body, key, cache, sleep)
        )


def _address(where: str, allow_loopback: bool) -> tuple[str, dict[str, str], str]:
    """Return the base address, the options behind `?` and the key, or stop where any of them must not be used."""
    parts = urlsplit(where.removeprefix("places:") or "https://places.googleapis.com")
    options = {"types": TYPES.replace(" ", ",")} | dict(parse_qsl(parts.query))
    if unknown := set(options) - {"types", "query"}:
        raise ConfigError(f"places: unknown option '{min(unknown)}': query or types")
    if parts.username or parts.password:
        raise ConfigError("places: an address carries no user or password: the key comes from GOOGLE_MAPS_API_KEY")
    try:
        host, _ = parts.hostname or "", parts.port  # a port out of range is a ValueError
        found = addresses.refuse_inward(host, allow_loopback)
    except (OSError, ValueError):
        raise DataError(f"places: the host '{parts.netloc}' cannot be found: check the address") from None
    except DataError as error:
        raise ConfigError(f"places: {error}; expected https:// and a public address") from None
    if parts.scheme != "https" and any(map(addresses.address_is_allowed, found)):
        raise ConfigError(f"places: {host} is not asked: expected https:// and a public address")
    key = os.environ.get("GOOGLE_MAPS_API_KEY", "").strip()
    if not key:
        raise ConfigError("places: no key: set the environment variable GOOGLE_MAPS_API_KEY")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", options, key


def _search(base: str, options: dict, bbox, counts: Counter, ask: Callable[[str, dict], dict]) -> Iterator[Raw]:
    """Yield the places of a box, each once."""
    seen: set[str] = set()
    asked = 0
    queue: list[tuple[tuple[float, ...], str]] = [(bbox, "")]
    while queue:
        box, page = queue.pop()
        radius = _radius_m(box)
        if "query" in options:
            low, high = ({"latitude": box[i + 1], "longitude": _wrapped(box[i])} for i in (0, 2))
            body = {"textQuery": options["query"], "pageSize": PER_CIRCLE}
            body |= {"locationRestriction": {"rectangle": {"low": low, "high": high}}} | ({"pageToken": page} if page else {})
        elif radius > LARGEST_M:
            queue += [(part, "") for part in _quarters(box)]
            continue
        else:
            centre = {"latitude": (box[1] + box[3]) / 2, "longitude": _wrapped((box[0] + box[2]) / 2)}
            body = {"includedTypes": options["types"].split(","), "maxResultCount": PER_CIRCLE}
            body |= {"locationRestriction": {"circle": {"center": centre, "radius": round(radius, 1)}}}
        asked += 1
        if asked > MAX_REQUESTS:
            raise DataError(f"{base}: more than {MAX_REQUESTS} requests for the box {list(bbox)}: take a smaller one")
        reply = ask(f"{base}/v1/places:{'searchText' if 'query' in options else 'searchNearby'}", body)
        found = reply.get("places", [])
        for place in found:
            raw = _place(place)
            if raw is None:
                counts["broken place"] += 1
            elif raw.id not in seen:
                seen.add(raw.id)
                yield raw
        following = reply.get("nextPageToken")
        if "query" in options:
            if isinstance(following, str) and following and found:
                queue.append((box, following))
        elif len(found) >= PER_CIRCLE and radius > 50:
            queue += [(part, "") for part in _quarters(box)]
        elif len(found) >= PER_CIRCLE:
            counts["circle with more places than a reply holds"] += 1


def _ask(client, url: str, body: dict, key: str, cache, sleep: Callable[[float], None]) -> dict:
    """Return one reply, from the cache or the server; the key goes into a header and nowhere else."""
    name = hashlib.sha256(json.dumps([url, body], sort_keys=True).encode()).hexdigest()[:32]
    kept = Path(cache) / f"places-{name}.json" if cache is not None else None
    if kept is not None and kept.is_file():
        try:
            return _checked_reply(kept.read_bytes(), url)
        except DataError:
            kept.unlink(missing_ok=True)
    fields = "places.id,places.displayName,places.types,places.primaryType,places.location"
    fields += ",nextPageToken" if url.endswith("searchText") else ""
    for attempt in range(5):
        status, data, wait = _post(client, url, body, {"X-Goog-Api-Key": key, "X-Goog-FieldMask": fields})
        if status == 200:
            reply = _checked_reply(data, url)
            if kept is not None:
                files.write_atomic(kept, json.dumps(reply, ensure_ascii=False))
            return reply
        if status in (401, 403):
            raise ConfigError(f"{url}: the server refuses the key ({status}): check GOOGLE_MAPS_API_KEY and what it may do")
        if status not in (0, 408, 429) and status < 500:
            raise DataError(f"{url}: the server answers {status}: {_server_says(data, key)}")
        if attempt < 4:
            sleep(min(60.0, wait if wait is not None else 2.0**attempt))
    raise DataError(
        f"{url}: the server {'does not answer' if not status else f'answers {status}'} after 5 attempts: try later"
    )


def _post(client, url: str, body: dict, headers: dict[str, str]) -> tuple[int, bytes, float | None]:
    """Return status (0: no answer), content and the seconds the server asks to wait; no redirect is followed."""
    import httpx2

    try:
        with client.stream("POST", url, json=body, headers=headers) as response:
            data = b""
            for piece in response.iter_bytes():
                data += piece
                if len(data) > MAX_BYTES:
                    raise DataError(f"{url}: the reply is larger than {MAX_BYTES} bytes: this is no Places API")
            wait = response.headers.get("retry-after", "")
            return response.status_code, data, float(wait) if wait.isdecimal() else None
    except httpx2.HTTPError:
        return 0, b"", None


def _checked_reply(data: bytes, url: str) -> dict:
    try:
        reply = json.loads(data)
    except (ValueError, RecursionError):
        raise DataError(f"{url}: the reply is no JSON: is this a Places API?") from None
    if not isinstance(reply, dict) or not isinstance(reply.get("places", []), list):
        raise DataError(f"{url}: the reply is no list of places: is this a Places API?")
    return reply


def _server_says(data: bytes, key: str) -> str:
    try:
        text = json.loads(data)["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = "no reason given"
    return (clean_text(text, 200) or "no reason given").replace(key, "[key]")


def _place(place: object) -> Raw | None:
    import shapely

    try:
        kinds = [place.get("primaryType"), *(place.get("types") or [])]
        point = shapely.Point(float(place["location"]["longitude"]), float(place["location"]["latitude"]))
        label = place.get("displayName") or {}
        names = {"": label.get("text")} | ({label["languageCode"]: label["text"]} if label.get("languageCode") else {})
        identity = clean_text(place["id"], 200)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    words = [kind for kind in kinds if isinstance(kind, str)]
    category = next(filter(None, (category_of_code("places", kind) for kind in words)), None)
    names = {str(language): text for language, text in names.items() if re.fullmatch(r"[a-zA-Z-]{0,12}", str(language))}
    return Raw(point, identity or "", {"types": ";".join(words)[:200]}, category, names) if identity else None


def _radius_m(box: Sequence[float]) -> float:
    """Return the radius, in metres, of a circle around a box's centre that holds the box."""
    west, south, east, north = box
    nearest = 0.0 if south < 0 < north else min(abs(south), abs(north))
    wide = np.radians(east - west) * np.cos(np.radians(nearest))
    return float(1.01 * np.hypot(wide, np.radians(north - south)) / 2 * tiles.EARTH_RADIUS_M)


def _quarters(box: Sequence[float]) -> list[tuple[float, ...]]:
    west, south, east, north = box
    x, y = (west + east) / 2, (south + north) / 2
    return [(west, south, x, y), (x, south, east, y), (west, y, x, north), (x, y, east, north)]


def _wrapped(lon: float) -> float:
    return (lon + 180.0) % 360.0 - 180.0
