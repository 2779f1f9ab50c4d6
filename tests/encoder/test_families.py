"""Encoders: a clip's hidden states and logits are those of transformers for that clip alone,
whatever it is batched with."""

import librosa
import numpy as np
import pytest
import torch
import transformers
from conftest import ROOT
from tiny_models import write_checkpoint, write_whisper
from torch.nn.utils.rnn import pad_sequence

from ser import params
from ser.encoder import checkpoint, layers
from ser.encoder.families.waveform import Waveform
from ser.encoder.scratch import filter_bank
from ser.finetune import draws
from ser.run.errors import UserError

torch.set_num_threads(1)  # models this small only wait for a second thread


def noise(lengths, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 0.3, length).astype(np.float32) for length in lengths]


def batches(encoder, inputs: list[torch.Tensor], size: int):
    """Hidden states of each clip without padding, layer by layer, and its logits, from batches of
    `size`."""
    for start in range(0, len(inputs), size):
        chunk = inputs[start : start + size]
        lengths = torch.tensor([len(clip) for clip in chunk])
        padded = pad_sequence(chunk, batch_first=True)
        states = encoder.hidden_states(padded, lengths)
        logits = encoder(padded, lengths)
        for row, mask in enumerate(states.mask):
            yield torch.stack([layer[row, mask] for layer in states.layers]), logits[row]


def largest(found, expected) -> float:
    """The largest difference between two lists of tensors."""
    return max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # transformers' WavLM
@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("architecture", Waveform.TYPES)
@torch.inference_mode()
def test_waveforms_are_heard_as_alone(tmp_path, architecture, norm):
    changes = {
        "feat_extract_norm": norm,
        "do_stable_layer_norm": norm == "layer",
        "use_weighted_layer_sum": True,
    }
    folder = write_checkpoint(tmp_path / "c", model_type=architecture, **changes)
    clips = noise(np.random.default_rng(1).integers(2000, 12000, 16))
    encoder = checkpoint.load(folder, "c", 0, freeze_cnn=False).eval()
    encoder.save(tmp_path / "saved")
    own = transformers.AutoModelForAudioClassification.from_pretrained(tmp_path / "saved").eval()
    samples = [torch.from_numpy(encoder.prepare(clip)) for clip in clips]
    answers = [own(clip[None], output_hidden_states=True) for clip in samples]
    states = [torch.cat(answer.hidden_states) for answer in answers]
    logits = [answer.logits[0] for answer in answers]
    assert torch.stack(logits).std(0).min() > 1e-3  # the clips differ at all

    frozen = checkpoint.load(tmp_path / "saved", "c", 0).eval()
    features = [torch.from_numpy(frozen.prepare(clip)) for clip in clips]
    for inputs in (samples, features):
        for size in (1, 3, 16):
            found = list(zip(*batches(frozen, inputs, size), strict=True))
            assert largest(found[0], states) < 1e-5
            assert largest(found[1], logits) < 1e-5


@torch.inference_mode()
def test_whisper_hears_a_clip_as_alone(tmp_path):
    """Batched and alone, to the last digit that double precision leaves, and in float32 to 1e-5."""
    folder = write_whisper(tmp_path / "w", use_weighted_layer_sum=True)
    clips = noise([*np.random.default_rng(1).integers(1000, 15000, 14), 201, 16000])
    encoder = checkpoint.load(folder, "w", 0).eval()
    inputs = [torch.from_numpy(encoder.prepare(clip)) for clip in clips]
    assert {len(clip) % 2 for clip in inputs} == {0, 1}
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        encoder.to(dtype)
        inputs = [clip.to(dtype) for clip in inputs]
        states, logits = zip(*batches(encoder, inputs, 1), strict=True)
        for size in (3, 16):
            found = list(zip(*batches(encoder, inputs, size), strict=True))
            assert largest(found[0], states) < tolerance
            assert largest(found[1], logits) < tolerance
    assert torch.stack(logits).std(0).min() > 1e-3


@pytest.mark.parametrize(("seconds", "mels"), [(0.3, 80), (1.0, 128)])  # large-v3 has 128
@torch.inference_mode()
def test_whisper_equals_transformers_where_its_window_is_the_clip(tmp_path, seconds, mels):
    folder = write_whisper(
        tmp_path / "w", max_source_positions=int(50 * seconds), num_mel_bins=mels
    )
    encoder = checkpoint.load(folder, "w", 0).eval()
    clips = noise([int(16000 * seconds), int(8000 * seconds)])
    whole, half = (torch.from_numpy(encoder.prepare(clip)) for clip in clips)
    assert whole.shape == (100 * seconds, mels)
    encoder.save(tmp_path / "saved")
    own = transformers.AutoModelForAudioClassification.from_pretrained(tmp_path / "saved").eval()
    expected = own(whole.T[None], output_hidden_states=True)
    found = list(zip(*batches(encoder, [half, whole], 2), strict=True))
    assert largest(found[0][1], torch.cat(expected.hidden_states)) < 1e-5
    assert largest(found[1][1], expected.logits[0]) < 1e-5


@pytest.mark.parametrize("write", [write_checkpoint, write_whisper])
@torch.inference_mode()
def test_half_precision_on_a_cpu_is_near_and_blind_to_padding(tmp_path, write):
    encoder = checkpoint.load(write(tmp_path / "c"), "c", 0).eval()
    inputs = [torch.from_numpy(encoder.prepare(clip)) for clip in noise((3000, 9000))]
    padded = pad_sequence(inputs, batch_first=True)
    lengths = torch.tensor([len(clip) for clip in inputs])
    exact = encoder(padded, lengths)
    layers.addend.cache_clear()
    with torch.autocast("cpu", torch.bfloat16):
        near = encoder(padded, lengths)
        assert layers.addend.cache_info()[:2] == (1, 1), "both layers have the same mask"
        alone = [encoder(clip[None], lengths[row : row + 1]) for row, clip in enumerate(inputs)]
    assert exact.std() > 0.02
    assert (near - exact).abs().max() < 0.05 * exact.std()
    assert (torch.cat(alone) - near).abs().max() < 0.02 * exact.std()


def test_from_scratch_the_cnn_begins_with_a_spectrogram(tmp_path):
    """A tone comes out of the band it lies in, and loudest if it is high, since high tones are
    faint in speech."""
    channels, taps = 128, 400
    filters, seconds, heard = filter_bank(channels, taps), torch.arange(16000) / 16000, []
    for tone in (200, 1000, 5000):
        wave = torch.sin(2 * torch.pi * tone * seconds)[None, None]
        sound = torch.nn.functional.conv1d(wave, filters, stride=160)
        # of the four phases of each band
        energy = sound.square().mean(dim=(0, 2)).view(4, -1).mean(dim=0)
        edges = np.linspace(*librosa.hz_to_mel(np.array([60, 7600]), htk=True), len(energy) + 2)
        band = np.abs(edges[1:-1] - librosa.hz_to_mel(tone, htk=True)).argmin()
        assert abs(int(energy.argmax()) - band) <= 1, tone
        heard.append(energy.max().item())
    assert heard == sorted(heard)
    folder = write_checkpoint(tmp_path / "c", conv_kernel=[400, 8], conv_stride=[160, 8])
    first = checkpoint.load(folder, "c", 0).cnn.conv_layers[0].conv
    assert torch.equal(first.weight, filter_bank(8, 400))


def knobs(**changes):
    """params.yaml without regularisation, but for `changes`."""
    none = {"dropout": 0.0, "attention_dropout": 0.0}
    none |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    return params.load(ROOT / "params.yaml").model_copy(update={**none, **changes})


def regularised(folder, **changes):
    """The encoder in `folder` as training has it."""
    config, _ = checkpoint.read_config(folder, "c")
    fields, _ = checkpoint.family(config).regularisation(knobs(**changes))
    drawn = draws.Draws()
    encoder = checkpoint.load(folder, "c", 0, draws=drawn, **fields).train()
    draws.replace_dropout(encoder, drawn)
    return encoder


def begin(encoder, lengths: torch.Tensor) -> None:
    """Get ready for a batch of inputs of these lengths."""
    generators = [np.random.default_rng(number) for number in range(len(lengths))]
    encoder.draws.begin(generators, encoder.frames(lengths), torch.device("cpu"))


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
@pytest.mark.parametrize("what", ["time", "feature"])
@pytest.mark.parametrize("architecture", Waveform.TYPES)
@torch.inference_mode()
def test_spec_augment_hides_what_transformers_would(tmp_path, architecture, what):
    folder = write_checkpoint(tmp_path / "c", model_type=architecture)
    encoder = regularised(folder, **{f"mask_{what}_prob": 0.3, f"mask_{what}_length": 3})
    inputs = [torch.from_numpy(encoder.prepare(clip)) for clip in noise((4000, 9000, 6000))]
    encoder.lengths = torch.tensor([len(clip) for clip in inputs])
    hidden = torch.randn(3, int(encoder.lengths.max()), encoder.width)
    begin(encoder, encoder.lengths)
    found = encoder.hide(hidden)
    begin(encoder, encoder.lengths)
    base = encoder.model.base_model
    for row, length in enumerate(encoder.lengths.tolist()):
        np.random.seed(encoder.draws.generators[row].integers(2**32))
        alone = hidden[row : row + 1, :length]
        mask = torch.ones(1, length, dtype=torch.bool)
        expected = type(base)._mask_hidden_states(base, alone.clone(), attention_mask=mask)
        assert torch.equal(found[row : row + 1, :length], expected)
    assert 0.1 < (found != hidden).float().mean() < 0.7
    assert torch.equal(encoder.eval().hide(hidden), hidden)


@pytest.mark.parametrize("write", [write_checkpoint, write_whisper])
def test_spec_augment_hides_the_share_that_it_is_told(tmp_path, write):
    """Of short clips too: transformers' two spans at the least would be a fifth of these."""
    for share in (1e-6, 0.05, 0.1):
        encoder = regularised(write(tmp_path / f"{share}"), mask_time_prob=share)
        drawn = []
        for start in range(0, 400, 8):
            numbers = range(start, start + 8)
            encoder.draws.begin(
                [np.random.default_rng(number) for number in numbers],
                torch.full((8,), 100),
                torch.device("cpu"),
            )
            drawn.append(encoder.hidden_frames(torch.full((8,), 100)))
        assert torch.cat(drawn).float().mean().item() == pytest.approx(share, abs=0.012)


@torch.inference_mode()
def test_spec_augment_of_whisper(tmp_path):
    """Spans of 20 ms frames and of mels become zero, inside each clip; nothing in eval mode."""
    folder = write_whisper(tmp_path / "w")
    masks = {"mask_time_prob": 0.3, "mask_time_length": 4}
    masks |= {"mask_feature_prob": 0.3, "mask_feature_length": 2}
    encoder = regularised(folder, **masks)
    lengths = torch.tensor([99, 40, 61])
    inputs = torch.ones(3, 99, 8)
    begin(encoder, lengths)
    found = encoder.hide(inputs, lengths)
    for clip, length in zip(found, lengths, strict=True):
        frames, mels = clip.amax(1) == 0, clip[:length].amax(0) == 0
        assert not frames[length:].any()
        starts = (frames[1:] & ~frames[:-1]).nonzero() + 1
        assert ((starts % 2) == 0).all()  # both halves of a frame of 20 ms
        assert 8 <= frames.sum() < 0.7 * length
        assert 2 <= mels.sum() < 8
        assert (clip[:, ~mels][~frames] == 1).all()
    begin(encoder, lengths)
    masked = encoder(inputs, lengths)
    assert not torch.equal(masked, encoder.eval()(inputs, lengths))


@torch.inference_mode()
def test_dropout_that_would_harm_whisper_is_ignored_with_a_line(tmp_path):
    folder = write_whisper(tmp_path / "w")
    config, _ = checkpoint.read_config(folder, "w")
    _, notes = checkpoint.family(config).regularisation(knobs(dropout=0.1))
    assert [note.split(";")[0] for note in notes] == ["dropout = 0.1: ignored"]
    assert checkpoint.family(config).regularisation(knobs())[1] == []
    clip, length = torch.randn(1, 80, 8), torch.tensor([80])
    encoder = regularised(folder, dropout=0.1)
    assert torch.equal(encoder(clip, length), encoder.eval()(clip, length))
    encoder = regularised(folder, attention_dropout=0.3)
    assert not torch.equal(encoder(clip, length), encoder.eval()(clip, length))


@pytest.mark.parametrize("write", [write_checkpoint, write_whisper])
@torch.inference_mode()
def test_all_regularisation_off_is_off(tmp_path, write):
    """Also what the checkpoint's own configuration has in places that no knob names."""
    folder = write(tmp_path / "c", activation_dropout=0.5, dropout=0.5, final_dropout=0.5)
    encoder = regularised(folder)
    inputs = torch.from_numpy(encoder.prepare(*noise([8000])))[None]
    length = torch.tensor([inputs.shape[1]])
    begin(encoder, length)
    assert torch.equal(encoder(inputs, length), encoder.eval()(inputs, length))


@torch.inference_mode()
def test_dropout_leaves_the_checkpoint_its_own_of_activations(tmp_path):
    folder = write_checkpoint(tmp_path / "c", activation_dropout=0.5)
    assert regularised(folder, dropout=0.1).model.config.activation_dropout == 0.5


@pytest.mark.parametrize("write", [write_checkpoint, write_whisper])
def test_frozen_layers_and_what_lies_below(tmp_path, write):
    encoder = checkpoint.load(write(tmp_path / "c"), "c", 0, freeze_cnn=False)
    with pytest.raises(UserError, match="frozen_layers = 1: needs freeze_cnn: true"):
        encoder.freeze(1)
    encoder = checkpoint.load(tmp_path / "c", "c", 0).eval()  # or layers are skipped by chance
    with pytest.raises(UserError, match="frozen_layers = 3: c has 2 layers"):
        encoder.freeze(3)
    encoder.freeze(1)
    inputs = torch.from_numpy(encoder.prepare(*noise([8000])))[None]
    encoder(inputs, torch.tensor([inputs.shape[1]])).sum().backward()
    moving = {name for name, weight in encoder.named_parameters() if weight.grad is not None}
    assert any("layers.1." in name for name in moving)
    below = ("layers.0.", "conv", "cnn.", "feature_projection", "embed_positions")
    assert not any(part in name for name in moving for part in below)
