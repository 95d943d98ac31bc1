"""Test data in training sets: which pictures and captions of a benchmark a training set holds, and what that does to the scores.

A picture counts as the same when its bytes or pixels are equal, or when its perceptual hash is near under one of the eight turns and
flips (`dedup`); a caption when its words are, or nearly. Pairs are looked for from both sides, so that every item of either that has a
partner is named, with its nearest. The list is a plain file (`write_list`), which others can use to clean their training set or to
leave images out of a test.
"""

from __future__ import annotations

import io
import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from rsvlm.data import benchmarks, catalogue, duplicates, reading, shards
from rsvlm.errors import DataError
from rsvlm.evaluation import embeddings as embed, retrieval
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
) -> pd.DataFrame:
    """List what a benchmark and training sets have in common; memory holds the benchmark's hashes and one batch of a training set's.

    Args:
        train: Folders of shards or benchmarks, or files of captions alone: JSON `{"images": [{"file", "split", "captions"}]}` or
            Karpathy's.
        benchmark: One of the same.
        split: The benchmark's split, or `EVERYTHING`.
        train_split: The training sets' split, or `EVERYTHING`.
        name: Of the benchmark, in the list or where it is one of `catalogue.rows`; none: as its own files say.
        distance: Bits, 0 to 16, that the hashes of near pictures may differ in.
        min_jaccard: Smallest share of common word triples for a near text.
        batch: Pictures of a training set in memory at once.

    Returns:
        One row per pair with the columns `COLUMNS`, as `pairs` gives them. `attrs` has counts for `rows`: `benchmark`, `split`,
        `train`, `images` and `captions` of the benchmark, `shared_captions` (those that are, word for word, in a training set).

    Raises:
        DataError: A folder or file that is missing, broken or of no known layout, or without such a split.
        ConfigError: `distance` is out of range.
    """
    train = [train] if isinstance(train, (str, Path)) else list(train)
    name = name or called(benchmark)
    theirs = pd.concat(list(tables(benchmark, split, name, batch)), ignore_index=True)
    captions = duplicates.normalise_text(theirs["text"].str.split("\n").explode())
    captions = captions[captions != ""]
    shared: set[str] = set()
    parts = [pairs(theirs.iloc[:0], theirs)]  # also checks what was asked for before a long search
    for where in train:
        for ours in tables(where, train_split, None, batch):
            parts.append(pairs(ours, theirs, distance, min_jaccard).assign(train_set=called(where)))
            shared |= set(duplicates.normalise_text(ours["text"].str.split("\n").explode())) & set(captions)
    found = pd.concat(parts, ignore_index=True).assign(benchmark=name)[list(COLUMNS)]
    found.attrs = {"benchmark": name, "split": split, "train": " + ".join(map(called, train)), "images": len(theirs)}
    found.attrs |= {"captions": len(captions), "shared_captions": int(captions.isin(shared).sum())}
    return found


def pairs(
    train: pd.DataFrame, benchmark: pd.DataFrame, distance: int = duplicates.DISTANCE, min_jaccard: float = 0.8
) -> pd.DataFrame:
    """List the pairs of two hash tables, from both sides: for each item of either its nearest partner, if it has one.

    Args:
        train: As from `duplicates.hash_table`, several captions in lines of `text`; likewise `benchmark`.
        benchmark: See `train`.
        distance: As for `find`.
        min_jaccard: As for `find`.

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


def tables(where: Path | str, split: str, name: str | None = None, batch: int = 20_000) -> Iterator[pd.DataFrame]:
    """Hash a data set, one table as from `duplicates.hash_table` after the other, at least one.

    Args:
        where: As for `find`.
        split: As for `find`.
        name: Of a benchmark of `catalogue.rows`, whose numbers must then be met; those for classification have no captions.
        batch: Pictures in a table.

    Raises:
        DataError: As `find`.
    """
    if Path(where).is_file():
        yield _captions_alone(Path(where), split)
        return
    skipped: Counter = Counter()
    pictures = _pictures(Path(where), split, name, skipped)
    every = iter(tqdm(pictures, f"hash {called(where)}", unit=" images", disable=None))  # one iterator for all batches
    table = duplicates.hash_table(islice(every, batch))
    yield table
    while len(table) == batch and len(table := duplicates.hash_table(islice(every, batch))):
        yield table
    if skipped:
        log.warning("%s: left out, and not looked for: %s", where, dict(skipped))


def called(where: Path | str) -> str:
    """Name a data set as its own files do, or by its folder or file."""
    path = Path(where)
    return benchmarks.name(path) if path.is_dir() else path.stem


def _samples(folder: Path, split: str, name: str | None, skipped: Counter) -> Iterator[shards.Sample]:
    known = {entry["name"].casefold(): entry for entry in catalogue.rows()}
    if (entry := known.get((name or "").casefold())) is None:
        return benchmarks.samples(folder, split, skipped=skipped)
    if entry["task"] == "retrieval":
        return benchmarks.samples(folder, split, name=entry["name"], skipped=skipped)
    _, items = benchmarks.labelled(folder, entry["name"], split, skipped=skipped)
    return (shards.Sample(key, data, [], {}, position) for position, (key, data, _) in enumerate(items))


def _pictures(folder: Path, split: str, name: str | None, skipped: Counter) -> Iterator[tuple[str, bytes, np.ndarray, str]]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not there: give a folder of shards or of a benchmark, or a JSON file of captions")
    if split == EVERYTHING:
        yield from duplicates.pictures(folder)
        return
    for sample, array in reading.decoded(_samples(folder, split, name, skipped), skipped):
        yield sample.key, sample.image, array, _lines(sample.captions)


def _lines(captions: Iterable[str]) -> str:
    return "\n".join(" ".join(str(caption).split()) for caption in captions)


def _once(lines: str) -> str:
    """Captions that are repeated for one picture, once: some data sets fill up to five in this way."""
    return "\n".join(dict.fromkeys(lines.split("\n")))


def _captions_alone(path: Path, split: str) -> pd.DataFrame:
    """Captions without pictures, as rows of a hash table that match no picture."""
    texts: dict[str, str] = {}
    expected = f'{path}: expected {{"images": [{{"file", "split", "captions"}}]}}, or Karpathy\'s "filename" and "sentences"'
    try:
        entries = json.loads(path.read_bytes())["images"]
        splits = Counter(str(entry.get("split", EVERYTHING)) for entry in entries)
        for entry in entries:
            if split in (EVERYTHING, str(entry.get("split", EVERYTHING))):
                captions = entry["captions"] if "captions" in entry else [one["raw"] for one in entry["sentences"]]
                texts[str(entry["file"] if "file" in entry else entry["filename"])] = _lines(captions)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{expected}; it has another form ({error!r})") from None
    if not texts:
        raise DataError(f"{path} has no split '{split}': it has {dict(splits)}; '{EVERYTHING}' takes them all")
    empty = duplicates.hash_table([])
    table = pd.DataFrame({"key": list(texts), "text": list(texts.values())}, dtype=object)
    numbers = empty.dtypes.drop(["key", "bytes_sha256", "pixels_sha256", "text"]).to_dict()
    table = table.reindex(columns=empty.columns, fill_value=0).astype(numbers)
    return table.assign(bytes_sha256="", pixels_sha256="")


def rows(found: pd.DataFrame) -> list[dict]:
    """Sum a list up as metric rows: how many percent of the benchmark's images, and of its captions, are in the training sets.

    Args:
        found: As from `find`.

    Returns:
        Rows as `results.ROW` has them, protocol `overlap with ...`: `images: ...` for each reason, for any picture and for any caption (an
        image counts once), and `captions: same text`. They are counts, without interval or chance.
    """
    facts = found.attrs
    groups = {reason: (reason,) for reason in (*PICTURES, *TEXTS)} | {"any picture": PICTURES, "any caption": TEXTS}
    common = {"dataset": facts["benchmark"], "split": facts["split"], "protocol": f"overlap with {facts['train']}"}
    common |= {"direction": "both", "ci_low": None, "ci_high": None, "chance": None}
    told = [
        common
        | {"metric": f"images: {name}", "n": facts["images"]}
        | {"value": 100 * found.loc[found["reason"].isin(reasons), "benchmark_key"].nunique() / max(facts["images"], 1)}
        for name, reasons in groups.items()
    ]
    if facts["captions"]:
        shared = 100 * facts["shared_captions"] / facts["captions"]
        told.append(common | {"metric": "captions: same text", "n": facts["captions"], "value": shared})
    return [{name: row[name] for name in results.ROW} for row in told]


def write_list(found: pd.DataFrame, path: Path | str) -> Path:
    """Write the pairs to a file: CSV, or JSON lines where its name ends in `.jsonl`; UTF-8.

    Columns: `train_set`, `train_key` (the item in the training set), `benchmark`, `benchmark_key` (the item in the benchmark), `reason`
    (same bytes, same pixels, near picture, same text, near text), `distance` (bits of the 64 that differ; of texts 1 - the share of
    common word triples), `turn` (0 to 7: turn the training picture so, mirrored from left to right if 4 or more, then by `turn % 4`
    quarters counter-clockwise, to get the benchmark's; -1 for texts). No captions and no pictures, so it can be passed on.
    """
    if Path(path).suffix == ".jsonl":
        return files.write_atomic(path, found.to_json(orient="records", lines=True, force_ascii=False))
    buffer = io.StringIO()
    found.to_csv(buffer, index=False, lineterminator="\n")
    return files.write_atomic(path, buffer.getvalue())


def read_list(path: Path | str) -> pd.DataFrame:
    """Read what `write_list` wrote.

    Raises:
        DataError: The file is missing or has other columns or reasons.
    """
    path = Path(path)
    try:
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            found = pd.DataFrame(lines, columns=None if lines else list(COLUMNS))
        else:
            found = pd.read_csv(path, dtype=dict.fromkeys(COLUMNS[:5], str), keep_default_na=False)
        if set(found) != set(COLUMNS) or not set(found["reason"]) <= {*PICTURES, *TEXTS}:
            raise ValueError(f"columns {', '.join(map(str, found))}")
        return found[list(COLUMNS)].astype({"distance": float, "turn": np.int64})
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} is no list of overlaps ({error}): expected CSV or .jsonl with {', '.join(COLUMNS)} and reasons of {PICTURES + TEXTS}"
        ) from None


def without(embeddings: embed.Embeddings, keys: Collection[str]) -> embed.Embeddings:
    """Leave images and their captions out.

    Raises:
        DataError: None of the keys is among the images, or nothing would be left.
    """
    left_out = np.isin(np.asarray(embeddings.keys, object).astype(str), list(keys))
    if len(keys) and not left_out.any():
        raise DataError(
            f"none of the {len(keys)} images is among the embeddings: '{next(iter(keys))}', '{embeddings.keys[0]}'"
        )
    kept = np.flatnonzero(~left_out)
    captions = np.flatnonzero(~left_out[embeddings.image_of_caption])
    if not len(captions):
        raise DataError(f"all {len(left_out)} images with captions are left out: nothing remains to be scored")
    place = np.cumsum(~left_out) - 1
    return embed.Embeddings(
        keys=[embeddings.keys[i] for i in kept],
        captions=[embeddings.captions[i] for i in captions] if len(embeddings.captions) else embeddings.captions,
        image_of_caption=place[embeddings.image_of_caption[captions]],
        image_embeddings=embeddings.image_embeddings[kept],
        caption_embeddings=embeddings.caption_embeddings[captions],
    )


def compare(
    embeddings: embed.Embeddings,
    found: pd.DataFrame,
    *,
    dataset: str,
    split: str,
    protocol: str = "plain",
    ties: str = "pessimistic",
    reasons: Collection[str] = PICTURES,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> list[dict]:
    """Score retrieval with and without the images that a training set holds too.

    Fewer images are also an easier search, so a third score says what leaving out as many others, drawn at random, does.

    Args:
        embeddings: Of the benchmark's split.
        found: As from `find` or `read_list`.
        dataset: Name that goes into the rows.
        split: Name that goes into the rows.
        protocol: As for `retrieval.evaluate`.
        ties: As for `retrieval.evaluate`.
        reasons: Which overlaps count; captions do not unless asked for, since short ones are equal by chance.
        bootstrap_samples: As for `retrieval.evaluate`.
        seed: Of the bootstrap and of the images drawn.

    Returns:
        Metric rows of the splits `SPLIT`, `SPLIT without overlap` and `SPLIT without as many others`; the latter two only where
        something overlaps.

    Raises:
        DataError: As `without` and `retrieval.evaluate`; or there are too few images to leave out as many others.
    """
    keys = set(found.loc[found["reason"].isin(list(reasons)), "benchmark_key"])
    parts = {split: embeddings}
    if keys:
        parts[f"{split} without overlap"] = without(embeddings, keys)
        others = [key for key in embeddings.keys if key not in keys]
        count = len(embeddings.keys) - len(others)
        if count < len(others):
            drawn = np.random.default_rng(seed).permutation(len(others))[:count]
            parts[f"{split} without as many others"] = without(embeddings, {others[i] for i in drawn})
        else:
            log.warning(
                "%s: %d of %d images overlap, too many to leave out as many others", dataset, count, len(embeddings.keys)
            )
    return [
        row
        for name, part in parts.items()
        for row in retrieval.evaluate(
            part.image_embeddings,
            part.caption_embeddings,
            part.image_of_caption,
            part.captions or None,
            protocol,
            dataset=dataset,
            split=name,
            ties=ties,
            bootstrap_samples=bootstrap_samples,
            seed=seed,
        )
    ]


def look(
    found: pd.DataFrame,
    train: Path | str | Sequence[Path | str],
    benchmark: Path | str,
    *,
    split: str = "test",
    train_split: str = "train",
    count: int = 60,
    seed: int = 0,
) -> list[dict]:
    """Fetch pictures and captions of some pairs, for a page.

    Args:
        found: As from `find`, with the same sets and splits.
        train: As for `find`.
        benchmark: As for `find`.
        split: As for `find`.
        train_split: As for `find`.
        count: Pairs at most; drawn evenly over the reasons.
        seed: Of the draw.

    Returns:
        For each pair its row of `found`, and `train_image`, `benchmark_image` ((H, W, 3) uint8, or None where there is none),
        `train_captions`, `benchmark_captions`.
    """
    train = [train] if isinstance(train, (str, Path)) else list(train)
    present = [reason for reason in (*PICTURES, *TEXTS) if (found["reason"] == reason).any()]
    each = max(count // max(len(present), 1), 1)
    drawn = [part.sample(min(each, len(part)), random_state=seed) for _, part in found.groupby("reason")]
    shown = pd.concat([part for reason in present for part in drawn if part["reason"].iloc[0] == reason] or [found])
    theirs = _fetch(benchmark, split, found.attrs.get("benchmark"), set(shown["benchmark_key"]))
    ours: dict[tuple[str, str], Mapping] = {}
    for where in train:
        keys = set(shown.loc[shown["train_set"] == called(where), "train_key"])
        ours |= {(called(where), key): item for key, item in _fetch(where, train_split, None, keys).items()}
    items = []
    for row in shown.head(count).to_dict("records"):
        sides = {
            "train": ours.get((row["train_set"], row["train_key"]), {}),
            "benchmark": theirs.get(row["benchmark_key"], {}),
        }
        told = {f"{side}_{part}": item.get(part) for side, item in sides.items() for part in ("image", "captions")}
        items.append(row | told)
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
        wanted = (sample for sample in _samples(Path(where), split, name, Counter()) if sample.key in keys)
        every = ((sample.key, {"image": images.decode(sample.image), "captions": sample.captions}) for sample in wanted)
    found: dict[str, dict] = {}
    while len(found) < len(keys) and (item := next(every, None)):
        if item[0] in keys:
            found[item[0]] = item[1]
    return found
