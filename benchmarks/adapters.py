"""What the one face costs: pictures embedded through it beside the library's own forward, and a scene's share of time in the tower.

Both libraries' ViT-B/32 are asked, with random weights: open_clip's, and that of transformers. The face and the library take turns, and
what is told is the ratio of their times in each pair, so that a machine that is busy for a while slows both.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from torch import Tensor

from benchmarks import scenes as scene_files
from rsvlm.errors import need
from rsvlm.model.encoder import Encoder
from rsvlm.model.others.hugging_face import HuggingFaceEncoder
from rsvlm.model.others.open_clip import OpenClipEncoder
from rsvlm.search import scene

CLIP = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 768, "layers": 12},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}
"""The shape of ViT-B/32."""


def measure(n_images: int = 64, n_side: int = 2240, repeats: int = 5, threads: int = 2) -> list[dict]:
    """Embed pictures of 256 pixels by turns through the face and by each library alone; search a scene with open_clip's.

    Args:
        n_images: Pictures per pass.
        n_side: Side of the scene, in pixels; 0: none.
        repeats: Timed pairs of passes.
        threads: Threads of torch; the scene is searched with one, so that the tower's time is that of the thread which calls it.

    Returns:
        Rows, each with `family`: `embed` with `ratio`, the median of the pairs' ratios of time (face over library, preprocessing in
        both), `min`, `max` and `largest_difference` of the vectors; `scene` with `tower_share`, the share of a search's CPU time, but
        for that of its texts, that threads spend in the image tower, `rest_share` of it, that of the end of the tower that runs once
        more for each window, `text_share`, that of the texts in all of the search, and `cpu_s`.

    Raises:
        MissingExtraError: open_clip is not installed.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    arrays = list(np.random.default_rng(0).integers(0, 256, (n_images, 256, 256, 3), np.uint8))
    families = {"open_clip": of_open_clip(), "transformers": of_transformers()}
    rows = [{"stage": "embed", "family": name} | _embed(*family, arrays, repeats) for name, family in families.items()]
    if n_side:
        rows.append(_scene(families["open_clip"][0], n_side, repeats) | {"family": "open_clip"})
    return rows


def of_open_clip() -> tuple[Encoder, Callable[[list[np.ndarray]], Tensor]]:
    """A ViT-B/32 of open_clip behind the face, and what embeds pictures by open_clip alone."""
    open_clip = need("open_clip", "models")
    model = open_clip.CLIP(**CLIP, quick_gelu=False).eval()
    settings = {"size": 224, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    model.visual.preprocess_cfg = settings
    transform = open_clip.image_transform(224, False, mean=settings["mean"], std=settings["std"])

    def library(arrays: list[np.ndarray]) -> Tensor:
        return model.encode_image(torch.stack([transform(Image.fromarray(array)) for array in arrays]))

    return OpenClipEncoder("open_clip:ViT-B-32", model, transform, open_clip.get_tokenizer("ViT-B-32"), str), library


def of_transformers() -> tuple[Encoder, Callable[[list[np.ndarray]], Tensor]]:
    """The same of transformers, whose configuration is a ViT-B/32 where nothing else is said."""
    model, processor = transformers.CLIPModel(transformers.CLIPConfig()).eval(), transformers.CLIPImageProcessor()

    def library(arrays: list[np.ndarray]) -> Tensor:
        batch = processor(images=arrays, return_tensors="pt", input_data_format="channels_last")
        return model.get_image_features(pixel_values=batch["pixel_values"]).pooler_output

    return HuggingFaceEncoder("hf:ViT-B-32", model, processor, None, str), library


def _embed(encoder: Encoder, library: Callable, arrays: list[np.ndarray], repeats: int) -> dict:
    def alone() -> np.ndarray:
        with torch.inference_mode():
            return F.normalize(library(arrays), dim=-1).numpy()

    difference = float(np.abs(alone() - encoder.images(arrays)).max())  # the first pass of both is not timed
    ratios = []
    for turn in range(repeats):
        passes = {"library": alone, "face": lambda: encoder.images(arrays)}
        seconds = {}
        for name in sorted(passes, reverse=turn % 2 == 1):
            started = time.perf_counter()
            passes[name]()
            seconds[name] = time.perf_counter() - started
        ratios.append(seconds["face"] / seconds["library"])
    return {
        "images": len(arrays), "repeats": repeats, "ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios),
        "largest_difference": difference,
    }  # fmt: skip


def _scene(encoder: Encoder, n_side: int, repeats: int) -> dict:
    inside: dict[str, list[float]] = {
        "patches": [],
        "project": [],
        "encode_texts": [],
    }  # lists, for several threads add to them

    def timed(name: str) -> Callable:
        run = getattr(encoder, name)

        def clocked(*given):
            started = time.thread_time()
            result = run(*given)
            inside[name].append(time.thread_time() - started)
            return result

        return clocked

    for name in inside:
        setattr(encoder, name, timed(name))
    shares, rests, texts, seconds = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "scene.tif"
        scene_files.write_scene(path, n_side)
        options = scene.SearchOptions(precision="fp32")
        torch.set_num_threads(1)
        for turn in range(repeats + 1):
            for spent in inside.values():
                spent.clear()
            started = time.process_time()
            scene.search(path, ["a river"], encoder, Path(name) / "out", options, progress=False)
            if turn:  # the first compiles
                seconds.append(time.process_time() - started)
                tower, rest, of_texts = (sum(spent) for spent in inside.values())
                texts.append(of_texts / seconds[-1])
                rests.append(rest / (seconds[-1] - of_texts))
                shares.append((tower + rest) / (seconds[-1] - of_texts))
    return {
        "stage": "scene", "side": n_side, "repeats": repeats, "tower_share": statistics.median(shares), "min": min(shares),
        "max": max(shares), "rest_share": statistics.median(rests), "text_share": statistics.median(texts),
        "cpu_s": statistics.median(seconds),
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    """Lay rows out for a terminal."""
    lines = []
    for row in rows:
        figure, what = (
            ("ratio", "time of the face over the library's")
            if row["stage"] == "embed"
            else ("tower_share", "CPU time in the tower, texts apart")
        )
        spread = f"{row[figure]:>8.3f} [{row['min']:.3f}, {row['max']:.3f}]  n {row['repeats']}"
        lines.append(f"{row['family']:<14}{row['stage']:<8}{what:<40}{spread}")
    return "\n".join(lines)
