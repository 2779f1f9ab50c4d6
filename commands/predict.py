"""Say which emotion is heard in any audio or video file that FFmpeg reads.

    python -m commands.predict CLIP... [--model w2v|svm|FOLDER] [--json]

CLIP may be `-`: audio from standard input. A file that has no answer is named on stderr and the
rest goes on; the exit code is then 1. Files are read, answered and forgotten one after the other:
thousands take no more memory than one.

Reads:  the clips; params `folds` and `mfcc`; data/models/w2v/fold_K of every fold in `folds`, whose
        probabilities are averaged, or one such FOLDER, or data/models/svm/model.joblib
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import joblib
import librosa
import numpy as np
import pandas as pd
import torch
import transformers

from ser import audio, params
from ser.corpus import EMOTIONS
from ser.encoder import checkpoint
from ser.run import errors
from ser.svm import features

LONGEST = 60  # seconds; the models know utterances of some seconds, and attention's memory grows with the square
Answer = Callable[
    [np.ndarray], np.ndarray
]  # int16 samples, shape (n,), to probabilities of EMOTIONS, shape (8,)


def w2v(folders: list[Path]) -> Answer:
    """The mean over fine-tuned models, in the order of their folders."""
    for folder in folders:
        if not (folder / "config.json").exists():
            raise errors.UserError(
                f"{folder}: no model there; `dvc repro w2v_finetune` makes one, or --model names another folder"
            )
    checkpoint.quiet()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = [
        transformers.AutoModelForAudioClassification.from_pretrained(folder).eval().to(device)
        for folder in folders
    ]
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folders[0])
    trim_db = getattr(models[0].config, "trim_db", None)
    labels = [models[0].config.id2label[number] for number in range(models[0].config.num_labels)]
    if labels != list(EMOTIONS):
        raise errors.UserError(
            f"{folders[0]}: tells apart {', '.join(labels)}; expected {', '.join(EMOTIONS)}"
        )
    shortest = next(
        n
        for n in range(1, audio.SAMPLE_RATE)
        if models[0]._get_feat_extract_output_lengths(torch.tensor(n)) > 0
    )

    @torch.inference_mode()
    def answer(samples: np.ndarray) -> np.ndarray:
        samples = samples / np.float32(2**15)
        if trim_db:
            samples, _ = librosa.effects.trim(samples, top_db=trim_db)
        samples = np.pad(samples, (0, max(0, shortest - len(samples))))
        inputs = extractor(
            samples, sampling_rate=audio.SAMPLE_RATE, return_tensors="pt"
        ).input_values.to(device)
        return (
            torch.stack([model(inputs).logits[0].double().softmax(-1) for model in models])
            .mean(0)
            .cpu()
            .numpy()
        )

    return answer


def svm(settings: params.Mfcc) -> Answer:
    """The model that `svm_train` made of all actors."""
    path = Path("data/models/svm/model.joblib")
    if not path.exists():
        raise errors.UserError(f"{path}: no such model; `dvc repro svm_train` makes it")
    model, names = joblib.load(path), features.names(settings)

    def answer(samples: np.ndarray) -> np.ndarray:
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            audio.write(file.name, samples)
            described = features.describe(Path(file.name), settings)
        found = pd.DataFrame(
            model.predict_proba(pd.DataFrame([described], columns=names, dtype=np.float32)),
            columns=model.classes_,
        )
        return found[list(EMOTIONS)].to_numpy()[0]

    return answer


@errors.one_line
def main() -> None:
    """Load the models, answer clip by clip."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "clips", nargs="+", metavar="CLIP", help="an audio or video file, or - for standard input"
    )
    parser.add_argument(
        "--model",
        default="w2v",
        help="w2v: all folds averaged (default), svm, or the folder of one fine-tuned model",
    )
    parser.add_argument(
        "--json", action="store_true", help="a JSON object per line instead of a table"
    )
    options = parser.parse_args()
    settings = params.load()
    if options.model == "svm":
        answer = svm(settings.mfcc)
    else:
        folders = (
            [Path(f"data/models/w2v/fold_{fold}") for fold in settings.folds]
            if options.model == "w2v"
            else [Path(options.model)]
        )
        answer = w2v(folders)

    width = max(len(clip) for clip in options.clips)
    if not options.json:
        print("clip".ljust(width), "predicted".ljust(9), *(f"{emotion:>9}" for emotion in EMOTIONS))
    failed = False
    for clip in options.clips:
        try:
            samples = audio.decode("pipe:0" if clip == "-" else clip)
            if len(samples) > LONGEST * audio.SAMPLE_RATE:
                seconds = len(samples) / audio.SAMPLE_RATE
                raise errors.UserError(
                    f"{clip}: {seconds:.0f} s long; cut it into utterances, of at most {LONGEST} s"
                )
            found = answer(samples)
        except errors.UserError as error:
            failed = True
            print(f"predict: {error}", file=sys.stderr, flush=True)
            continue
        predicted = EMOTIONS[found.argmax()]
        if options.json:
            print(
                json.dumps(
                    {
                        "clip": clip,
                        "predicted": predicted,
                        "probabilities": dict(zip(EMOTIONS, found.tolist(), strict=True)),
                    }
                )
            )
        else:
            print(
                clip.ljust(width),
                predicted.ljust(9),
                *(f"{probability:9.3f}" for probability in found),
            )
        sys.stdout.flush()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
