"""Models out, in the forms of others: ONNX files, a folder of transformers, a folder of open_clip. `rsvlm export`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rsvlm.errors import ModelError, need
from rsvlm.model.mammut import Mammut
from rsvlm.records import files

FORMS = {
    "onnx": "image.onnx, text.onnx and onnx.json, for runtimes without torch",
    "hf": "config.json, model.safetensors and tokenizer.json, which AutoModel reads where rsvlm.model.mammut is imported",
    "open_clip": "open_clip_config.json and open_clip_model.safetensors, as open_clip's main branch reads a MaMMUT",
}


def export(model: Mammut, form: str, folder: Path | str) -> Path:
    """Write a model in one of `FORMS`; return the folder.

    Raises:
        ModelError: There is no such form, or it has no words for a part of this model.
        MissingExtraError: `onnx` or `onnxscript` is not installed.
    """
    if form not in FORMS:
        raise ModelError(f"models are not written as '{form}': choose one of {', '.join(FORMS)}")
    folder = Path(folder)
    if form == "onnx":
        return export_onnx(model, folder)
    if form == "open_clip":
        return export_open_clip(model, folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)
    return folder


def export_onnx(model: Mammut, folder: Path | str, towers: Sequence[str] = ("image", "text")) -> Path:
    """Write the towers as ONNX: `image.onnx`, `text.onnx`, and `onnx.json` with what a caller needs to feed them.

    `image.onnx` takes `images` (B, 3, S, S) float32, normalised, and gives `image_embeddings`; `text.onnx` takes `tokens` (B, T)
    int64, padded on the right, and gives `text_embeddings`: (B, E) float32 of norm 1, for any B and any T up to the context. Files
    get their names only when they are whole. A file of ONNX holds 2 GB at most.

    Raises:
        MissingExtraError: `onnx` or `onnxscript` is not installed.
    """
    for package in ("onnx", "onnxscript"):
        need(package, "export")
    folder, config = Path(folder), model.config
    folder.mkdir(parents=True, exist_ok=True)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=1, max=config.context_length)
    images = torch.zeros(2, 3, config.image_size, config.image_size, device=model.device)
    tokens = torch.full((2, min(5, config.context_length)), config.bos_token_id, device=model.device)
    parts = {
        "image": (model.encode_image, "images", images, {0: batch}),
        "text": (model.encode_text, "tokens", tokens, {0: batch, 1: length}),
    }

    # each tower by its own method
    training = model.training
    model.eval()
    for name in towers:
        encode, argument, example, dynamic = parts[name]
        export_tower(encode, model, folder / f"{name}.onnx", (argument, f"{name}_embeddings"), example, dynamic)
    model.train(training)

    # what a caller needs to feed them
    names = ["image_size", "image_mean", "image_std", "image_resize", "image_interpolation"]
    names += ["context_length", "pad_token_id", "bos_token_id", "eos_token_id"]
    scalars = {"logit_scale": model.logit_scale.item(), "logit_bias": model.logit_bias.item()}
    facts = {name: getattr(config, name) for name in names} | scalars
    (folder / "onnx.json").write_text(json.dumps(facts, indent=1))
    return folder


def export_tower(
    encode: Callable[[Tensor], Tensor], model: nn.Module, path: Path, names: tuple[str, str], example: Tensor, dynamic: dict
) -> Path:
    """Write one tower as a file of ONNX; return the file, which gets its name only when it is whole.

    Args:
        encode: From a batch to embeddings.
        model: The module whose weights it uses, in evaluation mode.
        path: The file.
        names: Of what goes in and of what comes out.
        example: A batch.
        dynamic: Its axes that may have another length, as for `torch.export`.
    """
    for package in ("onnx", "onnxscript"):
        need(package, "export")
    named = {"input_names": [names[0]], "output_names": [names[1]]}
    tower = _Tower(encode, model).eval()
    program = torch.onnx.export(tower, (example,), dynamic_shapes=(dynamic,), dynamo=True, verbose=False, **named)
    with files.replacing(path) as temporary:
        program.save(temporary, external_data=False)
    return path


def export_open_clip(model: Mammut, folder: Path) -> Path:
    """Write a MaMMUT as open_clip's main branch reads it, and as `weights.load` does: options, weights, and the tokenizer beside them.

    Raises:
        ModelError: The model has a part that open_clip's MaMMUT has not; all of them are listed.
    """
    from rsvlm.model.others import open_mammut_keys, open_mammut_words

    options, preprocess = open_mammut_words.options_of(model.config)
    state = open_mammut_keys.state_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    with files.replacing(folder / "open_clip_model.safetensors") as temporary:
        save_file({key: value.contiguous() for key, value in state.items()}, temporary)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)
    content = json.dumps({"model_cfg": options, "preprocess_cfg": preprocess}, indent=1)
    files.write_atomic(folder / "open_clip_config.json", content)
    return folder


class _Tower(nn.Module):
    """One method of a model as a module of its own, for the exporter."""

    def __init__(self, encode: Callable[[Tensor], Tensor], model: nn.Module):
        super().__init__()
        self.model, self.encode = model, encode

    def forward(self, batch: Tensor) -> Tensor:
        return self.encode(batch)
