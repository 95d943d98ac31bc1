"""What the tests of maps share: features of GeoJSON, and the files they stand in."""

import json
from pathlib import Path


def square(lon: float, lat: float, side: float = 0.001) -> list:
    return [[[lon, lat], [lon + side, lat], [lon + side, lat + side], [lon, lat + side], [lon, lat]]]


def feature(geometry: dict | None, identity: object = None, **tags) -> dict:
    return {"type": "Feature", "id": identity, "geometry": geometry, "properties": tags}


def polygon(lon: float, lat: float, identity: object = None, side: float = 0.001, **tags) -> dict:
    return feature({"type": "Polygon", "coordinates": square(lon, lat, side)}, identity, **tags)


def point(lon: float, lat: float, **tags) -> dict:
    return feature({"type": "Point", "coordinates": [lon, lat]}, **tags)


def write(path: Path, *features, **members) -> str:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)} | members), encoding="utf-8")
    return str(path)
