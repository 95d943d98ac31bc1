"""Pictures of the front page, made by the models that the chapters trained: a word in Landsat, chips for a sentence, the sea in chips.

Nothing is chosen by how well it came out: a rule that the caption tells decides which picture is shown.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

import rsvlm
from rsvlm import config
from rsvlm.book import itaipu_words
from rsvlm.book.figures import markup, scale
from rsvlm.data import benchmarks
from rsvlm.data.demo import earth, earth_masks, ground, ground_cover, itaipu, recipe
from rsvlm.errors import DataError
from rsvlm.evaluation import embeddings
from rsvlm.localization import heat, rounds
from rsvlm.model import embed, images
from rsvlm.model.others import opening
from rsvlm.records import files, stages
from rsvlm.training import train

log = logging.getLogger(__name__)
ASKED = ("water", "river", "city", "village", "forest", "fields", "bare ground")
"""What may be asked for in the south of Itaipu. The north, where it was held out, says which of these the model knows best."""

LEAST, TIMES = 5, 8
"""Chips that a label needs in the north to be judged there, and chips of the answer."""

SENTENCE, GRID = "Sea to the west.", (2, 3)
"""What is asked for among chips of the Blue Marble, and the rows and columns of the answers that are shown."""

SIDE_PX, GAP_PX = 160, 4
"""Side of such a chip as it is drawn, and the white between two."""

WINDOW = (4, 6)
"""Rows and columns of Itaipu's chips in the picture."""


def prepare(profile: str) -> None:
    """Write `book/generated/front.inc`, which the front page includes; it is made once for a state of the package and the options.

    Args:
        profile: Profile of the options.
    """
    home = stages.root()
    if not (home / "book" / "index.md").is_file():
        return
    options = config.load(profile)

    def build(folder: Path) -> None:
        files.write_atomic(folder / "front.inc", pictures(options))

    parts = {"options": options, "source": stages.source_hash()}
    text = (stages.stage("front", parts, build) / "front.inc").read_text(encoding="utf-8")
    files.write_atomic(home / "book" / "generated" / "front.inc", text)


def pictures(options: config.Config) -> str:
    """Make the three pictures with their captions, as a block of HTML that Markdown can hold; two where Itaipu cannot be had."""
    data = earth.load_or_build(options)
    made = []
    for draw in (
        lambda: found_in_landsat(options),
        lambda: found_on_the_blue_marble(options, data),
        lambda: sea(options, data),
    ):
        try:
            made.append(draw())
        except DataError as error:
            log.warning("the front page lacks a picture: %s", error)
    small = "" if options.profile != "smoke" else f" A miniature, {options.train.steps} steps: it shows that everything runs."
    figures = "".join(_figure(**one, more=small) for one in made)
    return f'```{{raw}} html\n<div class="front-pictures rsvlm-ground">{figures}</div>\n```\n'


def _figure(image: str, caption: str, page: str, more: str) -> str:
    return f'<figure><a href="executed/{page}.html">{image}</a><figcaption>{caption}{more}</figcaption></figure>'


def _picture(array: np.ndarray, alt: str, record: Mapping[str, float], over: str = "") -> str:
    """One picture with its bar; `over` is SVG in a square of 100 by 100 that is laid over it."""
    data = markup.data_uri("webp", markup.webp(Image.fromarray(array), quality=82))
    drawn = f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{over}</svg>' if over else ""
    height, width = array.shape[:2]
    image = f'<img class="dark-light" src="{data}" alt="{escape(alt)}" width="{width}" height="{height}">'
    return f'<span class="front-picture">{image}{drawn}{scale.bar(record)}</span>'


def _lighter(array: np.ndarray) -> np.ndarray:
    """Return a dark picture as it is shown: brighter, by one curve for all of its pixels. The model sees it as it was."""
    return (255 * (array / 255.0) ** 0.6).round().astype(np.uint8)


def _enlarged(array: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(array).resize((side, side), Image.Resampling.BICUBIC))


def found_in_landsat(options: config.Config) -> dict[str, str]:
    """Itaipu's south, which no training saw: where the best chips lie for the label that the model knows best in the north.

    Raises:
        DataError: The package with the ground cannot be had.
    """
    scene = ground.itaipu()
    held, chips = (itaipu.labelled(scene, split) for split in ("val", "test"))
    encoder = opening.open_encoder(str(train.load_or_train(*recipe.prepare(options)) / "model"), device=options.device)
    columns = [list(itaipu_words.WORDS).index(name) for name in ASKED]
    scores, of_held = (itaipu_words.contrast(itaipu_words.cosines(encoder, part[0]))[:, columns] for part in (chips, held))
    best = _best_known(of_held, held[1][list(ASKED)].to_numpy())
    name, table = ASKED[best], chips[1]
    order = np.argsort(-scores[:, best], kind="stable")[:TIMES]
    places = table[["row", "col"]].to_numpy()[order]
    right = table[name].to_numpy()[order] == itaipu.YES

    # The window with most of the answers, the northernmost of equals.
    high, wide = WINDOW
    corner = _corner(places, {tuple(place) for place in table[["row", "col"]].to_numpy().tolist()})
    shown = _inside(places, corner)
    mosaic = itaipu.pictures(scene, [itaipu.name(corner[0] + i, corner[1] + j) for i in range(high) for j in range(wide)])
    side = itaipu.SIDE_PX
    picture = mosaic.reshape(high, wide, side, side, 3).transpose(0, 2, 1, 3, 4).reshape(high * side, wide * side, 3)

    boxes = "".join(
        _box((row - corner[0]) / high, (col - corner[1]) / wide, one)
        for (row, col), one in zip(places[shown].tolist(), right[shown].tolist(), strict=True)
    )
    record = {"gsd_m": ground.PIXEL_M, "size_px": wide * side}
    dashed = "" if right[shown].all() else " (dashed: wrong)"
    alt = f"Satellite picture of ground at Itaipu; {shown.sum()} squares are outlined, the best answers to: {name}"
    caption = (
        f"<b>“{escape(name)}”</b> {right.sum()} of the first {TIMES} among {len(table)} chips are right, on ground that the model was "
        f"never trained on; {shown.sum()} lie here{dashed}. The word is the one of {len(ASKED)} that it knew best elsewhere. "
        f"Landsat 8, one pixel is {scale.length(ground.PIXEL_M)}."
    )
    return {"image": _picture(picture, alt, record, boxes), "caption": caption, "page": "11_itaipu"}


def _corner(places: np.ndarray, known: set[tuple[int, int]]) -> tuple[int, int]:
    """The window with most of the answers; all of its chips are known, or, where there is no such window, two of its corners."""
    high, wide = WINDOW
    whole = [(i, j) for i in range(high) for j in range(wide)]
    for wanted in (whole, [whole[0], whole[-1]]):
        corners = sorted((row, col) for row, col in known if known >= {(row + i, col + j) for i, j in wanted})
        if corners:
            return corners[int(np.argmax([_inside(places, corner).sum() for corner in corners]))]
    return tuple(places[0].tolist())


def _best_known(scores: np.ndarray, truth: np.ndarray) -> int:
    """The column in which the mean precision of an order by score is highest above the share of what is right."""
    gains = []
    for column in range(scores.shape[1]):
        sure = truth[:, column] != itaipu.UNKNOWN
        yes = (truth[sure, column] == itaipu.YES)[np.argsort(-scores[sure, column], kind="stable")]
        precision = np.cumsum(yes) / np.arange(1, len(yes) + 1)
        gains.append(precision[yes].mean() - yes.mean() if LEAST <= yes.sum() < len(yes) else -1.0)
    return int(np.argmax(gains))


def _inside(places: np.ndarray, corner: Sequence[int]) -> np.ndarray:
    away = places - np.asarray(corner)
    return ((away >= 0) & (away < np.asarray(WINDOW))).all(axis=1)


def _box(top: float, left: float, right: bool) -> str:
    where = f'x="{100 * left + 0.4:.2f}" y="{100 * top + 0.6:.2f}"'
    size = f'width="{100 / WINDOW[1] - 0.8:.2f}" height="{100 / WINDOW[0] - 1.2:.2f}"'
    return "".join(f'<rect class="{name}" {where} {size}/>' for name in ("under", "line" if right else "line wrong"))


def found_on_the_blue_marble(options: config.Config, data: Path) -> dict[str, str]:
    """The first answers to a sentence, among the chips of the test split."""
    model = train.load_or_train(*recipe.prepare(options)) / "model"
    found = embeddings.read(embeddings.load_or_embed(model, data, "test", device=options.device))
    encoder = opening.open_encoder(str(model), device=options.device)
    scores = embed.unit(np.asarray(found.image_embeddings), "chips") @ heat.text_vectors(encoder, [SENTENCE])[0]
    best = [found.keys[row] for row in np.argsort(-scores, kind="stable")[: GRID[0] * GRID[1]]]
    by_key = {sample.key: sample for sample in benchmarks.samples(data, "test") if sample.key in best}
    picture = _tiled([_lighter(_enlarged(images.decode(by_key[key].image), SIDE_PX)) for key in best])
    record = by_key[best[0]].record
    seas = {key: masks["sea"] for key, _, masks, _ in earth_masks.read(data, "test") if key in best and "sea" in masks}
    west = sum(mask[:, : mask.shape[1] // 2].mean() > mask[:, mask.shape[1] // 2 :].mean() for mask in seas.values())
    alt = f"{len(best)} chips of the Earth from space, the first answers to: {SENTENCE}"
    caption = (
        f"<b>“{escape(SENTENCE)}”</b> The first {len(best)} of {len(found.keys)} chips from blocks of the globe that it was never "
        f"trained on; by the coastlines {west} have more sea in the west than in the east. Blue Marble, brightened here, one pixel is {scale.length(record['gsd_m'])}."
    )
    return {"image": _picture(picture, alt, _ground(record)), "caption": caption, "page": "03_retrieval"}


def _tiled(chips: Sequence[np.ndarray]) -> np.ndarray:
    """Lay chips out in the rows and columns of `GRID`, with white between them."""
    (rows, columns), step = GRID, SIDE_PX + GAP_PX
    picture = np.full((rows * step - GAP_PX, columns * step - GAP_PX, 3), 255, np.uint8)
    for number, chip in enumerate(chips):
        top, left = (step * place for place in divmod(number, columns))
        picture[top : top + SIDE_PX, left : left + SIDE_PX] = chip
    return picture


def _ground(record: Mapping[str, float]) -> dict[str, float]:
    """Say of chips in a row how much ground they are together, as the record of one picture."""
    return {"gsd_m": record["gsd_m"], "size_px": GRID[1] * record["size_px"]}


def sea(options: config.Config, data: Path, most: int = 150) -> dict[str, str]:
    """Where a model that has read captions alone sees the sea: in chips at the quartiles, by how well it does.

    Raises:
        DataError: No chip of the test split shows a coast.
    """
    model = rsvlm.load(rounds.load_or_begin(options, data, ground_cover.SIZES), device=options.device).eval()
    asked = [heat.text_vectors(model, texts) for texts in ground_cover.SEA_AND_LAND.values()]
    judged = []
    for key, encoded, masks, _ in earth_masks.read(data, "test", limit=most):
        chip, truth = images.decode(encoded), masks.get("sea", np.zeros((1, 1), bool))
        if 0.25 <= truth.mean() <= 0.75:
            scores = heat.maps(model, chip, asked, window=3)
            told = scores[0] > scores[1]
            judged.append(((told & truth).sum() / (told | truth).sum(), key, chip, told))
    if not judged:
        raise DataError("no chip of the test split is half sea")
    judged.sort(key=lambda one: one[:2])
    shown = [judged[(len(judged) - 1) * quarter // 4] for quarter in (1, 2, 3)]
    record = next(sample.record for sample in benchmarks.samples(data, "test") if sample.key == shown[0][1])

    plain = [_lighter(_enlarged(chip, SIDE_PX)) for *_, chip, _ in shown]
    picture = _tiled([*plain, *(_lit(chip, told) for chip, (*_, told) in zip(plain, shown, strict=True))])
    alt = "Above, three chips of coasts; below, the same, darkened where the model sees no sea"
    ious = " and ".join(f"{100 * iou:.0f}" for iou, *_ in shown).replace(" and ", ", ", 1)
    caption = (
        f"<b>Where is the sea?</b> Bright below, says a model that has read captions and seen no mask: IoU {ious} %, the quartiles of "
        f"{len(judged)} unseen chips with a coast. Blue Marble, brightened here, one pixel is {scale.length(record['gsd_m'])}."
    )
    return {"image": _picture(picture, alt, _ground(record)), "caption": caption, "page": "13_attention"}


def _lit(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Darken a picture outside of a mask, with a white edge between."""
    large = np.asarray(Image.fromarray(mask).resize(picture.shape[1::-1], Image.Resampling.NEAREST))
    wide = np.pad(large, 2, mode="edge")  # the end of the picture is no edge of the mask
    height, width = large.shape
    inner = np.logical_and.reduce([wide[y : y + height, x : x + width] for y, x in ((0, 2), (4, 2), (2, 0), (2, 4))])
    lit = np.where(large[..., None], picture, 0.35 * picture)
    lit[large & ~inner] = 255
    return lit.astype(np.uint8)
