"""Attention in place of transformers' own: faster, and repeatable on GPUs."""

from functools import lru_cache
from typing import Any

import torch
import transformers
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.wav2vec2.modeling_wav2vec2 import eager_attention_forward


@lru_cache(maxsize=1)  # all layers have the same mask
def addend(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A number to add to each attention score: zero, the lowest where `mask` is False."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """transformers' SDPA on CPUs in single precision, else its plain products.

    In half precision on CPUs these take half the time (torch 2.13), and on GPUs the gradients of
    SDPA with a mask differ from run to run. Clips are short, so that memory is no concern.
    """
    if query.device.type == "cpu" and query.dtype == torch.float32:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    if mask is not None:
        mask = addend(mask, query.dtype)
    return eager_attention_forward(module, query, key, value, mask, **options)


def attention_mask(*arguments: Any, **options: Any) -> torch.Tensor | None:
    """transformers' mask for SDPA, built without a check whether it masks anything, which would
    make a GPU wait."""
    return sdpa_mask(*arguments, **{**options, "allow_is_bidirectional_skip": False})


ATTENTION = "sdpa_or_products"  # its name in configurations
transformers.AttentionInterface.register(ATTENTION, attention)
transformers.AttentionMaskInterface.register(ATTENTION, attention_mask)
