"""What the tests of ranges, layout, mosaics and imagery share: small rasters, their chips, and a loopback server of ranges."""

from __future__ import annotations

import contextlib
import http.server
import io
import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsvlm import config
from rsvlm.data.imagery import sources as imagery

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("pyproj")
from rasterio.enums import Resampling  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402


def options(**values) -> config.Chips:
    return config.Chips(**{"size_px": 32, **values})


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (3, height, width), dtype=np.uint8)


def write(
    path: Path, array: np.ndarray, crs="EPSG:32629", transform=None, overviews=(), colours=None, names=(), **profile
) -> Path:
    array = array if array.ndim == 3 else array[None]
    transform = from_origin(460_000, 4_300_000, 10, 10) if transform is None else transform
    count, height, width = array.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": array.dtype.name, **profile}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile) as dataset:
        dataset.write(array)
        if colours:
            dataset.colorinterp = colours
        for number, name in enumerate(names, 1):
            dataset.set_band_description(number, name)
        if overviews:
            dataset.build_overviews(list(overviews), Resampling.nearest)
    return path


def encode(array: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


ZOOM, X, Y, SIDE = 12, 1940, 1569, 64


def mosaic(columns: int = 3, rows: int = 3) -> tuple[np.ndarray, dict[tuple[int, int], bytes]]:
    whole = picture(rows * SIDE, columns * SIDE).transpose(1, 2, 0)
    return whole, {
        (X + c, Y + r): encode(whole[r * SIDE : r * SIDE + SIDE, c * SIDE : c * SIDE + SIDE])
        for c in range(columns)
        for r in range(rows)
    }


def write_tiles(folder: Path, tiles: dict, name: str) -> Path:
    for (x, y), data in tiles.items():
        path = folder / name.format(z=ZOOM, x=x, y=y)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_mbtiles(path: Path, tiles: dict, **metadata) -> Path:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE tiles (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_data BLOB)")
        database.execute("CREATE TABLE metadata (name TEXT, value TEXT)")
        database.executemany(
            "INSERT INTO tiles VALUES (?, ?, ?, ?)", [(ZOOM, x, (1 << ZOOM) - 1 - y, d) for (x, y), d in tiles.items()]
        )
        database.executemany("INSERT INTO metadata VALUES (?, ?)", list(metadata.items()))
    database.close()
    return path


def chips(where, points=None, **values):
    chosen = options(**values)
    sources = imagery.open_imagery(str(where), chosen)
    table, notes = imagery.lay_out(sources, chosen, points)
    return sources, table, notes


def pixels(sources, table) -> list:
    return [got for source in sources for got in imagery.read(source, table[table["source"] == source.name])]


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    """A loopback server of a folder with byte ranges; it remembers paths, and counts the bytes sent."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.server.seen.append(self.path)
            if self.server.fail:
                return self.send_error(self.server.fail.pop())
            name = self.path.split("?")[0]
            if name in self.server.moved:
                self.send_response(302)
                self.send_header("Location", self.server.moved[name])
                self.send_header("Content-Length", "0")
                return self.end_headers()
            file = folder / name.lstrip("/")
            if not file.is_file():
                return self.send_error(404)
            data, total = file.read_bytes(), file.stat().st_size
            if name == "/whole.tif":
                self.send_response(200)
            else:
                first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups()
                data = data[int(first) : int(last) + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{int(first) + len(data) - 1}/{total}")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.server.sent += len(data)
            try:
                self.wfile.write(data)
            except OSError:  # the client has heard enough
                self.close_connection = True

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

        def setup(self):
            super().setup()
            self.server.connections += 1

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.sent, server.fail, server.moved, server.connections = [], 0, [], {}, 0
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
