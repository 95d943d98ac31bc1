"""Public implementations of the same idea, in the shape of ours, for `benchmarks.train`."""

from __future__ import annotations

from torch import Tensor, nn

from benchmarks import train
from rsvlm import config
from rsvlm.model import tokenizer


def make_mammut_pytorch(setting: train.Setting, cut: bool) -> train.Contender:
    """MaMMUT of the package mammut-pytorch, whose last release is of 2023."""
    from mammut_pytorch.mammut_pytorch import MaMMUT

    sizes = setting.model_config()
    patches = (sizes.image_size // sizes.patch_size) ** 2
    vision = train.our_model(setting).vision
    model = MaMMUT(
        dim=sizes.text_width,
        num_tokens=setting.vocabulary,
        depth=sizes.text_layers,
        cross_attend_every=sizes.cross_attention_every,
        image_dim=sizes.vision_width,
        num_img_queries=patches,
        dim_head=sizes.text_width // sizes.text_heads,
        heads=sizes.text_heads,
        img_encoder=_Tower(vision),
        pad_id=tokenizer.PAD_ID,
    ).to(setting.device)
    length = setting.text_tokens if cut else setting.context

    def check(images: Tensor, tokens: Tensor) -> dict[str, tuple]:
        text, image = model(tokens[:, :length], images=images, return_embeddings=True)
        logits = model(tokens[:, : setting.text_tokens], images=images)
        return {"image": image.shape, "text": text.shape, "logits": logits.shape}

    texts = "texts cut to the longest before they are given to it" if cut else "texts padded"
    return train.Contender(
        f"mammut-pytorch, texts {'cut' if cut else 'padded'}",
        f"{texts}; our vision tower in front; same width, depth, heads and layers with cross-attention; {patches} image queries "
        "(its default, 256, is slower); its own design: one key and value head, SwiGLU, tied vocabulary",
        model,
        train.plainly(lambda images, tokens: model(tokens[:, :length], images=images, return_loss=True), setting),
        check,
    )


def make_coca(setting: train.Setting, cut: bool) -> train.Contender:
    """CoCa of open_clip."""
    from open_clip.coca_model import CoCa
    from open_clip.loss import CoCaLoss

    sizes, options = setting.model_config(), config.Train()
    alone = sizes.text_layers // 2
    decoder = {"context_length": setting.context - 1, "vocab_size": setting.vocabulary, "width": sizes.text_width}
    decoder |= {"heads": sizes.text_heads}
    patches = (sizes.image_size // sizes.patch_size) ** 2
    model = CoCa(
        embed_dim=sizes.text_width,
        vision_cfg={
            "image_size": sizes.image_size,
            "patch_size": sizes.patch_size,
            "layers": sizes.vision_layers,
            "width": sizes.vision_width,
            "head_width": sizes.vision_width // sizes.vision_heads,
            "attentional_pool": True,
            "attn_pooler_queries": patches + 1,
            "attn_pooler_heads": sizes.vision_heads,
            "output_tokens": True,
        },
        text_cfg=decoder | {"layers": alone, "embed_cls": True, "output_tokens": True, "pad_id": tokenizer.PAD_ID},
        multimodal_cfg=decoder | {"layers": sizes.text_layers - alone, "attn_pooler_heads": sizes.text_heads},
        pad_id=tokenizer.PAD_ID,
    )
    nn.init.normal_(model.text_decoder.text_projection, std=sizes.text_width**-0.5)  # it leaves this one as the memory was
    model.to(setting.device)
    criterion = CoCaLoss(options.caption_weight, options.contrastive_weight, pad_id=tokenizer.PAD_ID)
    length = setting.text_tokens if cut else setting.context - 1  # its class token takes the last position

    def loss(images: Tensor, tokens: Tensor) -> Tensor:
        out = model(images, tokens[:, :length])
        names = ("image_features", "text_features", "logits", "labels", "logit_scale")
        return sum(criterion(*(out[name] for name in names)))

    def check(images: Tensor, tokens: Tensor) -> dict[str, tuple]:
        out = model(images, tokens[:, : setting.text_tokens], output_labels=False)
        return {"image": out["image_features"].shape, "text": out["text_features"].shape, "logits": out["logits"].shape}

    texts = "texts cut to the longest before they are given to it" if cut else "texts padded"
    return train.Contender(
        f"open_clip CoCa, texts {'cut' if cut else 'padded'}",
        f"{texts}; same widths and heads; {alone} text layers, then {sizes.text_layers - alone} more with cross-attention, so "
        "captions pass as many layers and cross-attentions as in MaMMUT; its own design: texts pass the first half once, for both "
        f"losses, and the contrastive loss sees that half alone; {patches} + 1 image queries (its default, 256, is slower)",
        model,
        train.plainly(loss, setting),
        check,
    )


def make_open_mammut(setting: train.Setting, cut: bool) -> train.Contender:
    """MaMMUT of open_clip, which its main branch has."""
    from open_clip.loss import ClipLoss
    from open_clip.mammut_model import MaMMUT

    sizes, options = setting.model_config(), config.Train()
    model = MaMMUT(
        embed_dim=sizes.text_width,
        vision_cfg={
            "image_size": sizes.image_size,
            "patch_size": sizes.patch_size,
            "layers": sizes.vision_layers,
            "width": sizes.vision_width,
            "head_width": sizes.vision_width // sizes.vision_heads,
            "output_tokens": True,
        },
        multimodal_cfg={
            "context_length": setting.context,
            "vocab_size": setting.vocabulary,
            "width": sizes.text_width,
            "heads": sizes.text_heads,
            "layers": sizes.text_layers,
            "cross_attn_ratio": sizes.cross_attention_every,
            "pad_id": tokenizer.PAD_ID,
        },
    ).to(setting.device)
    contrast = ClipLoss()
    length = setting.text_tokens if cut else setting.context

    def loss(images: Tensor, tokens: Tensor) -> Tensor:
        tokens = tokens[:, :length]
        labels = tokens[:, 1:].masked_fill(tokens[:, 1:] == tokenizer.PAD_ID, -100)
        out = model(images, tokens, labels=labels)
        contrastive = contrast(out["image_features"], out["text_features"], out["logit_scale"])
        return options.contrastive_weight * contrastive + options.caption_weight * out["caption_loss"]

    def check(images: Tensor, tokens: Tensor) -> dict[str, tuple]:
        out = model(images, tokens[:, : setting.text_tokens])
        return {"image": out["image_features"].shape, "text": out["text_features"].shape, "logits": out["logits"].shape}

    texts = "texts cut to the longest before they are given to it" if cut else "texts padded"
    return train.Contender(
        f"open_clip MaMMUT, texts {'cut' if cut else 'padded'}",
        f"{texts}; same widths, heads, layers and layers with cross-attention; its own design: no vocabulary product in the contrastive "
        "pass, the caption loss fused with it in the other (as its `--fused-caption-loss`), a class token among the patches",
        model,
        train.plainly(loss, setting),
        check,
    )


class _Tower(nn.Module):
    """Our vision tower as a peer takes one: images to (B, P, Dv) tokens."""

    def __init__(self, vision: nn.Module):
        super().__init__()
        self.vision = vision

    def forward(self, images: Tensor) -> Tensor:
        """Encode (B, 3, H, W)."""
        return self.vision.forward_features(images)
