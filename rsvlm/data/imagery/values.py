"""What the values of a raster mean: which pixels hold none, and which values become black and white.

`read_meaning` looks at a small copy of a raster, or at windows of it, and says what is shown of it. A band that calls itself transparency
is believed if its values say so too: writers call the fourth band of a file so where nobody told them that it is infrared. `together`
gives rasters that belong together one pair of limits, so that their pictures can be compared. `stretch` makes pixels of values.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rsvlm.data.imagery import bands as of_bands
from rsvlm.data.imagery.chip_layout import MAX_WINDOW_PX, Source
from rsvlm.errors import ConfigError, DataError
from rsvlm.model import images

if TYPE_CHECKING:
    from rsvlm import config

log = logging.getLogger(__name__)

FILL_SHARE = 0.03  # of a frame that a value fills, from which on it may be fill
NEIGHBOUR_SHARE = 0.02  # of the pixels of a fill that may lie next to it in value; data that was cut off there has many more
DARK = 64  # 8-bit values that end below this are told
SENTINELS = (-9999.0, -99999.0, -999999.0, -32768.0, -32767.0)
"""Values that stand for no data wherever they are met."""

_PROBE_PX, _SAMPLE_PX = 128, 1024  # sides of the small copies that are looked at: of 8-bit rasters, and of others
_ENOUGH = 4096  # values to make a stretch of
_FEW = 65_536  # values whose distribution is looked at


@dataclass(frozen=True, eq=False)
class Sketch:
    """What one raster says for others that belong to it.

    Attributes:
        group: What must be equal for that: place or sensor, bands, their names and type, and whether white is the least value.
        declares: It says itself which pixels hold no data.
        quantiles: (bands, 201) of its values. If None, values are shown by no limits, or by given ones.
        weight: Pixels that hold data.
    """

    group: tuple
    declares: bool
    quantiles: np.ndarray | None = None
    weight: float = 0.0


@dataclass(frozen=True)
class Meaning:
    """What is shown of a raster, as `Source` has it: bands, band of transparency, value without data, limits, and what was guessed."""

    bands: tuple[int, ...]
    alpha: int = 0
    nodata: float | None = None
    limits: tuple[tuple[float, float], ...] = ()
    guesses: tuple[str, ...] = ()
    sketch: Sketch | None = None


def read_meaning(dataset, options: config.Chips, label: str, named: Sequence[of_bands.Named] = (), group: str = "") -> Meaning:
    """Find out what is shown of a raster, and say what was guessed.

    Args:
        dataset: Raster, open.
        options: Bands, limits, stretch, and value without data, where somebody chose them.
        label: Name of the raster in messages.
        named: What stands beside the raster about its bands, as from `bands.of_asset`.
        group: What the raster belongs to: those of one group with like bands share their limits.

    Raises:
        ConfigError: The options do not fit the raster.
        DataError: It holds no data.
    """
    guesses = []
    # Transparency, then colours.
    alpha = of_bands.alpha_band(dataset)
    if alpha and alpha in options.bands:
        alpha = 0
    elif alpha and not _is_transparent(dataset, alpha):
        if not options.bands:
            guesses.append(f"band {alpha} calls itself transparency and has other values, as infrared has: it hides nothing")
        alpha = 0
    bands, guess = of_bands.shown_bands(dataset, options.bands, label, named, alpha)
    guesses += [guess] if guess else []
    table = has_colours(dataset, bands)
    if not table and len(bands) == 1 and dataset.colorinterp[bands[0] - 1].name == "palette":
        guesses.append(f"band {bands[0]} calls itself a palette and has no table of colours: its numbers are shown as grey")
    # Which pixels hold no data.
    kind = dataset.dtypes[bands[0] - 1]
    plain = kind == "uint8" and options.stretch in ("auto", "none")
    sample = _sample(dataset, bands, alpha, _PROBE_PX if plain or options.limits or options.stretch == "none" else _SAMPLE_PX)
    declares = has_mask(dataset, bands)
    nodata = _given_nodata(options.nodata, kind, label)
    if nodata is not None:
        sample = _without(sample, nodata)
    elif options.nodata == "auto" and sample and not table:
        value, share, sure = _find_fill(sample.values, sample.valid, kind)
        if value is not None:
            filled = f"{100 * share:.0f} % of its pixels are {value:g} in all bands shown"
            if sure and not declares and not alpha:
                nodata, sample = value, _without(sample, value)
                guesses.append(
                    f"{filled}, which it does not declare: taken as no data; --nodata file (chips.nodata) keeps them"
                )
            elif not declares and not alpha:
                guesses.append(f"{filled}: if these hold no data, say --nodata {value:g} (chips.nodata)")
    # Which values become black and white.
    structure = dataset.tags(ns="IMAGE_STRUCTURE") | dataset.tags(bands[0], ns="IMAGE_STRUCTURE")
    inverted = not table and len(bands) == 1 and structure.get("MINISWHITE") == "YES"
    names = tuple(dataset.descriptions[band - 1] or "" for band in bands)
    sketch = Sketch((group, dataset.count, bands, kind, names, inverted), declares)
    meaning = Meaning(bands, alpha, nodata, (), tuple(guesses), sketch)
    if table:
        return meaning
    if sample is None and (options.limits or plain or options.stretch == "none"):
        raise DataError(f"{label}: no pixel can be read where it was looked at: download or copy it again")
    if options.limits or plain or options.stretch == "none":
        limits = _given_limits(options.limits, len(bands), label)
        depth = int(structure["NBITS"]) if plain and structure.get("NBITS", "").isdigit() else 8
        if not limits and options.stretch == "auto" and depth < 8:
            limits = ((0.0, 2.0**depth - 1),) * len(bands)
        if not limits and plain and options.stretch == "auto" and (highest := _highest(sample)) and highest < DARK:
            guess = f"its 8-bit values end at {highest:g} and are shown as they are, nearly black: --limits 0,{highest:g} (chips.limits)"
            meaning = replace(meaning, guesses=(*meaning.guesses, f"{guess} stretches them"))
        if not limits and (inverted or not plain):
            limits = ((0.0, 255.0),) * len(bands)
        return replace(meaning, limits=_turned(limits, inverted))
    if sample is None or not sample.valid.any(axis=1).all():
        sample = _look_further(dataset, bands, alpha, nodata)
        if not sample.valid.any(axis=1).all():
            raise DataError(
                f"{label} holds no data that could be stretched to 0-255: no value was found where it was looked at"
            )
    rows = [band[valid].astype(np.float64) for band, valid in zip(sample.values, sample.valid)]
    quantiles = np.stack([np.percentile(row[:: 1 + row.size // _FEW], np.linspace(0, 100, 201)) for row in rows])
    quantiles[:, 0], quantiles[:, -1] = [row.min() for row in rows], [row.max() for row in rows]
    limits = _limits([np.percentile(row, (_cut(options), 100 - _cut(options))).tolist() for row in rows], inverted)
    weight = float(sample.valid.mean()) * dataset.width * dataset.height
    return replace(meaning, limits=limits, sketch=replace(sketch, quantiles=quantiles, weight=weight))


def together(sources: Sequence[Source], options: config.Chips, known: Mapping[str, Mapping] | None = None) -> list[Source]:
    """Give sources that belong together one meaning, and tell, once each, what was guessed of them.

    Those belong together that have the same bands, type of values and names of bands, and lie in one folder or come from one sensor. They
    share their limits; a value that is fill in one of them; and that a band is no transparency.

    Args:
        sources: As they were opened, each by itself.
        options: How values are stretched.
        known: What was shown of some of them before, as `Source.meaning`, by fingerprint: it stays, and holds for what belongs to them. If
            None, there is nothing.
    """
    known = known or {}
    groups: dict[tuple, list[int]] = {}
    for number, source in enumerate(sources):
        if source.sketch is not None:
            groups.setdefault(source.sketch.group, []).append(number)
    alike = list(sources)
    for group, members in groups.items():
        of_group = [sources[number] for number in members]
        measured = [source.sketch for source in of_group if source.sketch.quantiles is not None]
        bands = range(len(measured[0].quantiles)) if len(measured) > 1 else ()
        limits = _limits([_common(measured, band, _cut(options)) for band in bands], inverted=group[-1])
        before = [known[source.fingerprint] for source in of_group if source.fingerprint in known]
        if before and measured:
            limits = tuple(tuple(pair) for pair in before[0]["limits"])
            if len(before) < len(of_group):
                told = ", ".join(f"{low:g}…{high:g}" for low, high in limits)
                log.warning(
                    "%d new pictures are shown as those before them, by the values %s", len(of_group) - len(before), told
                )
        fills = [source.nodata for source in of_group if source.nodata is not None]
        for number, source in zip(members, of_group):
            changes: dict = {"limits": limits} if limits else {}
            if source.alpha and not all(one.alpha for one in of_group):
                changes["alpha"] = 0
            if fills and source.nodata is None and not source.sketch.declares and not source.alpha:
                changes["nodata"] = fills[0]
            if source.fingerprint in known:
                changes["nodata"] = known[source.fingerprint]["nodata"]
            alike[number] = replace(source, **changes)
    told: dict[str, list[tuple[str, str]]] = {}
    for source in sources:
        for guess in source.guesses:
            told.setdefault(re.sub(r"\d+(\.\d+)?", "#", guess), []).append((source.name, guess))
    for (name, guess), *others in told.values():
        log.warning("%s%s: %s", name, f" and {len(others)} more" if others else "", guess)
    return [replace(source, sketch=None) for source in alike]


def stretch(values: np.ndarray, limits: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Turn values (bands, h, w) into 0 to 255, uint8, by the limits of each band; what is no number becomes 0."""
    low, high = np.array(limits, np.float32).T[..., None, None]
    with np.errstate(invalid="ignore"):
        values = np.clip((values.astype(np.float32) - low) * (255.0 / (high - low)) + 0.5, 0, 255)
    return np.where(np.isfinite(values), values, 0).astype(np.uint8)


def has_colours(dataset, bands: Sequence[int]) -> bool:
    """Say whether the one band that is shown holds numbers of a table of colours."""
    if len(bands) != 1 or dataset.colorinterp[bands[0] - 1].name != "palette":
        return False
    try:
        return bool(dataset.colormap(bands[0]))
    except ValueError:
        return False


# Limits


def _cut(options: config.Chips) -> float:
    return 0.0 if options.stretch == "minmax" else options.stretch_percent


def _limits(pairs: Sequence[Sequence[float]], inverted: bool) -> tuple[tuple[float, float], ...]:
    return _turned(tuple((low, high if high > low else low + 1.0) for low, high in pairs), inverted)


def _turned(limits: tuple[tuple[float, float], ...], inverted: bool) -> tuple[tuple[float, float], ...]:
    return tuple((high, low) for low, high in limits) if inverted else limits


def _common(sketches: Sequence[Sketch], band: int, cut: float) -> tuple[float, float]:
    """Percentiles of a band of several rasters, each with the weight of its pixels."""
    values = np.concatenate([sketch.quantiles[band] for sketch in sketches])
    weights = np.repeat([sketch.weight for sketch in sketches], len(sketches[0].quantiles[band]))
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    place = (below - weights[order] / 2) / below[-1]
    low, high = np.interp((cut / 100, 1 - cut / 100), place, values[order])
    return (float(values.min()), float(values.max())) if cut == 0 else (float(low), float(high))


def _given_limits(given: Sequence[float], count: int, label: str) -> tuple[tuple[float, float], ...]:
    pairs = tuple(zip(given[::2], given[1::2]))
    if len(given) not in (0, 2, 2 * count) or any(low == high for low, high in pairs):
        raise ConfigError(
            f"chips.limits is {tuple(given)}; {label} shows {count} bands: give the values that become black and white, as 0,3000, or "
            f"such a pair for each band"
        )
    return pairs * count if len(given) == 2 else pairs


def _highest(sample: _Sample | None) -> float:
    """Highest value that is not a stray one, or 0."""
    values = sample.values[sample.valid] if sample else np.zeros(0)
    return float(np.percentile(values, 99.9, method="higher")) if values.size else 0.0


# No data


def _given_nodata(given: str | float, kind: str, label: str) -> float | None:
    if isinstance(given, str):
        return None
    if not np.isfinite(given):
        raise ConfigError(f"chips.nodata is {given}: what is no number never counts as data, so say a value, auto or file")
    if np.issubdtype(np.dtype(kind), np.integer) and not np.iinfo(kind).min <= given <= np.iinfo(kind).max:
        raise ConfigError(f"chips.nodata is {given:g}, which no pixel of {label} can be: its values are {kind}")
    return float(given)


def _find_fill(values: np.ndarray, valid: np.ndarray, kind: str) -> tuple[float | None, float, bool]:
    """Look for a value that fills a part of the frame in all bands at once, at the end of all values.

    Returns:
        The value, or None; its share of the pixels; and whether nothing but fill can explain it: data that was cut off at a value has
        neighbours near it.
    """
    numbers = values if valid.all() else values[:, valid.all(axis=0)]
    if not numbers.size:
        return None, 0.0, False
    whole = not np.issubdtype(np.dtype(kind), np.floating)
    least, most = (np.iinfo(kind).min, np.iinfo(kind).max) if whole else (-1e30, 1e30)
    for value, is_low in ((float(numbers.min()), True), (float(numbers.max()), False)):
        fills = (numbers == value).all(axis=0)
        share = float(fills.mean())
        sentinel = (
            is_low and (value in SENTINELS or (value <= least and value < 0)) or (not is_low and not whole and value >= most)
        )
        if share == 1.0 or not share:
            continue
        if sentinel:
            return value, share, True
        at_end = value == 0 if is_low else whole and value == most
        if not at_end or share < FILL_SHARE:
            continue
        if kind == "uint8":
            # Black sea and white cloud of a picture that somebody stretched are data.
            if len(numbers) == 3:
                return value, share, False
            continue
        rest = numbers[:, ~fills].astype(np.float64)
        rest = rest[:, :: 1 + rest.shape[1] // _FEW]
        low, high = np.percentile(rest, (2, 98), axis=1)
        near = 0.002 * (high - low) if not whole else np.maximum(1.0, 0.002 * (high - low))
        beside = max(int((np.abs(band - value) <= width).sum()) for band, width in zip(rest, near))
        return value, share, beside / rest.shape[1] * (1 - share) <= NEIGHBOUR_SHARE * share
    return None, 0.0, False


# Samples


@dataclass(frozen=True)
class _Sample:
    """Values (bands, n) of a part of the pixels, and which hold data."""

    values: np.ndarray
    valid: np.ndarray


def _without(sample: _Sample | None, nodata: float) -> _Sample | None:
    if sample is None:
        return None
    return _Sample(sample.values, sample.valid & ~(sample.values == nodata).all(axis=0))


def _is_transparent(dataset, alpha: int) -> bool:
    kinds = dataset.dtypes
    others = [band for band in range(1, dataset.count + 1) if band != alpha and kinds[band - 1] == kinds[0]][:3]
    sample = _sample(dataset, [alpha], 0, _PROBE_PX, masked=False)
    colours = _sample(dataset, others, 0, _PROBE_PX, masked=False) if others else None
    return not sample or images.is_transparency(sample.values, colours.values if colours else np.zeros(0))


def _sample(dataset, bands: Sequence[int], alpha: int, side: int, masked: bool = True) -> _Sample | None:
    """Look at a small copy of a raster, or at some windows of it. If None, none of it can be read."""
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    width, height = dataset.width, dataset.height
    most = MAX_WINDOW_PX if side == _SAMPLE_PX else 4 * side**2
    if dataset.overviews(bands[0]) or width * height <= most:
        scale = min(1.0, side / max(width, height))
        shape = max(1, round(height * scale)), max(1, round(width * scale))
        try:
            return _take(dataset, bands, alpha, Window(0, 0, width, height), shape, masked)
        except RasterioError:
            pass
    # Without overviews a whole look would read everything, perhaps over a network: look at small windows instead.
    count, part = (8, 128) if side == _SAMPLE_PX else (4, 32)
    parts = list(_windows(dataset, bands, alpha, count, part, masked))
    return _joined(parts) if parts else None


def _look_further(dataset, bands: Sequence[int], alpha: int, nodata: float | None) -> _Sample:
    """Look at more and more windows of a raster that seems to hold no data, until there is enough or all of it was seen."""
    sample = _Sample(np.zeros((len(bands), 0)), np.zeros((len(bands), 0), bool))
    for count in (8, 16, 32, 64):
        parts = []
        for part in _windows(dataset, bands, alpha, count, 128):
            part = part if nodata is None else _without(part, nodata)
            seen = part.valid.any(axis=0)
            if seen.any():
                parts.append(_Sample(part.values[:, seen][:, ::4], part.valid[:, seen][:, ::4]))
        sample = _joined(parts) if parts else sample
        if sample.valid.all(axis=0).sum() >= _ENOUGH or count * 128 >= max(dataset.width, dataset.height):
            break
    return sample


def _windows(dataset, bands, alpha: int, count: int, side: int, masked: bool = True) -> Iterator[_Sample]:
    """Read windows side by side and evenly far apart, `count` a side; those that cannot be read are left out."""
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    width, height = dataset.width, dataset.height
    x, y = (np.unique(np.linspace(0, max(0, length - side), count).astype(int)).tolist() for length in (width, height))
    for top in y:
        for left in x:
            window = Window(left, top, min(side, width), min(side, height))
            try:
                yield _take(dataset, bands, alpha, window, (int(window.height), int(window.width)), masked)
            except RasterioError:
                continue


def _take(dataset, bands, alpha: int, window, shape: tuple[int, int], masked: bool = True) -> _Sample:
    place = {"window": window, "out_shape": (len(bands), *shape)}
    values = dataset.read(list(bands), **place)
    valid = np.ones(values.shape, bool)
    if np.issubdtype(values.dtype, np.floating):
        valid = np.isfinite(values)
    if masked and has_mask(dataset, bands):
        valid &= dataset.read_masks(list(bands), **place) > 0
    if alpha:
        valid &= dataset.read(alpha, window=window, out_shape=shape) > 0
    return _Sample(values.reshape(len(bands), -1), valid.reshape(len(bands), -1))


def _joined(parts: Sequence[_Sample]) -> _Sample:
    return _Sample(np.concatenate([part.values for part in parts], 1), np.concatenate([part.valid for part in parts], 1))


def has_mask(dataset, bands: Sequence[int]) -> bool:
    """Say whether a raster says which pixels of some bands hold data, other than by a band of transparency."""
    flags = [{flag.name for flag in dataset.mask_flag_enums[band - 1]} for band in bands]
    return any("all_valid" not in of_band and "alpha" not in of_band for of_band in flags)
