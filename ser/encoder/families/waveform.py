"""wav2vec 2.0 and its kin: a CNN on the raw waveform, a projection, a transformer."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from ser import audio
from ser.encoder.families import encoder
from ser.encoder.families.encoder import Encoder, HiddenStates
from ser.encoder.scratch import FILTER_TAPS, filter_bank
from ser.params import Params


class Waveform(Encoder):
    """Encoders of raw waveforms, which are built alike.

    The base checkpoints normalise over time inside their CNN, so a padded clip would get other
    features than the same clip alone. Here the CNN sees unpadded clips (or is skipped, when its
    output was computed before), and only its output is padded, under a mask that counts frames:
    every clip's hidden states and logits equal those of transformers' own forward pass of that clip
    alone.

    Inputs are the frozen CNN's output, (frames, channels), or, where it is trained, samples, (n,),
    level-normalised if the checkpoint's preprocessor wants that. Batches of both are taken.
    """

    # data2vec-audio is not among them: in its stack of positional convolutions padding leaks into
    # the clip.
    TYPES = ("wav2vec2", "hubert", "wavlm", "unispeech-sat")
    # Heads of pretraining and of speech recognition, and an embedding only SpecAugment needs.
    OTHER_WEIGHTS = (
        "quantizer.",
        "project_hid.",
        "project_q.",
        "lm_head.",
        "speaker_proj.",
        "label_embeddings",
        "layer_norm_for_extract",
        "masked_spec_embed",
    )

    def adapt(self, model: Any) -> None:
        base = model.base_model
        self.cnn = base.feature_extractor.requires_grad_(not self.freeze_cnn)
        # transformers wants a gradient of the CNN's input for gradient checkpointing: nobody needs
        # it here.
        self.cnn._requires_grad = False
        # Convolutions and layer norm see no further than their own frame: only group norm, over
        # time, minds padding.
        self.minds_padding = any(isinstance(module, nn.GroupNorm) for module in self.cnn.modules())
        self.frames_of = model._get_feat_extract_output_lengths  # samples to frames
        self.layers = list(base.encoder.layers)
        self.below = [base.feature_projection, base.encoder.pos_conv_embed]
        if not model.config.do_stable_layer_norm:
            self.below.append(base.encoder.layer_norm)
        if hasattr(base, "masked_spec_embed"):
            self.below.append(base.masked_spec_embed)
        self.shortest = next(n for n in range(1, audio.SAMPLE_RATE) if self.frames_of(n) > 0)

        # From here on the model takes features for samples, and a mask of frames for a mask of
        # samples, from which transformers would make one of frames in a way that a GPU waits for;
        # and what SpecAugment hides is drawn from lengths that are known on the CPU.
        base.feature_extractor = nn.Identity()
        base._get_feature_vector_attention_mask = lambda frames, mask, add_adapter=None: mask
        base._mask_hidden_states = self.hide

    @staticmethod
    def problem(config: Any, extractor: Any) -> str | None:
        if getattr(config, "add_adapter", False):
            return "with an adapter on top of the transformer (add_adapter) does not fit"
        if getattr(config, "conv_pos_batch_norm", False):
            return (
                "with a batch norm (conv_pos_batch_norm) does not fit: what a clip gives would "
                "depend on what it is batched with"
            )
        return None

    @staticmethod
    def start(model: Any) -> None:
        """A filter bank for the first convolution, if its filters are long enough."""
        first = model.base_model.feature_extractor.conv_layers[0].conv
        channels, _, taps = first.weight.shape
        if taps >= FILTER_TAPS and channels % 4 == 0:
            first.weight.data.copy_(filter_bank(channels, taps))

    @staticmethod
    def regularisation(settings: Params) -> tuple[dict[str, object], list[str]]:
        changes: dict[str, object] = {
            "hidden_dropout": settings.dropout,
            "feat_proj_dropout": settings.dropout,
            "attention_dropout": settings.attention_dropout,
            "layerdrop": 0.0,  # a skipped layer would be missing from the hidden states
            "apply_spec_augment": settings.mask_time_prob + settings.mask_feature_prob > 0,
            "mask_time_prob": settings.mask_time_prob,
            "mask_time_length": settings.mask_time_length,
            "mask_time_min_masks": 0,  # transformers' 2 hide more than settings ask for
            "mask_feature_prob": settings.mask_feature_prob,
            "mask_feature_length": settings.mask_feature_length,
            "mask_feature_min_masks": 0,  # transformers' WavLM lacks it, and would stop
        }
        if not settings.dropout:  # inside the feed-forward layers, else as the checkpoint has it
            changes["activation_dropout"] = 0.0
        return changes, []

    @torch.inference_mode()
    def prepare(self, samples: np.ndarray) -> np.ndarray:
        values = self.extractor(samples, sampling_rate=audio.SAMPLE_RATE).input_values[0]
        if not self.freeze_cnn:
            return values
        device = next(self.cnn.parameters()).device
        return self.cnn(torch.from_numpy(values)[None].to(device))[0].T.contiguous().cpu().numpy()

    def frames(self, lengths: torch.Tensor) -> torch.Tensor:
        return lengths if self.freeze_cnn else self.frames_of(lengths)

    def hidden_states(self, inputs: torch.Tensor, lengths: torch.Tensor) -> HiddenStates:
        features = inputs
        if inputs.ndim == 2 and self.minds_padding:
            parts = [
                self.cnn(clip[None, :length])[0].T
                for clip, length in zip(inputs, lengths.tolist(), strict=True)
            ]
            features, lengths = pad_sequence(parts, batch_first=True), self.frames_of(lengths)
        elif inputs.ndim == 2:
            features, lengths = self.cnn(inputs).transpose(1, 2), self.frames_of(lengths)
        features = features[:, : int(lengths.max())]
        self.lengths = lengths
        mask = encoder.mask_of(lengths, features.device)
        padded = None if lengths.min() == lengths.max() else mask
        out = self.model.base_model(
            features.transpose(1, 2), attention_mask=padded, output_hidden_states=True
        )
        return HiddenStates(out.hidden_states, out.last_hidden_state, mask)

    def hide(
        self, hidden: torch.Tensor, mask_time_indices: None = None, attention_mask: object = None
    ) -> torch.Tensor:
        """SpecAugment as transformers does it, in place of its own, which makes a GPU wait."""
        config = self.model.config
        if not (self.training and self.draws and config.apply_spec_augment):
            return hidden
        if config.mask_time_prob:
            embedding = self.model.base_model.masked_spec_embed.to(hidden.dtype)
            spans = self.hidden_frames(self.lengths.cpu())
            hidden = torch.where(spans[..., None], embedding, hidden)
        return self.hide_channels(hidden)

    def save(self, folder: Path) -> None:
        self.model.base_model.feature_extractor = self.cnn
        super().save(folder)
        self.model.base_model.feature_extractor = nn.Identity()
