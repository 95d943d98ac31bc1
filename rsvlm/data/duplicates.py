"""Duplicates, exact and near, within a data set; and pictures and texts of benchmarks that must not be trained on.

A picture is known by the hash of its bytes, the hash of its pixels, and a perceptual hash: 64 signs of its lowest spatial
frequencies, which survive other sizes, compression and brightness. A quarter turn or flip of the picture only swaps frequencies and
turns their signs, so the hashes of all eight come from one transform. Near hashes are found by bands of bits, never by all pairs.

A frame, a title or a black margin that different pictures share decides their lowest frequencies, so within a data set near hashes
are looked at again: the pictures have to be alike in every part (`picture_details`).

Pictures without contrast (open sea, clouds) have noise for a hash: they count as near only when their pixels are equal.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tarfile
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from rsvlm.data import near_hashes, picture_details, reading
from rsvlm.errors import ConfigError, DataError
from rsvlm.model import images
from rsvlm.records import files, stages
from rsvlm.records.text import batched

log = logging.getLogger(__name__)

ROOMS = ("data/duplicates", "data/near_hashes", "data/picture_details", "data/reading", "model/images")
"""Rooms whose files decide what is made here, for `stages.source_hash`."""

SIDE = 32  # pixels that the hash sees, as in the usual pHash
LOW = 8  # frequencies per axis: 64 bits
FLAT = 2.0
"""Standard deviation of the luma (0 to 255, at 32 x 32) below which a picture is flat: its frequencies are noise."""

DISTANCE = 6
"""Bits that near pictures may differ in.

Source: our choice, by `python -m benchmarks dedup --pictures RSICD_images --sample 2000`. Of 2,000 pictures of RSICD 6 bits find all
that were compressed (JPEG, quality 60) or made smaller (80 %), 99.8 % of those made brighter by 15 %, and 50 % of those cropped by 2.5 %
on each side (8 bits: 75 %, 10 bits: 90 %); of 1,999,000 pairs of different pictures one is within 10 bits, and none within 8.
From 8 bits on more bands have to be tried: 200,000 hashes take 5.7 to 8.1 times as long as with 6 bits, in three runs.
"""

COLUMNS = ["key", "bytes_sha256", "pixels_sha256", "hash", "contrast", "pixels", "text"]
TURNS = 8
"""Turn t = 4 f + q: flipped from left to right if f, then turned by q quarters, counter-clockwise."""

_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2"}


def thumbnails(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Reduce `(H, W, 3)` uint8 pictures to `(N, 32, 32)` float32 luma."""
    luma = (Image.fromarray(array).convert("L") for array in arrays)
    small = [np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float32) for image in luma]
    return np.stack(small) if small else np.zeros((0, SIDE, SIDE), np.float32)


def perceptual_hashes(luma: np.ndarray, turns: bool = False) -> np.ndarray:
    """Hash pictures by the signs of their low frequencies about the median.

    Args:
        luma: `(N, 32, 32)`, float32, as from `thumbnails`.
        turns: Also hash the picture's quarter turns and flips.

    Returns:
        `(N,)`, uint64; with `turns` `(N, 8)`, the first column the picture as it is.

    Source: the pHash of Zauner 2010, as ImageHash defines it (DCT-II, 8 x 8 lowest frequencies, median).
    """
    n = np.arange(SIDE)
    basis = 2 * np.cos(np.pi * np.outer(np.arange(LOW), 2 * n + 1) / (2 * SIDE))  # (8, 32)
    low = basis @ luma.astype(np.float64) @ basis.T  # (N, 8, 8): row frequency, column frequency
    if not turns:
        return _signs(low)
    odd = np.where(np.arange(LOW) % 2, -1.0, 1.0)  # what mirroring does to a frequency
    forms = []
    for flipped in (low, low * odd):
        for quarters in range(4):
            # a quarter counter-clockwise is the transpose, then top and bottom swapped
            forms.append(_signs(flipped))
            flipped = flipped.transpose(0, 2, 1) * odd[:, None] if quarters < 3 else flipped
    return np.stack(forms, axis=1)


def _signs(low: np.ndarray) -> np.ndarray:
    flat = low.reshape(len(low), LOW * LOW)
    bits = flat > np.median(flat, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def turn(array: np.ndarray, number: int) -> np.ndarray:
    """Turn a `(H, W, …)` picture as `TURNS` numbers it."""
    return np.rot90(array[:, ::-1] if number >= 4 else array, number % 4)


def hash_table(samples: Iterable[tuple[str, bytes, np.ndarray, str]], batch: int = 1024) -> pd.DataFrame:
    """Hash pictures and keep their texts.

    Args:
        samples: Key, encoded bytes (empty if there are none), `(H, W, 3)` uint8 pixels and text of each picture.
        batch: Number of pictures in memory at once.

    Returns:
        One row per picture with the columns `COLUMNS`; `hash` uint64, `contrast` the standard deviation of its 32 x 32 luma,
        `pixels` its width times height; `hash_0` … `hash_7`, the hashes of its turns; and `small`, a kilobyte, as from
        `picture_details`.
    """
    parts = [_hash_batch(part) for part in batched(samples, batch)]
    return pd.concat(parts, ignore_index=True) if parts else _hash_batch([])


def _hash_batch(part: list) -> pd.DataFrame:
    keys, encoded, arrays, texts = zip(*part, strict=True) if part else ((), (), (), ())
    luma = thumbnails(arrays)
    hashes = perceptual_hashes(luma, turns=True)
    pixels = [f"{hashlib.sha256(np.ascontiguousarray(a)).hexdigest()}-{a.shape[1]}x{a.shape[0]}" for a in arrays]
    columns = {
        "key": np.array(keys, object),
        "bytes_sha256": np.array([hashlib.sha256(data).hexdigest() if data else "" for data in encoded], object),
        "pixels_sha256": pixels,
        "hash": hashes[:, 0],
        "contrast": luma.std(axis=(1, 2)),
        "pixels": np.array([a.shape[0] * a.shape[1] for a in arrays], np.int64),
        "text": np.array(texts, object),
    }
    columns |= {f"hash_{number}": hashes[:, number] for number in range(TURNS)}
    return pd.DataFrame(columns | {picture_details.COLUMN: np.array([*picture_details.small(luma)], object)})


def load_or_hash(path: Path, fingerprint: str, samples: Iterable[tuple[str, bytes, np.ndarray, str]]) -> pd.DataFrame:
    """Return the hash table kept in a parquet file, made now unless it is there with this fingerprint, as `NAME.json` beside it says.

    The fingerprint of the pictures is as from `benchmarks.fingerprint`; samples are as for `hash_table`, not touched when it is there.
    """
    note = path.with_suffix(".json")
    if path.is_file() and note.is_file() and note.read_text() == fingerprint:
        return pd.read_parquet(path)
    table = hash_table(samples)
    note.unlink(missing_ok=True)
    files.write_atomic(path, table.to_parquet(index=False))
    files.write_atomic(note, fingerprint)
    return table


def table_name(name: str, fingerprint: str) -> str:
    """Name the hash table of a benchmark's pictures by all that decides it; both are as from `benchmarks`."""
    mark = stages.key(code=stages.source_hash(*ROOMS), content=fingerprint)
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name) or 'benchmark'}-{mark}"


def pictures(folder: Path) -> Iterator[tuple[str, bytes, np.ndarray, str]]:
    """Give all pictures of a folder, loose ones and those in tar files, at any depth, as `hash_table` takes them, without texts.

    Raises:
        DataError: A tar file is broken, or at the end: there was no picture at all.
    """
    broken = total = 0
    for path in (path for path in reading.visible(folder, "**/*") if path.is_file()):
        for name, data in _members(path, path.relative_to(folder).as_posix()):
            total += 1
            try:
                yield name, data, images.decode(data, where=name), ""
            except DataError:
                broken += 1
    if not total:
        raise DataError(f"{folder} holds no picture ({', '.join(sorted(_PICTURES))}), loose or in a tar file")
    if broken:
        log.warning("%s: %d pictures cannot be decoded and are not looked for", folder, broken)


def _members(path: Path, where: str) -> Iterator[tuple[str, bytes]]:
    if path.suffix.lower() in _PICTURES:
        yield where, path.read_bytes()
    elif path.suffix == ".tar":
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    name = Path(member.name)
                    if member.isreg() and name.suffix.lower() in _PICTURES and not reading.is_hidden(name.name):
                        yield f"{where}/{member.name}", archive.extractfile(member).read()
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataError(f"{path} is broken ({error}): fetch the benchmark again") from None


def find_stays(hashes: np.ndarray, small: np.ndarray, distance: int = DISTANCE) -> np.ndarray:
    """Let a picture go when it is near one before it that stays: no chains, along which unlike pictures would be one.

    Args:
        hashes: `(N,)`, uint64, what should stay first.
        small: `(N, 32, 32)`, uint8, as from `picture_details.unpacked`: they have to be alike.
        distance: Bits that near hashes may differ in, 0 to 16.

    Returns:
        `(N,)`, int64, for each the position of the nearest that stays; its own where it stays.
    """
    places = np.zeros((4, 2**16, 2), np.int32)
    for band in range(4):
        places[band, 1:] = np.cumsum(np.bincount(_band(hashes, band), minlength=2**16))[:-1, None]
    # Bands are probed as evenly as their bits have to add up: up to t bits each, where the sum of t + 1 is distance + 1.
    probes = _probes(distance)
    flips = [(distance + 4 - band) // 4 - 1 for band in range(4)]
    counts = np.searchsorted(np.bitwise_count(probes), flips, "right")
    agreement = picture_details.NOISE, picture_details.ALIKE, picture_details.UNLIKE, picture_details.ZOOM
    return near_hashes.find_stays(hashes, np.ascontiguousarray(small), places, probes, counts, distance, *agreement)


def _band(hashes: np.ndarray, band: int) -> np.ndarray:
    return ((hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)).astype(np.int64)


def _probes(distance: int) -> np.ndarray:
    """What is flipped in a band so that all hashes within a distance are met: up to a quarter of its bits, fewest first."""
    if not 0 <= distance <= 16:
        raise ConfigError(f"a distance of {distance} bits: choose 0 to 16 of the 64")
    flips = [sum(1 << bit for bit in bits) for count in range(distance // 4 + 1) for bits in combinations(range(16), count)]
    return np.array(flips, np.int64)


def _bands(hashes: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    probes, order, start = _probes(distance), np.empty((4, len(hashes)), np.int64), np.zeros((4, 2**16 + 1), np.int64)
    for band in range(4):
        values = _band(hashes, band)
        order[band] = np.argsort(values, kind="stable")
        start[band, 1:] = np.cumsum(np.bincount(values, minlength=2**16))
    return order, start, probes


def duplicates(table: pd.DataFrame, distance: int = DISTANCE) -> pd.DataFrame:
    """Find what a data set holds more than once, by a table as from `hash_table`, and which one to keep.

    The largest picture comes first, then the one with the longest text, then the first key; a picture goes when it equals one before
    it, or is near one that stays (see `find_stays`).

    Returns:
        One row per picture to drop: `key`, `kept` (the key that stays), `reason` (`same bytes`, `same pixels`, `near picture`) and
        `distance` in bits.
    """
    # Equal pictures are one, by the best of them.
    table = _ranked(table.assign(row=np.arange(len(table)))).reset_index(drop=True)
    same = np.arange(len(table))
    for label in (pd.factorize(table["pixels_sha256"])[0], _known(table["bytes_sha256"])):
        same = _merge(same, label)
    one = np.flatnonzero((same == np.arange(len(table))) & (table["contrast"] >= FLAT).to_numpy())
    stays = np.arange(len(table))
    hashes = table["hash"].to_numpy(np.uint64)
    small = picture_details.unpacked(table[picture_details.COLUMN].to_numpy()[one])
    stays[one] = one[find_stays(hashes[one], small, distance)]

    # What goes, for what, and why.
    stays = stays[same]
    gone = np.flatnonzero(stays != np.arange(len(table)))
    gone = gone[np.argsort(table["row"].to_numpy()[gone])]
    kept = stays[gone]
    equal = {
        name: (table[name].to_numpy()[gone] == table[name].to_numpy()[kept]) for name in ("bytes_sha256", "pixels_sha256")
    }
    same_bytes = equal["bytes_sha256"] & (table["bytes_sha256"].to_numpy()[gone] != "")
    reason = np.where(same_bytes, "same bytes", np.where(equal["pixels_sha256"], "same pixels", "near picture"))
    bits = np.bitwise_count(hashes[gone] ^ hashes[kept]).astype(np.int64)
    keys = table["key"].to_numpy()
    return pd.DataFrame({"key": keys[gone], "kept": keys[kept], "reason": reason, "distance": bits})


def _ranked(table: pd.DataFrame, *first: str) -> pd.DataFrame:
    """Sort by what stays: the largest picture, then the longest text, then the first key."""
    columns = {**dict.fromkeys(first, True), "pixels": False, "length": False, "key": True}
    table = table.assign(length=table["text"].str.len())
    return table.sort_values(list(columns), ascending=list(columns.values()), kind="stable")


def _known(values: pd.Series) -> np.ndarray:
    codes = pd.factorize(values)[0]
    missing = (values == "").to_numpy()
    codes[missing] = codes.max(initial=0) + 1 + np.arange(missing.sum())  # nothing known is nothing shared
    return codes


def _merge(parent: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Join the groups that a second labelling connects; groups are named by their lowest member."""
    while True:
        joined = parent
        for groups_of in (label, parent):
            lowest = np.full(groups_of.max(initial=-1) + 1, len(parent), np.int64)
            np.minimum.at(lowest, groups_of, joined)
            joined = lowest[groups_of]
        if (joined == parent).all():
            return parent
        parent = joined


def embedding_duplicates(table: pd.DataFrame, embeddings: np.ndarray, similarity: float, block: int = 2048) -> pd.DataFrame:
    """Find pictures whose embeddings are near, and which to keep: the largest, then the longest text, then the first key.

    The best come first, and a picture goes only when it is near one that stays: no chains, along which unlike pictures would be one.
    Memory holds two blocks and their scores. All blocks of what stays are compared, `N**2 / 2` products of width E: on one core 20,000
    pictures of width 512 took 2.6 s, so 100,000 take about a minute, and a million an hour and more.

    Args:
        table: Table of `key pixels text`, a row for each embedding.
        embeddings: `(N, E)`, float32, of norm 1; may be memory-mapped.
        similarity: Smallest cosine; what is near depends on the model. With a small one of 128-pixel pictures, trained on RSICD, of 500
            pictures of RSICD's validation split 0.98 finds 95 to 100 % of copies that were compressed, made smaller or brighter, or
            cropped by 2.5 % a side, 98 % of the mirrored, 92 % of the turned and 71 % of those cropped by 5 %; 3.8 % have another
            picture as near. With 0.97 that is 86 % of the cropped by 5 %, and 7.2 %; with 0.99 41 % and 0.8 %.
        block: Number of rows at once.

    Returns:
        One row per picture to drop: `key`, `kept`, `reason` and `distance`, which is 1 - cosine.

    Raises:
        DataError: A NaN or infinite value.
    """
    order = _ranked(table.assign(row=np.arange(len(table))))["row"].to_numpy()
    near, cosine = np.full(len(order), -1, np.int64), np.full(len(order), similarity, np.float32)  # both by rank
    stays: list[np.ndarray] = []  # ranks, by block
    for first in range(0, len(order), block):
        rows = np.asarray(embeddings[order[first : first + block]])
        if not np.isfinite(rows).all():
            raise DataError("the embeddings hold values that are not finite: embed again")
        ours = np.arange(first, first + len(rows))
        for theirs in stays:
            scores = rows @ np.asarray(embeddings[order[theirs]]).T
            best, highest = scores.argmax(axis=1), scores.max(axis=1)
            nearer = np.where(near[ours] < 0, highest >= similarity, highest > cosine[ours])
            near[ours[nearer]], cosine[ours[nearer]] = theirs[best[nearer]], highest[nearer]
        scores = np.tril(rows @ rows.T, -1)
        open_ = near[ours] < 0
        for row in np.flatnonzero(open_ & (scores >= similarity).any(axis=1)):
            among = np.flatnonzero(open_[:row] & (scores[row, :row] >= similarity))
            if len(among):
                best = among[scores[row, among].argmax()]
                near[first + row], cosine[first + row], open_[row] = first + best, scores[row, best], False
        if open_.any():
            stays.append(ours[open_])
    gone, keys = np.flatnonzero(near >= 0), table["key"].to_numpy()
    distance = np.round(1 - cosine[gone].astype(float), 4)
    pairs = {"key": keys[order[gone]], "kept": keys[order[near[gone]]], "reason": "near duplicate by embedding"}
    return pd.DataFrame(pairs | {"distance": distance})


def overlap(
    train: pd.DataFrame, benchmark: pd.DataFrame, name: str, distance: int = DISTANCE, min_jaccard: float = 0.8
) -> pd.DataFrame:
    """List what of a data set also is in a benchmark called `name`, however it is turned; both are tables as from `hash_table`.

    Near pictures differ in at most `distance` bits, whatever their details: what may be a benchmark's should go. Near texts share at least `min_jaccard` of their word triples, and texts of fewer
    than six words count only when equal.

    Returns:
        One row per finding: `key`, `benchmark`, `benchmark_key`, `reason` (`same bytes`, `same pixels`, `near picture`,
        `same text`, `near text`), `distance` (bits; of texts 1 - Jaccard) and `turn` (which turn of ours is the benchmark's, as `turn`
        numbers it; -1 for texts). Of one pair of pictures the first reason that holds is given.
    """
    train, benchmark = train.reset_index(drop=True), benchmark.reset_index(drop=True)
    parts = [
        _equal(train, benchmark, "bytes_sha256", "same bytes"),
        _equal(train, benchmark, "pixels_sha256", "same pixels"),
        _near_pictures(train, benchmark, distance),
        _near_texts(train, benchmark, min_jaccard),
    ]
    pairs = pd.concat(parts, ignore_index=True).assign(benchmark=name)
    of_picture = pairs["reason"].isin(["same bytes", "same pixels", "near picture"])
    pairs = pairs[~(of_picture & pairs.assign(of_picture=of_picture).duplicated(["row", "of_picture"]))]
    pairs["key"], pairs["benchmark_key"] = train["key"].to_numpy()[pairs["row"]], benchmark["key"].to_numpy()[pairs["match"]]
    pairs = pairs[["key", "benchmark", "benchmark_key", "reason", "distance", "turn"]]
    pairs = pairs.astype({"distance": float, "turn": np.int64})
    return pairs.sort_values(["key", "reason"], kind="stable", ignore_index=True)


def _pairs(row: np.ndarray, match: np.ndarray, reason: str, distance=0.0, turn: int | np.ndarray = 0) -> pd.DataFrame:
    return pd.DataFrame({"row": row, "match": match, "reason": reason, "distance": distance, "turn": turn})


def _equal(train: pd.DataFrame, benchmark: pd.DataFrame, column: str, reason: str) -> pd.DataFrame:
    first = benchmark[benchmark[column] != ""].drop_duplicates(column)
    match = train[column].map(pd.Series(first.index, index=first[column])).dropna().astype(np.int64)
    return _pairs(match.index.to_numpy(), match.to_numpy(), reason)


def _near_pictures(train: pd.DataFrame, benchmark: pd.DataFrame, distance: int) -> pd.DataFrame:
    rows = np.flatnonzero(train["contrast"] >= FLAT)
    matches = np.flatnonzero(benchmark["contrast"] >= FLAT)
    gallery, first = np.unique(benchmark["hash"].to_numpy(np.uint64)[matches], return_index=True)
    queries = train[[f"hash_{number}" for number in range(TURNS)]].to_numpy(np.uint64)[rows]
    best, bits, form = near_hashes.nearest_hashes(queries, gallery, *_bands(gallery, distance), distance)
    near = best >= 0
    return _pairs(rows[near], matches[first[best[near]]], "near picture", bits[near].astype(float), form[near])


def normalise_text(texts: pd.Series) -> pd.Series:
    """Lower-case texts and reduce everything but letters and digits to single blanks."""
    plain = texts.fillna("").astype(str).str.normalize("NFKC").str.casefold()
    return plain.str.replace(r"[\W_]+", " ", regex=True).str.strip()


def _near_texts(train: pd.DataFrame, benchmark: pd.DataFrame, min_jaccard: float) -> pd.DataFrame:
    ours, theirs = (normalise_text(lines(table["text"])) for table in (train, benchmark))
    first = theirs[theirs != ""].drop_duplicates()
    exact = ours.map(pd.Series(first.index, index=first.to_numpy())).dropna().astype(np.int64)
    same = _pairs(exact.index.to_numpy(), exact.to_numpy(), "same text", 0.0, -1).drop_duplicates("row")
    texts = pd.concat([ours, first])
    shingle, owner = _shingles(texts.to_numpy())
    if not len(shingle):
        return same
    count = np.bincount(owner, minlength=len(texts))
    pairs = _candidates(shingle, owner, count, len(ours))
    share = _jaccard(pairs, shingle, owner, count)
    row, match = ours.index.to_numpy()[pairs[:, 0]], first.index.to_numpy()[pairs[:, 1] - len(ours)]
    near = _pairs(row, match, "near text", 1 - share, -1)[(share >= min_jaccard) & ~np.isin(row, same["row"])]
    return pd.concat([same, near.sort_values("distance", kind="stable").drop_duplicates("row")])


def _candidates(shingle: np.ndarray, owner: np.ndarray, count: np.ndarray, n_ours: int) -> np.ndarray:
    """Pairs of texts, (P, 2) int64, that share a band of `rows` MinHash values of all; texts of fewer than four word triples have none."""
    hashes, rows = 32, 4
    long = np.flatnonzero(count >= 4)
    words, begin = shingle[count[owner] >= 4], np.concatenate([[0], np.cumsum(count[long])[:-1]]).astype(np.int64)
    rng = np.random.default_rng(0)
    factor = rng.integers(1, 2**61, hashes, dtype=np.uint64) | np.uint64(1)
    offset = rng.integers(0, 2**61, hashes, dtype=np.uint64)
    candidates = []
    for band in range(0, hashes, rows):
        parts = []
        for k in range(band, band + rows):
            mixed = words * factor[k] + offset[k]
            mixed ^= mixed >> np.uint64(29)
            parts.append(np.minimum.reduceat(mixed, begin) if len(long) else mixed)
        frame = pd.DataFrame({"text": long, "band": pd.util.hash_pandas_object(pd.DataFrame(np.stack(parts, 1)), index=False)})
        left, right = frame[frame["text"] < n_ours], frame[frame["text"] >= n_ours].drop_duplicates("band")
        candidates.append(left.merge(right, on="band")[["text_x", "text_y"]])
    return pd.concat(candidates).drop_duplicates().to_numpy()


def lines(texts: pd.Series) -> pd.Series:
    """Return one text a row, for rows that hold several in lines; the index tells the row."""
    return texts.fillna("").astype(str).str.split("\n").explode()


def _shingles(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the different word triples of all texts, and the text that each belongs to, ordered by text."""
    words = pd.Series(texts).str.split().explode()
    words = words[words.notna()]
    code = pd.util.hash_array(words.to_numpy(object)) if len(words) else np.zeros(0, np.uint64)
    owner = words.index.to_numpy()
    if len(code) < 3:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    whole = owner[2:] == owner[:-2]
    factors = (np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
    first, second, third = (part * factor for part, factor in zip((code[:-2], code[1:-1], code[2:]), factors, strict=True))
    frame = pd.DataFrame({"owner": owner[2:], "triple": first ^ second ^ third})[whole]
    frame = frame.drop_duplicates().sort_values(["owner", "triple"])
    return frame["triple"].to_numpy(), frame["owner"].to_numpy()


def _jaccard(pairs: np.ndarray, shingle: np.ndarray, owner: np.ndarray, count: np.ndarray) -> np.ndarray:
    if not len(pairs):
        return np.zeros(0)
    sets = pd.DataFrame({"owner": owner, "triple": shingle})
    asked = pd.DataFrame({"pair": np.arange(len(pairs)), "left": pairs[:, 0], "right": pairs[:, 1]})
    left = asked.merge(sets, left_on="left", right_on="owner")[["pair", "right", "triple"]]
    common = left.merge(sets, left_on=["right", "triple"], right_on=["owner", "triple"]).groupby("pair").size()
    common = common.reindex(range(len(pairs)), fill_value=0).to_numpy()
    return common / (count[pairs[:, 0]] + count[pairs[:, 1]] - common)
