"""Compute once what stays the same in every epoch, fold and experiment: the frozen CNN's output for each clip, or its samples.

The CNN takes each clip alone and unpadded, since the base checkpoints normalise over time.

Reads:  data/audio/*.wav, data/checkpoint, params `freeze_cnn`
Writes: data/features/clips.arrow: clip, length, values; a row per clip, sorted by clip. With a frozen CNN `length` counts frames
        and `values` are its output, float32, frame by frame; else `length` counts samples and `values` are these, level-normalised
        if the checkpoint's preprocessor wants that.
"""

from pathlib import Path

import torch
from datasets import Features, List, Value
from datasets.arrow_writer import ArrowWriter
from tqdm import tqdm
from transformers import AutoFeatureExtractor

from stages import audio, errors, outputs, params, wav2vec

COLUMNS = Features({"clip": Value("string"), "length": Value("int32"), "values": List(Value("float32"))})


@errors.one_line
def main() -> None:
    """Load the CNN if it is frozen, run it over every clip, write one Arrow file."""
    settings = params.load()
    wav2vec.quiet()
    checkpoint = Path("data/checkpoint")
    extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cnn = None
    if settings.freeze_cnn:
        cnn = wav2vec.load(checkpoint, settings.checkpoint, settings.seed).base_model.feature_extractor.eval().to(device)

    with outputs.whole("data/features") as folder, torch.inference_mode():
        folder.mkdir()
        # `save_to_disk` would add a random fingerprint; the bare Arrow file has none, and memory-maps as well.
        with ArrowWriter(features=COLUMNS, path=str(folder / "clips.arrow"), writer_batch_size=64) as writer:
            for path in tqdm(sorted(Path("data/audio").glob("*.wav")), desc="features", unit="clip", mininterval=1):
                values = extractor(audio.read(path), sampling_rate=audio.SAMPLE_RATE).input_values[0]
                if cnn is not None:
                    values = cnn(torch.from_numpy(values)[None].to(device))[0].T.cpu().numpy()
                writer.write({"clip": path.stem, "length": len(values), "values": values.ravel()})


if __name__ == "__main__":
    main()
