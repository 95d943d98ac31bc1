"""What the one face costs: pictures embedded through it beside the library's own forward, and a scene's share of time in the tower."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import scenes as scene_files
from rsvlm.errors import need
from rsvlm.model.encoder import Encoder
from rsvlm.model.others.open_clip import OpenClipEncoder
from rsvlm.search import scene

CLIP = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 768, "layers": 12},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}
"""The shape of ViT-B/32."""


def measure(n_images: int = 64, n_side: int = 2240, repeats: int = 5, threads: int = 2) -> list[dict]:
    """Embed pictures of 256 pixels by a ViT-B/32 of random weights, by turns through the face and by open_clip alone; search a scene.

    Args:
        n_images: Pictures per pass.
        n_side: Side of the scene, in pixels; 0: none.
        repeats: Timed pairs of passes.
        threads: Threads of torch.

    Returns:
        Rows: `embed` with `ratio`, the median of the pairs' ratios of time (face over library), `min`, `max` and `largest_difference` of
        the vectors; `scene` with `tower_share`, the share of a search's CPU time that threads spend in the tower.

    Raises:
        MissingExtraError: open_clip is not installed.
    """
    open_clip = need("open_clip", "models")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = open_clip.CLIP(**CLIP).eval()
    settings = {"size": 224, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    model.visual.preprocess_cfg = settings
    transform = open_clip.image_transform(224, False, mean=settings["mean"], std=settings["std"])
    encoder = OpenClipEncoder("open_clip:ViT-B-32", model, transform, open_clip.get_tokenizer("ViT-B-32"), str)
    arrays = list(np.random.default_rng(0).integers(0, 256, (n_images, 256, 256, 3), np.uint8))

    def library() -> np.ndarray:
        with torch.inference_mode():
            batch = torch.stack([transform(Image.fromarray(array)) for array in arrays])
            return model.encode_image(batch, normalize=True).numpy()

    difference = float(np.abs(library() - encoder.images(arrays)).max())
    ratios = []
    for turn in range(repeats):
        passes = [library, lambda: encoder.images(arrays)]
        seconds = {}
        for one in passes if turn % 2 else passes[::-1]:
            started = time.perf_counter()
            one()
            seconds[one is passes[1]] = time.perf_counter() - started
        ratios.append(seconds[True] / seconds[False])
    rows = [
        {
            "stage": "embed", "images": n_images, "repeats": repeats, "ratio": statistics.median(ratios), "min": min(ratios),
            "max": max(ratios), "largest_difference": difference,
        }
    ]  # fmt: skip
    if n_side:
        rows.append(_scene(encoder, n_side, repeats))
    return rows


def _scene(encoder: Encoder, n_side: int, repeats: int) -> dict:
    shares, inside = [], [0.0]
    patches = encoder.patches

    def timed(batch):
        started = time.thread_time()
        seen = patches(batch)
        inside[0] += time.thread_time() - started
        return seen

    encoder.patches = timed
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "scene.tif"
        scene_files.write_scene(path, n_side)
        options = scene.SearchOptions(precision="fp32")
        torch.set_num_threads(1)  # the tower's time is then that of the threads which call it
        for turn in range(repeats + 1):
            inside[0] = 0.0
            started = time.process_time()
            scene.search(path, ["a river"], encoder, Path(name) / "out", options, progress=False)
            if turn:  # the first compiles
                shares.append(inside[0] / (time.process_time() - started))
    return {
        "stage": "scene", "side": n_side, "repeats": repeats, "tower_share": statistics.median(shares), "min": min(shares),
        "max": max(shares),
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    """Lay rows out for a terminal."""
    lines = []
    for row in rows:
        figure, what = (
            ("ratio", "time of the face over the library's") if row["stage"] == "embed" else ("tower_share", "in the tower")
        )
        lines.append(
            f"{row['stage']:<8}{what:<40}{row[figure]:>8.3f} [{row['min']:.3f}, {row['max']:.3f}]  n {row['repeats']}"
        )
    return "\n".join(lines)
