"""MaMMUT, top to bottom: one vision tower, one text decoder run twice with the same weights, two losses.

Source: Kuo et al., "MaMMUT: A Simple Architecture for Joint Learning for MultiModal Tasks" (arXiv 2303.16839).

    images (B, 3, H, W) ── VisionTransformer ── patch tokens (B, P, Dv) ─┬─ pool ── image embedding (B, E)
                                                                         └─ linear map ─┐
    tokens (B, T) ──┬─ contrastive pass: bidirectional, never sees the image ── mean ── text embedding (B, E)
                    └─ caption pass: causal, cross-attention to the patches ◄───────────┘ ── next-token logits (B, T, V)

The text embedding may come from a sentence encoder instead, as in `sentences`; the decoder then runs in the caption pass alone.

Letters: B batch, T text tokens, P patches, Dv vision width, D text width = E embedding, V vocabulary, h w patch grid, n heads.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed_nhwc
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, Cache, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from rsvlm.errors import ModelError
from rsvlm.model import losses, positions, tokenizer as tokenizers, trunk
from rsvlm.model.attention import Attention, AttentionPool, mlp
from rsvlm.model.captioner import Captioner
from rsvlm.model.convolutions import ConvTower
from rsvlm.model.ngrams import NgramEmbedding
from rsvlm.model.presets import PRESETS as PRESETS
from rsvlm.model.sentences import DecoderRows, SentenceEncoder


class MammutConfig(PreTrainedConfig):
    """Sizes and switches of a MaMMUT, and how its images are normalised.

    Attributes:
        image_size: Side of the square images of the training, in pixels; others are taken by interpolating the positions.
        patch_size: Side of a patch, in pixels.
        vision_width: Dv; likewise `vision_layers`, `vision_heads`, and `vision_mlp_width`. If None, 4 Dv.
        vision_tower: Name of a convolutional network of timm, as in `trunk`; `patch_size` is the side of a cell of one of its maps,
            such as 16 or 32, and `vision_layers` the number of blocks behind it, or 0. If None, a tower by the other options.
        vision_places: Windows a side on the picture that channels of a `vision_tower` belong to, as in `trunk`; 0: none.
        vision_stages: Residual blocks of each stage of a convolutional tower. If empty, a transformer.
        vision_standard_weights: Whether the convolutions' weights have mean 0 and norm 1 for each channel, whatever is learned.
        vision_class_token: Whether one more token stands in front of the patches, and is read like them if `class_token_read`.
        vision_pre_norm: Whether a norm stands before the first block, and the patch projection has no bias (CLIP's towers).
        vision_norm_eps: Epsilon of the tower's norms.
        norm_after_pooling: Whether the tower's last norm follows the pooling; the decoder then sees tokens without it.
        image_pooling: `mean`, or `attention`: one learned query over the patches. MaMMUT found plain means to retrieve better.
        image_projection: Whether a linear map follows the pooling. If None, where the two widths differ.
        text_width: D and E; likewise `text_layers`, `text_heads`.
        cross_attention_every: Distance of decoder layers that can see the image, the first layer being one.
        cross_layer_mlp: Place of the MLP in layers with cross-attention: `one` follows it, in both passes; or (openMaMMUT) it is
            part of the cross-attention and of the `caption` pass alone; or there are `both`, the first ahead of the cross-attention.
        image_map_bias: Whether the linear map from patches to decoder has a bias.
        pads_are_text: Whether the text embedding is the mean over all `context_length` positions, pads attended to (openMaMMUT).
        vocab_size: Tokens of the tokenizer; V, but where there is a `caption_vocab_size`.
        context_length: Longest text, in tokens.
        text_ngrams: Longest run of tokens that has an embedding of its own, as in `ngrams`; 1: none. They share `text_ngram_rows`.
        sentence_layers: Layers of a sentence encoder that makes the text embedding, as in `sentences`; 0: the decoder makes it.
            Likewise `sentence_width`, `sentence_heads`; `sentence_dropout` is that of the layer behind it, in training.
        caption_vocab_size: Number of tokens that the decoder has rows for, V, where there is a sentence encoder; `unk_token_id`
            stands for the others.
        text_dropout: Dropout behind attention and MLP of the decoder's layers, in training.
        word_dropout: Share of the tokens that the contrastive pass leaves out, in training; never the first.
        vision_dropout: Dropout of whole channels of a `vision_tower`'s maps, and of the pooled image before its linear map, in training.
        image_mean: Mean of each channel of images in 0…1; likewise `image_std`. If None, what `vision_tower` was made for, or
            0.5 and 0.25.
        image_resize: How images come to be square, as in `preprocessing.squared`; likewise `image_interpolation`.
        initial_scale: Factor of the cosines at the start; `initial_bias` is added to them.
    """

    model_type = "mammut"
    attribute_map = {"hidden_size": "text_width", "num_hidden_layers": "text_layers", "num_attention_heads": "text_heads"}

    def __init__(
        self,
        *,
        image_size: int = 64,
        patch_size: int = 8,
        vision_width: int = 128,
        vision_layers: int = 4,
        vision_heads: int = 4,
        vision_mlp_width: int | None = None,
        vision_tower: str | None = None,
        vision_places: int = 0,
        vision_stages: Sequence[int] = (),
        vision_standard_weights: bool = False,
        vision_class_token: bool = False,
        class_token_read: bool = True,
        vision_pre_norm: bool = False,
        vision_norm_eps: float = 1e-6,
        norm_after_pooling: bool = False,
        image_pooling: str = "mean",
        image_projection: bool | None = None,
        text_width: int = 128,
        text_layers: int = 3,
        text_heads: int = 4,
        cross_attention_every: int = 2,
        cross_layer_mlp: str = "one",
        image_map_bias: bool = True,
        pads_are_text: bool = False,
        vocab_size: int = 2048,
        context_length: int = 96,
        text_ngrams: int = 1,
        text_ngram_rows: int = 8192,
        sentence_layers: int = 0,
        sentence_width: int = 384,
        sentence_heads: int = 12,
        sentence_dropout: float = 0.3,
        caption_vocab_size: int | None = None,
        text_dropout: float = 0.0,
        word_dropout: float = 0.0,
        vision_dropout: float = 0.0,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        image_resize: str = "squash",
        image_interpolation: str = "bicubic",
        initial_scale: float = 1 / 0.07,
        initial_bias: float = 0.0,
        pad_token_id: int = tokenizers.PAD_ID,
        bos_token_id: int = tokenizers.BOS_ID,
        eos_token_id: int = tokenizers.EOS_ID,
        unk_token_id: int | None = None,
        **transformers_options,
    ):
        own = {name: value for name, value in locals().items() if name not in ("self", "transformers_options", "__class__")}
        mean, std = trunk.normalisation(vision_tower)
        own |= {"image_mean": mean if image_mean is None else image_mean, "image_std": std if image_std is None else image_std}
        side = 2 ** (len(vision_stages) + 1)
        if image_pooling not in ("mean", "attention") or cross_layer_mlp not in ("one", "caption", "both"):
            raise ModelError(f"there is no image_pooling='{image_pooling}' with cross_layer_mlp='{cross_layer_mlp}'")
        if vision_stages and (patch_size != side or vision_class_token or norm_after_pooling):
            raise ModelError(
                f"vision_stages={list(vision_stages)} make patches of {side} pixels, without class token and with a norm before "
                f"the pooling: patch_size={patch_size} and the other options say otherwise"
            )
        if vision_tower and (vision_stages or vision_class_token or norm_after_pooling):
            raise ModelError(
                f"vision_tower='{vision_tower}' has its own stages, no class token and a norm before the pooling: leave out "
                "vision_stages, vision_class_token and norm_after_pooling"
            )
        if vision_places and not vision_tower:
            raise ModelError(f"vision_places={vision_places} goes with a vision_tower: give one, or leave it out")
        if sentence_layers and (pads_are_text or caption_vocab_size is None or unk_token_id is None):
            raise ModelError(
                f"sentence_layers={sentence_layers} go with caption_vocab_size and unk_token_id, and without pads_are_text"
            )
        super().__init__(**transformers_options)
        for name, value in own.items():
            setattr(self, name, list(value) if isinstance(value, tuple) else value)

    @property
    def projects_image(self) -> bool:
        """Whether a linear map follows the pooling."""
        return self.vision_width != self.text_width if self.image_projection is None else self.image_projection


def _vision_tower(config: MammutConfig) -> nn.Module:
    if config.vision_tower:
        blocks = config.vision_layers, config.vision_heads, config.image_size
        more = *blocks, config.vision_places, config.vision_dropout
        return trunk.TimmTower(config.vision_tower, config.patch_size, config.vision_width, *more)
    if config.vision_stages:
        return ConvTower(config.vision_stages, config.vision_width, config.vision_standard_weights)
    width = config.vision_width
    return VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=width,
        depth=config.vision_layers,
        num_heads=config.vision_heads,
        mlp_ratio=(config.vision_mlp_width or 4 * width) / width,
        class_token=config.vision_class_token,
        pre_norm=config.vision_pre_norm,
        norm_layer=functools.partial(nn.LayerNorm, eps=config.vision_norm_eps),
        dynamic_img_size=True,
        num_classes=0,
        global_pool="",
    )


class DecoderLayer(nn.Module):
    """Pre-norm self-attention, cross-attention where the layer has it and the image is given, and an MLP."""

    def __init__(self, index: int, config: MammutConfig):
        super().__init__()
        width, heads, cross = config.text_width, config.text_heads, index % config.cross_attention_every == 0
        self.index = index
        self.norm_self = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.cross_attention = Attention(width, heads) if cross else None
        self.norm_cross = nn.LayerNorm(width) if cross else None
        self.norm_image = nn.LayerNorm(width) if cross else None
        in_both_passes = not cross or config.cross_layer_mlp != "caption"
        in_caption_pass = cross and config.cross_layer_mlp != "one"
        self.norm_mlp, self.mlp = (nn.LayerNorm(width), mlp(width)) if in_both_passes else (None, None)
        self.norm_cross_mlp, self.cross_mlp = (nn.LayerNorm(width), mlp(width)) if in_caption_pass else (None, None)
        self.drop = nn.Dropout(config.text_dropout)

    def image_states(self, image: Tensor) -> Tensor:
        """Project (B, P, D) mapped patches into the (B, P, 2D) keys and values of the cross-attention."""
        return self.cross_attention.key_value(self.norm_image(image))

    def forward(self, x: Tensor, mask: Tensor | None, causal: bool, image_states=None, cache: Cache | None = None) -> Tensor:
        """Update (B, T, D) states.

        `image_states` is None in the contrastive pass, else what gives this layer its keys and values of the image; `cache` has
        keys and values of earlier tokens and takes those of the new ones.
        """
        # self-attention
        normed = self.norm_self(x)
        key_value = self.self_attention.key_value(normed)  # (B, T, 2D)
        if cache is not None:
            key_value = torch.cat(cache.update(*key_value[:, None].chunk(2, dim=-1), self.index), dim=-1)[:, 0]
        x = x + self.drop(self.self_attention(normed, key_value, mask, causal))

        # cross-attention, with the MLP ahead of it, as a part of it, or behind it
        if self.mlp is not None and self.cross_mlp is not None:
            x = x + self.drop(self.mlp(self.norm_mlp(x)))
        if self.cross_attention is not None and image_states is not None:
            x = x + self.drop(self.cross_attention(self.norm_cross(x), image_states(self)))
            if self.cross_mlp is not None:
                x = x + self.drop(self.cross_mlp(self.norm_cross_mlp(x)))
        return x + self.drop(self.mlp(self.norm_mlp(x))) if self.cross_mlp is None else x


_BY_ROWS = {"bad_words_ids", "eos_token_id", "forced_bos_token_id", "forced_eos_token_id", "force_words_ids"}
_BY_ROWS |= {"return_dict_in_generate", "sequence_bias", "streamer", "suppress_tokens", "begin_suppress_tokens"}
"""Options of transformers' `generate` that take or give tokens by a decoder's rows."""


@dataclass
class MammutOutput(ModelOutput):
    """What one training step needs: `image_embeddings` and `text_embeddings` (B, E) of norm 1, and the mean `caption_loss`."""

    image_embeddings: Tensor | None = None
    text_embeddings: Tensor | None = None
    caption_loss: Tensor | None = None


class Mammut(PreTrainedModel):
    """The model. `save_pretrained` writes a plain safetensors folder; `rsvlm.load` and `AutoModel` read it back."""

    config_class = MammutConfig
    base_model_prefix = "mammut"
    main_input_name = "images"
    supports_gradient_checkpointing = True
    tokenizer = None  # `rsvlm.load` attaches it

    def __init__(self, config: MammutConfig):
        super().__init__(config)
        width = config.text_width
        self.vision = _vision_tower(config)
        self.pool = AttentionPool(config.vision_width, config.vision_heads) if config.image_pooling == "attention" else None
        linear = config.projects_image
        self.image_projection = nn.Linear(config.vision_width, width, bias=False) if linear else nn.Identity()
        self.drop_image = nn.Dropout(config.vision_dropout)
        self.image_map = nn.Linear(config.vision_width, width, bias=config.image_map_bias)
        self.sentences = self.rows = None
        if config.sentence_layers:
            sizes = config.sentence_width, config.sentence_layers, config.sentence_heads
            self.sentences = SentenceEncoder(config.vocab_size, config.context_length, *sizes, width, config.sentence_dropout)
            self.rows = DecoderRows(config.caption_vocab_size, config.unk_token_id)
        count = config.caption_vocab_size if config.sentence_layers else config.vocab_size
        self.token_embedding = nn.Embedding(count, width)
        self.position_embedding = nn.Embedding(config.context_length, width)
        ngrams = (config.text_ngrams, config.text_ngram_rows, width)
        self.ngram_embedding = NgramEmbedding(*ngrams) if config.text_ngrams > 1 else None
        self.layers = nn.ModuleList(DecoderLayer(i, config) for i in range(config.text_layers))
        self.norm = nn.LayerNorm(width)
        self.vocabulary = nn.Linear(width, count, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(config.initial_scale)))
        self.logit_bias = nn.Parameter(torch.tensor(config.initial_bias))
        self.gradient_checkpointing = False
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

    def image_tokens(self, images: Tensor | Sequence[Tensor], crops: Tensor | None = None, placed: bool = True) -> Tensor:
        """Run the vision tower: (B, P, Dv) patch tokens, the class token first where there is one.

        Args:
            images: (B, 3, H, W) float, normalised; H and W are any multiples of the patch size. Or the maps that the network of a
                `vision_tower` has made of them, as of `trunk.TimmTower.maps`.
            crops: (B, 4) boxes (x0, y0, x1, y1) in 0…1: each image is told that it is this part of a larger one.
            placed: Whether channels count in their windows alone, where there are `vision_places`.

        Raises:
            ModelError: Images of another shape.
        """
        if not isinstance(images, Tensor):
            return self.vision.tokens(images, placed)  # (B, P, Dv)
        side = self.config.patch_size
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % side or images.shape[3] % side:
            raise ModelError(
                f"images of shape {tuple(images.shape)}: this model takes (B, 3, H, W), H and W multiples of {side}"
            )

        # a convolutional tower: it has no positions to crop, and on a CPU it is twice as fast with channels last
        if self.config.vision_tower or self.config.vision_stages:
            images = images.contiguous(memory_format=torch.channels_last)
        if self.config.vision_tower:
            self.vision.checkpoint(self.gradient_checkpointing and self.training)
            return self.vision(images, placed)  # (B, P, Dv)
        if self.config.vision_stages:
            x = self.vision.stem(images)
            for block in self.vision.blocks:
                x = self._run(block, x)
            return x.flatten(2).transpose(1, 2)  # (B, P, Dv)

        # patches and their positions
        x = self.vision.patch_embed(images)  # (B, h, w, Dv)
        prefix, grid = self.vision.pos_embed.tensor_split([self.vision.num_prefix_tokens], dim=1)
        g = self.config.image_size // side
        grid = grid.view(1, g, g, -1)
        if crops is not None:
            grid = positions.cropped(grid, crops, x.shape[1:3])
        elif x.shape[1:3] != grid.shape[1:3]:
            grid = resample_abs_pos_embed_nhwc(grid, x.shape[1:3])  # bicubic, antialiased
        x = (x + grid).flatten(1, 2)  # (B, P, Dv)
        if self.vision.cls_token is not None:
            x = torch.cat([(self.vision.cls_token + prefix).expand(x.shape[0], -1, -1), x], dim=1)

        # transformer blocks
        x = self.vision.norm_pre(x)
        for block in self.vision.blocks:
            x = self._run(block, x)
        if self.vision.cls_token is not None and not self.config.class_token_read:
            x = x[:, 1:]
        return x if self.config.norm_after_pooling else self.vision.norm(x)

    def image_embedding(self, image_tokens: Tensor, normalize: bool = True) -> Tensor:
        """Pool (B, P, Dv) patch tokens into (B, E) image embeddings, of norm 1 if `normalize`."""
        pooled = image_tokens.mean(dim=1) if self.pool is None else self.pool(image_tokens)  # (B, Dv)
        if self.config.norm_after_pooling:
            pooled = self.vision.norm(pooled)
        pooled = self.image_projection(self.drop_image(pooled))  # (B, E)
        return F.normalize(pooled, dim=-1) if normalize else pooled

    def encode_image(self, images: Tensor, normalize: bool = True) -> Tensor:
        """Embed (B, 3, H, W) normalised float images as (B, E)."""
        return self.image_embedding(self.image_tokens(images), normalize)

    def encode_text(self, tokens: Tensor, normalize: bool = True) -> Tensor:
        """Contrastive pass: embed (B, T) int64 tokens, padded on the right, as (B, E).

        Bidirectional self-attention over the real tokens, no cross-attention; the embedding is the mean over the real tokens, so
        it depends on neither padding nor neighbours. (With `pads_are_text` pads are tokens like any other.) MaMMUT section 3.2. Where
        there is a sentence encoder, it reads the real tokens in the decoder's place.
        """
        if self.config.pads_are_text:
            missing = torch.sym_max(0, self.config.context_length - tokens.shape[1])
            tokens = F.pad(tokens, (0, missing), value=self.config.pad_token_id)
            pooled = self._decode(tokens).mean(dim=1)  # (B, E)
        else:
            real = tokens != self.config.pad_token_id  # (B, T)
            if self.training and self.config.word_dropout:
                left_out = torch.rand(real.shape, device=real.device) < self.config.word_dropout
                left_out[:, 0] = False
                real = real & ~left_out
            if not self.training and not torch.compiler.is_compiling() and not real.any(dim=1).all():
                raise ModelError("a text holds nothing but padding: its embedding would mean nothing")
            if self.sentences is not None:
                self._check_length(tokens.shape[1])
                pooled = self.sentences(tokens, real, self._run)  # (B, E)
            else:
                states = self._decode(tokens, real[:, None, None, :])  # (B, T, D): no query attends to a pad
                weights = real.to(states.dtype)[..., None]  # (B, T, 1)
                pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)  # (B, E)
        return F.normalize(pooled, dim=-1) if normalize else pooled

    def decoder_rows(self, tokens: Tensor) -> Tensor:
        """Return the decoder's rows of tokens (…): the tokens themselves, but where a sentence encoder has a larger vocabulary."""
        return tokens if self.rows is None else self.rows(tokens)

    def caption_states(self, tokens: Tensor, image_tokens: Tensor) -> Tensor:
        """Caption pass, causal and with cross-attention: (B, T) tokens and (B, P, Dv) patch tokens to (B, T, D) states."""
        image = self.image_map(image_tokens)  # (B, P, D)
        return self._decode(self.decoder_rows(tokens), None, True, lambda layer: layer.image_states(image))

    def caption_logits(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Next-token logits (B, T, V), V being the decoder's rows, of (B, T) tokens given (B, 3, H, W) images."""
        return self.vocabulary(self.caption_states(tokens, self.image_tokens(images)))

    def caption_loss(self, tokens: Tensor, image_tokens: Tensor) -> Tensor:
        """Summed cross-entropy (nats) of every real token after the first.

        The vocabulary product is the dearest part of a small decoder, so it is computed only where there is a target.
        """
        states = self.caption_states(tokens[:, :-1], image_tokens)  # (B, T-1, D)
        targets = tokens[:, 1:]
        real = targets != self.config.pad_token_id
        return losses.SummedCrossEntropy.apply(states[real], self.vocabulary.weight, self.decoder_rows(targets[real]))

    def forward(
        self,
        images: Tensor | Sequence[Tensor],
        tokens: Tensor | Sequence[Tensor],
        with_caption=True,
        crops: Tensor | None = None,
        captioned=None,
    ) -> MammutOutput:
        """Both passes; image features are computed once. `images` and `crops` are as for `image_tokens`.

        `tokens` are (B, T) int64; or groups of rows, (B1, T1), (B2, T2), … that together belong to the B images in order, each cut
        to its longest text. Captions differ in length by a factor of ten, and no result depends on padding, so groups of similar
        length save most of the work on pads. `captioned` are the rows (n,) of each group that the caption loss is of; if None, all.
        """
        image_tokens = self.image_tokens(images, crops)
        groups = [tokens] if isinstance(tokens, Tensor) else list(tokens)
        parts = image_tokens.split([len(group) for group in groups])
        caption_loss = None
        if with_caption:
            rows = [slice(None)] * len(groups) if captioned is None else captioned
            chosen = [(group[row], part[row]) for group, part, row in zip(groups, parts, rows, strict=True)]
            total = sum(self.caption_loss(group, part) if len(group) else 0 * part.sum() for group, part in chosen)
            caption_loss = total / sum((group[:, 1:] != self.config.pad_token_id).sum() for group, _ in chosen).clamp(min=1)
        return MammutOutput(
            image_embeddings=self.image_embedding(image_tokens),
            text_embeddings=torch.cat([self.encode_text(group) for group in groups]),
            caption_loss=caption_loss,
        )

    @torch.inference_mode()
    def generate(self, images: Tensor, **options) -> Tensor:
        """Caption (B, 3, H, W) images: token ids (B, T), `<bos>` first, pads after the end.

        `options` are those of transformers' `generate`: `max_new_tokens`, `num_beams`, `do_sample`, `top_p`, … Greedy without any.
        Keys and values of past tokens, and of the image, are computed once.
        """
        image = self.image_map(self.image_tokens(images))
        states = torch.stack([layer.image_states(image) for layer in self.layers if layer.cross_attention is not None], dim=1)
        if self.rows is not None and (given := _BY_ROWS & set(options)):
            raise ModelError(
                f"generate has no {', '.join(sorted(given))} here: the decoder has rows of its own, not the tokenizer's"
            )
        start = self.decoder_rows(torch.full((len(images), 1), self.config.bos_token_id, device=images.device))
        length = options.pop("max_length", options.pop("max_new_tokens", self.config.context_length - 1) + 1)
        if length > self.config.context_length:
            raise ModelError(f"captions of {length} tokens: this model's context_length is {self.config.context_length}")
        rows = Captioner(self).generate(start, image_states=states, **{"do_sample": False, "max_length": length} | options)
        return rows if self.rows is None else self.rows.tokens[rows]

    def captions(self, images: Tensor, **options) -> list[str]:
        """Caption (B, 3, H, W) images in words; `options` as for `generate`."""
        return tokenizers.decode(self.tokenizer, self.generate(images, **options).cpu())

    def _decode(self, tokens: Tensor, mask=None, causal=False, image_states=None, cache=None, before=None) -> Tensor:
        """Run the decoder over (B, T) tokens, by its rows, which follow `before` in `cache`: (B, T, D) states. The rest as for its layers."""
        past = 0 if cache is None else cache.get_seq_length()
        end = past + tokens.shape[1]
        self._check_length(end)
        x = self.token_embedding(tokens) + self.position_embedding.weight[past:end]  # (B, T, D)
        if self.ngram_embedding is not None:
            x = x + self.ngram_embedding(tokens, before)
        for layer in self.layers:
            x = self._run(functools.partial(layer, mask=mask, causal=causal, image_states=image_states, cache=cache), x)
        return self.norm(x)

    def _check_length(self, tokens: int) -> None:
        if self.config.context_length < tokens:
            raise ModelError(f"text of {tokens} tokens: this model's context_length is {self.config.context_length}")

    def _run(self, block, x: Tensor) -> Tensor:
        """Run one block; in training with activation checkpointing, keep only what went into it."""
        return checkpoint(block, x, use_reentrant=False) if self.gradient_checkpointing and self.training else block(x)


AutoConfig.register("mammut", MammutConfig)
AutoModel.register(MammutConfig, Mammut)
