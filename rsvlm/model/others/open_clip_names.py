"""What is meant by NAME and by FILE or TAG of open_clip: its model, the files of weights, and how their images are prepared.

Nothing is fetched here: weights of a tag are taken from the places where open_clip keeps what it has downloaded.
"""

from __future__ import annotations

import logging
from pathlib import Path

from rsvlm.errors import ModelError
from rsvlm.model.weights import CLIP_MEAN, CLIP_STD

logger = logging.getLogger(__name__)


def source(open_clip, name: str, weight: str) -> tuple[str, dict, list[Path]]:
    """Find what is meant: open_clip's name of the model, options of its factory, and the files of weights."""
    if Path(name).is_dir():
        files = [path for path in sorted(Path(name).glob("*")) if path.suffix in (".safetensors", ".bin", ".pt", ".pth")]
        if not (Path(name) / "open_clip_config.json").is_file() or not files or weight:
            what = "takes no FILE" if weight else "holds no open_clip_config.json with weights beside it"
            raise ModelError(f"open_clip:{name}: the folder {what}")
        return f"local-dir:{name}", {}, files
    architecture = name.replace("/", "-")
    if (known := open_clip.get_model_config(architecture)) is None:
        near = [model for model in open_clip.list_models() if model.lower().startswith(architecture.lower()[:5])]
        raise ModelError(f"open_clip knows no model '{name}': it knows {', '.join((near or open_clip.list_models())[:8])}, …")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if Path(weight).is_file():
        return architecture, {"pretrained": weight} | _usual_preprocessing(open_clip, architecture, tags), [Path(weight)]
    if weight not in tags:
        what = f"there is no file '{weight}'" if weight else "no weights are named: they would be random"
        raise ModelError(f"open_clip:{name}: {what}. Add :FILE, a checkpoint on disk, or one of open_clip's tags: {tags}")
    facts = open_clip.get_pretrained_cfg(architecture, weight)
    if (path := _cached(facts)) is None:
        missing = f"open_clip:{name}:{weight}: its weights are not in the cache, and nothing is downloaded here"
        raise ModelError(f"{missing}: fetch {facts.get('hf_hub') or facts.get('url')}")
    if bool(known.get("quick_gelu")) > bool(facts.get("quick_gelu")):
        weights = f"open_clip:{name}:{weight}"
        raise ModelError(f"{weights}: they were trained with another activation: take a name without quickgelu")
    options = {"pretrained": str(path), "force_quick_gelu": bool(facts.get("quick_gelu"))}
    return architecture, options | _preprocessing(facts), [path]


def _preprocessing(facts: dict) -> dict:
    """Options of open_clip's factory for how the images of a tag are prepared, its usual ones where the tag says nothing."""
    return {
        "image_mean": tuple(facts.get("mean") or CLIP_MEAN),
        "image_std": tuple(facts.get("std") or CLIP_STD),
        "image_interpolation": facts.get("interpolation") or "bicubic",
        "image_resize_mode": facts.get("resize_mode") or "shortest",
    }


def _usual_preprocessing(open_clip, architecture: str, tags: list[str]) -> dict:
    """Options for a file of weights, which says nothing of it: as the architecture's own tags have them, where they agree."""
    usual = _preprocessing({})
    known = {tag: _preprocessing(open_clip.get_pretrained_cfg(architecture, tag)) for tag in tags}
    if known and all(options == known[tags[0]] for options in known.values()):
        return known[tags[0]]
    if others := [tag for tag, options in known.items() if options != usual]:
        logger.warning(
            "a file of %s does not say how its images are prepared: taken as CLIP's, not as those of %s; "
            "what an open_clip_config.json beside the weights says is followed with open_clip:FOLDER",
            architecture,
            ", ".join(others),
        )
    return usual


def _cached(facts: dict) -> Path | None:
    """Find the weights of one of open_clip's tags on disk, in the places where it keeps what it has downloaded."""
    from huggingface_hub import try_to_load_from_cache

    if hub := facts.get("hf_hub"):
        repository, _, file = hub.rpartition("/")
        files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        paths = (try_to_load_from_cache(repository, file) for file in files)
        if path := next((path for path in paths if isinstance(path, str)), None):
            return Path(path)
    path = Path("~/.cache/clip").expanduser() / Path(facts.get("url") or "-").name
    return path if path.is_file() else None
