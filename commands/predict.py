"""Predict the emotion in any audio or video file that FFmpeg reads.

    python -m commands.predict CLIP... [--model w2v|probe|svm|FOLDER] [--json]

CLIP is a path, or `-` for standard input. A file that has no answer is named on stderr and the rest
goes on; the exit code is then 1. A file of which something could not be read is answered, and named
on stderr with what is lost. Files are answered on all cores, or on a Dask cluster (see
docs/scaling.md), in the order of their names, and forgotten at once: thousands take no more memory
than a few. A model brings all that it needs, so that its folder can be taken anywhere.

Reads:  the clips; the model in data/models/NAME, or one FOLDER of any kind; where that holds models
        of several folds, fold_0 and so on, their probabilities are averaged
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
from scipy.special import softmax

from ser import audio, mfcc, params
from ser.classifier import model as classifier
from ser.corpus import EMOTIONS, TITLES
from ser.run import errors, parallel

# Seconds: the models know utterances of some seconds, and attention's memory grows with the square.
LONGEST = 60

# Maps float32 samples in [-1, 1], shape (n,), 16 kHz, and the clip's name for messages to
# probabilities of EMOTIONS, shape (8,), or to a clip's features.
Function = Callable[[np.ndarray, str], np.ndarray]


def warn(folder: Path, corpus: str | None) -> None:
    """Say that a model was trained on the synthetic corpus, if it was."""
    if corpus == "demo":
        print(
            f"predict: {errors.as_line(str(folder))}: trained on the {TITLES[corpus]}: what it "
            "answers says nothing about human speech",
            file=sys.stderr,
        )


def fine_tuned(folders: list[Path]) -> Function:
    """The mean over the fine-tuned models in these folders."""
    import torch  # lazy import: an SVM answers before it is loaded

    from ser.encoder import checkpoint
    from ser.finetune import trained

    checkpoint.quiet()
    torch.set_num_threads(1)  # every core has a clip of its own
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = [trained.load(folder).to(device) for folder in folders]
    warn(folders[0], getattr(models[0].model.config, "corpus", None))

    @torch.inference_mode()
    def probabilities(model: trained.Encoder, samples: np.ndarray, clip: str) -> np.ndarray:
        trim_db = getattr(model.model.config, "trim_db", None)
        if trim_db:
            samples, _ = librosa.effects.trim(samples, top_db=trim_db)
        samples = np.pad(samples, (0, max(0, model.shortest - len(samples))))
        model.check_length(clip, len(samples))
        inputs = torch.from_numpy(model.prepare(samples))[None]
        logits = model(inputs.to(device), torch.tensor([inputs.shape[1]]))[0]
        return softmax(logits.cpu().numpy().astype(float))  # not every device has float64

    return lambda samples, clip: np.mean([probabilities(m, samples, clip) for m in models], axis=0)


def feature_extractor(folder: Path, made_by: dict) -> tuple[list[str], Function]:
    """The features that the classifier in `folder` was trained on.

    Args:
        made_by: settings of the stage that computed them, by its name: mfcc or embed.

    Returns:
        their names; a function that computes them.
    """
    if "embed" in made_by:
        import torch

        from ser.encoder import checkpoint
        from ser.encoder.embeddings import Embedder

        checkpoint.quiet()
        torch.set_num_threads(1)
        embedder = Embedder.like(made_by["embed"], folder / "checkpoint", str(folder))
        return embedder.columns, embedder
    settings = params.Mfcc.model_validate(made_by["mfcc"])
    return mfcc.feature_names(settings), lambda samples, clip: mfcc.describe(samples, settings)


def on_features(folder: Path) -> Function:
    """The classifier in `folder`, with the features that it was trained on."""
    model = classifier.load(folder)
    made_by = model.settings.features
    if made_by.get("speaker_norm"):
        raise errors.UserError(
            f"{folder}: trained with speaker_norm, which needs many clips of each voice; a single "
            "clip has no answer"
        )
    try:
        names, extract = feature_extractor(folder, made_by)
        unknown = set(model.columns) - set(names)
    except (pydantic.ValidationError, KeyError) as error:
        unknown = {" ".join(str(error).partition(" [type=")[0].split())}
    if unknown:
        raise errors.UserError(
            f"{folder / classifier.SETTINGS}: of another version of the project ({min(unknown)})"
        )

    warn(folder, model.settings.corpus)

    def probabilities(samples: np.ndarray, clip: str) -> np.ndarray:
        # float32, as the table that it was trained on
        row = pd.DataFrame([extract(samples, clip)], columns=names, dtype=np.float32)
        return model.probabilities(row).to_numpy()[0]

    return probabilities


def load(name: str) -> Function:
    """Load the model of a name in data/models, or in a folder.

    Raises:
        UserError: there is none.
    """
    stored = Path("data/models", name)
    folder = stored if stored.is_dir() else Path(name)
    if (folder / classifier.SETTINGS).exists():
        return on_features(folder)
    if folders := sorted(folder.glob("fold_*")):
        return fine_tuned(folders)
    if (folder / "config.json").exists():
        return fine_tuned([folder])
    raise errors.UserError(f"{name}: no model there, nor in {stored}, where `dvc repro` puts it")


def decode(clip: str) -> tuple[np.ndarray | errors.UserError, list[str]]:
    """Decode a clip: int16 samples, shape (n,), 16 kHz, or the reason why there are none; and what
    should be known of them."""
    try:
        return audio.decode(clip, limit=LONGEST)
    except errors.UserError as error:
        return error, []


def answer(
    model: Function, clip: str, samples: np.ndarray | errors.UserError
) -> np.ndarray | errors.UserError:
    """A clip's probabilities of EMOTIONS, shape (8,); or the reason why there are none.

    Args:
        model: of `load`.
        clip: name for messages.
        samples: what `decode` has first.
    """
    if isinstance(samples, errors.UserError):
        return samples
    try:
        probabilities = model(samples / np.float32(2**15), clip)
    except errors.UserError as error:
        return error
    if not np.isfinite(probabilities).all():
        return errors.UserError(f"{clip}: the model's answer is not a number")
    return probabilities


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
        help="a name in data/models (default: w2v, the models of all folds, averaged), or a folder",
    )
    parser.add_argument(
        "--json", action="store_true", help="a JSON object per line instead of a table"
    )
    options = parser.parse_args()
    model = load(options.model)

    # Standard input is read here: no other process has it.
    piped = {clip: decode(clip) for clip in {"-"} & {*options.clips}}

    def hear(clip: str) -> tuple[np.ndarray | errors.UserError, list[str]]:
        samples, notes = piped[clip] if clip in piped else decode(clip)
        return answer(model, clip, samples), notes

    answers = parallel.streamed(hear, options.clips, None)

    width = max(len(errors.as_line(clip)) for clip in options.clips)
    if not options.json:
        print("clip".ljust(width), "predicted".ljust(9), *(f"{emotion:>9}" for emotion in EMOTIONS))
    failed = False
    for clip, (probabilities, notes) in zip(options.clips, answers, strict=True):
        for note in notes:
            print(f"predict: {errors.as_line(clip)}: {note}", file=sys.stderr, flush=True)
        if isinstance(probabilities, errors.UserError):
            failed = True
            print(f"predict: {probabilities}", file=sys.stderr, flush=True)
            continue
        predicted = EMOTIONS[probabilities.argmax()]
        if options.json:
            by_emotion = dict(zip(EMOTIONS, probabilities.tolist(), strict=True))
            print(json.dumps({"clip": clip, "predicted": predicted, "probabilities": by_emotion}))
        else:
            columns = [f"{probability:9.3f}" for probability in probabilities]
            print(errors.as_line(clip).ljust(width), predicted.ljust(9), *columns)
        sys.stdout.flush()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
