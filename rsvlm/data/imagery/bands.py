"""Which bands of a raster are red, green and blue, and which one says what is transparent.

Files say it in many ways: names of bands ("Blue (B02)", "SR_B4", "Red-668"), the kind of colour of each band, wavelengths, and a STAC item
beside them. All are asked before a guess is made, and a guess is told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rsvlm.errors import ConfigError

COLOURS = ("red", "green", "blue")
OTHER_WORDS = frozenset(
    "edge rededge re infra infrared nir swir ir lwir tir thermal coastal aerosol deep yellow i cirrus vapour vapor qa mask"
    " cloud index pan panchromatic".split()
)
"""Words that make of a red, green or blue in the same name another band: `red edge`, `coastal blue`, `green i`."""

WAVELENGTHS_UM = {"red": (0.60, 0.66, 0.70), "green": (0.51, 0.56, 0.595), "blue": (0.44, 0.48, 0.52)}
"""Shortest, usual and longest wavelength of each colour, in micrometres; our choice."""

_OF_SENSORS = {"red": 4, "green": 3, "blue": 2}  # Sentinel-2, Landsat 8 and 9
_OF_OLD_LANDSAT = {"red": 3, "green": 2, "blue": 1}  # Landsat 4 to 7
_NUMBERED = re.compile(r"(?:^|[^a-z0-9])(sr_|toa_)?b(?:and)?[ _-]?(0?)(\d{1,2})(a?)(?![a-z0-9])")


@dataclass(frozen=True)
class Named:
    """What stands beside a raster about one of its bands: its name, the name of its colour, and its wavelength in micrometres."""

    name: str = ""
    colour: str = ""
    wavelength_um: float | None = None


def of_asset(item: Mapping, href: str) -> tuple[Named, ...]:
    """Return what a STAC item says of the bands of the asset with this address: `bands`, `eo:bands` or `raster:bands`; else nothing."""
    asset = next((one for one in item["assets"].values() if one["href"] == href), {})
    properties = item.get("properties") or {}
    lists = [asset.get("bands"), asset.get("eo:bands"), asset.get("raster:bands")]
    rows: list[dict] = []
    for listed in lists:
        listed = listed if isinstance(listed, list) else []
        if listed and all(isinstance(row, int) for row in listed):  # as old items have it: places in a list of the whole item
            whole = properties.get("eo:bands")
            listed = [whole[i] for i in listed] if isinstance(whole, list) and max(listed) < len(whole) else []
        if listed and all(isinstance(row, dict) for row in listed) and (not rows or len(rows) == len(listed)):
            rows = [{**new, **old} for new, old in zip(listed, rows or [{}] * len(listed), strict=True)]
    named = []
    for row in rows:
        colour = row.get("eo:common_name") or row.get("common_name") or ""
        length = row.get("eo:center_wavelength") or row.get("center_wavelength")
        text = " ".join(str(row[key]) for key in ("name", "description") if row.get(key))
        named.append(Named(text, str(colour).lower(), float(length) if isinstance(length, int | float) else None))
    return tuple(named)


def sensor(item: Mapping) -> str:
    """Name what a STAC item was taken with: its collection, constellation, platform and instruments."""
    properties = item.get("properties") or {}
    return " ".join(str(value) for value in (item.get("collection"), *map(properties.get, ("constellation", "platform", "instruments")))
                    if value)  # fmt: skip


def shown_bands(
    dataset, wanted: Sequence[int], label: str, named: Sequence[Named] = (), alpha: int = 0
) -> tuple[tuple[int, ...], str]:
    """Find the bands of a raster that are shown as red, green and blue, or the one that is shown as grey, from 1 on.

    Args:
        dataset: Raster, open.
        wanted: Bands that somebody asked for. If empty, they are found out from what is said of them.
        label: Name of the raster, or its path: some makers say in it what the bands are.
        named: What stands beside the raster about its bands, as from `of_asset`.
        alpha: Band of transparency, which is not shown. If 0, there is none.

    Returns:
        The bands, and in words what was guessed, which is empty where nothing was.

    Raises:
        ConfigError: Not one or three bands, or some that are not there.
    """
    count = dataset.count
    if wanted and (len(wanted) not in (1, 3) or not all(1 <= band <= count for band in wanted)):
        raise ConfigError(f"chips.bands is {tuple(wanted)}; {label} has bands 1 to {count}, and one or three can be shown")
    if wanted:
        return tuple(wanted), ""
    kinds = [kind.name for kind in dataset.colorinterp]
    if kinds[0] == "palette":
        return (1,), ""
    own = [Named(text or "", wavelength_um=_wavelength(dataset, band)) for band, text in enumerate(dataset.descriptions, 1)]
    of_kind = _each([[kind] for kind in kinds])
    for rows in (named if len(named) == count else (), own):
        if bands := _of_names(rows, label):
            other = f"their names make bands {_listed(bands)} red, green and blue, and their kinds of colour bands {_listed(of_kind or ())}"
            differs = of_kind and of_kind != bands
            return bands, f"{other}: the names are followed; --band (chips.bands) decides" if differs else ""
    if of_kind:
        return of_kind, ""
    if bands := _of_wavelengths(own) or _of_planet(label, count):
        return bands, ""
    seen = [band for band in range(1, count + 1) if band != alpha]
    bands = tuple(seen[:3] if len(seen) >= 3 else seen[:1])
    if len(seen) == 1:
        return bands, ""
    if len(bands) == 1:
        return (
            bands,
            f"it does not say what its {count} bands are: band {bands[0]} is shown as grey; --band (chips.bands) decides",
        )
    return bands, (
        f"it does not say which of its {count} bands are red, green and blue: bands {_listed(bands)} are shown so; "
        "--band (chips.bands) decides"
    )


def alpha_band(dataset) -> int:
    """Return the band that calls itself transparency, from 1 on, or 0."""
    kinds = [kind.name for kind in dataset.colorinterp]
    return kinds.index("alpha") + 1 if "alpha" in kinds else 0


def _of_names(rows: Sequence[Named], label: str) -> tuple[int, ...] | None:
    """Find the three colours in names of colours, else in numbers that sensors give their bands."""
    bands = _each([[row.colour] if row.colour else _colours(row.name) for row in rows])
    return bands or _of_numbers([row.name.lower() for row in rows], label)


def _colours(text: str) -> list[str]:
    """Return the colour that a name of a band names; empty where it names none, or several, or a band of another kind."""
    words = [word for word in re.split(r"[^a-z]+", text.lower()) if word]
    if OTHER_WORDS & set(words):
        return []
    short = {"r": "red", "g": "green", "b": "blue"}
    words = [short[word] if len(words) == 1 and word in short and text.strip().lower() == word else word for word in words]
    colours = [word for word in words if word in COLOURS]
    return colours if len(set(colours)) == 1 else []


def _each(colours: Sequence[Sequence[str]]) -> tuple[int, ...] | None:
    """Return the bands of red, green and blue, where exactly one band is each of them."""
    flat = [of_band[0] if of_band else "" for of_band in colours]
    return tuple(flat.index(colour) + 1 for colour in COLOURS) if all(flat.count(c) == 1 for c in COLOURS) else None


def _of_numbers(names: Sequence[str], label: str) -> tuple[int, ...] | None:
    """Read names such as B02, SR_B4 or B8A: numbers of Sentinel-2 and of Landsat, which are no places in the file."""
    matches = [_NUMBERED.search(name) for name in names]
    numbers = [int(match[3]) if match and not match[4] else 0 for match in matches]
    known = [match for match in matches if match]
    if not any(numbers):
        return None
    landsat = re.search(r"(?:^|[^a-z])(?:l[cotem]0?|landsat[ _-]?)([4-9])(?!\d)", label.lower())
    sure = landsat or any(match[1] or match[2] or match[4] for match in known) or max(numbers) > 8
    if not sure and numbers == list(range(1, len(numbers) + 1)):  # band 1, band 2, band 3: these count, and name nothing
        return None
    wanted = _OF_SENSORS
    if landsat:
        wanted = _OF_OLD_LANDSAT if int(landsat[1]) <= 7 else _OF_SENSORS
    elif any(match[1] == "sr_" for match in known) and 1 in numbers and 6 not in numbers:
        # Surface reflectance has the bands 1 to 5 and 7 in Landsat 4 to 7, and 1 to 7 in later ones.
        if 4 in numbers and not {5, 7} & set(numbers):
            return None
        wanted = _OF_OLD_LANDSAT
    if all(numbers.count(number) == 1 for number in wanted.values()):
        return tuple(numbers.index(wanted[colour]) + 1 for colour in COLOURS)
    return None


def _wavelength(dataset, band: int) -> float | None:
    """Return the wavelength that a raster gives for a band, in micrometres."""
    tags = {name.lower(): value for name, value in dataset.tags(band).items()}
    tags |= {name.lower(): value for name, value in dataset.tags(band, ns="IMAGERY").items()}
    texts = [tags.get(name, "") for name in ("central_wavelength_um", "wavelength", "center_wavelength", "centre_wavelength")]
    match = next((m for text in texts if (m := re.match(r"\s*(\d+(?:\.\d+)?)", text))), None)
    match = match or re.search(
        r"(\d+(?:\.\d+)?)\s*(?:nm|nanomet|um\b|µm|microm)", (dataset.descriptions[band - 1] or "").lower()
    )
    value = float(match[1]) if match else 0.0
    return value if 0.3 <= value <= 15 else value / 1000 if 300 <= value <= 15_000 else None


def _of_wavelengths(rows: Sequence[Named]) -> tuple[int, ...] | None:
    """Return for each colour the band nearest to its usual wavelength, where each has one."""
    bands = []
    for shortest, usual, longest in WAVELENGTHS_UM.values():
        distances = {band: abs(row.wavelength_um - usual) for band, row in enumerate(rows, 1)
                     if row.wavelength_um and shortest <= row.wavelength_um <= longest}  # fmt: skip
        if not distances:
            return None
        bands.append(min(distances, key=distances.__getitem__))
    return tuple(bands)


def _of_planet(label: str, count: int) -> tuple[int, ...] | None:
    """Return the bands of a Planet product, whose files are named after what is in them."""
    return {4: (3, 2, 1), 5: (3, 2, 1), 8: (6, 4, 2)}.get(count) if "analyticms" in label.lower() else None


def _listed(bands: Sequence[int]) -> str:
    return ", ".join(map(str, bands[:-1])) + f" and {bands[-1]}" if len(bands) > 1 else "".join(map(str, bands))
