"""Texts searched in a scene of any size: polygons, and a map of confidence on the scene's own grid.

    scene ── blocks ── tiles ── tower ── patches, put together ── Smooth-Attention-Operation ── cosines with texts ── confidence
      └─ confidence ≥ threshold ── parts of each block ── joined across the borders of blocks ── polygons

`search` holds a few blocks at a time, whatever the size of the scene: what is finished is on disk. Threads read blocks and run the tower
on them; the rest is done behind them, in reading order. Confidence is a contrast: how the model divides its belief, at one place, between
the text and others: texts that are true of much ground, and nonsense. So a text that fits nowhere, or that the model does not know, gives
an empty result and the highest confidence there was, not the least bad places.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from rsvlm import files, kernels, layout, localize, masks, scenefiles
from rsvlm import images as imaging
from rsvlm.errors import DataError
from rsvlm.mammut import Mammut
from rsvlm.scenefiles import Grid, Scene

log = logging.getLogger(__name__)

BACKGROUND = (
    "a satellite image",
    "an aerial photograph",
    "something else",
    "bare ground",
    "grass and fields",
    "a dense forest",
    "open water",
    "many buildings",
    "a road",
    "clouds",
)
"""What else there may be. One that shares a word with the text, or means the same to the model, is not held against it."""

NONSENSE = ("lorem ipsum dolor sit amet", "qwerty asdf", "xq zv kj", "nothing at all", "0123456789", "foo bar baz", "???")
"""Held against every text: what means no more to the model than these finds nothing."""

THRESHOLD = 0.5
MEANING = (
    "confidence is the share of belief that the model gives to the text, the rest being shared by the background texts (softmax of "
    "cosines over the temperature); from 0.5 on it prefers the text to all of the background together"
)
SYNONYM = 0.9  # cosine of a background text with a text, from which on they mean the same to the model
DETAIL = 2  # cells of the map of confidence to a side of a patch
PREVIEW_PX = 1024
WIDEST = 127  # patches of the largest window
_VIEW_PX = 2048  # side of a block, as the model sees it; tiles at its borders are looked at twice
_WORKERS = 4  # blocks looked at at once: each takes memory


@dataclass(frozen=True)
class Found:
    """What `search` found in one scene.

    Attributes:
        facts: What is in `search.json`: the request, the counts, and for each text its regions and highest confidence.
        regions: `text` (number), `confidence`, `peak`, `area_m2`, `lon`, `lat` (of the peak), `x`, `y` (likewise, in the coordinates of
            the scene), and `rings` in pixels of `image`, best first. What a scene does not say is None.
        image: (H, W, 3) uint8, the scene made small.
        heat: (M, h, w) float32, highest confidence under each of its pixels, of which one covers one or more of `image`; NaN where there
            is no data.
    """

    facts: dict
    regions: list[dict]
    image: np.ndarray
    heat: np.ndarray


def search(
    scene: str | Path | Scene,
    texts: Sequence[str],
    model: Mammut,
    out: Path,
    *,
    background: Sequence[str] = BACKGROUND,
    threshold: float = THRESHOLD,
    window: int | Sequence[int] = 3,
    tile_px: int | None = None,
    overlap: float = 0.0,
    min_px: float | None = None,
    bands: Sequence[int] = (),
    temperature: float | None = None,
    precision: str = "auto",
    max_regions: int = 10_000,
    batch_size: int = 64,
    progress: bool = True,
) -> Found:
    """Search texts in one scene, and write `heat.tif`, `polygons.geojson` and, last, `search.json` into `out`.

    The tower sees the scene tile by tile; windows of the Smooth-Attention-Operation reach over the borders of tiles, and leave out what
    has no data. `heat.tif` has a band for each text, in the scene's own grid made coarser: half a patch to a cell, not a number where
    there is no data. Polygons follow its cells, in the scene's coordinate system, which the file names; where that has no code, in
    longitude and latitude. Regions that reach over borders of blocks are joined.

    Args:
        scene: Its path or URL, or as of `scenefiles.open_scene`.
        texts: M texts; each is judged by itself.
        model: The model, in evaluation mode.
        out: The folder.
        background: What else there may be. With `NONSENSE` they are K texts.
        threshold: Confidence from which on a cell belongs to a region, 0…1.
        window: Side of the window of the Smooth-Attention-Operation, in patches, odd, at most `WIDEST`; 1: raw patches; or several,
            whose cosines are averaged. It is cut at the edges of the scene, so it may be larger than that.
        tile_px: Side of what the model sees at once, in pixels of the scene: more than its image size makes the scene coarser,
            less enlarges it. None: its image size.
        overlap: Share of a tile's side that the next one shows too, 0…0.75; whole patches, which fade into each other.
        min_px: Regions with a smaller area, in pixels of the scene, are left out; none: one patch.
        bands: As for `scenefiles.open_scene`.
        temperature: Of the softmax, in cosines; none: that of the model's own loss.
        precision: `fp32`; `bf16`, for the tower alone; or `auto`: bf16 where the device has instructions for it.
        max_regions: Regions kept for each text, those of highest confidence; all are counted.
        batch_size: Tiles per forward pass; what passes between the layers should fit into the processor's cache.
        progress: Show a bar.

    Raises:
        DataError: The scene cannot be read or holds no data, it is several, or a value makes no sense.
        MissingExtraError: rasterio, pyproj or shapely is not installed.
    """
    started = time.time()
    texts = list(dict.fromkeys(texts))
    rivals = [text for text in dict.fromkeys((*NONSENSE, *background)) if text not in texts]
    if not 0 < threshold < 1 or not 0 <= overlap <= 0.75 or (tile_px or 16) < 16 or (min_px or 0) < 0 or max_regions < 1:
        raise DataError(
            f"threshold {threshold}, overlap {overlap}, tile_px {tile_px}, min_px {min_px}, max_regions {max_regions}: expected 0…1, "
            "0…0.75, 16 or more, 0 or more, 1 or more"
        )
    _shapely()
    scene = scene if isinstance(scene, Scene) else _one(scenefiles.open_scene(scene, bands), scene)
    vectors = np.concatenate([localize.text_vectors(model, texts), localize.text_vectors(model, rivals)])
    held = _held_against(texts, rivals, vectors)
    windows = _windows(window)
    if model.config.patch_size % DETAIL:
        raise DataError(f"patches of {model.config.patch_size} pixels cannot be cut into cells: search with another model")
    tower = _tower(model, precision)
    odds = 1 / temperature if temperature else model.logit_scale.item()

    side, patch = model.config.image_size, model.config.patch_size
    cell = patch // DETAIL  # in pixels as the model sees them; one of these is `zoom` pixels of the scene
    zoom = (tile_px or side) / side
    view = max(1, round(scene.height / zoom)), max(1, round(scene.width / zoom))
    size = -(-view[0] // cell), -(-view[1] // cell)
    tile = side // patch
    step = max(1, round(tile * (1 - overlap)))
    shares = [_shares(-(-n // patch), tile, step) for n in view]
    plan = _Plan(patch, cell, zoom, tile, view, shares, max(windows) // 2 + 1)
    block = max(tile, int(_VIEW_PX / max(zoom, 1) / patch) // tile * tile) * DETAIL
    shrink = max(1, -(-max(size) // PREVIEW_PX))
    small = np.full((len(texts), -(-size[0] // shrink), -(-size[1] // shrink)), -np.inf, np.float32)
    fine = max(n for n in range(1, cell + 1) if cell % n == 0 and (n == 1 or n * max(size) <= PREVIEW_PX))
    thumb = np.zeros((small.shape[1] * fine, small.shape[2] * fine, 4), np.float32)
    least = (min_px if min_px is not None else (patch * zoom) ** 2) / (cell * zoom) ** 2
    regions = [masks.Regions(size[1], threshold, least, max_regions) for _ in texts]
    fill = np.round(255 * np.asarray(model.config.image_mean)).astype(np.uint8)  # what the model takes for nothing
    broken: set = set()
    seen = 0

    # Blocks end in the middle of tiles, so that what a window reaches beyond is, as a rule, in a tile that is looked at anyway.
    rows, columns = ([0, *range(block + tile // 2 * DETAIL, n, block)] for n in size)
    if len(rows) * len(columns) > 2_000_000:
        raise DataError(f"{scene.source.name} spans {scene.width} x {scene.height} pixels: cut it, or give a larger tile_px")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "search.json").unlink(missing_ok=True)
    grid = scenefiles.Grid(scene, cell * zoom)
    down, across = (list(zip(edges, [*edges[1:], n])) for edges, n in zip((rows, columns), size))
    boxes = [(top, left, bottom, right) for top, bottom in down for left, right in across]
    threads = torch.get_num_threads()
    workers = 1 if model.device.type != "cpu" else min(threads, len(boxes), _WORKERS)
    with scenefiles.reader(scene, broken) as read, scenefiles.write_cells(out / "heat.tif", grid, size, texts) as write:
        one_reads = threading.Lock()

        def look(box: tuple) -> _Block | None:
            if not scenefiles.touches(scene, box, cell * zoom):
                return None
            area = plan.area(box)
            with one_reads:
                pixels, valid = read(plan.pixels(area), zoom)
            return _look(plan, box, area, pixels, valid, fill, fine, tower, batch_size)

        with closing(_ahead(look, boxes, workers, max(1, threads // workers))) as looked:
            for box, found in tqdm(looked, total=len(boxes), desc="search", unit=" blocks", disable=not progress):
                if found is None:
                    for one in regions:
                        one.skip()
                else:
                    cosines = _cosines(model, found, windows, vectors)
                    confidence = _confidence(_log_odds(cosines, len(texts), held, odds), found.inside)
                    confidence[:, ~found.known] = np.nan
                    write(box, confidence)
                    for one, heat in zip(regions, confidence):
                        one.add(*box[:2], heat)
                    _shrunk(thumb, small, box, shrink, fine, found.colours, found.known, confidence)
                    seen += int(found.known.sum())
                if box[3] == size[1]:
                    for one in regions:
                        one.end_of_row()
        if not seen:
            unread = f", or cannot be read ({len(broken)} parts)" if broken else ""
            raise DataError(f"{scene.source.name} holds no data: every pixel is nodata{unread}")
    for one in regions:
        one.close()
    listed = _listed(regions, texts, grid)
    scenefiles.write_polygons(out / "polygons.geojson", listed, texts, grid)
    facts = {
        "scene": scene.source.name,
        "attribution": scene.source.attribution,
        "licence": scene.source.licence,
        "coordinates": grid.authority or (scene.source.crs if scene.located else "pixels, y downwards"),
        "polygons_in": grid.polygons_in,
        "size_px": [scene.width, scene.height],
        "cell_px": cell * zoom,
        "tile_px": side * zoom,
        "window": window,
        "overlap": 1 - step / tile,
        "threshold": threshold,
        "meaning": MEANING,
        "background": rivals,
        "cells_with_data": seen,
        "unreadable": len(broken),
        "cut": sum(one.cut for one in regions),
        "texts": [
            {
                "text": text,
                "regions": one.count,
                "kept": len(one.best),
                "highest_confidence": round(one.highest, 4),
                "share_of_area": one.cells / seen,
                "held_against": [rival for rival, use in zip(rivals, uses) if use],
            }
            for text, one, uses in zip(texts, regions, held)
        ],
        "seconds": round(time.time() - started, 2),
        "megapixels": scene.width * scene.height / 1e6,
    }
    files.write_atomic(out / "search.json", json.dumps(facts, indent=1, ensure_ascii=False))
    with np.errstate(invalid="ignore", divide="ignore"):
        image = np.nan_to_num(thumb[..., :3] / thumb[..., 3:]).round().astype(np.uint8)
    for region in listed:
        region["rings"] = [[(ring * (fine / shrink)).round(2).tolist() for ring in polygon] for polygon in region["rings"]]
    return Found(facts, listed, image, np.where(np.isfinite(small), small, np.nan))


# What the model says


def _held_against(texts: list[str], rivals: list[str], vectors: np.ndarray) -> np.ndarray:
    """Say which background texts each text is contrasted with, (M, K) bool: none of the same words or meaning."""
    alike = vectors[: len(texts)] @ vectors[len(texts) :].T >= SYNONYM
    words = [{word.rstrip("s") for word in re.findall(r"\w{4,}", text.lower())} for text in texts + rivals]
    shared = np.array([[bool(words[m] & other) for other in words[len(texts) :]] for m in range(len(texts))])
    return ~(alike | shared) | np.isin(rivals, NONSENSE)


def _log_odds(scores: np.ndarray, count: int, held: np.ndarray, odds: float) -> np.ndarray:
    """Contrast (M + K, h, w) cosines: (M, h, w) log-odds of each text against the background that is held against it."""
    found = np.empty((count, *scores.shape[1:]), np.float32)
    for m, uses in enumerate(held):
        against = (scores[count:][uses] - scores[m]) * np.float32(odds)
        highest = against.max(axis=0)
        found[m] = -highest - np.log(np.exp(against - highest).sum(axis=0))
    return found


def _confidence(log_odds: np.ndarray, inside: tuple[slice, slice]) -> np.ndarray:
    """Blow up (M, h, w) log-odds of patches, NaN where nothing is known, to cells: (M, h, w) probabilities of those `inside`."""
    there = np.isfinite(log_odds[:1])
    some = torch.from_numpy(np.concatenate([np.where(there, log_odds, np.float32(0)), there]).astype(np.float32))
    some = F.interpolate(some[None], scale_factor=DETAIL, mode="bilinear", align_corners=False)[0, :, *inside]
    return (some[:-1] / some[-1].clamp_min(1e-6)).sigmoid().numpy()


def _windows(window: int | Sequence[int]) -> list[int]:
    windows = [window] if isinstance(window, int) else list(window)
    for side in windows:
        localize.check_window(side)
    if not windows or max(windows) > WIDEST:
        raise DataError(
            f"window {window}: expected odd numbers up to {WIDEST}; give a larger tile_px, and a patch shows more of the scene"
        )
    return windows


def _tower(model: Mammut, precision: str) -> Callable:
    """Return the function from tiles (B, S, S, 3) uint8 to what `localize.Patches` calls scores and values, as arrays."""
    if precision not in ("auto", "fp32", "bf16"):
        raise DataError(f"precision '{precision}': expected auto, fp32 or bf16")
    device = model.device
    fast = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)() if device.type == "cpu" else torch.cuda.is_bf16_supported()
    half = precision == "bf16" or (precision == "auto" and fast)
    copied = copy.deepcopy(model).bfloat16() if half else model

    def tower(tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch = torch.from_numpy(imaging.normalise(tiles, model.config.image_mean, model.config.image_std)).to(device)
        with torch.inference_mode():
            found = localize.patches(copied, batch.bfloat16() if half else batch, embeddings=False)
            return found.scores.cpu().numpy(), found.values.cpu().numpy()

    return tower


def _cosines(model: Mammut, found: _Block, windows: Sequence[int], vectors: np.ndarray) -> np.ndarray:
    """Pool the window around each patch of a block, and compare it with texts (K, E): (K, h, w) cosines, NaN where there is no data."""
    texts = torch.from_numpy(np.ascontiguousarray(vectors.T, np.float32)).to(model.device)
    cosines: Tensor | float = 0.0
    for side in windows:
        pooled = np.stack([kernels.smooth_pool(s, v, side) for s, v in zip(found.scores, found.values)])  # (n, h, w, d)
        with torch.inference_mode():
            cosines = cosines + localize.project(model, torch.from_numpy(pooled)[None].to(model.device)) @ texts
    return (cosines[0] / len(windows)).movedim(-1, 0).cpu().numpy()


# Blocks


@dataclass(frozen=True)
class _Plan:
    """How a scene is cut up.

    Sides of a patch and of a cell, in pixels as the model sees them; `zoom` pixels of the scene to one of these; patches to the side of a
    tile; what there is to see, in pixels; for rows and columns, as of `_shares`, where tiles start; how far windows reach, in patches.
    """

    patch: int
    cell: int
    zoom: float
    tile: int
    view: tuple[int, int]
    shares: list[dict[int, np.ndarray]]
    reach: int

    def area(self, box: tuple) -> list[tuple[int, int]]:
        """First and last (exclusive) row and column of the patches that the cells of a box depend on."""
        ends = [-(-n // self.patch) for n in self.view]
        pairs = zip(box[:2], box[2:], ends)
        return [(max(low // DETAIL - self.reach, 0), min(-(-high // DETAIL) + self.reach, end)) for low, high, end in pairs]

    def tiles(self, area: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Where tiles start that show a part of an area."""
        return [
            np.array([start for start in shares if low - self.tile < start < high])
            for shares, (low, high) in zip(self.shares, area)
        ]

    def pixels(self, area: Sequence[tuple[int, int]]) -> tuple[int, int, int, int]:
        """The box of pixels that these tiles show, cut at the end of the scene."""
        rows, columns = self.tiles(area)
        last = (int(s[-1] + self.tile) * self.patch for s in (rows, columns))
        return int(rows[0]) * self.patch, int(columns[0]) * self.patch, *map(min, last, self.view)


@dataclass(frozen=True)
class _Block:
    """What was seen of a block.

    `scores` (n, h, w), NaN where there is no data, and `values` (n, h, w, d), of its patches and those around it; the slices of its own
    cells, once each patch has become `DETAIL` by `DETAIL` of them; the colours of these, and which hold data.
    """

    scores: np.ndarray
    values: np.ndarray
    inside: tuple[slice, slice]
    colours: np.ndarray
    known: np.ndarray


def _ahead(function: Callable, items: Iterable, workers: int, threads: int) -> Iterator[tuple]:
    """Yield each item and its result, in order, while as many threads as `workers`, with torch's `threads` each, do the next ones."""
    usual = torch.get_num_threads()
    waiting: deque = deque()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > workers:
                    yield waiting[0][0], waiting.popleft()[1].result()
            while waiting:
                yield waiting[0][0], waiting.popleft()[1].result()
        finally:
            for _, future in waiting:
                future.cancel()
            torch.set_num_threads(usual)  # also of threads that are still to come


def _look(
    plan: _Plan, box: tuple, area: list, pixels: np.ndarray, valid: np.ndarray, fill, fine: int, tower, batch_size: int
) -> _Block | None:
    """Run the tower on the tiles of a block, and put their patches together; none: there is no data."""
    if not valid.any():
        return None
    if not (whole := valid.all()):
        pixels[~valid] = fill
    starts, tile, patch, cell = plan.tiles(area), plan.tile, plan.patch, plan.cell
    y0, x0 = (int(s[0]) for s in starts)
    shape = [int(s[-1] - s[0]) + tile for s in starts]  # in patches
    beyond = [(0, n * patch - have) for n, have in zip(shape, valid.shape)]
    if any(more for _, more in beyond):
        pixels, valid = np.pad(pixels, (*beyond, (0, 0)), mode="edge"), np.pad(valid, beyond, mode="edge")
    there = np.ones(shape, bool)
    if not whole:
        there = valid.reshape(shape[0], patch, shape[1], patch).any(axis=(1, 3))
    (top, bottom), (left, right) = area
    scores = values = None
    corners = [(y - y0, x - x0) for y in starts[0].tolist() for x in starts[1].tolist()]
    corners = [(y, x) for y, x in corners if there[y : y + tile, x : x + tile].any()]
    for first in range(0, len(corners), batch_size):
        some = corners[first : first + batch_size]
        cut = [pixels[y * patch : (y + tile) * patch, x * patch : (x + tile) * patch] for y, x in some]
        for (y, x), s, v in zip(some, *tower(np.stack(cut))):
            if values is None:
                scores = np.zeros((len(s), bottom - top, right - left), np.float32)
                values = np.zeros((*scores.shape, v.shape[-1]), np.float32)
            # In patches of the scene, cut to the area; then the same places in the arrays and in the tile.
            y, x = y + y0, x + x0
            to_y, to_x = (
                slice(max(y, top) - top, min(y + tile, bottom) - top),
                slice(max(x, left) - left, min(x + tile, right) - left),
            )
            here = np.s_[to_y.start + top - y : to_y.stop + top - y, to_x.start + left - x : to_x.stop + left - x]
            share = (plan.shares[0][y][:, None] * plan.shares[1][x])[here]
            scores[:, to_y, to_x] += share * s[:, *here]
            values[:, to_y, to_x] += share[..., None] * v[:, *here]
    if values is None:
        return None
    scores[:, ~there[top - y0 : bottom - y0, left - x0 : right - x0]] = np.nan  # tiles that were left out are among these
    inside = slice(box[0] - DETAIL * top, box[2] - DETAIL * top), slice(box[1] - DETAIL * left, box[3] - DETAIL * left)
    high, wide = box[2] - box[0], box[3] - box[1]
    at = np.s_[box[0] * cell - y0 * patch :, box[1] * cell - x0 * patch :]
    pixels, valid = pixels[at][: high * cell, : wide * cell], valid[at][: high * cell, : wide * cell]
    known = np.ones((high, wide), bool) if whole else valid.reshape(high, cell, wide, cell).mean(axis=(1, 3)) >= 0.5
    step = cell // fine
    colours = pixels[step // 2 :: step, step // 2 :: step].astype(
        np.float32
    )  # for the preview, `fine` pixels of a cell's side will do
    return _Block(scores, values, inside, colours, known)


def _shares(length: int, tile: int, step: int) -> dict[int, np.ndarray]:
    """Tiles along an axis: where each begins, in patches, and its share in these (tile), which falls towards its ends.

    The last one ends with the scene, unless that is smaller than a tile.
    """
    last = max(length - tile, 0)
    starts = np.unique(np.append(np.arange(0, last, step), last)).tolist()
    fade = np.minimum(np.arange(1, tile + 1), np.arange(tile, 0, -1)).astype(np.float32)
    total = np.zeros(starts[-1] + tile, np.float32)
    for start in starts:
        total[start : start + tile] += fade
    return {start: fade / total[start : start + tile] for start in starts}


def _shrunk(thumb: np.ndarray, small: np.ndarray, box: tuple, shrink: int, fine: int, pixels, valid, confidence) -> None:
    """Put a block into the preview: sums of colours and their count into `thumb`, highest confidence into `small`."""
    edges = [np.unique(np.append(low, np.arange(-(-low // shrink) * shrink, high, shrink))) for low, high in zip(box, box[2:])]
    y, x = edges[0] - box[0], edges[1] - box[1]
    place = np.ix_(edges[0] // shrink, edges[1] // shrink)
    seen = valid.repeat(fine, 0).repeat(fine, 1)[..., None]
    colours = np.concatenate([pixels * seen, seen], axis=2, dtype=np.float32)
    if fine > 1:  # then no cell is shrunk
        thumb[box[0] * fine : box[2] * fine, box[1] * fine : box[3] * fine] = colours
    else:
        thumb[place] += np.add.reduceat(np.add.reduceat(colours, y, axis=0), x, axis=1)
    highest = np.where(valid, confidence, -np.inf)
    highest = np.maximum.reduceat(np.maximum.reduceat(highest, y, axis=1), x, axis=2)
    for one, found in zip(small, highest):
        one[place] = np.maximum(one[place], found)


# Regions


def _listed(regions: Sequence[masks.Regions], texts: Sequence[str], grid: Grid) -> list[dict]:
    """Regions of all texts as in `Found`, best first; `rings` in cells, and `shape`."""
    found = [(m, *item) for m, one in enumerate(regions) for item in one.best]
    found.sort(key=lambda item: (-item[1], item[0], -item[2]))
    if not found:
        return []
    rows, columns, cells = (np.array([item[k] for item in found], np.float64) for k in (4, 5, 6))
    x, y = grid.place(columns + 0.5, rows + 0.5)
    lon, lat, area = grid.measure(columns + 0.5, rows + 0.5)
    listed = []
    for i, (m, confidence, _, peak, _, _, _, whole) in enumerate(found):
        polygons = getattr(whole, "geoms", [whole])
        rings = [[np.asarray(ring.coords) for ring in (part.exterior, *part.interiors)] for part in polygons]
        known = {name: round(float(v[i]), 7) if np.isfinite(v[i]) else None for name, v in (("lon", lon), ("lat", lat))}
        known |= {"area_m2": round(float(area[i] * cells[i]), 2) if np.isfinite(area[i]) else None}
        known |= {"area_px": round(float(cells[i]) * grid.cell_px**2, 2), "x": float(x[i]), "y": float(y[i])}
        listed.append({"text": m, "confidence": round(confidence, 4), "peak": round(peak, 4), **known, "rings": rings})
    return listed


def _one(scenes: Sequence[Scene], where: object) -> Scene:
    if len(scenes) > 1:
        names = ", ".join(scene.source.name for scene in scenes[:6])
        raise DataError(
            f"{where} holds {len(scenes)} scenes ({names}): open them with scenefiles.open_scene and search each one"
        )
    return scenes[0]


def _shapely() -> None:
    try:
        import shapely  # noqa: F401
    except ImportError as error:
        raise layout.missing("shapely") from error
