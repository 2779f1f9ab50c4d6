"""Say which emotion is heard in any audio or video file that FFmpeg reads.

    python -m commands.predict CLIP... [--model w2v|svm|FOLDER] [--json]

CLIP is a path, or `-` for standard input. A file that has no answer is named on stderr and the rest
goes on; the exit code is then 1. Files are read, answered and forgotten one after the other:
thousands take no more memory than one. A model brings all that it needs, so that its folder can be
taken anywhere.

Reads:  the clips; the models in data/models/w2v, whose probabilities are averaged; or that in
        data/models/svm; or one FOLDER of either kind
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import pydantic

from ser import audio, params
from ser.corpus import EMOTIONS
from ser.run import errors
from ser.svm import features
from ser.svm import model as classifier

# Seconds: the models know utterances of some seconds, and attention's memory grows with the square.
LONGEST = 60

STAGES = {"w2v": "w2v_finetune", "svm": "svm_train"}  # where models come from, by their names

# float32 samples in [-1, 1], shape (n,), 16 kHz, to probabilities of EMOTIONS, shape (8,)
Answer = Callable[[np.ndarray], np.ndarray]


def fine_tuned(folders: list[Path]) -> Answer:
    """The mean over fine-tuned models, in the order of their folders."""
    import torch  # here, since an SVM answers before it is loaded
    import transformers

    from ser.encoder import checkpoint

    for folder in folders:
        if not (folder / "config.json").exists():
            raise errors.UserError(f"{folder}: has no config.json, as every fine-tuned model has")
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
        if trim_db:
            samples, _ = librosa.effects.trim(samples, top_db=trim_db)
        samples = np.pad(samples, (0, max(0, shortest - len(samples))))
        inputs = extractor(samples, sampling_rate=audio.SAMPLE_RATE, return_tensors="pt")
        values = inputs.input_values.to(device)
        shares = [model(values).logits[0].double().softmax(-1) for model in models]
        return torch.stack(shares).mean(0).cpu().numpy()

    return answer


def on_features(folder: Path) -> Answer:
    """A classifier on a table of features, which are made as those it was trained on."""
    model = classifier.load(folder)
    made_by = model.settings.features
    if made_by.get("speaker_norm"):
        raise errors.UserError(
            f"{folder}: trained with speaker_norm, which needs many clips of each voice; a single "
            "clip has no answer"
        )
    try:
        settings = params.Mfcc.model_validate(made_by.get("mfcc"))
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, ("features.mfcc", *problem["loc"])))
        raise errors.UserError(
            f"{folder / classifier.SETTINGS}: not of this version of the project ({where}: "
            f"{problem['msg']})"
        ) from None
    names = features.names(settings)
    if strange := set(model.columns) - set(names):
        raise errors.UserError(f"{folder}: needs the unknown feature {min(strange)}")

    def answer(samples: np.ndarray) -> np.ndarray:
        described = features.describe(samples, settings)
        # As numbers of the table that it was trained on.
        row = pd.DataFrame([described], columns=names, dtype=np.float32)
        return model.probabilities(row).to_numpy()[0]

    return answer


def load(name: str) -> Answer:
    """The model of a name in `data/models`, or of a folder.

    Raises:
        UserError: there is none.
    """
    if name == "w2v":
        folders = sorted(Path("data/models/w2v").glob("fold_*"))
        if folders:
            return fine_tuned(folders)
    folder = Path("data/models", name) if name in STAGES else Path(name)
    if (folder / classifier.SETTINGS).exists():
        return on_features(folder)
    if (folder / "config.json").exists():
        return fine_tuned([folder])
    if name in STAGES:
        raise errors.UserError(f"{folder}: no model there; `dvc repro {STAGES[name]}` makes it")
    raise errors.UserError(f"{name}: no model there; expected {', '.join(STAGES)} or a folder")


@errors.one_line
def main() -> None:
    """Load the model, answer clip by clip."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "clips", nargs="+", metavar="CLIP", help="an audio or video file, or - for standard input"
    )
    parser.add_argument(
        "--model",
        default="w2v",
        help="w2v: fine-tuned models of all folds, averaged (default); svm; or a model's folder",
    )
    parser.add_argument(
        "--json", action="store_true", help="a JSON object per line instead of a table"
    )
    options = parser.parse_args()
    answer = load(options.model)

    width = max(len(clip) for clip in options.clips)
    if not options.json:
        print("clip".ljust(width), "predicted".ljust(9), *(f"{emotion:>9}" for emotion in EMOTIONS))
    failed = False
    for clip in options.clips:
        try:
            samples = audio.decode(clip, limit=LONGEST)
            probabilities = answer(samples / np.float32(2**15))
        except errors.UserError as error:
            failed = True
            print(f"predict: {error}", file=sys.stderr, flush=True)
            continue
        predicted = EMOTIONS[probabilities.argmax()]
        if options.json:
            by_emotion = dict(zip(EMOTIONS, probabilities.tolist(), strict=True))
            print(json.dumps({"clip": clip, "predicted": predicted, "probabilities": by_emotion}))
        else:
            columns = [f"{probability:9.3f}" for probability in probabilities]
            print(clip.ljust(width), predicted.ljust(9), *columns)
        sys.stdout.flush()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
