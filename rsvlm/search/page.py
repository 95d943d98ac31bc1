"""What the page needs on which a reader types a query: model, gallery and runtime as files that a browser loads.

The text tower goes out as ONNX, the tokenizer as it is, the gallery as vectors, pictures and places. Browsers run the tower
with what `page_runtime` fetches. `search` answers in Python from the same files, so that both can be
compared. Ranking is the exact product with every image of the gallery.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from rsvlm.data import benchmarks, reading
from rsvlm.evaluation import embeddings, retrieval
from rsvlm.localization import heat
from rsvlm.model import embed, images, tokenizer
from rsvlm.model.encoder import Encoder
from rsvlm.model.others.opening import open_encoder
from rsvlm.records import files
from rsvlm.search import page_runtime, page_texts

ROOMS = ("search/page", "search/page_texts", "search/page_runtime", "localization", "evaluation", "model", "data/*")
"""Rooms whose files decide what is made here, for `stages.source_hash`."""

SHOWN = 8
PICTURE_PX = 256  # larger chips are shown at this side

# An int8 tower is taken where neither of these is lost on the gallery's own captions.
MOST_RECALL_LOST = 0.5  # points of mean text → image recall
LEAST_SAME_ANSWERS = 99.0  # percent of the queries whose first eight are the same, in the same order


def build(
    model: Path | str,
    data: Path,
    out: Path,
    *,
    split: str = "test",
    examples: Sequence[str] = (),
    world_map: bytes | None = None,
    device: str = "auto",
) -> dict:
    """Write everything but the runtime into `out`.

    The files are `text.onnx`, `tokenizer.json` as it lies beside the model, `vectors.bin` (N, E) float32 in little-endian order,
    `patches.bin` (N, h, w, E) int8, `pictures.bin` (WebP files one after the other), `chips.json` (a record per chip), `map.webp`
    where chips have places, and, last, `gallery.json`. A vector of `patches.bin`, times the chip's scale in `chips.json`, is what that
    patch adds to the chip's vector: its product with a query, averaged over the patches, is the chip's score. Where patches add up to
    nothing, as in a CLIP, there is no such file, and `grid` is None.

    Args:
        model: Folder of a model of this package with one of our tokenizers, or `hf:FOLDER` of a CLIP of transformers.
        data: Folder of a data set, as for `benchmarks.samples`; records may hold `lon` and `lat` in degrees.
        out: Folder of the files.
        split: Split that is searched.
        examples: Queries that the page offers, and answers without a script.
        world_map: Picture of the whole Earth, as WebP, on which chips that have a place are shown. If None, no map is shown.
        device: Device on which the images are embedded.

    Returns:
        Content of `gallery.json`: sizes, `tower` (the measurements of each precision, and the one taken) and `examples`.

    Raises:
        ModelError: The model or its tokenizer is of another kind, which a browser cannot run here: see `page_texts.open_texts`.
        MissingExtraError: The packages that write ONNX are not installed.
    """
    encoder = open_encoder(model, "cpu")
    texts = page_texts.open_texts(encoder)
    ours = isinstance(encoder, embed.MammutEncoder)
    gallery = embeddings.read(embeddings.load_or_embed(model if ours else encoder, data, split, device=device))
    skipped: Counter = Counter()
    samples, arrays = zip(*reading.decoded(benchmarks.samples(data, split, skipped=skipped), skipped))
    out.mkdir(parents=True, exist_ok=True)
    texts.tokens.save_pretrained(out)
    tower = _tower(texts, gallery, out)

    def put(name: str, content: bytes | object) -> None:
        text = content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        files.write_atomic(out / name, text)

    put("vectors.bin", gallery.image_embeddings.astype("<f4").tobytes())
    grid, scales = None, np.zeros(len(arrays), np.float32)
    if adds_up(encoder, arrays[0]):
        parts, scales = contributions(encoder, arrays)
        grid = list(parts.shape[1:3])
        put("patches.bin", parts.tobytes())
    pictures = [images.thumbnail_webp(array, PICTURE_PX, quality=85) for array in arrays]
    put("pictures.bin", b"".join(pictures))
    chips, end = [], 0
    for sample, scale, picture in zip(samples, scales.tolist(), pictures, strict=True):
        end += len(picture)
        place = {name: sample.record.get(name) for name in ("lon", "lat", "gsd_m", "size_px")}
        chips.append({"key": sample.key, "captions": list(sample.captions), **place, "scale": scale, "end": end})
    put("chips.json", chips)
    placed = world_map is not None and any(chip["lon"] is not None for chip in chips)
    if placed:
        put("map.webp", world_map)
    facts = {
        "images": len(chips), "width": gallery.image_embeddings.shape[1], "grid": grid, "shown": min(SHOWN, len(chips)),
        "tower": tower, "map": placed, "examples": list(examples), "context": texts.context,
        "bos": texts.tokens.bos_token_id, "eos": texts.tokens.eos_token_id,
    }  # fmt: skip
    put("gallery.json", facts)
    return facts


def precision(measured: Mapping[str, Mapping[str, float]]) -> str:
    """Choose `int8` where it loses neither recall nor answers by more than the two bounds above, else `float32`.

    Args:
        measured: For each of both names: `R@1`, `R@5`, `R@10`, text → image, and `same_answers`; all in percent.
    """
    lost = np.mean([measured["float32"][name] - measured["int8"][name] for name in ("R@1", "R@5", "R@10")])
    keeps = lost <= MOST_RECALL_LOST and measured["int8"]["same_answers"] >= LEAST_SAME_ANSWERS
    return "int8" if keeps else "float32"


def adds_up(model: Encoder, array: np.ndarray) -> bool:
    """Say whether what the patches of an image contribute adds up to its vector: a linear head, and nothing pooled besides them."""
    if not model.linear or "patches" not in model.can:
        return False
    with torch.inference_mode():
        return model.contributing(model.preprocess([array])).common is None


def contributions(model: Encoder, arrays: Sequence[np.ndarray], batch_size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Return what each patch adds to its image's vector: (N, h, w, E) int8, and the (N,) float32 scale of each image.

    As `heat.heat(method="attention")`: the mean over the patches is the image's vector, if the model's output head is linear.

    Args:
        model: The model, one for which `adds_up` is true.
        arrays: N decoded images.
        batch_size: Images per forward pass.
    """
    parts, scales = [], []
    with torch.inference_mode():
        for start in range(0, len(arrays), batch_size):
            patches = heat.look(model, model.preprocess(arrays[start : start + batch_size]), "attention")
            h, w = patches.scores.shape[2:]
            share = patches.scores.flatten(2).softmax(-1).unflatten(-1, (h, w))  # (B, n, h, w)
            joined = heat.project(
                model, h * w * share[..., None] * patches.values, patches.rest, normalize=False
            )  # (B, h, w, E)
            joined = (joined / joined.mean(dim=(1, 2), keepdim=True).norm(dim=-1, keepdim=True)).cpu().numpy()
            scale = np.maximum(np.abs(joined).max(axis=(1, 2, 3)), 1e-12) / 127
            parts.append(np.rint(joined / scale[:, None, None, None]).astype(np.int8))
            scales.append(scale.astype(np.float32))
    return np.concatenate(parts), np.concatenate(scales)


def search(folder: Path, queries: Sequence[str], k: int = SHOWN) -> tuple[np.ndarray, np.ndarray]:
    """Answer as the page does, from the page's files: scores (Q, k) and rows of the gallery (Q, k), best first.

    Args:
        folder: Folder that `build` filled.
        queries: Texts, none blank.
        k: Answers to each.
    """
    facts = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
    vectors = np.fromfile(folder / "vectors.bin", "<f4").reshape(facts["images"], facts["width"])
    return embeddings.search(page_texts.embed_by_file(folder / "text.onnx", tokenizer.load(folder), queries), vectors, k)


def place(made: Path, ran: Path | None, out: Path) -> dict:
    """Copy what `build` and `page_runtime.runtime` made into the folder that the page loads, and write `manifest.json`.

    Args:
        made: Folder that `build` filled.
        ran: Folder that `page_runtime.runtime` returned. If None, the page will say that it has no search.
        out: Folder that the page loads; its old content goes.

    Returns:
        The manifest: `{files: {name: {bytes, sha256}}, runtime}`, runtime None where there is none.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for folder in filter(None, (made, ran)):
        for path in sorted(folder.glob("*")):
            if path.name not in ("stage.json", "tokenizer_config.json"):
                shutil.copyfile(path, out / path.name)
    entries = {path.name: {"bytes": path.stat().st_size, "sha256": files.file_sha256(path)} for path in sorted(out.glob("*"))}
    manifest = {"files": entries, "runtime": page_runtime.PACKAGES[0].name if ran else None}
    files.write_atomic(out / "manifest.json", json.dumps(manifest, indent=1))
    return manifest


def _tower(tower: page_texts.Texts, gallery: embeddings.Embeddings, out: Path) -> dict:
    """Write `text.onnx`: int8 where that keeps what the gallery's own captions find, else float32. Say what was measured."""
    firsts = np.unique(gallery.image_of_caption, return_index=True)[1]  # the fullest caption of each image, as in the chapters
    texts, image_vectors = [gallery.captions[i] for i in firsts], gallery.image_embeddings
    with tempfile.TemporaryDirectory() as folder:
        exact = tower.export(Path(folder) / "text.onnx")
        small = page_texts.shrink(exact, exact.with_name("int8.onnx"))
        measured, answers = {}, {}
        for name, path in (("float32", exact), ("int8", small)):
            vectors = page_texts.embed_by_file(path, tower.tokens, texts)
            _, ranks = retrieval.ranks(image_vectors, vectors, np.arange(len(texts)))
            _, answers[name] = embeddings.search(vectors, image_vectors, SHOWN)
            recalls = {f"R@{k}": 100 * float(np.mean(ranks <= k)) for k in (1, 5, 10)}
            same = 100 * float(np.mean((answers[name] == answers["float32"]).all(axis=1)))
            measured[name] = recalls | {"same_answers": same, "bytes": path.stat().st_size, "n": len(texts)}
        taken = precision(measured)
        shutil.copyfile(small if taken == "int8" else exact, out / "text.onnx")
    return {"taken": taken, "measured": measured}
