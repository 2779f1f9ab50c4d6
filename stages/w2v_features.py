"""Compute once what stays the same in every epoch, fold and experiment: the frozen CNN's output for each clip, or its samples.

The CNN takes each clip alone and unpadded, since the base checkpoints normalise over time.

Reads:  data/audio/*.wav, data/checkpoint, params `freeze_cnn` and `trim_db`
Writes: data/features/clips.arrow: clip, length, values; a row per clip, sorted by clip. With a frozen CNN `length` counts frames
        and `values` are its output, float32, frame by frame; else `length` counts samples and `values` are these, level-normalised
        if the checkpoint's preprocessor wants that.
"""

from collections.abc import Iterable
from pathlib import Path

import librosa
import numpy as np
import torch
from datasets import Features, List, Value
from datasets.arrow_writer import ArrowWriter
from tqdm import tqdm
from transformers import AutoFeatureExtractor

from stages import audio, errors, outputs, params, wav2vec

COLUMNS = Features({"clip": Value("string"), "length": Value("int32"), "values": List(Value("float32"))})


@torch.inference_mode()
def write(path: Path, clips: Iterable[tuple[str, np.ndarray]], checkpoint: Path, settings: params.Params) -> None:
    """Write the table for clips of a name and samples, float32, shape (n,), 16 kHz, to the Arrow file `path`.

    Raises:
        UserError: a clip is too short for the CNN to make a frame of it.
    """
    extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = wav2vec.load(checkpoint, str(checkpoint), seed=0)
    cnn = model.base_model.feature_extractor.eval().to(device) if settings.freeze_cnn else None
    # `save_to_disk` would add a random fingerprint; the bare Arrow file has none, and memory-maps as well.
    with ArrowWriter(features=COLUMNS, path=str(path), writer_batch_size=64) as writer:
        for name, samples in clips:
            if settings.trim_db:
                samples, _ = librosa.effects.trim(samples, top_db=settings.trim_db)
            if model._get_feat_extract_output_lengths(len(samples)) < 1:
                raise errors.UserError(f"{name}: {len(samples)} samples are too short for a frame of {checkpoint}")
            values = extractor(samples, sampling_rate=audio.SAMPLE_RATE).input_values[0]
            if cnn is not None:
                values = cnn(torch.from_numpy(values)[None].to(device))[0].T.cpu().numpy()
            writer.write({"clip": name, "length": len(values), "values": values.ravel()})
        writer.finalize()


@errors.one_line
def main() -> None:
    """Run over every clip."""
    wav2vec.quiet()
    paths = tqdm(sorted(Path("data/audio").glob("*.wav")), desc="features", unit="clip", mininterval=1)
    with outputs.whole("data/features") as folder:
        folder.mkdir()
        write(folder / "clips.arrow", ((path.stem, audio.read(path)) for path in paths), Path("data/checkpoint"), params.load())


if __name__ == "__main__":
    main()
