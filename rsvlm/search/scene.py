"""Texts searched in a scene of any size: polygons, and a map of confidence on the scene's own grid.

    scene ── blocks ── tiles ── tower ── patches, put together ── Smooth-Attention-Operation ── cosines with texts ── confidence
      └─ confidence ≥ threshold ── parts of each block ── joined across the borders of blocks ── polygons

`search` holds a few blocks at a time, whatever the size of the scene: what is finished is on disk. Threads read blocks and run the tower
on them; the rest is done behind them, in reading order. Confidence is a contrast: how the model divides its belief, at one place, between
the text and others: texts that are true of much ground, and nonsense. So a text that fits nowhere, or that the model does not know, gives
an empty result and the highest confidence there was, not the least bad places.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from rsvlm.errors import DataError, ModelError, need
from rsvlm.localization import heat, shapes, smoothing
from rsvlm.model.embed import encoder_of
from rsvlm.model.encoder import Encoder
from rsvlm.model.mammut import Mammut
from rsvlm.records import files
from rsvlm.search import scene_blocks, scene_files
from rsvlm.search.scene_blocks import DETAIL, Block, Plan, Seen
from rsvlm.search.scene_files import Grid, Scene

BACKGROUND = (
    "a satellite image", "an aerial photograph", "something else", "bare ground", "grass and fields", "a dense forest", "open water",
    "many buildings", "a road", "clouds",
)  # fmt: skip
"""What else there may be. One that shares a word with the text, or means the same to the model, is not held against it."""

NONSENSE = ("lorem ipsum dolor sit amet", "qwerty asdf", "xq zv kj", "nothing at all", "0123456789", "foo bar baz", "???")
"""Held against every text: what means no more to the model than these finds nothing."""

THRESHOLD = 0.5
MEANING = (
    "confidence is the share of belief that the model gives to the text, the rest being shared by the background texts (softmax of "
    "cosines over the temperature); from 0.5 on it prefers the text to all of the background together"
)
SYNONYM = 0.9  # cosine of a background text with a text, from which on they mean the same to the model
WIDEST = 127  # patches of the largest window


@dataclass(frozen=True)
class SearchOptions:
    """How a scene is searched.

    Attributes:
        background: Texts of what else there may be. With `NONSENSE` they are K texts.
        threshold: Confidence from which on a cell belongs to a region, 0…1.
        window: Side of the window of the Smooth-Attention-Operation, in patches, odd, at most `WIDEST`; 1: raw patches; or several,
            whose cosines are averaged. It is cut at the edges of the scene, so it may be larger than that.
        tile_px: Side of what the model sees at once, in pixels of the scene: more than its image size makes the scene coarser,
            less enlarges it. If None, its image size.
        overlap: Share of a tile's side that the next one shows too, 0…0.75; whole patches, which fade into each other.
        min_px: Area, in pixels of the scene, below which regions are left out. If None, that of one patch.
        bands: Bands, as for `scene_files.open_scene`.
        limits: Values that become black and white, likewise.
        nodata: Value that holds no data, likewise.
        temperature: Softmax temperature, in cosines. If None, that of the model's own loss.
        precision: `fp32`; `bf16`, for the tower alone; or `auto`: bf16 where the device has instructions for it.
        max_regions: Regions kept for each text, those of highest confidence; all are counted.
        batch_size: Tiles per forward pass; what passes between the layers should fit into the processor's cache.

    Raises:
        DataError: A value makes no sense.
    """

    background: Sequence[str] = BACKGROUND
    threshold: float = THRESHOLD
    window: int | Sequence[int] = 3
    tile_px: int | None = None
    overlap: float = 0.0
    min_px: float | None = None
    bands: Sequence[int] = ()
    limits: Sequence[float] = ()
    nodata: str | float = "auto"
    temperature: float | None = None
    precision: str = "auto"
    max_regions: int = 10_000
    batch_size: int = 64

    def __post_init__(self):
        """Refuse values that make no sense."""
        least_px = self.min_px or 0
        sensible = 0 < self.threshold < 1 and 0 <= self.overlap <= 0.75 and least_px >= 0 and self.max_regions >= 1
        if not sensible or (self.tile_px or 16) < 16:
            raise DataError(
                f"threshold {self.threshold}, overlap {self.overlap}, tile_px {self.tile_px}, min_px {self.min_px}, max_regions "
                f"{self.max_regions}: expected 0…1, 0…0.75, 16 or more, 0 or more, 1 or more"
            )
        for side in self.windows:
            smoothing.check_window(side)
        if not self.windows or max(self.windows) > WIDEST:
            raise DataError(
                f"window {self.window}: expected odd numbers up to {WIDEST}; give a larger tile_px, and a patch shows more of the scene"
            )
        if self.precision not in ("auto", "fp32", "bf16"):
            raise DataError(f"precision '{self.precision}': expected auto, fp32 or bf16")

    @property
    def windows(self) -> list[int]:
        """Sides of all windows, in patches."""
        return [self.window] if isinstance(self.window, int) else list(self.window)


@dataclass(frozen=True)
class SearchResult:
    """What `search` found in one scene.

    Attributes:
        facts: Content of `search.json`: the request, the counts, and for each text its regions and highest confidence.
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
    model: Mammut | Encoder,
    out: Path,
    options: SearchOptions = SearchOptions(),
    *,
    progress: bool = True,
) -> SearchResult:
    """Search texts in one scene, and write `heat.tif`, `polygons.geojson` and, last, `search.json` into `out`.

    The tower sees the scene tile by tile; windows of the Smooth-Attention-Operation reach over the borders of tiles, and leave out what
    has no data. `heat.tif` has a band for each text, in the scene's own grid made coarser: half a patch to a cell, not a number where
    there is no data; it may begin up to a patch before the scene, since tiles and patches lie where they lie in any other part of the same
    imagery. Polygons follow its cells, in the scene's coordinate system, which the file names; where that has no code, in
    longitude and latitude. Regions that reach over borders of blocks are joined.

    Args:
        scene: Path or URL of the scene, or the scene as of `scene_files.open_scene`.
        texts: M texts; each is judged by itself.
        model: Model in evaluation mode, of any family that shows patches and reads texts.
        out: Folder of the three files.
        options: How the scene is searched.
        progress: Show a bar.

    Raises:
        DataError: The scene cannot be read or holds no data, it is several, or the model does not fit.
        ModelError: The model shows no patches, or reads no texts.
        MissingExtraError: rasterio, pyproj or shapely is not installed.
    """
    started = time.time()
    need("shapely", "data")
    # What is asked, and how the scene is cut up: a bad request stops here.
    model = encoder_of(model)
    if "patches" not in model.can:
        raise ModelError(
            f"{model.name} shows no patches, which a search in a scene needs: take another model, or `search index`"
        )
    look = options.bands, options.limits, options.nodata
    scenes = [scene] if isinstance(scene, Scene) else scene_files.open_scene(scene, *look)
    if len(scenes) > 1:
        names = ", ".join(one.source.name for one in scenes[:6])
        raise DataError(
            f"{scene} holds {len(scenes)} scenes ({names}): open them with scene_files.open_scene and search each one"
        )
    whole = scenes[0]
    scene = scene_blocks.align(whole, model, options.tile_px)
    question = _ask(texts, model, options)
    plan = scene_blocks.cut(scene, model, options.tile_px, options.overlap, max(options.windows) // 2 + 1)
    tower = _tower(model, options.precision)
    grid = Grid(scene, plan.cell * plan.zoom)
    results = _Results(plan, len(question.texts), options)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "search.json").unlink(missing_ok=True)

    # Block by block: patches, cosines of the windows around them, confidence of cells, regions.
    with (
        scene_files.reader(scene, results.broken) as read,
        scene_files.write_cells(out / "heat.tif", grid, plan.size, question.texts) as write,
        closing(scene_blocks.blocks(scene, plan, read, tower, model.device, options.batch_size)) as blocks,
    ):
        for box, block in tqdm(blocks, total=len(plan.boxes), desc="search", unit=" blocks", disable=not progress):
            if block is None:
                results.add(box, None)
                continue
            cosines = _cosines(model, block, options.windows, question.vectors)
            confidence = _confidence(_log_odds(cosines, question.held, question.odds), block.inside)
            confidence[:, ~block.known] = np.nan
            write(box, confidence)
            results.add(box, block, confidence)
        if not results.cells:
            unread = f", or cannot be read ({len(results.broken)} parts)" if results.broken else ""
            raise DataError(f"{scene.source.name} holds no data: every pixel is nodata{unread}")

    # What is finished is written down.
    for regions in results.regions:
        regions.close()
    listed = scene_files.list_regions([regions.best for regions in results.regions], grid)
    scene_files.write_polygons(out / "polygons.geojson", listed, question.texts, grid, model.name)
    facts = _facts(grid, question, plan, results, options) | {
        "seconds": round(time.time() - started, 2),
        "size_px": [whole.width, whole.height],
        "megapixels": whole.width * whole.height / 1e6,
    }
    files.write_atomic(out / "search.json", json.dumps(facts, indent=1, ensure_ascii=False))
    scale = plan.fine / plan.shrink
    for region in listed:
        region["rings"] = [[(ring * scale).round(2).tolist() for ring in polygon] for polygon in region["rings"]]
    return SearchResult(facts, listed, results.preview.image(), results.preview.heat())


def _facts(grid: Grid, question: _Question, plan: Plan, results: _Results, options: SearchOptions) -> dict:
    """What `search.json` says of the request and of the counts."""
    scene = grid.scene
    texts = [
        {
            "text": text, "regions": regions.count, "kept": len(regions.best), "highest_confidence": round(regions.highest, 4),
            "share_of_area": regions.cells / results.cells,
            "held_against": [rival for rival, use in zip(question.rivals, uses) if use],
        }
        for text, regions, uses in zip(question.texts, results.regions, question.held)
    ]  # fmt: skip
    return {
        "scene": scene.source.name, "attribution": scene.source.attribution, "licence": scene.source.licence,
        "coordinates": grid.authority or (scene.source.crs if scene.located else "pixels, y downwards"),
        **scene.source.meaning, "polygons_in": grid.polygons_in,
        "cell_px": plan.cell * plan.zoom, "tile_px": plan.tile * plan.patch * plan.zoom,
        "window": options.window, "overlap": 1 - plan.step / plan.tile, "threshold": options.threshold,
        "meaning": MEANING, "background": question.rivals, "cells_with_data": results.cells,
        "unreadable": len(results.broken), "cut": sum(regions.cut for regions in results.regions),
        "texts": texts,
    }  # fmt: skip


@dataclass(frozen=True)
class _Question:
    """M texts, the K rivals they are contrasted with, vectors (M + K, E) of all, and which rivals are held against each text, (M, K).

    `odds` is the factor from cosines to log-odds.
    """

    texts: list[str]
    rivals: list[str]
    vectors: np.ndarray
    held: np.ndarray
    odds: float


def _ask(texts: Sequence[str], model: Encoder, options: SearchOptions) -> _Question:
    texts = list(dict.fromkeys(texts))
    rivals = [text for text in dict.fromkeys((*NONSENSE, *options.background)) if text not in texts]
    vectors = np.concatenate([heat.text_vectors(model, texts), heat.text_vectors(model, rivals)])
    if not options.temperature and model.logit_scale is None:
        raise DataError(f"{model.name} does not say how sharp its loss was: give a temperature, in cosines")
    odds = 1 / options.temperature if options.temperature else model.logit_scale
    return _Question(texts, rivals, vectors, _held_against(texts, rivals, vectors), odds)


def _held_against(texts: list[str], rivals: list[str], vectors: np.ndarray) -> np.ndarray:
    """Say which background texts each text is contrasted with, (M, K) bool: none of the same words or meaning."""
    alike = vectors[: len(texts)] @ vectors[len(texts) :].T >= SYNONYM
    words = [{word.rstrip("s") for word in re.findall(r"\w{4,}", text.lower())} for text in texts + rivals]
    shared = np.array([[bool(words[m] & other) for other in words[len(texts) :]] for m in range(len(texts))])
    return ~(alike | shared) | np.isin(rivals, NONSENSE)


def _log_odds(cosines: np.ndarray, held: np.ndarray, odds: float) -> np.ndarray:
    """Contrast (M + K, h, w) cosines: (M, h, w) log-odds of each text against the background that is held against it, (M, K) bool."""
    count = len(held)
    log_odds = np.empty((count, *cosines.shape[1:]), np.float32)
    for m, uses in enumerate(held):
        against = (cosines[count:][uses] - cosines[m]) * np.float32(odds)
        highest = against.max(axis=0)
        log_odds[m] = -highest - np.log(np.exp(against - highest).sum(axis=0))
    return log_odds


def _confidence(log_odds: np.ndarray, inside: tuple[slice, slice]) -> np.ndarray:
    """Blow up (M, h, w) log-odds of patches, NaN where nothing is known, to cells: (M, h, w) probabilities of those `inside`."""
    known = np.isfinite(log_odds[:1])
    sums = torch.from_numpy(np.concatenate([np.where(known, log_odds, np.float32(0)), known]).astype(np.float32))
    sums = F.interpolate(sums[None], scale_factor=DETAIL, mode="bilinear", align_corners=False)[0, :, *inside]
    return (sums[:-1] / sums[-1].clamp_min(1e-6)).sigmoid().numpy()


def _tower(model: Encoder, precision: str) -> Callable:
    """Return the function from tiles (B, S, S, 3) uint8 to what `scene_blocks.Seen` holds of each."""
    device = model.device
    fast = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)() if device.type == "cpu" else torch.cuda.is_bf16_supported()
    looking = model.in_bfloat16() if precision == "bf16" or (precision == "auto" and fast) else model

    def tower(tiles: np.ndarray) -> Seen:
        with torch.inference_mode():
            patches = looking.patches(looking.normalised(tiles))
            common = (
                patches.scores[:, :0, 0, 0] if patches.common is None else torch.cat([s.flatten(1) for s in patches.common], 1)
            )
            return Seen(*(part.cpu().numpy() for part in (patches.scores, patches.values, common, patches.rest)))

    return tower


def _cosines(model: Encoder, block: Block, windows: Sequence[int], vectors: np.ndarray) -> np.ndarray:
    """Pool the window around each patch of a block, and compare it with texts (K, E): (K, h, w) cosines, NaN where there is no data."""
    texts = torch.from_numpy(np.ascontiguousarray(vectors.T, np.float32)).to(model.device)
    heads, width = len(block.scores), block.values.shape[-1]
    rest = torch.from_numpy(block.rest)[None].to(model.device)
    cosines: Tensor | float = 0.0
    for side in windows:
        common: list = [None] * heads
        if block.common.shape[-1]:
            own = block.common[..., heads:].reshape(*block.common.shape[:2], heads, width)
            common = [(block.common[..., i], own[..., i, :]) for i in range(heads)]
        pooled = np.stack([smoothing.smooth_pool(*part, side, c) for *part, c in zip(block.scores, block.values, common)])
        with torch.inference_mode():
            cosines = cosines + heat.project(model, torch.from_numpy(pooled)[None].to(model.device), rest) @ texts
    return (cosines[0] / len(windows)).movedim(-1, 0).cpu().numpy()


class _Results:
    """What is known so far of all blocks: regions of each text, the preview, cells with data, and parts that cannot be read."""

    def __init__(self, plan: Plan, count: int, options: SearchOptions):
        self.columns = plan.size[1]
        least_px = options.min_px if options.min_px is not None else (plan.patch * plan.zoom) ** 2
        arguments = self.columns, options.threshold, least_px / (plan.cell * plan.zoom) ** 2, options.max_regions
        self.regions = [shapes.Regions(*arguments) for _ in range(count)]
        self.preview = scene_files.Preview(plan.size, count, plan.shrink, plan.fine)
        self.cells, self.broken = 0, set()

    def add(self, box: tuple, block: Block | None, confidence: np.ndarray | None = None) -> None:
        """Take the next block in reading order, None where there is no data, and its (M, h, w) confidence, NaN where there is none."""
        for number, regions in enumerate(self.regions):
            if block is None:
                regions.skip()
            else:
                regions.add(*box[:2], confidence[number])
            if box[3] == self.columns:
                regions.end_of_row()
        if block is not None:
            self.preview.add(box, block.colours, block.known, confidence)
            self.cells += int(block.known.sum())
