"""Whisper's encoder: two convolutions on a log-mel spectrogram, a transformer."""

from typing import Any

import numpy as np
import torch
from torch.nn.functional import gelu

from ser import audio
from ser.encoder.families import encoder
from ser.encoder.families.encoder import Encoder, HiddenStates
from ser.params import Params


class Whisper(Encoder):
    """The encoder of Whisper, on the frames that a clip has.

    Whisper was trained on windows of 30 s, and transformers' own encoder takes nothing else; but it
    runs as well on the clip alone, in a twentieth of the time: a spectrogram without padding, the
    first rows of the table of positions, and attention among the clip's own frames. In a batch what
    stands behind a clip is zero before each convolution and masked in attention, so that a clip's
    hidden states are those of the clip alone; and those of transformers' encoder for a clip as long
    as its window.

    Inputs are the log-mel spectrogram, frames of 10 ms, (frames, mels). The convolutions run in
    every step, frozen or not, since SpecAugment works on what they see.
    """

    TYPES = ("whisper",)
    LEFT_OUT = ("model.decoder.", "decoder.", "proj_out.")
    OTHER_WEIGHTS = LEFT_OUT
    OTHER_PIPELINE = "it pads every clip to 30 s"

    def adapt(self, model: Any) -> None:
        base = model.encoder
        self.layers = list(base.layers)
        self.below = [base.conv1, base.conv2]
        for convolution in self.below:
            convolution.requires_grad_(not self.freeze_cnn)
        base.embed_positions.requires_grad_(False)  # a table of sines
        self.shortest = self.extractor.n_fft // 2 + 1  # its edges are mirrored
        self.longest = model.config.max_source_positions * 2 * self.extractor.hop_length

    @staticmethod
    def problem(config: Any, extractor: Any) -> str | None:
        mels = getattr(extractor, "feature_size", None)
        if type(extractor).__name__ != "WhisperFeatureExtractor" or mels != config.num_mel_bins:
            return (
                f"wants the WhisperFeatureExtractor of {config.num_mel_bins} mels, which its "
                f"preprocessor_config.json does not describe ({type(extractor).__name__}, {mels})"
            )
        return None

    @staticmethod
    def regularisation(settings: Params) -> tuple[dict[str, object], list[str]]:
        """SpecAugment, on the spectrogram, and dropout of attention weights.

        Whisper was trained without dropout, and its hidden states fall apart under it: of a fold
        that a linear probe of the frozen tiny.en gets 88 % of right, 39 % are left under `dropout`
        0.1.
        """
        changes: dict[str, object] = {
            "dropout": 0.0,
            "activation_dropout": 0.0,
            "attention_dropout": settings.attention_dropout,
            "apply_spec_augment": settings.mask_time_prob + settings.mask_feature_prob > 0,
            "mask_time_prob": settings.mask_time_prob,
            "mask_time_length": settings.mask_time_length,
            "mask_time_min_masks": 0,  # transformers' 2 hide more than settings ask for
            "mask_feature_prob": settings.mask_feature_prob,
            "mask_feature_length": settings.mask_feature_length,
            "mask_feature_min_masks": 0,
        }
        notes = []
        if settings.dropout:
            notes.append(
                f"dropout = {settings.dropout}: ignored; Whisper was trained without, and its "
                "hidden states fall apart under it"
            )
        return changes, notes

    def prepare(self, samples: np.ndarray) -> np.ndarray:
        mels = self.extractor(
            samples, sampling_rate=audio.SAMPLE_RATE, padding=False, truncation=False
        )
        return np.ascontiguousarray(mels.input_features[0].T)

    def frames(self, lengths: torch.Tensor) -> torch.Tensor:
        return (lengths - 1) // 2 + 1

    def hidden_states(self, inputs: torch.Tensor, lengths: torch.Tensor) -> HiddenStates:
        base = self.model.encoder
        lengths = lengths.cpu()
        inputs = inputs[:, : int(lengths.max())]
        if self.training and self.draws and self.model.config.apply_spec_augment:
            inputs = self.hide(inputs, lengths)
        hidden = gelu(base.conv1(inputs.transpose(1, 2)))
        hidden = hidden.masked_fill(~encoder.mask_of(lengths, inputs.device)[:, None], 0)
        hidden = gelu(base.conv2(hidden)).transpose(1, 2)
        hidden = hidden + base.embed_positions.weight[: hidden.shape[1]]
        mask = encoder.mask_of(self.frames(lengths), inputs.device)
        padded = None if lengths.min() == lengths.max() else mask[:, None, None]
        states = [hidden]
        for layer in self.layers:
            hidden = layer(hidden, padded)
            states.append(hidden)
        states[-1] = base.layer_norm(hidden)
        return HiddenStates(tuple(states), states[-1], mask)

    def hide(self, inputs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """SpecAugment on the spectrogram, in spans of 20 ms frames and of mels, as Whisper's later
        models were trained with; zero is about the mean of speech there."""
        if self.model.config.mask_time_prob:
            spans = self.hidden_frames(self.frames(lengths)).repeat_interleave(2, dim=1)
            inputs = inputs.masked_fill(spans[:, : inputs.shape[1], None], 0)
        return self.hide_channels(inputs)
