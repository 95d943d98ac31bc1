"""A scene of any size in blocks: which tiles the model sees, and what it says of the patches of each block.

`align` and `cut` plan, `blocks` reads block by block and runs the tower on the tiles that show it, a few blocks at a time, and `look` puts the
patches of a block together.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from rsvlm.errors import DataError
from rsvlm.model.mammut import Mammut
from rsvlm.search import scene_files
from rsvlm.search.scene_files import Scene

DETAIL = 2  # cells of the map of confidence to a side of a patch
PREVIEW_PX = 1024
VIEW_PX = 2048  # side of a block, as the model sees it; tiles at its borders are looked at twice
WORKERS = 4  # blocks looked at at once: each takes memory


@dataclass(frozen=True)
class Plan:
    """How a scene is cut up. Lengths are in pixels as the model sees them, where no other unit is named.

    Attributes:
        patch: Side of a patch.
        cell: Side of a cell.
        zoom: Pixels of the scene, a side, to one of these.
        tile: Side of a tile, in patches.
        step: Step from one tile to the next, in patches.
        reach: How far windows reach, in patches.
        view: Rows and columns there are to see.
        size: Rows and columns of cells.
        shares: Tiles along rows and columns, as of `tile_shares`.
        boxes: Blocks in reading order: top, left, bottom, right, in cells.
        shrink: Cells, a side, to one of the preview's pixels of heat.
        fine: Colours of the preview to one of these pixels, a side; above 1 only where nothing is shrunk.
        fill: Colour that the model takes for nothing, which stands where there is no data.
    """

    patch: int
    cell: int
    zoom: float
    tile: int
    step: int
    reach: int
    view: tuple[int, int]
    size: tuple[int, int]
    shares: list[dict[int, np.ndarray]]
    boxes: list[tuple[int, int, int, int]]
    shrink: int
    fine: int
    fill: np.ndarray

    def area(self, box: tuple) -> list[tuple[int, int]]:
        """First and last (exclusive) row and column of the patches that the cells of a box depend on."""
        ends = [-(-n // self.patch) for n in self.view]
        pairs = zip(box[:2], box[2:], ends)
        return [(max(low // DETAIL - self.reach, 0), min(-(-high // DETAIL) + self.reach, end)) for low, high, end in pairs]

    def tiles(self, area: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Where tiles start that show a part of an area."""
        axes = zip(self.shares, area)
        return [np.array([start for start in shares if low - self.tile < start < high]) for shares, (low, high) in axes]

    def pixels(self, area: Sequence[tuple[int, int]]) -> tuple[int, int, int, int]:
        """The box of pixels that these tiles show, cut at the end of the scene."""
        rows, columns = self.tiles(area)
        last = (int(s[-1] + self.tile) * self.patch for s in (rows, columns))
        return int(rows[0]) * self.patch, int(columns[0]) * self.patch, *map(min, last, self.view)


def align(scene: Scene, model: Mammut, tile_px: int | None) -> Scene:
    """Let a scene begin up to a patch earlier, so that patches lie on the same ground in every part of the same imagery.

    Where pixels as the model sees them are no whole number of the scene's, patches begin with the scene.
    """
    period = _patch_px(model, tile_px)
    above, before = (place % period if period else 0 for place in scene_files.origin(scene))
    begins = {"top": scene.top - above, "left": scene.left - before}
    return replace(scene, **begins, width=scene.width + before, height=scene.height + above)


def _patch_px(model: Mammut, tile_px: int | None) -> int:
    """Return the side of a patch in pixels of the scene, or 0 where pixels as the model sees them are no whole number of those."""
    zoom = (tile_px or model.config.image_size) / model.config.image_size
    return int(zoom) * model.config.patch_size if zoom.is_integer() else 0


def cut(scene: Scene, model: Mammut, tile_px: int | None, overlap: float, reach: int) -> Plan:
    """Plan how a scene is cut up for a model.

    Args:
        scene: Scene that is cut up, as from `align`.
        model: Model that looks at it.
        tile_px: Side of what the model sees at once, in pixels of the scene. If None, its image size.
        overlap: Share of a tile's side that the next one shows too.
        reach: How far windows reach, in patches.

    Raises:
        DataError: Patches of the model cannot be cut into cells, or the scene is too large for tiles of this size.
    """
    side, patch = model.config.image_size, model.config.patch_size
    if patch % DETAIL:
        raise DataError(f"patches of {patch} pixels cannot be cut into cells: search with another model")
    cell, zoom, tile = patch // DETAIL, (tile_px or side) / side, side // patch
    view = max(1, round(scene.height / zoom)), max(1, round(scene.width / zoom))
    size = -(-view[0] // cell), -(-view[1] // cell)
    step = max(1, round(tile * (1 - overlap)))

    # Blocks end in the middle of tiles, so that what a window reaches beyond is, as a rule, in a tile that is looked at anyway.
    block = max(tile, int(VIEW_PX / max(zoom, 1) / patch) // tile * tile) * DETAIL
    period = _patch_px(model, tile_px)
    first = [-(place // period) % step if period else 0 for place in scene_files.origin(scene)]
    rows, columns = ([0, *range(block + (tile // 2 + f) * DETAIL, n, block), n] for n, f in zip(size, first))
    if (len(rows) - 1) * (len(columns) - 1) > 2_000_000:
        raise DataError(f"{scene.source.name} spans {scene.width} x {scene.height} pixels: cut it, or give a larger tile_px")
    boxes = [(top, left, bottom, right) for top, bottom in pairwise(rows) for left, right in pairwise(columns)]

    shares = [tile_shares(-(-n // patch), tile, step, f) for n, f in zip(view, first)]
    shrink = max(1, -(-max(size) // PREVIEW_PX))
    fine = max(n for n in range(1, cell + 1) if cell % n == 0 and (n == 1 or n * max(size) <= PREVIEW_PX))
    fill = np.round(255 * np.asarray(model.config.image_mean)).astype(np.uint8)
    return Plan(patch, cell, zoom, tile, step, reach, view, size, shares, boxes, shrink, fine, fill)


@dataclass(frozen=True)
class Block:
    """What was seen of a block.

    `scores` (n, h, w), NaN where there is no data, and `values` (n, h, w, d), of its patches and those around it; the slices of its own
    cells, once each patch has become `DETAIL` by `DETAIL` of them; the colours of these, and which hold data.
    """

    scores: np.ndarray
    values: np.ndarray
    inside: tuple[slice, slice]
    colours: np.ndarray
    known: np.ndarray


def blocks(
    scene: Scene, plan: Plan, read: Callable, tower: Callable, device: torch.device, batch_size: int
) -> Iterator[tuple]:
    """Yield each box and its `Block`, None where there is no data; threads look at the next ones meanwhile. Close it in any case."""
    one_reads = threading.Lock()

    def see(box: tuple) -> Block | None:
        if not scene_files.touches(scene, box, plan.cell * plan.zoom):
            return None
        with one_reads:
            pixels, valid = read(plan.pixels(plan.area(box)), plan.zoom)
        return look(plan, box, pixels, valid, tower, batch_size)

    threads = torch.get_num_threads()
    workers = 1 if device.type != "cpu" else min(threads, len(plan.boxes), WORKERS)
    return _ahead(see, plan.boxes, workers, max(1, threads // workers))


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


def look(plan: Plan, box: tuple, pixels: np.ndarray, valid: np.ndarray, tower, batch_size: int) -> Block | None:
    """Run the tower on the tiles of a block, and put their patches together; None if there is no data."""
    if not valid.any():
        return None
    if not (whole := valid.all()):
        pixels[~valid] = plan.fill
    # Whole patches, and which of them hold data; the scene's last row and column go on beyond its edge.
    area = plan.area(box)
    starts, tile, patch, cell = plan.tiles(area), plan.tile, plan.patch, plan.cell
    y0, x0 = (int(s[0]) for s in starts)
    shape = [int(s[-1] - s[0]) + tile for s in starts]  # in patches
    beyond = [(0, n * patch - have) for n, have in zip(shape, valid.shape)]
    if any(more for _, more in beyond):
        pixels, valid = np.pad(pixels, (*beyond, (0, 0)), mode="edge"), np.pad(valid, beyond, mode="edge")
    data = np.ones(shape, bool) if whole else valid.reshape(shape[0], patch, shape[1], patch).any(axis=(1, 3))
    # Scores and values of the patches of the area: sums of what the tiles say, each with its share.
    (top, bottom), (left, right) = area
    scores = values = None
    corners = [(y - y0, x - x0) for y in starts[0].tolist() for x in starts[1].tolist()]
    corners = [(y, x) for y, x in corners if data[y : y + tile, x : x + tile].any()]
    for first in range(0, len(corners), batch_size):
        batch = corners[first : first + batch_size]
        tiles = [pixels[y * patch : (y + tile) * patch, x * patch : (x + tile) * patch] for y, x in batch]
        for (y, x), s, v in zip(batch, *tower(np.stack(tiles))):
            if values is None:
                scores = np.zeros((len(s), bottom - top, right - left), np.float32)
                values = np.zeros((*scores.shape, v.shape[-1]), np.float32)
            # In patches of the scene, cut to the area; then the same places in the arrays and in the tile.
            y, x = y + y0, x + x0
            to_y = slice(max(y, top) - top, min(y + tile, bottom) - top)
            to_x = slice(max(x, left) - left, min(x + tile, right) - left)
            of_tile = np.s_[to_y.start + top - y : to_y.stop + top - y, to_x.start + left - x : to_x.stop + left - x]
            share = (plan.shares[0][y][:, None] * plan.shares[1][x])[of_tile]
            scores[:, to_y, to_x] += share * s[:, *of_tile]
            values[:, to_y, to_x] += share[..., None] * v[:, *of_tile]
    if values is None:
        return None
    scores[:, ~data[top - y0 : bottom - y0, left - x0 : right - x0]] = np.nan  # tiles that were left out are among these
    # The block's own cells: where they are, which hold data, and their colours for the preview.
    inside = slice(box[0] - DETAIL * top, box[2] - DETAIL * top), slice(box[1] - DETAIL * left, box[3] - DETAIL * left)
    high, wide = box[2] - box[0], box[3] - box[1]
    own = np.s_[box[0] * cell - y0 * patch :, box[1] * cell - x0 * patch :]
    pixels, valid = pixels[own][: high * cell, : wide * cell], valid[own][: high * cell, : wide * cell]
    known = np.ones((high, wide), bool) if whole else valid.reshape(high, cell, wide, cell).mean(axis=(1, 3)) >= 0.5
    step = cell // plan.fine
    colours = pixels[step // 2 :: step, step // 2 :: step].astype(np.float32)
    return Block(scores, values, inside, colours, known)


def tile_shares(length: int, tile: int, step: int, first: int = 0) -> dict[int, np.ndarray]:
    """Tiles along an axis: where each begins, in patches, and its share in these (tile), which falls towards its ends.

    From the patch `first` on they follow each other; before it, one begins with the scene, and the last one ends with it, unless that is
    smaller than a tile.
    """
    last = max(length - tile, 0)
    starts = np.unique([0, *range(first, last, step), last]).tolist()
    fade = np.minimum(np.arange(1, tile + 1), np.arange(tile, 0, -1)).astype(np.float32)
    total = np.zeros(starts[-1] + tile, np.float32)
    for start in starts:
        total[start : start + tile] += fade
    return {start: fade / total[start : start + tile] for start in starts}
