"""Model + images and captions → normalised embeddings on disk, and exact search among them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from rsvlm import benchmarks, distributed, runs, shards, weights
from rsvlm import images as imaging
from rsvlm import tokenizer as tokenizers
from rsvlm.errors import DataError
from rsvlm.mammut import Mammut

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embeddings:
    """N images and M captions of one split, in the order of the data set.

    `image_embeddings` (N, E) and `caption_embeddings` (M, E) are float32 of norm 1; `image_of_caption` (M,) int64 points from
    captions to images; `keys` has N entries, `captions` M.
    """

    keys: list[str]
    captions: list[str]
    image_of_caption: np.ndarray
    image_embeddings: np.ndarray
    caption_embeddings: np.ndarray


def images(model: Mammut, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Embed B decoded images, each (H, W, 3) uint8 of any size, as (B, E) float32 of norm 1."""
    with torch.inference_mode():
        return model.encode_image(to_batch(model, arrays)).float().cpu().numpy()


def texts(model: Mammut, captions: Sequence[str], batch_size: int = 256) -> np.ndarray:
    """Embed M texts as (M, E) float32 of norm 1. Texts of similar length go together, so that little is padded."""
    order = np.argsort([len(caption) for caption in captions], kind="stable")
    embeddings = np.empty((len(captions), model.config.text_width), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            tokens = tokenizers.encode(model.tokenizer, [captions[i] for i in chosen])
            embeddings[chosen] = model.encode_text(torch.from_numpy(tokens).to(model.device)).float().cpu().numpy()
    return embeddings


def to_batch(model: Mammut, arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """Resize (where needed) and normalise B decoded images for this model: (B, 3, S, S) float32 on its device."""
    size = model.config.image_size
    resized = [a if a.shape[:2] == (size, size) else imaging.resize(a, size, size) for a in arrays]
    batch = imaging.normalise(np.stack(resized), model.config.image_mean, model.config.image_std)
    return torch.from_numpy(batch).to(model.device)


def decoded(samples: Iterable[shards.Sample], skipped: Counter) -> Iterator[tuple[shards.Sample, np.ndarray]]:
    """Pair each sample with its decoded image; a broken image is skipped and counted."""
    for sample in samples:
        try:
            yield sample, imaging.decode(sample.image)
        except DataError as error:
            skipped["broken image"] += 1
            if skipped["broken image"] == 1:
                logger.warning("image of %s: %s; such samples are skipped and counted", sample.key, error)


def write(
    model: Mammut, samples: Iterable[shards.Sample], out: Path, *, batch_size: int = 256, skipped: Counter | None = None
) -> Path:
    """Embed every image and caption of a split into `out`, one batch in memory at a time.

    Writes `images.parquet` (key, embedding), `captions.parquet` (image, caption, embedding) and, last, `embeddings.json` with the
    counts; a folder without it is unfinished.

    Raises:
        DataError: No sample could be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    out.mkdir(parents=True, exist_ok=True)
    (out / "embeddings.json").unlink(missing_ok=True)
    skipped = Counter() if skipped is None else skipped
    vector = pa.list_(pa.float32(), model.config.text_width)
    image_schema = pa.schema({"key": pa.string(), "embedding": vector})
    caption_schema = pa.schema({"image": pa.int64(), "caption": pa.string(), "embedding": vector})
    pairs = decoded(samples, skipped)
    n_images = n_captions = 0
    progress = tqdm(desc="embed", unit=" images")
    with (
        pq.ParquetWriter(out / "images.parquet", image_schema) as image_file,
        pq.ParquetWriter(out / "captions.parquet", caption_schema) as caption_file,
        progress,
    ):
        while batch := list(islice(pairs, batch_size)):
            owners = [n_images + i for i, (sample, _) in enumerate(batch) for _ in sample.captions]
            captions = [caption for sample, _ in batch for caption in sample.captions]
            image_columns = [pa.array([sample.key for sample, _ in batch]), _vectors(images(model, [a for _, a in batch]))]
            caption_columns = [pa.array(owners), pa.array(captions), _vectors(texts(model, captions, batch_size))]
            image_file.write_table(pa.Table.from_arrays(image_columns, schema=image_schema))
            caption_file.write_table(pa.Table.from_arrays(caption_columns, schema=caption_schema))
            n_images += len(batch)
            n_captions += len(captions)
            progress.update(len(batch))
    if not n_images:
        raise DataError(f"no sample could be embedded ({dict(skipped) or 'the split is empty'})")
    counts = {"images": n_images, "captions": n_captions, "skipped": dict(skipped)}
    runs.write_atomic(out / "embeddings.json", json.dumps(counts, indent=1))
    return out


def load_or_embed(model: Path, data: Path, split: str, *, recompute: bool = False, device: str = "auto") -> Path:
    """Return the folder with the embeddings of a split by a saved model, made now unless they were before."""
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    source = runs.source_hash("embed", "mammut", "weights", "tokenizer", "images", follow=False)
    parts = {"model": digest, "data": benchmarks.fingerprint(data), "split": split, "source": source}

    def compute(folder: Path) -> None:
        write(weights.load(model, distributed.resolve_device(device)), benchmarks.samples(data, split), folder)

    return runs.stage("embed", parts, compute, recompute)


def read(folder: Path) -> Embeddings:
    """Read what `write` wrote.

    Raises:
        DataError: The folder is unfinished or not of embeddings.
    """
    import pyarrow.parquet as pq

    if not (folder / "embeddings.json").is_file():
        raise DataError(f"{folder} holds no finished embeddings: run `rsvlm embed` again")
    image_table = pq.read_table(folder / "images.parquet")
    caption_table = pq.read_table(folder / "captions.parquet")
    return Embeddings(
        keys=image_table["key"].to_pylist(),
        captions=caption_table["caption"].to_pylist(),
        image_of_caption=caption_table["image"].to_numpy(),
        image_embeddings=_matrix(image_table["embedding"]),
        caption_embeddings=_matrix(caption_table["embedding"]),
    )


def search(queries: np.ndarray, gallery: np.ndarray, k: int, block: int = 65536) -> tuple[np.ndarray, np.ndarray]:
    """Find the k best gallery items of each query by dot product, exactly, one block of the gallery at a time.

    Args:
        queries: (Q, E) float32.
        gallery: (N, E) float32, possibly a memory map.
        k: Items per query, at most N of them.
        block: Rows of the gallery scored at once.

    Returns:
        scores: (Q, k) float32, best first.
        index: (Q, k) int64 rows of `gallery`; of equal scores the lower row comes first.
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


def _vectors(array: np.ndarray):
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def _matrix(column) -> np.ndarray:
    chunks = [np.asarray(chunk.flatten()).reshape(len(chunk), -1) for chunk in column.chunks]
    return np.concatenate(chunks).astype(np.float32, copy=False)
