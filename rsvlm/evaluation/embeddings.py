"""Embeddings on disk: a split of a data set embedded once, batch by batch, and exact search among vectors."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from rsvlm.data import benchmarks, shards
from rsvlm.data.reading import decoded
from rsvlm.errors import DataError
from rsvlm.model import weights
from rsvlm.model.device import resolve_device
from rsvlm.model.embed import Encoder, encoder_of, fingerprint, unit, unit_texts
from rsvlm.model.mammut import Mammut
from rsvlm.records import files, stages
from rsvlm.records.text import batched

ROOMS = ("evaluation/embeddings", "data/*", "model")
"""Rooms whose files decide what is made here, for `stages.source_hash`."""


@dataclass(frozen=True)
class Embeddings:
    """N images and M captions of one split, in the order of the data set.

    `image_embeddings` (N, E) and `caption_embeddings` (M, E) are float32 of norm 1; `image_of_caption` (M,) int64 points from
    captions to images; `keys` has N entries, `captions` M (what the data set says, whatever was embedded for it).
    """

    keys: list[str]
    captions: list[str]
    image_of_caption: np.ndarray
    image_embeddings: np.ndarray
    caption_embeddings: np.ndarray

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str] | None]:
        """Return what `retrieval.evaluate` takes first: both embeddings, the image of each caption, and the captions, if any."""
        return self.image_embeddings, self.caption_embeddings, self.image_of_caption, self.captions or None


@dataclass(frozen=True)
class Labelled:
    """N images with a class each: `image_embeddings` (N, E) float32 of norm 1, `labels` (N,) int64 into `class_names`.

    `logit_scale` is that of the model, None if it is not known.
    """

    keys: list[str]
    labels: np.ndarray
    image_embeddings: np.ndarray
    class_names: list[str]
    logit_scale: float | None


def write(
    model: Mammut | Encoder,
    samples: Iterable[shards.Sample],
    out: Path,
    *,
    batch_size: int = 256,
    skipped: Counter | None = None,
    texts: Mapping[str, Callable[[list[str]], list[str]]] | None = None,
) -> Path:
    """Embed every image and caption of a split into `out`, one batch in memory at a time, and equal texts once.

    Writes `images.parquet` (key, embedding), `texts.parquet` (text, embedding; every text there once), `captions.parquet` (image,
    caption, and its row among the texts as `text`) and, last, `embeddings.json` with the counts; a folder without it is unfinished.

    Args:
        model: The model.
        samples: Samples of the split.
        out: The folder.
        batch_size: Images per forward pass.
        skipped: Counter of the samples left out, by reason.
        texts: Other wordings to embed beside the captions, by name: each function turns a list of captions into the list of what
            the text tower is to read in their place. `read` takes the name.

    Raises:
        DataError: No sample could be read, a wording gave another number of texts, or the model gave a broken embedding.
    """
    encoder, texts = encoder_of(model), texts or {}
    skipped = Counter() if skipped is None else skipped
    vector = pa.list_(pa.float32(), encoder.width)
    wordings = [("text", list), *((f"text[{name}]", change) for name, change in texts.items())]
    image_schema = pa.schema({"key": pa.string(), "embedding": vector})
    text_schema = pa.schema({"text": pa.string(), "embedding": vector})
    caption_schema = pa.schema({"image": pa.int64(), "caption": pa.string()} | {column: pa.int64() for column, _ in wordings})
    _begin(out)
    rows: dict[str, int] = {}  # of the texts so far; their embeddings are on disk
    n_images = n_captions = 0
    with (
        pq.ParquetWriter(out / "images.parquet", image_schema) as image_file,
        pq.ParquetWriter(out / "texts.parquet", text_schema) as text_file,
        pq.ParquetWriter(out / "captions.parquet", caption_schema) as caption_file,
    ):
        for batch, vectors in _embed(encoder, samples, batch_size, skipped):
            captions = [caption for sample in batch for caption in sample.captions]
            columns = [[n_images + i for i, sample in enumerate(batch) for _ in sample.captions], captions]
            worded = [_check_count(list(change(captions)), captions, column) for column, change in wordings]
            fresh = [text for text in dict.fromkeys(text for wording in worded for text in wording) if text not in rows]
            rows |= {text: len(rows) + i for i, text in enumerate(fresh)}
            columns += [[rows[text] for text in wording] for wording in worded]
            image_file.write_table(pa.table([[sample.key for sample in batch], _vectors(vectors)], schema=image_schema))
            caption_file.write_table(pa.table(columns, schema=caption_schema))
            if fresh:
                text_file.write_table(pa.table([fresh, _vectors(unit_texts(encoder, fresh))], schema=text_schema))
            n_images += len(batch)
            n_captions += len(captions)
    if not n_images:
        raise DataError(
            f"no sample could be embedded ({reasons(skipped) or 'the split is empty'}): mend what the first of each names"
        )
    return _finish(out, encoder, {"images": n_images, "captions": n_captions, "texts": len(rows), "skipped": dict(skipped)})


def labelled(
    model: Mammut | Encoder,
    items: Iterable[tuple[str, bytes, int]],
    out: Path,
    *,
    class_names: Sequence[str],
    batch_size: int = 256,
    skipped: Counter | None = None,
) -> Path:
    """Embed images that have a class, as `benchmarks.labelled` gives them, one batch in memory at a time; `read_labelled` reads it.

    The folder `out` gets `images.parquet` (key, label, embedding) and, last, `embeddings.json`. Labels count the `class_names`; other
    arguments are as for `write`.

    Raises:
        DataError: No image could be read, or a label is outside the classes.
    """
    encoder, names = encoder_of(model), list(class_names)
    skipped = Counter() if skipped is None else skipped
    vector = pa.list_(pa.float32(), encoder.width)
    schema = pa.schema({"key": pa.string(), "label": pa.int64(), "embedding": vector})
    samples = (shards.Sample(key, data, [], {"label": label}, i) for i, (key, data, label) in enumerate(items))
    count = 0
    _begin(out)
    with pq.ParquetWriter(out / "images.parquet", schema) as file:
        for batch, vectors in _embed(encoder, samples, batch_size, skipped):
            labels = [int(sample.record["label"]) for sample in batch]
            if wrong := [(s.key, label) for s, label in zip(batch, labels) if not 0 <= label < len(names)]:
                raise DataError(f"image {wrong[0][0]} has label {wrong[0][1]}: expected 0…{len(names) - 1}")
            file.write_table(pa.table([[sample.key for sample in batch], labels, _vectors(vectors)], schema=schema))
            count += len(batch)
    if not count:
        raise DataError(f"no image could be embedded ({reasons(skipped) or 'there is none'})")
    return _finish(out, encoder, {"images": count, "classes": names, "skipped": dict(skipped)})


def caption_variants(
    model: Mammut | Encoder, captions: Sequence[str], variants: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    """Embed several wordings of the same M captions, equal texts once: name → (M, E) float32 of norm 1.

    Raises:
        DataError: A wording has another number of texts than there are captions, or the model gave a broken embedding.
    """
    for name, wording in variants.items():
        _check_count(wording, captions, name)
    rows = {text: i for i, text in enumerate(dict.fromkeys(text for wording in variants.values() for text in wording))}
    if not rows:
        return {name: np.empty((0, encoder_of(model).width), np.float32) for name in variants}
    vectors = unit_texts(encoder_of(model), list(rows))
    return {name: vectors[[rows[text] for text in wording]] for name, wording in variants.items()}


def load_or_embed(
    model: Path | str | Encoder,
    data: Path,
    split: str,
    *,
    recompute: bool = False,
    device: str = "auto",
    texts: Mapping[str, Callable[[list[str]], list[str]]] | None = None,
    benchmark: str | None = None,
) -> Path:
    """Return the folder with the embeddings of a split, made now unless they were before, or if `recompute`.

    The model is a folder of this package, which is read, to `device`, only if it has to be; or any `Encoder`. Data, split and benchmark
    are as for `benchmarks.samples`, other wordings (`texts`) as for `write`.
    """
    folder = Path(model) if isinstance(model, (str, Path)) else None
    parts = {
        "model": fingerprint(folder) if folder else model.fingerprint,
        "data": benchmarks.fingerprint(data),
        "benchmark": benchmark,
        "split": split,
        "source": stages.source_hash(*ROOMS),
        "texts": {name: change(["a river, seen from above"]) for name, change in (texts or {}).items()},
    }

    def compute(out: Path) -> None:
        encoder = weights.load(folder, resolve_device(device)) if folder else model
        samples = benchmarks.samples(data, split, name=benchmark, skipped=(skipped := Counter()))
        write(encoder, samples, out, skipped=skipped, texts=texts)

    return stages.stage("embed", parts, compute, recompute)


def read(folder: Path, texts: str = "") -> Embeddings:
    """Read what `write` wrote; `texts` names the wording that `caption_embeddings` are of, if empty the captions themselves.

    Raises:
        DataError: The folder is unfinished or not of captions, or it has no such wording.
    """
    _finished(folder, "captions")
    image_table = pq.read_table(folder / "images.parquet")
    caption_table = pq.read_table(folder / "captions.parquet")
    column = f"text[{texts}]" if texts else "text"
    if column not in caption_table.column_names:
        known = [name[5:-1] for name in caption_table.column_names[3:]]
        raise DataError(f"{folder} has no wording '{texts}' of the captions (it has {known}): embed them again with it")
    return Embeddings(
        keys=image_table["key"].to_pylist(),
        captions=caption_table["caption"].to_pylist(),
        image_of_caption=caption_table["image"].to_numpy(),
        image_embeddings=_matrix(image_table["embedding"]),
        caption_embeddings=_matrix(pq.read_table(folder / "texts.parquet")["embedding"])[caption_table[column].to_numpy()],
    )


def read_labelled(folder: Path) -> Labelled:
    """Read what `labelled` wrote.

    Raises:
        DataError: The folder is unfinished or not of labelled images.
    """
    facts = _finished(folder, "classes")
    table = pq.read_table(folder / "images.parquet")
    return Labelled(
        keys=table["key"].to_pylist(),
        labels=table["label"].to_numpy(),
        image_embeddings=_matrix(table["embedding"]),
        class_names=facts["classes"],
        logit_scale=facts["logit_scale"],
    )


def search(queries: np.ndarray, gallery: np.ndarray, k: int, block: int = 65536) -> tuple[np.ndarray, np.ndarray]:
    """Find the k best gallery items of each query by dot product, exactly, a block of rows of the gallery at a time.

    Args:
        queries: (Q, E) float32.
        gallery: (N, E) float32, possibly a memory map.
        k: Number of items per query, at most N.
        block: Number of rows of the gallery scored at once.

    Returns:
        (Q, k) float32 scores, best first; and (Q, k) int64 rows of the gallery, of equal scores the lower row first.
    """
    k = min(k, len(gallery))
    scores = np.empty((len(queries), 0), np.float32)
    index = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(gallery), block):
        fresh = queries @ np.asarray(gallery[start : start + block]).T
        rows = np.broadcast_to(np.arange(start, start + fresh.shape[1]), fresh.shape)
        scores, index = np.hstack([scores, fresh]), np.hstack([index, rows])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, index = np.take_along_axis(scores, best, 1), np.take_along_axis(index, best, 1)
    return scores, index


def _embed(
    encoder: Encoder, samples: Iterable[shards.Sample], batch_size: int, skipped: Counter
) -> Iterator[tuple[list[shards.Sample], np.ndarray]]:
    """Yield batches of samples with the (B, E) embeddings of their images."""
    with tqdm(desc="embed", unit=" images") as progress:
        for batch in batched(decoded(samples, skipped), batch_size):
            what = f"images from {batch[0][0].key} on, embedded by {encoder.name}"
            yield [sample for sample, _ in batch], unit(encoder.images([array for _, array in batch]), what)
            progress.update(len(batch))


def _check_count(texts: Sequence[str], captions: Sequence[str], name: str) -> Sequence[str]:
    if len(texts) != len(captions):
        raise DataError(f"the wording {name} has {len(texts)} texts for {len(captions)} captions: expected one of each")
    return texts


def reasons(skipped: Mapping[str, int]) -> str:
    """Return why samples were left out, and how many for each reason, as text."""
    return ", ".join(f"{reason}: {n:,}" for reason, n in skipped.items())


def _begin(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "embeddings.json").unlink(missing_ok=True)


def _finish(out: Path, encoder: Encoder, facts: dict) -> Path:
    facts |= {"model": encoder.name, "logit_scale": encoder.logit_scale}
    files.write_atomic(out / "embeddings.json", json.dumps(facts, indent=1))
    return out


def _finished(folder: Path, kind: str) -> dict:
    if not (folder / "embeddings.json").is_file():
        raise DataError(f"{folder} holds no finished embeddings: run `rsvlm embed` again")
    facts = json.loads((folder / "embeddings.json").read_text(encoding="utf-8"))
    if kind not in facts:
        raise DataError(f"{folder} holds embeddings without {kind}: embed the data set with its {kind}")
    return facts


def _vectors(array: np.ndarray):
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def _matrix(column) -> np.ndarray:
    chunks = [np.asarray(chunk.flatten()).reshape(len(chunk), -1) for chunk in column.chunks]
    return np.concatenate(chunks).astype(np.float32, copy=False)
