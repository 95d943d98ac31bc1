"""Scenes that are delivered as a file for each band, as those of Landsat and Sentinel-2 are: put together into one picture.

`gather` tells from names which files are bands, masks or ready pictures of one scene, and checks that they show the same ground;
`stacked` opens some bands as one raster. Masks, quality layers and angles are no pictures; they are left out and counted. Nothing here
is taken for a band that stands alone.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np

from rsvlm.data.imagery import chip_layout
from rsvlm.errors import DataError

log = logging.getLogger(__name__)

MASK = "mask, quality or angle layer, not a picture"
PREVIEW = "preview of a scene that is there"
UNSHOWN = "band of a scene that is not shown: chips.bands (--band) chooses others"
COLOURLESS = "band of a scene without red, green and blue: choose with chips.bands (--band)"
PICTURED = "band of a scene that is there as a picture in colours: chips.bands (--band) puts bands together instead"

_MASKS = (
    r"(?:SR_)?QA_(?:PIXEL|RADSAT|AEROSOL)|SR_(?:ATMOS_OPACITY|CLOUD_QA)|ST_(?:QA|TRAD|URAD|DRAD|ATRAN|EMIS|EMSD|CDIST)|BQA|QA60"
    r"|pixel_qa|radsat_qa|sr_aerosol|Fmask|SCL|CLD|CLDPRB|SNW|SNWPRB|AOT|WVP|SAA|SZA|VAA|VZA|MSK_[A-Za-z]+(?:_B\w\w)?"
    r"|udm2?|DN_udm|cloud_?mask"
)
_NAME = re.compile(
    r"(?P<scene>.*?)(?:^|[._ -])(?:(?P<mask>" + _MASKS + r")|(?P<preview>PVI)|(?P<picture>TCI|visual)"
    r"|(?:S[RT]_)?(?P<band>B(?:\d{1,2}|8A)(?:_VCID_[12])?|red|green|blue|coastal|rededge\d?|nir\d{0,2}|swir\d{0,2}|lwir\d{0,2}|pan))"
    r"(?:[._-](?P<metres>\d{2})m)?",
    re.IGNORECASE,
)
_OF_RESOLUTION = re.compile(r"R\d{2}m", re.IGNORECASE)  # folders of Sentinel-2
_OLDER_LANDSAT = re.compile(r"(?:^|[/_.-])L[TE]0?[4-7]", re.IGNORECASE)
_COLOURS = ("red", "green", "blue")


@dataclass
class Scene:
    """Files of one scene.

    Attributes:
        text: Path of the scene relative to the folder, which names it.
        bands: File of each band, in the order of the bands.
        pictures: Files that show it in colours, the finest first.
        notes: What of it is no picture: reason, count, an example.
    """

    text: str
    bands: dict[str, Path] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    notes: list[tuple[str, int, str]] = field(default_factory=list)

    def chosen(self, wanted: Sequence[int]) -> list[str]:
        """Return the names of the bands that are shown as red, green and blue, or of one; empty where nothing tells.

        Args:
            wanted: Numbers of bands, from 1, in the order of `bands`. If empty, they are found by name.
        """
        names = list(self.bands)
        if wanted:
            if not all(1 <= number <= len(names) for number in wanted):
                numbered = ", ".join(f"{number} {name}" for number, name in enumerate(names, 1))
                raise DataError(f"{self.text}: chips.bands is {tuple(wanted)}, but its bands are {numbered}")
            return [names[number - 1] for number in wanted]
        numbers = ("B3", "B2", "B1") if _OLDER_LANDSAT.search(self.text) else ("B4", "B3", "B2")
        return next(([*colours] for colours in (_COLOURS, numbers) if set(colours) <= set(names)), [])


class _Look(NamedTuple):
    """What a file shows."""

    count: int
    place: tuple


def gather(
    files: Sequence[Path], root: Path, open_file: Callable
) -> tuple[list[Path], list[Scene], list[tuple[str, int, str]]]:
    """Tell scenes that are files of bands from files that are pictures.

    Args:
        files: Rasters.
        root: The folder that they are in, however deep.
        open_file: Context manager that opens one of them and yields rasterio's dataset; what it refuses is left for others to refuse.

    Returns:
        Files that stand for themselves, in their order; scenes; and notes on masks that belong to no scene.
    """
    matches = {file: match for file in files if (match := _NAME.fullmatch(file.stem))}
    groups: dict[str, list[Path]] = defaultdict(list)
    for file, match in matches.items():
        folder = file.parent.parent if _OF_RESOLUTION.fullmatch(file.parent.name) else file.parent
        groups[(folder.relative_to(root) / match["scene"]).as_posix()].append(file)
    scenes, taken, masks = [], set(), []
    for text, members in groups.items():
        looks = {file: look for file in members if not matches[file]["mask"] and (look := _look(file, open_file))}
        scene = _scene(text if text != "." else root.name, members, matches, looks)
        if scene is None:
            # A mask that is called as those of deliveries are is one without its bands, too.
            alone = [file for file in members if matches[file]["mask"]]
            masks += alone
            taken.update(alone)
        else:
            scenes.append(scene)
            taken.update(file for file in members if matches[file]["mask"] or matches[file]["preview"] or file in looks)
    stems = {file.with_suffix("").as_posix() for file in files}
    beside = [file for file in files if file not in taken and _is_mask_of(file, stems)]
    notes = _note(MASK, root, [*masks, *beside])
    taken.update(beside)
    return [file for file in files if file not in taken], scenes, notes


def _is_mask_of(file: Path, stems: set[str]) -> bool:
    """Whether a file is called the mask of a file that is there."""
    match = re.fullmatch(r"(.+)[._-]mask", file.with_suffix("").as_posix(), re.IGNORECASE)
    return bool(match) and match[1] in stems


def _note(reason: str, root: Path, files: Sequence[Path]) -> list[tuple[str, int, str]]:
    return [(reason, len(files), files[0].relative_to(root).as_posix())] if files else []


def _look(file: Path, open_file: Callable) -> _Look | None:
    try:
        with open_file(file) as dataset:
            crs, transform = chip_layout.placed(dataset)
            corners = np.round(_corners(transform, dataset.width, dataset.height), 3)
            return _Look(dataset.count, (crs.to_wkt() if crs else "", *corners.ravel().tolist()))
    except DataError:
        return None


def _corners(transform, width: int, height: int) -> np.ndarray:
    """Places (4, 2) of the corners of a raster, in the order in which it is stored."""
    return np.array([transform @ place for place in ((0, 0), (width, 0), (width, height), (0, height))])


def _scene(text: str, members: Sequence[Path], matches: dict, looks: dict[Path, _Look]) -> Scene | None:
    """Make a scene of files that one name holds together; None where they are no two bands of the same ground."""
    bands: dict[str, list[Path]] = defaultdict(list)
    for file, look in looks.items():
        if matches[file]["band"] and look.count == 1:
            bands[_label(matches[file]["band"])].append(file)
    places = [looks[file].place for of_band in bands.values() for file in of_band]
    place = max(set(places), key=places.count) if places else None
    finest = {
        band: min(same, key=lambda file: int(matches[file]["metres"] or 0))
        for band, of_band in bands.items()
        if (same := [file for file in of_band if looks[file].place == place])
    }
    if len(finest) < 2:
        return None
    scene = Scene(text, dict(sorted(finest.items(), key=lambda pair: _order(pair[0]))))
    pictures = [file for file, look in looks.items() if matches[file]["picture"] and look.count >= 3]
    scene.pictures = sorted(pictures, key=lambda file: int(matches[file]["metres"] or 0))
    common = members[0].parent
    for reason, kind in ((MASK, "mask"), (PREVIEW, "preview")):
        if out := [file for file in members if matches[file][kind]]:
            scene.notes.append((reason, len(out), out[0].name))
    # What has the name of a band, and shows other ground, stands for itself.
    for file in list(looks):
        if file not in scene.pictures and looks[file].place != place:
            del looks[file]
    log.debug("%s: %s", common, list(scene.bands))
    return scene


def _label(band: str) -> str:
    """Return a band's name without leading zeros: `B04` is `B4`; words in small letters."""
    match = re.fullmatch(r"b0*(\d.*)", band, re.IGNORECASE)
    return f"B{match[1].upper()}" if match else band.lower()


def _order(label: str) -> tuple:
    number = re.match(r"B(\d+)(.*)", label)
    return (0, int(number[1]), number[2]) if number else (1, _COLOURS.index(label) if label in _COLOURS else 9, label)


@contextmanager
def stacked(files: Sequence[str], open_file: Callable) -> Iterator:
    """Open bands of one scene, each the first of its file, as one raster on the grid of the finest of them.

    Args:
        files: Paths of red, green and blue, or of one band.
        open_file: Context manager that opens one of them and yields rasterio's dataset.

    Raises:
        DataError: One cannot be opened, or they do not show the same ground.
    """
    from rasterio.dtypes import dtype_rev, typename_fwd
    from rasterio.io import MemoryFile

    facts = []
    for file in files:
        with open_file(file) as dataset:
            masks = {flag.name for flag in dataset.mask_flag_enums[0]}
            place = *chip_layout.placed(dataset), dataset.shape
            facts.append((*place, dataset.dtypes[0], dataset.nodata, masks))
    crs, transform, (height, width), *_ = min(facts, key=lambda fact: abs(fact[1].determinant))
    corners, pixel = _corners(transform, width, height), abs(transform.determinant) ** 0.5
    off = [
        file for file, (of_file, grid, (rows, columns), *_) in zip(files, facts)
        if of_file != crs or not np.allclose(_corners(grid, columns, rows), corners, rtol=0, atol=pixel)
    ]  # fmt: skip
    if off:
        raise DataError(
            f"{Path(off[0]).name} shows other ground than {Path(files[0]).name}: bands of one scene lie on each other"
        )
    numbers = ", ".join(map(repr, transform.to_gdal()))
    colours = ("Red", "Green", "Blue") if len(files) == 3 else ("Gray",)
    xml = [f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>{escape(crs.to_wkt() if crs else "")}</SRS>']
    xml.append(f"<GeoTransform>{numbers}</GeoTransform>")
    part = (
        '<SimpleSource><SourceFilename relativeToVRT="0">{}</SourceFilename><SourceBand>{}</SourceBand>'
        '<SrcRect xOff="0" yOff="0" xSize="{}" ySize="{}"/>'
        f'<DstRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/></SimpleSource>'
    )
    masked = []
    for band, (file, colour, (_, _, (rows, columns), kind, nodata, masks)) in enumerate(zip(files, colours, facts), 1):
        value = "" if nodata is None else f"<NoDataValue>{nodata!r}</NoDataValue>"
        xml.append(
            f'<VRTRasterBand dataType="{typename_fwd[dtype_rev[kind]]}" band="{band}">{value}<ColorInterp>{colour}</ColorInterp>'
            f"{part.format(escape(str(file)), 1, columns, rows)}</VRTRasterBand>"
        )
        masked += [part.format(escape(str(file)), "mask,1", columns, rows)] if "all_valid" not in masks else []
    # Masks of their own, where one has such: what all bands hold counts.
    if any("per_dataset" in fact[-1] for fact in facts):
        xml.append(
            '<MaskBand><VRTRasterBand dataType="Byte" subClass="VRTDerivedRasterBand"><PixelFunctionType>mul</PixelFunctionType>'
            f"<SourceTransferType>Float32</SourceTransferType>{''.join(masked * (2 if len(masked) == 1 else 1))}</VRTRasterBand></MaskBand>"
        )
    with ExitStack() as stack:
        memory = stack.enter_context(MemoryFile("".join([*xml, "</VRTDataset>"]).encode(), ext=".vrt"))
        yield stack.enter_context(memory.open(driver="VRT"))
