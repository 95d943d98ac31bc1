"""Speed and memory of data sets from one's own imagery: a local COG and a map of random features, to audited shards."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rsvlm import config
from rsvlm.errors import RsvlmError

GSD_M = 1.0
ORIGIN = (500_000.0, 4_545_000.0)  # upper left corner, in EPSG:32629

# What grows on a map: tags, share of all features, kind of geometry, size in metres.
KINDS = (
    ({"building": "yes"}, 0.55, "Polygon", (8, 30)),
    ({"highway": "residential"}, 0.15, "LineString", (80, 600)),
    ({"landuse": "farmland"}, 0.08, "Polygon", (80, 400)),
    ({"natural": "wood"}, 0.05, "Polygon", (60, 500)),
    ({"leisure": "pitch"}, 0.05, "Polygon", (40, 110)),
    ({"amenity": "parking"}, 0.05, "Polygon", (25, 90)),
    ({"man_made": "water_tower"}, 0.02, "Point", (0, 0)),
    ({"amenity": "cafe"}, 0.05, "Point", (0, 0)),
)


def measure(
    n_chips: int = 4000, n_features: int = 10_000, repeats: int = 3, workers: int = 0, many: int = 0, size_px: int = 256
) -> list[dict]:
    """Build data sets from a COG and a map made on the spot, each in a process of its own, as the command line does.

    Args:
        n_chips: Chips of a timed build.
        n_features: Features of the map, spread evenly, as OSM has them: buildings, roads, fields, points.
        repeats: Timed builds.
        workers: Processes at work; 0: one per core.
        many: Also a build of this many overlapping chips, for the memory; 0: none.
        size_px: Side of a chip.

    Returns:
        Rows: `stage` (`build`: everything from opening the imagery to the manifest, the start of the workers included; `memory`: a
        build of 1,000 and of `many` chips), `chips` kept, `repeats`, `chips_per_s` (median) with `min` and `max`, `peak_mb`: most
        memory that the process and its workers held together, looked at five times a second.

    Raises:
        MissingExtraError: The extra `data` is not installed.
        RsvlmError: A build failed.
    """
    # Chips overlap, so that a picture that is made in seconds gives as many as are wanted.
    columns = 32
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture, features = folder / "picture.tif", folder / "map.geojson"
        write_cog(picture, columns * size_px)
        write_map(features, n_features, columns * size_px)

        def build(out: str, most: int) -> dict:
            # With one chip more to a side than is needed: some have no landmark.
            stride = min(1.0, (columns - 1) / (np.sqrt(1.1 * most) + 1))
            options = {"size_px": size_px, "stride": stride, "max_chips": most, "test_share": 0, "val_share": 0}
            return _child(picture, features, folder / out, options, workers)

        rows = [_row("build", [build(f"timed-{i}", n_chips) for i in range(repeats)])]
        for most in (1000, many) if many else ():
            rows.append(_row("memory", [build(f"memory-{most}", most)]))
    return rows


def table(rows: list[dict]) -> str:
    """Lay rows out for a terminal."""
    lines = [f"{'':<10}{'chips':>10}{'chips/s':>10}{'min':>8}{'max':>8}{'peak MB':>10}"]
    for row in rows:
        numbers = f"{row['chips']:>10,}{row['chips_per_s']:>10.0f}{row['min']:>8.0f}{row['max']:>8.0f}{row['peak_mb']:>10.0f}"
        lines.append(f"{row['stage']:<10}{numbers}")
    return "\n".join(lines)


def write_cog(path: Path, side_px: int, seed: int = 0) -> None:
    """Write a square 8-bit RGB COG of fields and noise, JPEG inside, 1 m a pixel, UTM zone 29 north."""
    import rasterio
    import rasterio.shutil
    from rasterio.transform import from_origin

    rng = np.random.default_rng(seed)
    tile = rng.integers(60, 190, (8, 8, 3)).repeat(64, axis=0).repeat(64, axis=1) + rng.integers(-12, 13, (512, 512, 3))
    tile = np.moveaxis(tile.astype(np.uint8), 2, 0)
    size = {"width": side_px, "height": side_px, "count": 3, "dtype": "uint8", "blockxsize": 512, "blockysize": 512}
    place = {"crs": "EPSG:32629", "transform": from_origin(*ORIGIN, GSD_M, GSD_M)}
    plain = path.with_suffix(".plain.tif")
    with rasterio.open(plain, "w", driver="GTiff", tiled=True, photometric="ycbcr", compress="jpeg", **size, **place) as file:
        for _, window in file.block_windows():
            part = np.roll(tile, rng.integers(0, 512, 2).tolist(), axis=(1, 2))
            file.write(part[:, : window.height, : window.width], window=window)
    rasterio.shutil.copy(plain, path, driver="COG", compress="jpeg", blocksize=512)
    plain.unlink()


def write_map(path: Path, count: int, side_m: float, seed: int = 0) -> None:
    """Write random features over the picture as GeoJSON."""
    from pyproj import Transformer

    rng = np.random.default_rng(seed)
    to_lonlat = Transformer.from_crs("EPSG:32629", "EPSG:4326", always_xy=True)
    kinds = rng.choice(len(KINDS), count, p=[share for _, share, _, _ in KINDS])
    features = []
    for number, kind in enumerate(kinds.tolist()):
        tags, _, form, (low, high) = KINDS[kind]
        at = np.array([ORIGIN[0], ORIGIN[1] - side_m]) + rng.uniform(0, side_m, 2)
        across = rng.uniform(low, high, 2)
        turn = rng.uniform(0, np.pi)
        turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        corners = {
            "Point": np.zeros((1, 2)),
            "LineString": np.array([[0, 0], [0.5, 0.1], [1, 0]]) * across[0],
            "Polygon": np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * across,
        }[form]
        places = np.stack(to_lonlat.transform(*(at + corners @ turned).T), axis=1).round(7).tolist()
        coordinates = {"Point": places[0], "LineString": places, "Polygon": [places]}[form]
        named = tags | ({"name": f"Place {number}"} if rng.uniform() < 0.2 and "building" not in tags else {})
        geometry = {"type": form, "coordinates": coordinates}
        features.append({"type": "Feature", "id": f"way/{number}", "properties": named, "geometry": geometry})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def _child(picture: Path, features: Path, out: Path, options: dict, workers: int) -> dict:
    """Build in a new process; return its seconds, chips and peak memory."""
    call = json.dumps([str(picture), str(features), str(out), {f"chips.{k}": v for k, v in options.items()}, workers])
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([sys.executable, __file__, call], stdout=output, stderr=errors)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _memory_mb(process.pid))
            time.sleep(0.2)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RsvlmError(f"the build failed: {errors.read().strip()[-800:]}")
        return json.loads(output.read().splitlines()[-1]) | {"peak_mb": peak}


def _memory_mb(pid: int) -> float:
    """Return what a process and all its children hold, pages that they share counted once; 0 where nobody can tell."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        own = next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, StopIteration):
        return 0.0
    return own + sum(_memory_mb(int(child)) for child in children)


def _main(call: str) -> None:
    """What the new process does."""
    from rsvlm.data.landmarks import build

    picture, features, out, options, workers = json.loads(call)
    started = time.perf_counter()
    content = build.build(picture, [features], config.load("laptop", options), Path(out), workers=workers, progress=False)
    seconds = time.perf_counter() - started
    chips = sum(part["samples"] for part in content["splits"].values())
    sys.stdout.write(json.dumps({"chips": chips, "seconds": seconds}) + "\n")


def _row(stage: str, runs: list[dict]) -> dict:
    speeds = [run["chips"] / run["seconds"] for run in runs]
    numbers = {"chips_per_s": statistics.median(speeds), "min": min(speeds), "max": max(speeds)}
    numbers["peak_mb"] = max(run["peak_mb"] for run in runs)
    row = {"stage": stage, "chips": runs[0]["chips"], "repeats": len(runs)}
    return row | {name: round(number, 1) for name, number in numbers.items()}


if __name__ == "__main__":
    _main(sys.argv[1])
