"""Test data in training sets: which pictures and captions of a benchmark a training set holds, and what that does to the scores.

A picture counts as the same when its bytes or pixels are equal, or when its perceptual hash is near under one of the eight turns and
flips (`duplicates`); a caption when its words are, or nearly. Pairs are looked for from both sides, so that every item of either that has a
partner is named, with its nearest. The list is a plain file (`write_list`), which others can use to clean their training set or to
leave images out of a test.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from rsvlm.data import benchmarks, catalogue, duplicates, reading, shards, tables as caption_tables
from rsvlm.errors import DataError
from rsvlm.evaluation import retrieval
from rsvlm.evaluation.embeddings import Embeddings
from rsvlm.model import images
from rsvlm.records import files, results

log = logging.getLogger(__name__)

PICTURES = ("same bytes", "same pixels", "near picture")
TEXTS = ("same text", "near text")
COLUMNS = ("train_set", "train_key", "benchmark", "benchmark_key", "reason", "distance", "turn")
EVERYTHING = "all"
"""As a split: every picture of a folder, in whatever layout, without captions; or every line of a file of captions."""

# A turn and what undoes it: quarters run backwards, a mirror image with quarters undoes itself.
_BACK = np.array([0, 3, 2, 1, 4, 5, 6, 7, -1])


def find(
    train: Path | str | Sequence[Path | str],
    benchmark: Path | str,
    *,
    split: str = "test",
    train_split: str = "train",
    name: str | None = None,
    distance: int = duplicates.DISTANCE,
    min_jaccard: float = 0.8,
    batch: int = 20_000,
    partial: bool = False,
) -> pd.DataFrame:
    """List what a benchmark and training sets have in common; memory holds the benchmark's hashes and one batch of a training set's.

    Args:
        train: Folders of shards or benchmarks, or files of captions alone: JSON `{"images": [{"file", "split", "captions"}]}` or
            Karpathy's.
        benchmark: One of the same.
        split: Split of the benchmark, or `EVERYTHING`.
        train_split: Split of the training sets, or `EVERYTHING`.
        name: Name of the benchmark, in the list or where it is one of `catalogue.rows`. If None, what its own files say.
        distance: Number of bits, 0 to 16, that the hashes of near pictures may differ in.
        min_jaccard: Smallest share of common word triples for a near text.
        batch: Pictures of a training set in memory at once.
        partial: Whether less than half of what a named benchmark should have is accepted.

    Returns:
        One row per pair with the columns `COLUMNS`, as `pairs` gives them. `attrs` has counts for `rows`: `benchmark`, `split`,
        `train`, `images` and `captions` of the benchmark, `shared_captions` (those that are, word for word, in a training set).

    Raises:
        DataError: A folder or file that is missing, broken or of no known layout, or without such a split, or of which no picture
            can be read: nothing would be found in it.
        ConfigError: `distance` is out of range.
    """
    train = [train] if isinstance(train, (str, Path)) else list(train)
    name = name or called(benchmark)
    theirs = pd.concat(list(tables(benchmark, split, name, batch, partial)), ignore_index=True)
    _check_read(len(theirs), benchmark, split)
    captions = duplicates.normalise_text(duplicates.lines(theirs["text"]))
    captions = captions[captions != ""]
    shared: set[str] = set()
    parts = [pairs(theirs.iloc[:0], theirs)]  # of no training set, so that the columns have their types
    for where in train:
        count = 0
        for ours in tables(where, train_split, None, batch):
            count += len(ours)
            parts.append(pairs(ours, theirs, distance, min_jaccard).assign(train_set=called(where)))
            shared |= set(duplicates.normalise_text(duplicates.lines(ours["text"]))) & set(captions)
        _check_read(count, where, train_split)
    overlaps = pd.concat(parts, ignore_index=True).assign(benchmark=name)[list(COLUMNS)]
    counts = {"images": len(theirs), "captions": len(captions), "shared_captions": int(captions.isin(shared).sum())}
    overlaps.attrs = {"benchmark": name, "split": split, "train": " + ".join(map(called, train)), **counts}
    return overlaps


def pairs(
    train: pd.DataFrame, benchmark: pd.DataFrame, distance: int = duplicates.DISTANCE, min_jaccard: float = 0.8
) -> pd.DataFrame:
    """List the pairs of two hash tables, from both sides: for each item of either its nearest partner, if it has one.

    Both tables are as from `duplicates.hash_table`, several captions in lines of `text`; `distance` and `min_jaccard` as for `find`.

    Returns:
        `train_key`, `benchmark_key`, `reason` (of `PICTURES` or `TEXTS`), `distance` (bits; of texts 1 - Jaccard), `turn` (which turn of
        the training picture is the benchmark's, as `duplicates.TURNS` numbers them; -1 for texts); `train_set` and `benchmark`, empty.
    """
    names = ["train_key", "benchmark_key"]
    train, benchmark = (table.assign(text=table["text"].map(_once)) for table in (train, benchmark))
    ours = duplicates.overlap(train, benchmark, "", distance, min_jaccard).rename(columns={"key": names[0]})
    theirs = duplicates.overlap(benchmark, train, "", distance, min_jaccard).drop(columns="benchmark")
    theirs = theirs.rename(columns={"benchmark_key": names[0], "key": names[1]}).assign(turn=_BACK[theirs["turn"]])
    both = pd.concat([ours, theirs], ignore_index=True).assign(train_set="", benchmark="")
    both = both[~both.assign(text=both["reason"].isin(TEXTS)).duplicated([*names, "text"])]
    return both.sort_values([names[1], "reason", names[0]], kind="stable", ignore_index=True)[list(COLUMNS)]


def tables(
    where: Path | str, split: str, name: str | None = None, batch: int = 20_000, partial: bool = False
) -> Iterator[pd.DataFrame]:
    """Hash a data set, one table of `batch` pictures as from `duplicates.hash_table` after the other, at least one.

    `where`, `split` and `partial` are as for `find`; `name` is that of a benchmark of `catalogue.rows`, whose numbers must then be met. Benchmarks
    for classification have no captions.

    Raises:
        DataError: As `find`.
    """
    if Path(where).is_file():
        yield _captions_alone(Path(where), split)
        return
    skipped: Counter = Counter()
    pictures = _pictures(Path(where), split, name, skipped, partial)
    every = iter(tqdm(pictures, f"hash {called(where)}", unit=" images", disable=None))  # one iterator for all batches
    yield (table := duplicates.hash_table(islice(every, batch)))
    while len(table) == batch and len(table := duplicates.hash_table(islice(every, batch))):
        yield table
    if skipped:
        log.warning("%s: left out, and not looked for: %s", where, dict(skipped))


def called(where: Path | str) -> str:
    """Name a data set as its own files do, or by its folder or file."""
    path = Path(where)
    return benchmarks.name(path) if path.is_dir() else path.stem


def _check_read(count: int, where: Path | str, split: str) -> None:
    if not count:
        why = "each of them is broken, as the warning says, or there is none"
        raise DataError(f"no picture of {where}, split '{split}', could be read, so nothing can be found in it: {why}")


def _samples(folder: Path, split: str, name: str | None, skipped: Counter, partial: bool) -> Iterator[shards.Sample]:
    entry = next((row for row in catalogue.rows() if row["name"].casefold() == (name or "").casefold()), None)
    if entry is None or entry["task"] == "retrieval":
        return benchmarks.samples(folder, split, name=entry and entry["name"], partial=partial, skipped=skipped)
    _, items = benchmarks.labelled(folder, entry["name"], split, partial=partial, skipped=skipped)
    return (shards.Sample(key, data, [], {}, position) for position, (key, data, _) in enumerate(items))


def _pictures(
    folder: Path, split: str, name: str | None, skipped: Counter, partial: bool
) -> Iterator[tuple[str, bytes, np.ndarray, str]]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not there: give a folder of shards or of a benchmark, or a JSON file of captions")
    if split == EVERYTHING:
        yield from duplicates.pictures(folder)
        return
    for sample, array in reading.decoded(_samples(folder, split, name, skipped, partial), skipped):
        yield sample.key, sample.image, array, _lines(sample.captions)


def _lines(captions: Iterable[str]) -> str:
    return "\n".join(" ".join(str(caption).split()) for caption in captions)


def _once(lines: str) -> str:
    """Captions that are repeated for one picture, once: some data sets fill up to five in this way."""
    return "\n".join(dict.fromkeys(lines.split("\n")))


def _captions_alone(path: Path, split: str) -> pd.DataFrame:
    """Captions without pictures, as rows of a hash table that match no picture."""
    expected = f'{path}: expected {{"images": [{{"file", "split", "captions"}}]}}, or Karpathy\'s or COCO\'s form'
    entries = caption_tables.image_rows(path, caption_tables.read_json(path)) or []
    named = [(caption_tables.image_name(row), str(row.get("split", EVERYTHING)), row) for row, _ in entries]
    if not named or not all(file for file, _, _ in named) or not any(caption_tables.texts_of(row) for _, _, row in named):
        raise DataError(f"{expected}; it has another form")
    splits = Counter(of_split for _, of_split, _ in named)
    captions: dict[str, list[str]] = {}
    for file, of_split, row in named:
        if split in (EVERYTHING, of_split):
            captions.setdefault(file, []).extend(t for t in caption_tables.texts_of(row) or [] if isinstance(t, str))
    texts = {file: _lines(of_file) for file, of_file in captions.items()}
    if not texts:
        raise DataError(f"{path} has no split '{split}': it has {dict(splits)}; '{EVERYTHING}' takes them all")
    empty = duplicates.hash_table([])
    table = pd.DataFrame({"key": list(texts), "text": list(texts.values())}, dtype=object)
    numbers = empty.dtypes.drop(["key", "bytes_sha256", "pixels_sha256", "text"]).to_dict()
    table = table.reindex(columns=empty.columns, fill_value=0).astype(numbers)
    return table.assign(bytes_sha256="", pixels_sha256="")


def rows(overlaps: pd.DataFrame) -> list[dict]:
    """Sum up what `find` found as metric rows: how many percent of a benchmark's images, and of its captions, training sets hold.

    Returns:
        Rows as `results.ROW` has them, protocol `overlap with ...`: `images: ...` for each reason, for any picture and for any caption (an
        image counts once), and `captions: same text`. They are counts, without interval or chance.
    """
    facts = overlaps.attrs
    groups = {reason: (reason,) for reason in (*PICTURES, *TEXTS)} | {"any picture": PICTURES, "any caption": TEXTS}
    keys = {name: overlaps.loc[overlaps["reason"].isin(reasons), "benchmark_key"] for name, reasons in groups.items()}
    shares = [(f"images: {name}", of_group.nunique(), facts["images"]) for name, of_group in keys.items()]
    if facts["captions"]:
        shares.append(("captions: same text", facts["shared_captions"], facts["captions"]))
    common = {"dataset": facts["benchmark"], "split": facts["split"], "protocol": f"overlap with {facts['train']}"}
    common |= {"direction": "both", "ci_low": None, "ci_high": None, "chance": None}
    named = [common | {"metric": metric, "value": 100 * count / max(n, 1), "n": n} for metric, count, n in shares]
    return [{name: row[name] for name in results.ROW} for row in named]


def write_list(overlaps: pd.DataFrame, path: Path | str) -> Path:
    """Write the pairs to a file: CSV, or JSON lines where its name ends in `.jsonl`; UTF-8.

    The columns are those of `pairs`: `turn` (0 to 7) mirrors the training picture from left to right if 4 or more, then turns it by
    `turn % 4` quarters counter-clockwise, to get the benchmark's. No captions and no pictures, so it can be passed on.
    """
    if Path(path).suffix == ".jsonl":
        return files.write_atomic(path, overlaps.to_json(orient="records", lines=True, force_ascii=False))
    return files.write_atomic(path, overlaps.to_csv(index=False, lineterminator="\n"))


def read_list(path: Path | str) -> pd.DataFrame:
    """Read what `write_list` wrote.

    Raises:
        DataError: The file is missing or has other columns or reasons.
    """
    path = Path(path)
    try:
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            overlaps = pd.DataFrame(lines, columns=None if lines else list(COLUMNS))
        else:
            overlaps = pd.read_csv(path, dtype=dict.fromkeys(COLUMNS[:5], str), keep_default_na=False)
        if set(overlaps) != set(COLUMNS) or not set(overlaps["reason"]) <= {*PICTURES, *TEXTS}:
            raise ValueError(f"columns {', '.join(map(str, overlaps))}")
        return overlaps[list(COLUMNS)].astype({"distance": float, "turn": np.int64})
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} is no list of overlaps ({error}): expected CSV or .jsonl with {', '.join(COLUMNS)} and reasons of {PICTURES + TEXTS}"
        ) from None


def without(embeddings: Embeddings, keys: Collection[str]) -> Embeddings:
    """Leave images and their captions out.

    Raises:
        DataError: None of the keys is among the images, or nothing would be left.
    """
    left_out = np.isin(np.asarray(embeddings.keys, object).astype(str), list(keys))
    if len(keys) and not left_out.any():
        raise DataError(f"none of the {len(keys)} images is in the embeddings: '{next(iter(keys))}', '{embeddings.keys[0]}'")
    rest = np.flatnonzero(~left_out)
    captions = np.flatnonzero(~left_out[embeddings.image_of_caption])
    if not len(captions):
        raise DataError(f"all {len(left_out)} images with captions are left out: nothing remains to be scored")
    place = np.cumsum(~left_out) - 1
    return Embeddings(
        keys=[embeddings.keys[i] for i in rest],
        captions=[embeddings.captions[i] for i in captions] if len(embeddings.captions) else embeddings.captions,
        image_of_caption=place[embeddings.image_of_caption[captions]],
        image_embeddings=embeddings.image_embeddings[rest],
        caption_embeddings=embeddings.caption_embeddings[captions],
    )


def compare(
    embeddings: Embeddings,
    overlaps: pd.DataFrame,
    *,
    dataset: str,
    split: str,
    protocol: str = "plain",
    reasons: Collection[str] = PICTURES,
    seed: int = 0,
    **options: object,
) -> list[dict]:
    """Score retrieval with and without the images that a training set holds too.

    Fewer images are also an easier search, so a third score says what leaving out as many others, drawn at random, does.

    Overlaps are as from `find` or `read_list`; captions (`TEXTS`) are no reasons unless asked for, since short ones are equal by chance.
    The seed is also that of the images drawn; `options` are further ones of `retrieval.evaluate`, as `ties`.

    Returns:
        Metric rows of the splits `SPLIT`, `SPLIT without overlap` and `SPLIT without as many others`; the latter two only where
        something overlaps.

    Raises:
        DataError: As `without` and `retrieval.evaluate`; or there are too few images to leave out as many others.
    """
    keys = set(overlaps.loc[overlaps["reason"].isin(list(reasons)), "benchmark_key"])
    parts = {split: embeddings}
    if keys:
        parts[f"{split} without overlap"] = without(embeddings, keys)
        others = [key for key in embeddings.keys if key not in keys]
        count = len(embeddings.keys) - len(others)
        if count < len(others):
            drawn = np.random.default_rng(seed).permutation(len(others))[:count]
            parts[f"{split} without as many others"] = without(embeddings, {others[i] for i in drawn})
        else:
            total = len(embeddings.keys)
            log.warning("%s: %d of %d images overlap, too many to leave out as many others", dataset, count, total)
    options |= {"dataset": dataset, "seed": seed}
    scored = [retrieval.evaluate(*part.arrays(), protocol, split=name, **options) for name, part in parts.items()]
    return [row for of_part in scored for row in of_part]


def look(
    overlaps: pd.DataFrame,
    train: Path | str | Sequence[Path | str],
    benchmark: Path | str,
    *,
    split: str = "test",
    train_split: str = "train",
    count: int = 60,
    seed: int = 0,
) -> list[dict]:
    """Fetch pictures and captions of some pairs, for a page.

    Arguments are as for `find`, which gave the overlaps. At most `count` pairs are drawn, evenly over the reasons, by `seed`.

    Returns:
        For each pair its row of `overlaps`, and `train_image`, `benchmark_image` ((H, W, 3) uint8, or None where there is none),
        `train_captions`, `benchmark_captions`.
    """
    train = [train] if isinstance(train, (str, Path)) else list(train)
    groups = dict(iter(overlaps.groupby("reason")))
    each = max(count // max(len(groups), 1), 1)
    drawn = [groups[r].sample(min(each, len(groups[r])), random_state=seed) for r in (*PICTURES, *TEXTS) if r in groups]
    shown = pd.concat(drawn or [overlaps])
    theirs = _fetch(benchmark, split, overlaps.attrs.get("benchmark"), set(shown["benchmark_key"]))
    ours: dict[tuple[str, str], Mapping] = {}
    for where in train:
        keys = set(shown.loc[shown["train_set"] == called(where), "train_key"])
        ours |= {(called(where), key): item for key, item in _fetch(where, train_split, None, keys).items()}
    items = []
    for row in shown.head(count).to_dict("records"):
        train_item = ours.get((row["train_set"], row["train_key"]), {})
        sides = {"train": train_item, "benchmark": theirs.get(row["benchmark_key"], {})}
        items.append(row | {f"{side}_{part}": sides[side].get(part) for side in sides for part in ("image", "captions")})
    return items


def _fetch(where: Path | str, split: str, name: str | None, keys: set[str]) -> dict[str, dict]:
    """Pictures and captions of some items; the data set is read only as far as they need it."""
    if Path(where).is_file():
        table = _captions_alone(Path(where), split)
        table = table[table["key"].isin(keys)]
        return {key: {"captions": text.split("\n")} for key, text in zip(table["key"], table["text"], strict=True)}
    if split == EVERYTHING:
        every = ((key, {"image": array}) for key, _, array, _ in duplicates.pictures(Path(where)))
    else:
        wanted = (sample for sample in _samples(Path(where), split, name, Counter(), partial=True) if sample.key in keys)
        every = ((sample.key, {"image": images.decode(sample.image), "captions": sample.captions}) for sample in wanted)
    fetched: dict[str, dict] = {}
    while len(fetched) < len(keys) and (item := next(every, None)):
        if item[0] in keys:
            fetched[item[0]] = item[1]
    return fetched
