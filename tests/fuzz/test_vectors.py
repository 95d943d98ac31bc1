"""Maps in odd but legal forms: one map is the same in every form and order, and whatever goes in comes out or is counted."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from fuzzing import fuzz
from hypothesis import assume, strategies as st

from rsvlm.data.maps import features as maps

shapely = pytest.importorskip("shapely", reason="the extra [data] is not installed")
pyogrio = pytest.importorskip("pyogrio")
pyproj = pytest.importorskip("pyproj")

CELL = 0.002
UTM = "EPSG:32629"
TO_UTM = pyproj.Transformer.from_crs("OGC:CRS84", UTM, always_xy=True)
# What a feature says, and the category that it means; None where it is none.
SAID = {
    "area": [
        ({"natural": "water"}, "lake"), ({"building": "yes"}, "building"), ({"fclass": "beach"}, "beach"),
        ({"landuse": "forest"}, "forest"), ({"building": "yes", "layer": "-1"}, "building"), ({"leisure": "pitch;park"}, ...),
        ({"demolished:building": "yes"}, None), ({"building": "yes", "demolished": "yes"}, None), ({"building": "no"}, None),
        ({"was:building": "yes"}, None), ({"note": "natural=water"}, None), ({"abandoned:landuse": "forest"}, None),
    ],
    "line": [
        ({"highway": "track"}, "track"), ({"waterway": "river"}, "river"), ({"proposed:highway": "track"}, None),
        ({"highway": "proposed"}, None), ({"fclass": "track", "bridge": "F"}, "track"), ({"ref": "A 1"}, None),
    ],
    "point": [
        ({"natural": "tree"}, "tree"), ({"man_made": "water_tower"}, "water tower"), ({"disused:man_made": "water_tower"}, None),
        ({"natural": "tree", "razed": "yes"}, None), ({"source": "survey"}, None), ({"shop": "vacant"}, None),
    ],
}  # fmt: skip
NAMES = st.sampled_from([None, None, "", "Alva", "São João", 'A "quoted" <b>', "Rue de l’Œuvre", "12", "Ilha, do\tMeio"])
FOREIGN = st.sampled_from(["Łódź", "Река", "上海", "Ünïcode"])
IDENTITIES = st.sampled_from([None, 0, 1, "0", "-1", "x", "way/7", 1.5, "6ba7b810-9dad-11d1-80b4-00c04fd430c8"])


def shape_of(kind: str, form: int, x: float, y: float):
    """Return a shape of a kind, at most half a cell large, and what must be read of it."""
    if kind == "point":
        point = shapely.Point(x, y)
        return [(point, point), (shapely.Point(x, y, 5.0), point), (shapely.MultiPoint([point]), shapely.MultiPoint([point]))][
            form
        ]
    if kind == "line":
        line = shapely.LineString([(x, y), (x + 0.001, y + 0.0003), (x + 0.0005, y + 0.0008)])
        both = shapely.MultiLineString([line, [(x, y + 0.0002), (x + 0.0001, y + 0.0009)]])
        return [(line, line), (shapely.force_3d(line, 7.0), line), (both, both)][form]
    ring = shapely.Polygon(
        [(x, y), (x + 0.001, y), (x + 0.0009, y + 0.001), (x, y + 0.0008)],
        [[(x + 0.0002, y + 0.0002), (x + 0.0004, y + 0.0002), (x + 0.0003, y + 0.0004)]],
    )
    plain = shapely.Polygon(ring.exterior)
    far = shapely.MultiPolygon([plain, shapely.box(x + 0.0011, y, x + 0.0012, y + 0.0001)])
    return [(ring, ring), (shapely.force_3d(shapely.reverse(plain), 3.0), plain), (far, far)][form]


@st.composite
def map_rows(draw, kinds=("area", "line", "point"), foreign=False) -> list[dict]:
    """Draw a map: its features lie apart; each has `tags`, `name`, `id`, `shape` (perhaps None), and what is `wanted` of it."""
    rows = []
    for cell in draw(st.lists(st.integers(0, 99), min_size=1, max_size=10, unique=True)):
        kind = draw(st.sampled_from(kinds))
        tags, category = draw(st.sampled_from(SAID[kind]))
        shape, wanted = shape_of(kind, draw(st.integers(0, 2)), -9 + cell % 10 * CELL, 41 + cell // 10 * CELL)
        if draw(st.integers(0, 9)) == 0:
            shape = wanted = None
        name = draw(NAMES | FOREIGN if foreign else NAMES)
        rows.append(
            {"tags": tags, "name": name, "id": draw(IDENTITIES), "shape": shape, "wanted": wanted, "category": category}
        )
    # One that says what it is: a file of footprints alone is read otherwise.
    kind, tags, category = {
        "area": ("area", {"natural": "water"}, "lake"), "line": ("line", {"waterway": "river"}, "river"),
        "point": ("point", {"natural": "tree"}, "tree"),
    }[kinds[0]]  # fmt: skip
    shape, wanted = shape_of(kind, 0, -9, 41 + 11 * CELL)
    return [{"tags": tags, "name": None, "id": None, "shape": shape, "wanted": wanted, "category": category}, *rows]


def collection(rows: list[dict], to=None) -> dict:
    """Return GeoJSON of a map, in the system that `to` leads to."""
    members = []
    for row in rows:
        shape = row["shape"] if to is None or row["shape"] is None else shapely.transform(row["shape"], to)
        said = dict(row["tags"]) | ({} if row["name"] is None else {"name": row["name"]})
        member = {
            "type": "Feature",
            "geometry": None if shape is None else shapely.geometry.mapping(shape),
            "properties": said,
        }
        members.append(member | ({} if row["id"] is None else {"id": row["id"]}))
    return {"type": "FeatureCollection", "features": members}


def to_utm(places: np.ndarray) -> np.ndarray:
    return np.column_stack(TO_UTM.transform(places[:, 0], places[:, 1]))


def as_geojson(folder: Path, rows: list[dict], form: str) -> Path:
    """Write a map as text: in one of the encodings, a feature on each line, or in a system of its own."""
    path = folder / "map.geojson"
    if form == "lines":
        lines = [json.dumps(one) for one in collection(rows)["features"]]
        path = folder / "map.geojsonseq"
        path.write_bytes("".join(f"\x1e{line}\n" for line in lines).encode())
    elif form == "crs":
        crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32629"}}
        path.write_text(json.dumps(collection(rows, to_utm) | {"crs": crs}), encoding="utf-8")
    elif form == "nested":
        content = collection(rows)
        for one in content["features"]:
            own = one["properties"]
            one["properties"] = {"name": own.pop("name", None), "tags": json.dumps(own) if len(own) % 2 else own}
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    else:
        path.write_text(json.dumps(collection(rows), ensure_ascii=False), encoding=form)
    return path


def as_table(folder: Path, rows: list[dict], form: str) -> Path:
    """Write a map as a table with a column for each key: GeoPackage, FlatGeobuf, GeoParquet, or shapefile of an encoding."""
    keys = sorted({key for row in rows for key in row["tags"]} | {"name"})
    cells = [np.array([(row["tags"] | {"name": row["name"]}).get(key) for row in rows], object) for key in keys]
    shapes = np.array([row["shape"] for row in rows], object)
    if form == "parquet":
        import pyarrow
        import pyarrow.parquet

        columns = {key: pyarrow.array(column.tolist(), pyarrow.string()) for key, column in zip(keys, cells)}
        columns["shape"] = pyarrow.array(shapely.to_wkb(shapes).tolist(), pyarrow.binary())
        geo = {"version": "1.1.0", "primary_column": "shape", "columns": {"shape": {"encoding": "WKB", "geometry_types": []}}}
        path = folder / "map.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns).replace_schema_metadata({"geo": json.dumps(geo)}), path)
        return path
    flat = shapely.force_2d(shapes)
    about = {"fields": keys, "crs": "EPSG:4326", "geometry_type": "Unknown"}
    if form == "gpkg utm":
        flat = np.array([None if shape is None else shapely.transform(shape, to_utm) for shape in flat], object)
        about["crs"] = UTM
    if form.startswith("shp"):
        _, encoding, told = form.split()
        about["encoding"] = encoding
        about["geometry_type"] = {0: "MultiPoint", 1: "MultiLineString", 2: "MultiPolygon"}[shapely.get_dimensions(flat[0])]
        many = {0: shapely.multipoints, 1: shapely.multilinestrings, 2: shapely.multipolygons}[shapely.get_dimensions(flat[0])]
        flat = np.array([None if shape is None else many(shapely.get_parts(shape)) for shape in flat], object)
    path = folder / f"map.{form.split()[0]}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapefiles have short names of columns
        pyogrio.raw.write(path, shapely.to_wkb(flat), cells, **about)
    if form.startswith("shp") and told == "untold":
        path.with_suffix(".cpg").unlink(missing_ok=True)
        data = bytearray(path.with_suffix(".dbf").read_bytes())
        data[29] = 0  # the code page
        path.with_suffix(".dbf").write_bytes(bytes(data))
    return path


def as_osm(folder: Path, rows: list[dict]) -> Path:
    """Write the points and the simple lines and rings of a map as OpenStreetMap XML."""
    nodes, ways = [], []
    for row in rows:
        said = row["tags"] | ({"name": row["name"]} if row["name"] else {})
        tags = "".join(f"<tag k={quoteattr(key)} v={quoteattr(value)}/>" for key, value in said.items())
        places = shapely.get_coordinates(row["shape"])
        first = len(nodes) + 1
        closed = row["shape"].geom_type == "Polygon"
        for place, (lon, lat) in enumerate(places[: len(places) - closed]):
            own = tags if row["shape"].geom_type == "Point" else ""
            nodes.append(f'<node id="{first + place}" version="1" lat="{lat:.7f}" lon="{lon:.7f}">{own}</node>')
        if row["shape"].geom_type != "Point":
            refs = [*range(first, len(nodes) + 1), *([first] if closed else [])]
            inside = "".join(f'<nd ref="{ref}"/>' for ref in refs)
            ways.append(f'<way id="{len(ways) + 1}" version="1">{inside}{tags}</way>')
    path = folder / "map.osm"
    path.write_text(
        f'<?xml version="1.0" encoding="UTF-8"?><osm version="0.6">{"".join(nodes + ways)}</osm>', encoding="utf-8"
    )
    return path


def read(*paths: Path | str) -> maps.Features:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return maps.read(list(map(str, paths)))


def lost(found: maps.Features) -> int:
    """Return how many features were left out, or merged into others, with a reason."""
    return sum(count for reason, count in found.counts.items() if reason not in set(maps.TOLD) - {"pieces merged"})


def name_of(text: str | None) -> str | None:
    return " ".join(text.split()) or None if text else None


def agrees(rows: list[dict], found: maps.Features, names: bool = True):
    """Assert that a map was read as it was drawn, in its order, and that the rest was counted."""
    wanted = [row for row in rows if row["category"] is not None and row["wanted"] is not None]
    assert len(found.table) + lost(found) == len(rows)
    assert len(found.table) == len(wanted), dict(found.counts)
    for row, category, name, shape in zip(wanted, found.table["category"], found.table["name"], found.geometry):
        assert row["category"] in (..., category)
        assert not names or name_of(row["name"]) == name
        many = shapely.get_dimensions(shape) == shapely.get_dimensions(row["wanted"])
        assert many and shapely.hausdorff_distance(shape, row["wanted"]) < 1e-6
        assert abs(shape.area - row["wanted"].area) < 1e-9 and not shapely.has_z(shape)


@fuzz(rows=map_rows(foreign=True), form=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "lines", "crs", "nested"]))
def test_geojson_of_any_encoding_system_and_nesting_is_read_as_drawn(rows, form):
    with tempfile.TemporaryDirectory() as folder:
        agrees(rows, read(as_geojson(Path(folder), rows, form)))


@fuzz(
    kind=st.sampled_from(["area", "line", "point"]),
    data=st.data(),
    form=st.sampled_from(
        [
            "gpkg", "gpkg utm", "fgb", "parquet", "shp UTF-8 told", "shp UTF-8 untold", "shp CP1252 told", "shp CP1252 untold",
            "cp1252",
        ]
    ),
)  # fmt: skip
def test_tables_of_any_format_and_encoding_are_read_as_drawn(kind, data, form):
    one_byte = "1252" in form
    rows = data.draw(map_rows([kind] if form.startswith("shp") else [kind, "area", "line"], foreign=not one_byte))
    if form == "fgb":  # its writer leaves out what has no geometry, and sorts the rest
        rows = [row for row in rows if row["shape"] is not None]
    with tempfile.TemporaryDirectory() as folder:
        found = read((as_geojson if form == "cp1252" else as_table)(Path(folder), rows, form))
    if form == "fgb":
        middles = [tuple(shapely.get_coordinates(shape)[0].round(9)) for shape in found.geometry]
        assert len(found.table) + lost(found) == len(rows) and len(set(middles)) == len(middles)
        wanted = [row for row in rows if row["category"] is not None]
        assert sorted(map(str, found.table["name"])) == sorted(str(name_of(row["name"])) for row in wanted)
    else:
        agrees(rows, found)


@fuzz(rows=map_rows(foreign=True))
def test_an_extract_of_openstreetmap_is_read_as_its_geojson(rows):
    pytest.importorskip("osmium")
    rows = [
        row | {"id": None} for row in rows
        if row["wanted"] is not None and row["wanted"].geom_type in ("Point", "LineString", "Polygon")
        and not len(getattr(row["wanted"], "interiors", ())) and "fclass" not in row["tags"]
    ]  # fmt: skip
    assume(rows)
    with tempfile.TemporaryDirectory() as folder:
        found = [read(path) for path in (as_osm(Path(folder), rows), as_geojson(Path(folder), rows, "utf-8"))]
    said = [
        sorted(zip(one.table["category"], map(str, one.table["name"]), (str(list(shape.bounds)) for shape in round_(one))))
        for one in found
    ]
    assert said[0] == said[1]


def round_(found: maps.Features) -> np.ndarray:
    return shapely.transform(found.geometry, lambda places: places.round(6))


@fuzz(
    layers=st.lists(st.tuples(map_rows(["area"]), st.sampled_from(["EPSG:4326", UTM, None, "table"])), min_size=1, max_size=4)
)
def test_every_layer_is_read_or_counted(layers):
    """Layers begin to number their features anew; one without a system is counted, and one without shapes is no map."""
    assume(any(crs in ("EPSG:4326", UTM) for _, crs in layers))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.gpkg"
        for number, (rows, crs) in enumerate(layers):
            # Layers lie side by side.
            shapes = np.array(
                [row["shape"] and shapely.transform(row["shape"], lambda at, by=number: at + [0.05 * by, 0]) for row in rows]
            )
            if crs == UTM:
                shapes = np.array([shape and shapely.transform(shape, to_utm) for shape in shapes])
            keys = sorted({key for row in rows for key in row["tags"]})
            cells = [np.array([row["tags"].get(key) for row in rows], object) for key in keys]
            about = {"layer": f"layer {number}", "fields": keys, "append": number > 0}
            if crs == "table":
                pyogrio.raw.write(path, None, cells, crs=None, geometry_type=None, **about)
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    flat = shapely.to_wkb(shapely.force_2d(shapes))
                    pyogrio.raw.write(path, flat, cells, crs=crs, geometry_type="Unknown", **about)
        with_shapes = [name for name, kind in pyogrio.list_layers(path) if kind is not None]
        there = sum(pyogrio.read_info(path, layer=name, force_feature_count=True)["features"] for name in with_shapes)
        found = read(path)
    assert len(found.table) + lost(found) == there
    placed = [row for rows, crs in layers if crs in ("EPSG:4326", UTM) for row in rows]
    assert len(found.table) == sum(row["category"] is not None and row["wanted"] is not None for row in placed)


@st.composite
def things_cut(draw) -> tuple[list, list, float]:
    """Draw lakes and roads that lie apart, what tiles cut them into, in any order, and the side of the tiles."""
    side = draw(st.sampled_from([0.001, 0.003, 0.01]))
    offset = draw(st.integers(0, 9)) * 1e-4
    form = draw(st.sampled_from(["way/{}", "{}", "6ba7b810-9dad-11d1-80b4-{:012x}", "r{}"]))
    whole, pieces = [], []
    for number in range(1, draw(st.integers(2, 5)) + 1):
        x, y = number % 2 * 0.02 + 0.003, number // 2 * 0.02 + 0.003
        spokes = draw(st.lists(st.integers(1, 6), min_size=4, max_size=12))
        turns = np.linspace(0, 2 * np.pi, len(spokes), endpoint=False)
        rim = np.column_stack([np.cos(turns), np.sin(turns)]) * np.array(spokes)[:, None] * 0.001 + (x + 0.006, y + 0.006)
        is_lake = draw(st.booleans())
        thing = shapely.Polygon(rim) if is_lake else shapely.LineString(rim)
        tags = {"natural": "water", "name": f"Lake {number}"} if is_lake else {"highway": "track", "name": f"Way {number}"}
        whole.append((thing, tags["name"]))
        west, south, east, north = thing.bounds
        for left in np.arange(np.floor((west - offset) / side), (east - offset) / side):
            for low in np.arange(np.floor((south - offset) / side), (north - offset) / side):
                tile = shapely.box(left * side, low * side, (left + 1) * side, (low + 1) * side)
                piece = thing.intersection(shapely.transform(tile, lambda at: at + offset))
                parts = [
                    part for part in shapely.get_parts(piece) if part.area + part.length > 0 and (part.area > 0) == is_lake
                ]
                if parts:
                    piece = (
                        parts[0]
                        if len(parts) == 1
                        else (shapely.multipolygons if is_lake else shapely.multilinestrings)(parts)
                    )
                    pieces.append((piece, tags, form.format(number)))
    assume(len(pieces) <= 150)
    return whole, draw(st.permutations(pieces)), side


@fuzz(drawn=things_cut(), digits=st.sampled_from([7, 9, 15]))
def test_what_tiles_cut_is_whole_again_in_any_order(drawn, digits):
    whole, pieces, _ = drawn
    rows = [
        {"type": "Feature", "id": identity, "properties": tags, "geometry": shapely.geometry.mapping(rounded(piece, digits))}
        for piece, tags, identity in pieces
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": rows}))
        found = read(path)
    assert len(found.table) + lost(found) == len(pieces)
    assert sorted(found.table["name"]) == sorted(name for _, name in whole), dict(found.counts)
    shapes = dict(zip(found.table["name"], found.geometry))
    for thing, name in whole:
        assert abs(shapes[name].area - thing.area) < 1e-8
        assert shapely.hausdorff_distance(shapes[name], thing) < 3e-6


def rounded(shape, digits: int):
    return shapely.transform(shape, lambda places: places.round(digits))


@fuzz(
    cells=st.lists(st.integers(0, 99), min_size=2, max_size=25, unique=True),
    numbers=st.lists(st.sampled_from(["0", "1", "2", "3", "", "x"]), min_size=25, max_size=25),
    gap=st.sampled_from([1e-5, 1e-4, 1e-3]),
    data=st.data(),
)
def test_houses_apart_stay_apart_whatever_their_numbers_and_in_any_order(cells, numbers, gap, data):
    rows = [
        {
            "type": "Feature", "id": number, "properties": {"building": "yes"},
            "geometry": shapely.geometry.mapping(shapely.box(c % 10 * 1e-3, c // 10 * 1e-3, c % 10 * 1e-3 + 1e-3 - gap / 2, c // 10 * 1e-3 + 9e-4)),
        }
        for c, number in zip(cells, numbers)
    ]  # fmt: skip
    assume(gap < 1e-3)
    with tempfile.TemporaryDirectory() as folder:
        seen = []
        for order in (rows, data.draw(st.permutations(rows))):
            path = Path(folder) / "map.geojson"
            path.write_text(json.dumps({"type": "FeatureCollection", "features": order}))
            found = read(path)
            assert len(found.table) == len(rows) and found.counts["pieces merged"] == 0
            seen.append(sorted(shapely.to_wkt(found.geometry)))
    assert seen[0] == seen[1]


ODD_KEYS = st.sampled_from(
    "natural building highway name name:en sources names tags other_tags id fid class demolished layer is_underground version".split()
)
ODD_VALUES = st.one_of(
    st.sampled_from(["water", "yes", "no", "beach", "residential", "track", "nan", '{"primary": "X"}', '"a"=>"b"', "[1", ""]),
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.lists(st.sampled_from([{"dataset": "meta"}, 3, None]), max_size=2),
    st.dictionaries(
        st.sampled_from(["primary", "common", "natural"]), st.sampled_from(["water", None, {"en": "A"}, [1]]), max_size=2
    ),
)
SQUARE = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]) * 5e-4
ODD_SHAPES = st.one_of(
    st.none(),
    st.builds(lambda x, y: {"type": "Point", "coordinates": [x, y]}, st.integers(-400, 400), st.integers(-95, 95)),
    st.builds(
        lambda x, y: {"type": "Polygon", "coordinates": [(SQUARE + (x / 1000, y / 1000)).tolist()]},
        st.integers(0, 9), st.integers(0, 9),
    ),
    st.builds(lambda y: {"type": "LineString", "coordinates": [[179.9, y], [-179.9, y + 0.1]]}, st.integers(-80, 80)),
    st.sampled_from(
        [
            {"type": "Polygon", "coordinates": []}, {"type": "Nonsense"}, {}, 7, {"type": "Point", "coordinates": ["a"]},
            {"type": "Polygon", "coordinates": [[[0, 0], [1e-3, 1e-3], [1e-3, 0], [0, 1e-3], [0, 0]]]},
            {"type": "LineString", "coordinates": [[0, 0], [0, 0]]}, {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 0], [0, 0]]]},
            {"type": "GeometryCollection", "geometries": []}, {"type": "MultiPoint", "coordinates": [[1, 1, 1, 1]]},
            {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [1, 1]}, {"type": "Point", "coordinates": [2, 1]}]},
        ]
    ),
)  # fmt: skip


@fuzz(
    odd=st.lists(
        st.builds(
            lambda shape, own, tags: {"type": "Feature", "id": own, "geometry": shape, "properties": tags},
            ODD_SHAPES,
            st.sampled_from([None, 0, 1, "way/1", "x", [1], {}]),
            st.one_of(st.none(), st.dictionaries(ODD_KEYS, ODD_VALUES, max_size=5)),
        ),
        max_size=12,
    )
)
def test_whatever_goes_in_comes_out_or_has_a_reason(odd):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": odd}))
        found = read(path)
        saved = maps.load(maps.save(found, Path(folder) / "saved").parent)
    assert len(found.table) + lost(found) == len(odd)
    assert len(found.geometry) == len(found.table) and shapely.is_valid(found.geometry).all()
    assert maps.fingerprint(saved) == maps.fingerprint(found)


@fuzz(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["P.PPL", "T.BCH", "S.AIRP", "H.LK", "X.Y", "."]),
            st.sampled_from(["Porto", "São João", "", "Łódź", 'with "quotes', "nan"]),
            st.sampled_from(["41.5", "-8", "95", "", "x", "nan"]),
            st.sampled_from(["0", "", "700", "1000000", "many"]),
        ),
        min_size=1,
        max_size=15,
    ),
    encoding=st.sampled_from(["utf-8", "cp1252"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_a_table_of_geonames_loses_no_line_without_a_reason(rows, encoding, end):
    rows = [("P.PPL", "Aveiro", "40.6", "0"), *rows]
    lines = []
    for number, (code, name, lat, people) in enumerate(rows):
        cells = [
            str(number + 1),
            name,
            name,
            "",
            lat,
            str(number * 0.01),
            *code.split("."),
            "PT",
            "",
            *[""] * 4,
            people,
            *[""] * 4,
        ]
        lines.append("\t".join(cells).encode(encoding, "replace"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cities.txt"
        path.write_bytes(end.encode().join(lines) + end.encode())
        found = read(path)
    assert len(found.table) + lost(found) == len(rows)
    sound = [
        name for code, name, lat, people in rows
        if code in ("P.PPL", "T.BCH", "S.AIRP", "H.LK") and lat in ("40.6", "41.5", "-8") and people != "many"
    ]  # fmt: skip
    said = (name.encode(encoding, "replace").decode(encoding) or None for name in sound)
    assert found.table["name"].tolist() == list(said)
