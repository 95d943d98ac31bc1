"""MaMMUT, top to bottom: one vision tower, one text decoder run twice with the same weights, two losses.

Source: Kuo et al., "MaMMUT: A Simple Architecture for Joint Learning for MultiModal Tasks" (arXiv 2303.16839).

    images (B, 3, H, W) ── VisionTransformer ── patch tokens (B, P, Dv) ─┬─ mean ── image embedding (B, E)
                                                                         └─ linear map ─┐
    tokens (B, T) ──┬─ contrastive pass: bidirectional, never sees the image ── mean ── text embedding (B, E)
                    └─ caption pass: causal, cross-attention to the patches ◄───────────┘ ── next-token logits (B, T, V)

Tensor letters: B batch, T text tokens, P patches, D width (Dv of the vision tower), E embedding, V vocabulary, h heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from rsvlm import tokenizer as tokenizers
from rsvlm.errors import ModelError

PRESETS: dict[str, dict] = {
    "nano": {
        "image_size": 64,
        "patch_size": 8,
        "vision_width": 128,
        "vision_layers": 4,
        "vision_heads": 4,
        "text_width": 128,
        "text_layers": 3,
        "text_heads": 4,
    },
}


TEXT_GROUPS = 4  # of similar length, per batch


class MammutConfig(PreTrainedConfig):
    """Sizes of a MaMMUT and how its images are normalised.

    The image embedding is the mean patch token; a projection is added only where the vision and text widths differ, since MaMMUT
    found that extra heads lower retrieval (its table 8).
    """

    model_type = "mammut"

    def __init__(
        self,
        *,
        image_size: int = 64,
        patch_size: int = 8,
        vision_width: int = 192,
        vision_layers: int = 6,
        vision_heads: int = 3,
        text_width: int = 192,
        text_layers: int = 4,
        text_heads: int = 3,
        cross_attention_every: int = 2,
        vocab_size: int = 2048,
        context_length: int = 96,
        image_mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        image_std: tuple[float, ...] = (0.25, 0.25, 0.25),
        initial_scale: float = 10.0,
        initial_bias: float = 0.0,
        **transformers_options,
    ):
        super().__init__(**transformers_options)
        self.image_size = image_size
        self.patch_size = patch_size
        self.vision_width = vision_width
        self.vision_layers = vision_layers
        self.vision_heads = vision_heads
        self.text_width = text_width
        self.text_layers = text_layers
        self.text_heads = text_heads
        self.cross_attention_every = cross_attention_every
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.initial_scale = initial_scale
        self.initial_bias = initial_bias


class Attention(nn.Module):
    """Multi-head attention of one sequence to itself or to another."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Attend from (B, T, D) `x` to (B, S, D) `source`; `mask` is True where attention may go, (B, 1, 1, S)."""
        B, T, D = x.shape
        query = self.query(x).view(B, T, self.heads, -1).transpose(1, 2)  # (B, h, T, D/h)
        key, value = self.key_value(source).view(B, source.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)  # (B, h, T, D/h)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))


class DecoderLayer(nn.Module):
    """Pre-norm self-attention, cross-attention where the layer has it and image tokens are given, and an MLP."""

    def __init__(self, width: int, heads: int, cross: bool):
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.cross_attention = Attention(width, heads) if cross else None
        self.norm_cross = nn.LayerNorm(width) if cross else None
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None, causal: bool, image_tokens: Tensor | None) -> Tensor:
        """Update (B, T, D) states; `image_tokens` is (B, P, D), or None in the contrastive pass."""
        normed = self.norm_self(x)
        x = x + self.self_attention(normed, normed, mask, causal)
        if self.cross_attention is not None and image_tokens is not None:
            x = x + self.cross_attention(self.norm_cross(x), image_tokens)
        return x + self.mlp(self.norm_mlp(x))


@dataclass
class MammutOutput(ModelOutput):
    """What one training step needs: `image_embeddings` and `text_embeddings` (B, E) of norm 1, and the mean `caption_loss`."""

    image_embeddings: Tensor | None = None
    text_embeddings: Tensor | None = None
    caption_loss: Tensor | None = None


class Mammut(PreTrainedModel):
    """The model. `save_pretrained` writes a plain safetensors folder; `rsvlm.load` reads it back."""

    config_class = MammutConfig
    base_model_prefix = "mammut"
    main_input_name = "images"

    def __init__(self, config: MammutConfig):
        super().__init__(config)
        self.vision = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.vision_width,
            depth=config.vision_layers,
            num_heads=config.vision_heads,
            num_classes=0,
            class_token=False,
            global_pool="",
        )
        same = config.vision_width == config.text_width
        self.vision_projection = nn.Identity() if same else nn.Linear(config.vision_width, config.text_width, bias=False)
        self.image_map = nn.Linear(config.vision_width, config.text_width)
        self.token_embedding = nn.Embedding(config.vocab_size, config.text_width)
        self.position_embedding = nn.Embedding(config.context_length, config.text_width)
        self.layers = nn.ModuleList(
            DecoderLayer(config.text_width, config.text_heads, cross=i % config.cross_attention_every == 0)
            for i in range(config.text_layers)
        )
        self.norm = nn.LayerNorm(config.text_width)
        self.vocabulary = nn.Linear(config.text_width, config.vocab_size, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(config.initial_scale)))
        self.logit_bias = nn.Parameter(torch.tensor(config.initial_bias))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal(0, 0.02) for every matrix, zero for every bias."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)

    @property
    def logit_scale(self) -> Tensor:
        """The factor (a scalar, 1/τ) that multiplies cosines in the contrastive loss."""
        return self.log_scale.exp()

    def image_tokens(self, images: Tensor) -> Tensor:
        """Run the vision tower: (B, 3, H, W) normalised float images to (B, P, Dv) patch tokens."""
        size = self.config.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ModelError(f"images of shape {tuple(images.shape)}: this model takes (B, 3, {size}, {size})")
        return self.vision.forward_features(images)

    def image_embedding(self, image_tokens: Tensor, normalize: bool = True) -> Tensor:
        """Pool (B, P, Dv) patch tokens into (B, E) image embeddings: their mean, of norm 1 if `normalize`."""
        pooled = self.vision_projection(image_tokens.mean(dim=1))
        return F.normalize(pooled, dim=-1) if normalize else pooled

    def encode_image(self, images: Tensor, normalize: bool = True) -> Tensor:
        """Embed (B, 3, H, W) normalised float images as (B, E)."""
        return self.image_embedding(self.image_tokens(images), normalize)

    def encode_text(self, tokens: Tensor, normalize: bool = True) -> Tensor:
        """Contrastive pass: embed (B, T) int64 tokens, padded on the right, as (B, E).

        Bidirectional self-attention over the real tokens, no cross-attention; the embedding is the mean over the real tokens, so
        it depends on neither padding nor neighbours.

        Source: MaMMUT section 3.2 (bidirectional beats causal here: its table 7).
        """
        real = tokens != tokenizers.PAD_ID  # (B, T)
        mask = None if bool(real.all()) else real[:, None, None, :]  # (B, 1, 1, T): no query attends to a pad
        states = self._decode(tokens, mask, causal=False, image_tokens=None)  # (B, T, D)
        weights = real.to(states.dtype)[..., None]  # (B, T, 1)
        pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)  # (B, D) with D = E
        return F.normalize(pooled, dim=-1) if normalize else pooled

    def caption_states(self, tokens: Tensor, image_tokens: Tensor) -> Tensor:
        """Caption pass: (B, T) tokens and (B, P, Dv) patch tokens to (B, T, D) states, causal and with cross-attention."""
        return self._decode(tokens, None, causal=True, image_tokens=self.image_map(image_tokens))

    def caption_logits(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Next-token logits (B, T, V) of (B, T) tokens given (B, 3, H, W) images."""
        return self.vocabulary(self.caption_states(tokens, self.image_tokens(images)))

    def caption_loss(self, tokens: Tensor, image_tokens: Tensor) -> Tensor:
        """Summed cross-entropy (nats) of every real token after the first.

        The vocabulary product is the dearest part of a small decoder, so it is computed only where there is a target.
        """
        states = self.caption_states(tokens[:, :-1], image_tokens)  # (B, T-1, D)
        targets = tokens[:, 1:]
        real = targets != tokenizers.PAD_ID
        return F.cross_entropy(self.vocabulary(states[real]).float(), targets[real], reduction="sum")

    def forward(self, images: Tensor, tokens: Tensor, with_caption: bool = True) -> MammutOutput:
        """Both passes over (B, 3, H, W) images and (B, T) tokens; image features are computed once.

        Texts of similar length go through the decoder together, each group cut to its longest: captions differ in length by a
        factor of ten, and no result depends on padding.
        """
        image_tokens = self.image_tokens(images)
        lengths = (tokens != tokenizers.PAD_ID).sum(dim=1)
        order = lengths.argsort(stable=True)
        embeddings, losses = [], []
        for rows in order.chunk(TEXT_GROUPS):
            group = tokens[rows, : lengths[rows[-1]]]
            embeddings.append(self.encode_text(group))
            if with_caption:
                losses.append(self.caption_loss(group, image_tokens[rows]))
        return MammutOutput(
            image_embeddings=self.image_embedding(image_tokens),
            text_embeddings=torch.cat(embeddings)[order.argsort()],
            caption_loss=sum(losses) / (lengths - 1).sum() if with_caption else None,
        )

    def _decode(self, tokens: Tensor, mask: Tensor | None, causal: bool, image_tokens: Tensor | None) -> Tensor:
        T = tokens.shape[1]
        if self.config.context_length < T:
            raise ModelError(f"text of {T} tokens: this model's context_length is {self.config.context_length}")
        x = self.token_embedding(tokens) + self.position_embedding.weight[:T]  # (B, T, D)
        for layer in self.layers:
            x = layer(x, mask, causal, image_tokens)
        return self.norm(x)


def resolve_device(name: str = "auto") -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device that is there.

    Raises:
        ModelError: CUDA was asked for by name and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device '{name}' was asked for, but torch sees no CUDA device here: use device=auto or cpu")
    return torch.device(name)


def softmax_loss(image_embeddings: Tensor, text_embeddings: Tensor, scale: Tensor) -> Tensor:
    """Contrastive cross-entropy, averaged over both directions: pair i of (B, E) against all B.

    Source: Radford et al. 2021 (CLIP), section 2.3.
    """
    logits = scale * image_embeddings @ text_embeddings.T  # (B, B)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def focal_loss(image_embeddings: Tensor, text_embeddings: Tensor, scale: Tensor, bias: Tensor, gamma: float) -> Tensor:
    """Focal loss on sigmoids: -(1/B) Σ (1 - p)^γ log p over all (B, B) pairs, image→text plus text→image.

    p is σ(logit) on the diagonal and 1 - σ(logit) elsewhere. Both directions read the same matrix, so their sum is twice one.
    With γ = 0 this is twice the sigmoid loss of SigLIP.

    Source: MaMMUT section 3.3; γ is not stated there.
    """
    logits = scale * image_embeddings @ text_embeddings.T + bias  # (B, B)
    sign = 2 * torch.eye(len(logits), device=logits.device, dtype=logits.dtype) - 1
    log_p = F.logsigmoid(sign * logits)
    return -2 * ((-torch.expm1(log_p)).clamp_min(0) ** gamma * log_p).sum() / len(logits)


def sigmoid_loss(image_embeddings: Tensor, text_embeddings: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Sigmoid loss: every one of the (B, B) pairs is a yes-or-no question.

    Source: Zhai et al. 2023 (SigLIP), algorithm 1; start it at bias -10 and scale 10.
    """
    return focal_loss(image_embeddings, text_embeddings, scale, bias, gamma=0.0) / 2


def load(folder: Path | str, device: str | torch.device = "cpu") -> Mammut:
    """Load a model folder in eval mode, its tokenizer attached as `model.tokenizer`.

    Only safetensors and JSON are read: nothing is unpickled, and no code from the folder is run.

    Args:
        folder: A folder written by `save_pretrained` with `config.json`, `model.safetensors` and `tokenizer.json`.
        device: Where the weights go.

    Raises:
        ModelError: A file is missing, or a key of the weights is missing, extra or of another shape; the keys are listed.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name} is missing: give the folder that `rsvlm train` wrote as model/")
    try:
        model, report = Mammut.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:
        raise ModelError(f"{folder} cannot be read as a MaMMUT model: {error}") from error
    if wrong := [f"{kind}: {sorted(map(str, keys))[:5]}" for kind, keys in report.items() if keys]:
        raise ModelError(f"the weights in {folder} do not fit its config.json: {'; '.join(wrong)}")
    model.tokenizer = tokenizers.load(folder)
    if len(model.tokenizer) > model.config.vocab_size:
        raise ModelError(
            f"{folder}: the tokenizer has {len(model.tokenizer)} entries, the model {model.config.vocab_size}; "
            "take the tokenizer that was saved with this model"
        )
    return model.eval().to(device)
