"""Texts searched in a scene of any size: polygons, and a map of confidence on the scene's own grid.

    scene ── blocks ── windows that overlap ── tower ── cosines with texts and background ── blended ── confidence
      └─ confidence ≥ threshold ── parts of each block ── joined across the borders of blocks ── polygons

`search` holds one block at a time, whatever the size of the scene: what is finished is on disk. Confidence is a contrast: how the
model divides its belief, at one place, between the text and others: texts that are true of much ground, and nonsense. So a text that fits
nowhere, or that the model does not know, gives an empty result and the highest confidence there was, not the least bad places.
"""

from __future__ import annotations

import copy
import heapq
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from rsvlm import images as imaging
from rsvlm import kernels, layout, localize, runs, scenefiles
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
_VIEW_PX = 2048  # side of a block, as the model sees it
_PENDING_POINTS = 3_000_000  # corners of regions that are not closed yet


@dataclass(frozen=True)
class Found:
    """What `search` found in one scene.

    Attributes:
        facts: What is in `search.json`: the request, the counts, and for each text its regions and highest confidence.
        regions: `text` (number), `confidence`, `peak`, `area_m2`, `lon`, `lat` (of the peak), `x`, `y` (likewise, in the coordinates of
            the scene), and `rings` in pixels of `image`, best first. What a scene does not say is None.
        image: (h, w, 3) uint8, the scene made small.
        heat: (M, h, w) float32, highest confidence under each of its pixels; NaN where there is no data.
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
    overlap: float = 0.125,
    min_px: float | None = None,
    bands: Sequence[int] = (),
    temperature: float | None = None,
    precision: str = "auto",
    max_regions: int = 10_000,
    batch_size: int = 256,
    progress: bool = True,
) -> Found:
    """Search texts in one scene, and write `heat.tif`, `polygons.geojson` and, last, `search.json` into `out`.

    The scene is looked at through windows that overlap; their scores fade into each other. `heat.tif` has a band for each text, in the
    scene's own grid made coarser: half a patch to a cell, not a number where there is no data. Polygons follow its cells, in the
    scene's coordinate system, which the file names; where that has no code, in longitude and latitude. Regions that reach over
    borders of blocks are joined.

    Args:
        scene: Its path or URL, or as of `scenefiles.open_scene`.
        texts: M texts; each is judged by itself.
        model: The model, in evaluation mode.
        out: The folder.
        background: What else there may be. With `NONSENSE` they are K texts.
        threshold: Confidence from which on a cell belongs to a region, 0…1.
        window: Side of the window of the Smooth-Attention-Operation, in patches, odd; 1: raw patches; or several.
        tile_px: Side of what the model sees at once, in pixels of the scene: more than its image size makes the scene coarser,
            less enlarges it. None: its image size.
        overlap: Share of a window's side that the next one shows too, 0…0.75; whole cells.
        min_px: Regions with a smaller area, in pixels of the scene, are left out; none: one patch.
        bands: As for `scenefiles.open_scene`.
        temperature: Of the softmax, in cosines; none: that of the model's own loss.
        precision: `fp32`; `bf16`, for the tower alone; or `auto`: bf16 where the device has instructions for it.
        max_regions: Regions kept for each text, those of highest confidence; all are counted.
        batch_size: Windows per forward pass.
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
    score = _scorer(model, vectors, window, precision)
    odds = 1 / temperature if temperature else model.logit_scale.item()

    side, patch = model.config.image_size, model.config.patch_size
    cell = patch // DETAIL  # in pixels as the model sees them; one of these is `zoom` pixels of the scene
    zoom = (tile_px or side) / side
    view = max(1, round(scene.height / zoom)), max(1, round(scene.width / zoom))
    size = -(-view[0] // cell), -(-view[1] // cell)
    tile = side // cell
    starts = [_starts(n, tile, max(1, round(tile * (1 - overlap)))) for n in size]
    block = max(tile, _VIEW_PX // cell)
    if zoom > 1:
        block = max(tile, int(block / zoom) // tile * tile)
    shrink = max(1, -(-max(size) // PREVIEW_PX))
    thumb = np.zeros((-(-size[0] // shrink), -(-size[1] // shrink), 4), np.float32)
    small = np.full((len(texts), *thumb.shape[:2]), -np.inf, np.float32)
    least = (min_px if min_px is not None else (patch * zoom) ** 2) / (cell * zoom) ** 2
    regions = [_Regions(size[1], threshold, least, max_regions) for _ in texts]
    fill = np.round(255 * np.asarray(model.config.image_mean)).astype(np.uint8)  # what the model takes for nothing
    counts: Counter = Counter()

    rows, columns = range(0, size[0], block), range(0, size[1], block)
    if len(rows) * len(columns) > 2_000_000:
        raise DataError(f"{scene.source.name} spans {scene.width} x {scene.height} pixels: cut it, or give a larger tile_px")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "search.json").unlink(missing_ok=True)
    grid = scenefiles.Grid(scene, cell * zoom)
    with scenefiles.reader(scene, counts) as read, scenefiles.write_cells(out / "heat.tif", grid, size, texts) as write:
        for top in tqdm(rows, desc="search", unit=" rows of blocks", disable=not progress):
            for left in columns:
                box = top, left, min(top + block, size[0]), min(left + block, size[1])
                part = None
                if scenefiles.touches(scene, box, cell * zoom):
                    chosen = [s[(s < high) & (s + tile > low)] for s, low, high in zip(starts, box[:2], box[2:])]
                    part = _block(chosen, box, tile, cell, zoom, view, read, fill, score, batch_size)
                if part is None:
                    for one in regions:
                        one.skip()
                    continue
                scores, pixels, valid = part
                confidence = _confidence(scores, len(texts), held, odds)
                confidence[:, ~valid] = np.nan
                write(box, confidence)
                for one, heat in zip(regions, confidence):
                    one.add(top, left, heat)
                _shrunk(thumb, small, box, shrink, pixels, valid, confidence)
                counts["cells"] += int(valid.sum())
            for one in regions:
                one.end_of_row()
        if not counts["cells"]:
            raise DataError(f"{scene.source.name} holds no data: every pixel is nodata{_unread(counts)}")
    for one in regions:
        one.close()
    listed = _listed(regions, texts, grid)
    _write_polygons(out / "polygons.geojson", listed, texts, grid)
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
        "overlap": 1 - max(1, round(tile * (1 - overlap))) / tile,
        "threshold": threshold,
        "meaning": MEANING,
        "background": rivals,
        "cells_with_data": counts["cells"],
        "unreadable": counts["cannot be read"],
        "cut": sum(one.cut for one in regions),
        "texts": [
            {
                "text": text,
                "regions": one.count,
                "kept": len(one.best),
                "highest_confidence": round(one.highest, 4),
                "share_of_area": one.cells / counts["cells"],
                "held_against": [rival for rival, use in zip(rivals, uses) if use],
            }
            for text, one, uses in zip(texts, regions, held)
        ],
        "seconds": round(time.time() - started, 2),
        "megapixels": scene.width * scene.height / 1e6,
    }
    runs.write_atomic(out / "search.json", json.dumps(facts, indent=1, ensure_ascii=False))
    with np.errstate(invalid="ignore", divide="ignore"):
        image = np.nan_to_num(thumb[..., :3] / thumb[..., 3:]).round().astype(np.uint8)
    for region in listed:
        region["rings"] = [[(ring / shrink).round(2).tolist() for ring in polygon] for polygon in region["rings"]]
    return Found(facts, listed, image, np.where(np.isfinite(small), small, np.nan))


# What the model says


def _held_against(texts: list[str], rivals: list[str], vectors: np.ndarray) -> np.ndarray:
    """Say which background texts each text is contrasted with, (M, K) bool: none of the same words or meaning."""
    alike = vectors[: len(texts)] @ vectors[len(texts) :].T >= SYNONYM
    words = [{word.rstrip("s") for word in re.findall(r"\w{4,}", text.lower())} for text in texts + rivals]
    shared = np.array([[bool(words[m] & other) for other in words[len(texts) :]] for m in range(len(texts))])
    return ~(alike | shared) | np.isin(rivals, NONSENSE)


def _confidence(scores: np.ndarray, count: int, held: np.ndarray, odds: float) -> np.ndarray:
    """Contrast (M + K, h, w) cosines: (M, h, w) probabilities of each text against the background that is held against it."""
    found = np.empty((count, *scores.shape[1:]), np.float32)
    for m, uses in enumerate(held):
        against = (scores[count:][uses] - scores[m]) * odds
        found[m] = 1 / (1 + np.exp(np.minimum(against, 80)).sum(axis=0))
    return found


def _scorer(model: Mammut, vectors: np.ndarray, window: int | Sequence[int], precision: str) -> Callable:
    """Return the function from windows (B, S, S, 3) uint8 to cosines (B, M + K, cells, cells) float32."""
    windows = [window] if isinstance(window, int) else list(window)
    for side in windows:
        localize.check_window(side)
    if precision not in ("auto", "fp32", "bf16") or not windows:
        raise DataError(f"precision '{precision}', window {window}: expected auto, fp32 or bf16, and an odd number")
    device = model.device
    fast = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)() if device.type == "cpu" else torch.cuda.is_bf16_supported()
    half = precision == "bf16" or (precision == "auto" and fast)
    tower = copy.deepcopy(model).bfloat16() if half else model
    targets = torch.from_numpy(np.ascontiguousarray(vectors.T, np.float32)).to(device)

    def score(tiles: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(imaging.normalise(tiles, model.config.image_mean, model.config.image_std)).to(device)
        with torch.inference_mode():
            found = localize.patches(tower, batch.bfloat16() if half else batch)
            total = 0
            for side in windows:
                total = total + (found.embeddings if side == 1 else localize.smooth(model, found, side)) @ targets
            maps = (total / len(windows)).movedim(-1, 1)
            return F.interpolate(maps, scale_factor=DETAIL, mode="bilinear", align_corners=False).cpu().numpy()

    return score


def _block(
    starts: list[np.ndarray], box: tuple, tile: int, cell: int, zoom: float, view: tuple, read, fill, score, batch_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Score the cells of a block: (M + K, h, w) cosines, their colours (h, w, 3), and which hold data; none: none does."""
    y0, x0 = (int(s[0]) for s in starts)
    y1, x1 = (int(s[-1]) + tile for s in starts)
    wanted = y0 * cell, x0 * cell, min(y1 * cell, view[0]), min(x1 * cell, view[1])
    pixels, valid = read(wanted, zoom)
    beyond = (0, y1 * cell - wanted[2]), (0, x1 * cell - wanted[3])
    if not valid.any():
        return None
    if not valid.all():
        pixels[~valid] = fill
    pixels, valid = np.pad(pixels, (*beyond, (0, 0)), mode="edge"), np.pad(valid, beyond, mode="edge")
    shape = y1 - y0, cell, x1 - x0, cell
    whole = valid.all()
    known = np.ones(shape[::2], bool) if whole else valid.reshape(shape).mean(axis=(1, 3)) >= 0.5
    total, weight = None, np.zeros(known.shape, np.float32)
    fade = np.minimum(np.arange(1, tile + 1), np.arange(tile, 0, -1)).astype(np.float32)
    fade = fade[:, None] * fade
    corners = [(y - y0, x - x0) for y in starts[0].tolist() for x in starts[1].tolist()]
    corners = [(y, x) for y, x in corners if known[y : y + tile, x : x + tile].any()]
    for first in range(0, len(corners), batch_size):
        some = corners[first : first + batch_size]
        side = tile * cell
        cut = np.stack([pixels[y * cell : y * cell + side, x * cell : x * cell + side] for y, x in some])
        for (y, x), found in zip(some, score(cut)):
            total = np.zeros((len(found), *known.shape), np.float32) if total is None else total
            total[:, y : y + tile, x : x + tile] += fade * found
            weight[y : y + tile, x : x + tile] += fade
    if total is None:
        return None
    inside = np.s_[box[0] - y0 : box[2] - y0, box[1] - x0 : box[3] - x0]
    colours = pixels[cell // 2 :: cell, cell // 2 :: cell].astype(np.float32)  # for the preview, the middles of cells will do
    total /= np.maximum(weight, 1e-9)
    return total[(slice(None), *inside)], colours[inside], known[inside]


def _starts(length: int, tile: int, step: int) -> np.ndarray:
    """Cells at which windows begin along an axis; the last one ends with the scene, unless that is smaller than a window."""
    last = max(length - tile, 0)
    return np.unique(np.append(np.arange(0, last, step), last))


def _shrunk(thumb: np.ndarray, small: np.ndarray, box: tuple, shrink: int, pixels, valid, confidence) -> None:
    """Put a block into the preview: mean colours and their count into `thumb`, highest confidence into `small`."""
    edges = [np.unique(np.append(low, np.arange(-(-low // shrink) * shrink, high, shrink))) for low, high in zip(box, box[2:])]
    y, x = edges[0] - box[0], edges[1] - box[1]
    place = np.ix_(edges[0] // shrink, edges[1] // shrink)
    colours = np.dstack([pixels * valid[..., None], valid.astype(np.float32)])
    thumb[place] += np.add.reduceat(np.add.reduceat(colours, y, axis=0), x, axis=1)
    highest = np.where(valid, confidence, -np.inf)
    highest = np.maximum.reduceat(np.maximum.reduceat(highest, y, axis=1), x, axis=2)
    for one, found in zip(small, highest):
        one[place] = np.maximum(one[place], found)


# Regions


class _Regions:
    """Regions of one text, put together from blocks in reading order; those that no further block can reach are closed."""

    def __init__(self, columns: int, threshold: float, least: float, most: int):
        self.threshold, self.least, self.most = threshold, least, most
        self.count = self.cells = self.cut = 0
        self.highest = 0.0
        self.best: list[tuple] = []  # a heap of (confidence, order, peak, row, column, cells, shape)
        self._parent: dict[int, int] = {}
        self._open: dict[int, list] = {}  # by root: cells, sum, peak, its row, its column, shapes
        self._next, self._points, self._order = 1, 0, 0
        self._above, self._below = np.zeros(columns, np.int64), np.zeros(columns, np.int64)
        self._left: np.ndarray | None = None

    def skip(self) -> None:
        """Pass over a block without data."""
        self._left = None

    def add(self, top: int, left: int, heat: np.ndarray) -> None:
        """Take the next block: (h, w) confidence, NaN where there is no data, at this row and column of cells."""
        from affine import Affine
        from rasterio.features import shapes
        from shapely.geometry import shape

        with np.errstate(invalid="ignore"):
            mask = heat >= self.threshold
        self.highest = max(self.highest, float(np.nanmax(heat, initial=0.0)))
        self.cells += int(mask.sum())
        labels, count = kernels.label_components(mask, False)
        here, values = labels[mask], heat[mask].astype(np.float64)
        sizes, sums = np.bincount(here, minlength=count + 1), np.bincount(here, values, minlength=count + 1)
        edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
        keep = sizes >= self.least
        keep[edge] = True
        keep[0] = False
        order = np.lexsort((-values, here))  # the highest value of each part comes first
        first = order[np.searchsorted(here[order], np.arange(1, count + 1))] if count else order
        rows, columns = np.nonzero(mask)
        offset = self._next - 1
        for label in np.flatnonzero(keep).tolist():
            at = first[label - 1]
            facts = [
                int(sizes[label]),
                float(sums[label]),
                float(values[at]),
                top + int(rows[at]),
                left + int(columns[at]),
                [],
            ]
            self._parent[offset + label], self._open[offset + label] = offset + label, facts
        shown = keep[labels]
        moved = Affine.translation(left, top)
        for geometry, label in shapes(labels, mask=shown, connectivity=4, transform=moved) if shown.any() else ():
            self._open[offset + int(label)][5].append(shape(geometry))
            self._points += sum(map(len, geometry["coordinates"]))
        self._next += count
        ids = np.where(shown, labels.astype(np.int64) + offset, 0)
        if self._left is not None:
            self._join(self._left, ids[:, 0])
        self._join(self._above[left : left + heat.shape[1]], ids[0])
        self._left = ids[:, -1]
        self._below[left : left + heat.shape[1]] = ids[-1]

    def end_of_row(self) -> None:
        """Close what ends above the last row of cells; and all, cut there, where too much would be held."""
        reached = {self._root(part) for part in np.unique(self._below[self._below > 0]).tolist()}
        if self._points > _PENDING_POINTS:
            self.cut += len(reached)
            reached, self._below[:] = set(), 0
        for root in [root for root in self._open if root not in reached]:
            self._finish(root)
        alive = np.unique(self._below[self._below > 0])
        roots = [self._root(part) for part in alive.tolist()]
        self._below[self._below > 0] = np.array(roots, np.int64)[np.searchsorted(alive, self._below[self._below > 0])]
        self._parent = {root: root for root in self._open}
        self._above, self._below = self._below, np.zeros_like(self._below)
        self._left = None

    def close(self) -> None:
        """Close all that is open."""
        for root in list(self._open):
            self._finish(root)

    def _join(self, one: np.ndarray, other: np.ndarray) -> None:
        both = (one > 0) & (other > 0)
        for a, b in {(self._root(a), self._root(b)) for a, b in zip(one[both].tolist(), other[both].tolist())}:
            a, b = self._root(a), self._root(b)
            if a == b:
                continue
            if len(self._open[a][5]) < len(self._open[b][5]):
                a, b = b, a
            self._parent[b] = a
            kept, gone = self._open[a], self._open.pop(b)
            kept[:2] = kept[0] + gone[0], kept[1] + gone[1]
            if gone[2] > kept[2]:
                kept[2:5] = gone[2:5]
            kept[5] += gone[5]

    def _root(self, part: int) -> int:
        while self._parent[part] != part:
            self._parent[part] = part = self._parent[self._parent[part]]
        return part

    def _finish(self, root: int) -> None:
        from shapely import union_all

        cells, total, peak, row, column, parts = self._open.pop(root)
        self._points -= sum(len(ring.coords) for part in parts for ring in (part.exterior, *part.interiors))
        if cells < self.least:
            return
        self.count += 1
        self._order += 1
        # Equal confidence: the earlier one stays.
        item = total / cells, -self._order, peak, row, column, cells
        if len(self.best) == self.most and item < self.best[0][:6]:
            return
        whole = parts[0] if len(parts) == 1 else union_all(parts).simplify(0)
        (heapq.heappush if len(self.best) < self.most else heapq.heappushpop)(self.best, (*item, whole))


def _listed(regions: Sequence[_Regions], texts: Sequence[str], grid: Grid) -> list[dict]:
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
        known = (
            {"lon": round(float(lon[i]), 7), "lat": round(float(lat[i]), 7)}
            if np.isfinite(lon[i])
            else {"lon": None, "lat": None}
        )
        known |= {"area_m2": round(float(area[i] * cells[i]), 2) if np.isfinite(area[i]) else None}
        known |= {"area_px": round(float(cells[i]) * grid.cell_px**2, 2), "x": float(x[i]), "y": float(y[i])}
        listed.append({"text": m, "confidence": round(confidence, 4), "peak": round(peak, 4), **known, "rings": rings})
    return listed


def _write_polygons(path: Path, listed: Sequence[dict], texts: Sequence[str], grid: Grid) -> None:
    features = []
    for region in listed:
        coordinates = [[grid.outline(ring) for ring in polygon] for polygon in region["rings"]]
        single = len(coordinates) == 1
        geometry = {"type": "Polygon" if single else "MultiPolygon", "coordinates": coordinates[0] if single else coordinates}
        told = {name: region[name] for name in ("confidence", "peak", "area_m2", "area_px", "lon", "lat")}
        features.append({"type": "Feature", "properties": {"text": texts[region["text"]], **told}, "geometry": geometry})
    content = {"type": "FeatureCollection"} | ({"crs": grid.member} if grid.member else {}) | {"features": features}
    runs.write_atomic(path, json.dumps(content, ensure_ascii=False, separators=(",", ":")))


def _one(scenes: Sequence[Scene], where: object) -> Scene:
    if len(scenes) > 1:
        names = ", ".join(scene.source.name for scene in scenes[:6])
        raise DataError(
            f"{where} holds {len(scenes)} scenes ({names}): open them with scenefiles.open_scene and search each one"
        )
    return scenes[0]


def _unread(counts: Counter) -> str:
    return f", or cannot be read ({counts['cannot be read']} parts)" if counts["cannot be read"] else ""


def _shapely() -> None:
    try:
        import shapely  # noqa: F401
    except ImportError as error:
        raise layout.missing("shapely") from error
