"""The caption pass of a MaMMUT as transformers' `generate` drives it.

Letters: B batch, T text tokens, P patches, D text width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class Captioner(PreTrainedModel, GenerationMixin):
    """The caption pass in the form that transformers' `generate` drives: one token at a time, with a cache."""

    main_input_name = "input_ids"

    def __init__(self, model: PreTrainedModel):
        super().__init__(model.config)
        self.model = model
        names = ("pad_token_id", "bos_token_id", "eos_token_id")
        rows = model.decoder_rows(torch.tensor([getattr(model.config, name) for name in names], device=model.device))
        ids = dict(zip(names, rows.tolist()))
        self.generation_config = GenerationConfig(**ids)

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, image_states=None, **_) -> dict:
        """Pass on the tokens that the cache does not hold yet."""
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        new = {"input_ids": input_ids[:, past:], "before": input_ids[:, :past]}
        return new | {"past_key_values": past_key_values, "image_states": image_states}

    def forward(self, input_ids: Tensor, image_states: Tensor, past_key_values: Cache | None = None, before=None, **_):
        """Logits (B, T, V) after the (B, T) new tokens; `image_states` is (B, layers with cross-attention, P, 2D)."""
        states = iter(image_states.unbind(dim=1))
        x = self.model._decode(input_ids, None, input_ids.shape[1] > 1, lambda layer: next(states), past_key_values, before)
        return CausalLMOutputWithPast(logits=self.model.vocabulary(x), past_key_values=past_key_values)
