"""wav2vec 2.0 and its kin as classifiers of emotions, whose logits for a clip do not depend on what
it is batched with."""

from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.wav2vec2.modeling_wav2vec2 import eager_attention_forward


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    **options,
):
    """transformers' SDPA, but in half precision on CPUs its plain products, which take half the
    time there (torch 2.13)."""
    if query.device.type != "cpu" or query.dtype == torch.float32:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    if mask is not None:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(
            ~mask, torch.finfo(query.dtype).min
        )
    return eager_attention_forward(module, query, key, value, mask, **options)


transformers.AttentionInterface.register("products_on_cpu", attention)
transformers.AttentionMaskInterface.register("products_on_cpu", sdpa_mask)


class Dropout(nn.Dropout):
    """torch's dropout, but on CPUs with random bytes from NumPy's global generator: torch's own
    draws take a twelfth of a training.

    The rate is rounded to 1/256.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """`values` with a share `p` of them zero and the others that much larger, when training."""
        dropped = min(round(256 * self.p), 255)
        if values.device.type != "cpu" or not self.training or not dropped:
            return super().forward(values)
        drawn = torch.frombuffer(
            bytearray(np.random.bytes(values.numel())), dtype=torch.uint8
        ).view(values.shape)
        return values * (drawn >= dropped) * (256 / (256 - dropped))


class Classifier(nn.Module):
    """A transformers model for audio classification with an exact way to batch.

    The base checkpoints normalise over time inside their CNN, so a padded clip would get other
    features than the same clip alone. Here the CNN sees unpadded clips (or is skipped, when its
    output was computed before), and only its output is padded, under a mask that counts frames:
    every clip's logits equal those of transformers' own forward pass of that clip alone.
    """

    def __init__(self, model: transformers.PreTrainedModel):
        super().__init__()
        self.model = model
        if model.config._attn_implementation == "sdpa":
            model.set_attn_implementation("products_on_cpu")
        self.cnn = model.base_model.feature_extractor
        # Convolutions and layer norm see no further than their own frame: only group norm, over
        # time, minds padding.
        self.minds_padding = any(isinstance(module, nn.GroupNorm) for module in self.cnn.modules())
        self.cnn._requires_grad = False  # of its input, which transformers wants for gradient checkpointing: nobody needs it here
        self.frames = model._get_feat_extract_output_lengths
        # From here on the model takes features for samples, and a mask of frames for a mask of
        # samples.
        model.base_model.feature_extractor = nn.Identity()
        for part in (model, model.base_model):
            part._get_feat_extract_output_lengths = lambda lengths, add_adapter=None: lengths

    def forward(self, clips: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Logits of the emotions, shape (batch, 8).

        Args:
            clips: samples, shape (batch, samples), or the CNN's output, shape (batch, frames,
                channels); padded at the end.
            lengths: samples or frames of each clip without padding, shape (batch,).
        """
        features = clips
        if clips.ndim == 2 and self.minds_padding:
            parts = [
                self.cnn(clip[None, :length])[0].T
                for clip, length in zip(clips, lengths.tolist(), strict=True)
            ]
            features, lengths = pad_sequence(parts, batch_first=True), self.frames(lengths)
        elif clips.ndim == 2:
            features, lengths = self.cnn(clips).transpose(1, 2), self.frames(lengths)
        mask = torch.arange(features.shape[1], device=features.device) < lengths[:, None]
        return self.model(features.transpose(1, 2), attention_mask=mask).logits

    def save(self, folder: Path) -> None:
        """Write the model as transformers' own, CNN included."""
        self.model.base_model.feature_extractor = self.cnn
        self.model.save_pretrained(folder)
        self.model.base_model.feature_extractor = nn.Identity()
