"""What is minimised: the caption loss, and three contrastive ones.

Letters: B batch, R rows of the batch's texts that have a target, D width, E embedding, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOGITS_AT_ONCE = 2**25
"""Logits that memory holds at once."""


class SummedCrossEntropy(torch.autograd.Function):
    """Sum of the cross-entropies (nats) of linear logits: of (R, D) states, the (V, D) weight and (R,) int64 targets.

    Logits are made for some rows at a time and turned in place into their own gradient, so memory never holds (R, V) of them, let
    alone the three copies that a plain cross-entropy keeps. It follows autocast; sums are float32.
    """

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """Add up the loss, and keep the gradients, which are known by then."""
        device = states.device.type
        low = weight.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else weight
        loss = torch.zeros((), device=states.device)
        states_grad, weight_grad = [states.new_zeros((0, states.shape[1]))], torch.zeros_like(weight, dtype=torch.float32)
        rows = max(LOGITS_AT_ONCE // len(weight), 1)
        for part, target in zip(states.to(low.dtype).split(rows), targets[:, None].split(rows), strict=True):
            # loss = log Σ exp(logits) - the target's logit
            logits = (part @ low.T).float()  # (rows, V)
            top, right = logits.amax(dim=1, keepdim=True), logits.gather(1, target)
            norm = logits.sub_(top).exp_().sum(dim=1, keepdim=True)
            loss += (norm.log() + top - right).sum()
            # its gradient with respect to the logits: softmax - one-hot
            logits_grad = logits.div_(norm).scatter_add_(1, target, torch.full_like(right, -1.0)).to(low.dtype)
            states_grad.append((logits_grad @ low).to(states.dtype))
            is_float = logits_grad.dtype == torch.float32
            weight_grad.addmm_(logits_grad.T, part) if is_float else weight_grad.add_(logits_grad.T @ part)
        ctx.save_for_backward(torch.cat(states_grad), weight_grad.to(weight.dtype))
        return loss

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Scale the kept gradients."""
        states_grad, weight_grad = ctx.saved_tensors
        return states_grad * gradient, weight_grad * gradient, None


def text_numbers(tokens: Tensor) -> Tensor:
    """Number the texts of (B, T) padded tokens: (B,) int64, equal for equal texts, whatever their padding.

    They are hashes of 24 bits: of batches of 256 different texts, one in 500 holds two that are taken for one.
    """
    prime = 2**24 - 3
    factors = torch.tensor([pow(5, i + 1, prime) for i in range(tokens.shape[1])], device=tokens.device)
    return (tokens * factors).sum(dim=1) % prime  # the padding id is 0 and adds nothing


def softmax_loss(image_embeddings: Tensor, text_embeddings: Tensor, scale: Tensor, texts: Tensor | None = None) -> Tensor:
    """Contrastive cross-entropy of Radford et al. 2021 (CLIP), mean of both directions: pair i of (B, E) against all B.

    With `texts` (B,), a number for each text, pairs of the same text are no wrong answers to each other: they are left out of the
    comparison. (To share the right answer evenly among them instead would change nothing: their logits are the same.)
    """
    logits = scale * image_embeddings @ text_embeddings.T  # (B, B)
    target = torch.arange(len(logits), device=logits.device)
    if texts is not None:
        same = (texts[:, None] == texts[None, :]).fill_diagonal_(False)
        logits = logits.masked_fill(same, -math.inf)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def focal_loss(image_embeddings: Tensor, text_embeddings: Tensor, scale: Tensor, bias: Tensor, gamma: float) -> Tensor:
    """Focal loss on sigmoids: -(1/B) Σ (1 - p)^γ log p over all (B, B) pairs, image→text plus text→image.

    p is σ(logit) on the diagonal and 1 - σ(logit) elsewhere. Both directions read the same matrix, so their sum is twice one.
    With γ = 0 this is twice the sigmoid loss of SigLIP. Source: MaMMUT section 3.3; γ is not stated there.
    """
    logits = scale * image_embeddings @ text_embeddings.T + bias  # (B, B)
    sign = 2 * torch.eye(len(logits), device=logits.device, dtype=logits.dtype) - 1
    log_p = F.logsigmoid(sign * logits)
    return -2 * ((-torch.expm1(log_p)).clamp_min(0) ** gamma * log_p).sum() / len(logits)


def sigmoid_loss(image_embeddings: Tensor, text_embeddings: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Sigmoid loss of Zhai et al. 2023 (SigLIP, algorithm 1): each of the (B, B) pairs is a yes or no. Bias -10, scale 10."""
    return focal_loss(image_embeddings, text_embeddings, scale, bias, gamma=0.0) / 2
