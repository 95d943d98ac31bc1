"""Servers of tiles and maps: what is asked of them, and how what they give is found again."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from rasters import SIDE, ZOOM, X, Y, encode, mosaic
from searching import tiny_model
from sites import Site, serve

from rsvlm.data.web import fetch
from rsvlm.errors import ConfigError, DataError
from rsvlm.search import index as archive, tile_servers

pytest.importorskip("pyproj")

TEXTS = ["a red field"]
SPAN = 360 / 2**ZOOM
WEST = X * SPAN - 180


def south_of(row: int) -> float:
    """Latitude of the upper edge of a row of tiles."""
    return float(np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * row / 2**ZOOM)))))


BOX = f"{WEST},{south_of(Y + 3)},{WEST + 3 * SPAN},{south_of(Y)}"


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(tile_servers.config, "Fetch", quick(tile_servers.config.Fetch))
    with serve() as site:
        yield site


def quick(whole):
    return lambda **values: whole(**values, host_delay_s=0.0, retries=0)


def shown(site: Site, **options):
    whole, tiles = mosaic()
    for (x, y), data in tiles.items():
        site.routes[f"/t/{ZOOM}/{x}/{y}.png?key=secret"] = (200, {"Content-Type": "image/png"}, data)
    return whole, f"{site.address}/t/{{z}}/{{x}}/{{y}}.png?key=secret#zoom={ZOOM}&bbox={BOX}"


def test_tiles_of_a_server_are_indexed_shown_and_not_asked_for_again(site, tmp_path):
    whole, address = shown(site)
    model = tiny_model(TEXTS)
    facts = archive.index(address, model, tmp_path / "out", allow_loopback=True, progress=False)
    assert facts["chips"] == (3 * SIDE // 32) ** 2 and len(site.paths()) == 9
    assert "secret" not in (tmp_path / "out" / "index.json").read_text()
    chips = archive.open_index(tmp_path / "out").chips
    assert chips["west"].min() == pytest.approx(WEST) and chips["north"].max() == pytest.approx(south_of(Y))
    row = chips[(chips["left_px"] == X * SIDE + 32) & (chips["top_px"] == Y * SIDE + 64)].index[0]
    (picture,) = archive.open_index(tmp_path / "out").pictures([row])
    np.testing.assert_array_equal(picture, whole[64:96, 32:64])
    again = archive.index(address, model, tmp_path / "out", allow_loopback=True, progress=False)
    assert again["embedded"] == 0 and len(site.paths()) == 9


def test_a_map_server_is_asked_for_tiles(site, tmp_path):
    whole, tiles = mosaic()

    class Routes(dict):
        def get(self, path, default=None):
            if not path.startswith("/wms?"):
                return super().get(path, default)
            asked = {name.upper(): value[0] for name, value in parse_qs(urlsplit(path).query, keep_blank_values=True).items()}
            assert asked["REQUEST"] == "GetMap" and asked["SERVICE"] == "WMS" and asked["LAYERS"] == "aerial,roads"
            assert asked["CRS"] == "EPSG:3857" and asked["FORMAT"] == "image/png" and asked["WIDTH"] == "256"
            west, south, east, north = map(float, asked["BBOX"].split(","))
            half = tile_servers.MERCATOR_M
            x, y = round((west + half) / (east - west)), round((half - north) / (north - south))
            whole = np.asarray(tile_array(tiles[x, y])).repeat(4, 0).repeat(4, 1)
            return 200, {"Content-Type": "image/png"}, encode(whole)

    site.routes = Routes(site.routes)
    where = f"{site.address}/wms?service=wms&layers=aerial,roads&bbox=1,2,3,4#zoom={ZOOM}&bbox={BOX}"
    folder = tile_servers.fetch_tiles(where, tmp_path, allow_loopback=True, progress=False)
    assert len(list(folder.rglob("*.png"))) == 9 and (folder / f"{ZOOM}/{X + 2}/{Y + 2}.png").is_file()
    old = where.replace("service=wms", "SERVICE=WMS&VERSION=1.1.1")
    assert "SRS=EPSG:3857" in tile_servers.tile_address(old.partition("#")[0], 3, 1, 1)


def tile_array(data: bytes) -> np.ndarray:
    from rsvlm.model import images

    return images.decode(data)


def test_what_a_site_forbids_or_lacks_is_told(site, tmp_path, caplog):
    _, address = shown(site)
    site.routes["/robots.txt"] = (200, {}, b"User-agent: *\nDisallow: /t/")
    with pytest.raises(DataError, match="no tile of .* could be had: 9 the site's robots.txt does not allow") as error:
        tile_servers.fetch_tiles(address, tmp_path / "no", allow_loopback=True, progress=False)
    assert site.paths() == [] and "secret" not in str(error.value)
    site.routes["/robots.txt"] = (404, {}, b"")
    del site.routes[f"/t/{ZOOM}/{X}/{Y}.png?key=secret"]
    site.routes[f"/t/{ZOOM}/{X}/{Y + 1}.png?key=secret"] = (200, {"Content-Type": "text/html"}, b"<html>busy</html>" * 9)
    folder = tile_servers.fetch_tiles(address, tmp_path / "some", allow_loopback=True, progress=False)
    assert len(list(folder.rglob("*.png"))) == 7 and "2 of 9 tiles" in caplog.text and "secret" not in caplog.text
    # This machine is not asked unless that is allowed.
    with pytest.raises(DataError, match="not public"):
        tile_servers.fetch_tiles(address.replace(f":{site.port}", ""), tmp_path / "inside", progress=False)


def test_a_contact_is_told_and_its_lack_is_said_where_a_server_refuses(site, tmp_path):
    _, address = shown(site)
    tile_servers.fetch_tiles(address, tmp_path / "told", allow_loopback=True, progress=False, contact="maps@example.org")
    agents = {value for _, _, headers in site.asked for name, value in headers.items() if name.lower() == "user-agent"}
    assert len(agents) == 1 and "(+maps@example.org)" in agents.pop()
    for status, contact, words in ((403, "", True), (403, "maps@example.org", False), (404, "", False)):
        for path in [path for path in site.routes if path.startswith("/t/")]:
            site.routes[path] = (status, {}, b"")
        with pytest.raises(DataError, match="no tile of .* could be had") as error:
            folder = tmp_path / f"{status}{contact}"
            tile_servers.fetch_tiles(address, folder, allow_loopback=True, progress=False, contact=contact)
        assert ("may want to know who asks" in str(error.value) and "--contact" in str(error.value)) is words
    # What was refused to nobody is asked for again once somebody asks, and then it is there for all.
    shown(site)
    many = len(site.paths())
    tile_servers.fetch_tiles(address, tmp_path / "403", allow_loopback=True, progress=False, contact="maps@example.org")
    tile_servers.fetch_tiles(address, tmp_path / "403", allow_loopback=True, progress=False)
    assert len(site.paths()) == many + 9


def test_servers_whose_terms_ask_for_a_contact_are_not_asked_without(tmp_path, monkeypatch):
    contacts = []

    def download(urls, folder, options, **_):
        contacts.append(options.contact)
        raise DataError("asked")

    monkeypatch.setattr(tile_servers.fetch, "download", download)
    for host in ("tile.openstreetmap.org", "A.tile.openstreetmap.org", "b.tile.opentopomap.org"):
        where = f"https://{host}/{{z}}/{{x}}/{{y}}.png#zoom={ZOOM}&bbox={BOX}"
        with pytest.raises(ConfigError, match="say who they are.*--contact"):
            tile_servers.local(where, tmp_path)
        assert not contacts
    with pytest.raises(DataError, match="asked"):
        tile_servers.local(where, tmp_path, contact="https://example.org/us")
    assert contacts == ["https://example.org/us"]


def test_addresses_that_say_too_little_or_too_much_are_refused(tmp_path):
    tiles = "https://tiles.example.org/{z}/{x}/{y}.png"
    for address, words in (
        (tiles, "behind a #"),
        (f"{tiles}#zoom=3", "behind a #"),
        (f"{tiles}#zoom=3&bbox=1,2,3", "behind a #"),
        (f"{tiles}#zoom=3&bbox=1,5,3,4", "behind a #"),
        (f"{tiles}#zoom=18&bbox=-10,-10,10,10", "smaller bbox or a lower zoom"),
        (f"{tiles}#zoom=12&bbox=-10,-10,10,10", "smaller bbox or a lower zoom"),
        (f"https://{{s}}.example.org/{{z}}/{{x}}/{{y}}.png#zoom=3&bbox={BOX}", "write one of its hosts"),
        ("https://tiles.example.org/{z}/{x}.png#zoom=3&bbox=-100,-50,100,50", "several tiles one address"),
        (f"https://example.org/wms?request=GetMap#zoom=3&bbox={BOX}", "names no layer"),
    ):
        assert tile_servers.is_server(address)
        with pytest.raises(ConfigError, match=words):
            tile_servers.local(address, tmp_path)
    for other in ("https://example.org/a.tif", "https://example.org/a.tif?key=1", "folder/{z}", "a.tif"):
        assert tile_servers.local(other, tmp_path) == other
    assert not list(tmp_path.iterdir())


def test_tiles_and_names_are_those_of_the_grid():
    assert tile_servers.tiles_in(0, (-180, -90, 180, 90)) == [(0, 0, 0)]
    assert tile_servers.tiles_in(1, (-180, 0, 0, 90)) == [(1, 0, 0)]
    assert {x for _, x, _ in tile_servers.tiles_in(3, (170, 1, -170, 2))} == {7, 0}
    assert tile_servers.tiles_in(5, (10, 10, 10.0001, 10.0001)) == [(5, 16, 15)]
    patterns = {
        "https://h/{TileMatrix}/{TileRow}/{TileCol}.jpg": "https://h/3/5/2.jpg",
        "https://h/{z}/{x}/{-y}.png": "https://h/3/2/2.png",
        "https://h/{q}.png": "https://h/212.png",
        "https://h/t?TILEMATRIX={z}&TILEROW={y}&TILECOL={x}": "https://h/t?TILEMATRIX=3&TILEROW=5&TILECOL=2",
    }
    for pattern, address in patterns.items():
        assert tile_servers.tile_address(pattern, 3, 2, 5) == address
    assert fetch.REASONS["robots_disallowed"].temporary is False
