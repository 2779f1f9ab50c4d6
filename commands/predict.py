"""Say which emotion is heard in any audio or video file that FFmpeg reads.

    python -m commands.predict CLIP... [--model w2v|probe|svm|FOLDER] [--json]

CLIP is a path, or `-` for standard input. A file that has no answer is named on stderr and the rest
goes on; the exit code is then 1. Files are answered on all cores, or on a Dask cluster (see
docs/scaling.md), in the order of their names, and forgotten at once: thousands take no more memory
than a few. A model brings all that it needs, so that its folder can be taken anywhere.

Reads:  the clips; the models in data/models/w2v, whose probabilities are averaged; or that in
        data/models/probe or data/models/svm; or one FOLDER of any kind
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

from ser import audio, params
from ser import mfcc as features
from ser.classifier import model as classifier
from ser.corpus import EMOTIONS
from ser.run import errors, parallel

# Seconds: the models know utterances of some seconds, and attention's memory grows with the square.
LONGEST = 60

# Where models come from, by their names.
STAGES = {"w2v": "w2v_finetune", "probe": "probe_train", "svm": "svm_train"}

# Of float32 samples in [-1, 1], shape (n,), 16 kHz, and the clip's name for messages, to
# probabilities of EMOTIONS, shape (8,), or to numbers that describe the clip
Answer = Callable[[np.ndarray, str], np.ndarray]


def fine_tuned(folders: list[Path]) -> Answer:
    """The mean over fine-tuned models, in the order of their folders."""
    import torch  # here, since an SVM answers before it is loaded

    from ser.encoder import checkpoint
    from ser.finetune import trained

    checkpoint.quiet()
    torch.set_num_threads(1)  # every core has a clip of its own
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = [trained.load(folder).to(device) for folder in folders]

    @torch.inference_mode()
    def share(model: trained.Encoder, samples: np.ndarray, clip: str) -> np.ndarray:
        trim_db = getattr(model.model.config, "trim_db", None)
        if trim_db:
            samples, _ = librosa.effects.trim(samples, top_db=trim_db)
        samples = np.pad(samples, (0, max(0, model.shortest - len(samples))))
        model.check_length(clip, len(samples))
        inputs = torch.from_numpy(model.prepare(samples))[None]
        logits = model(inputs.to(device), torch.tensor([inputs.shape[1]]))[0]
        return softmax(logits.cpu().numpy().astype(float))  # not every device has float64

    return lambda samples, clip: np.mean([share(each, samples, clip) for each in models], axis=0)


def describer(folder: Path, made_by: dict) -> tuple[list[str], Answer]:
    """What describes a clip as those were that the classifier in `folder` was trained on.

    Args:
        made_by: the settings of the stage that described them, by its name: mfcc or embed.

    Returns:
        names of the numbers; a function from samples to them.
    """
    if "embed" in made_by:
        import torch

        from ser.encoder import checkpoint
        from ser.encoder.embeddings import Embedder

        checkpoint.quiet()
        torch.set_num_threads(1)
        embedder = Embedder.like(made_by["embed"], folder / "checkpoint", str(folder))
        return embedder.columns, embedder
    settings = params.Mfcc.model_validate(made_by.get("mfcc"))
    return features.names(settings), lambda samples, clip: features.describe(samples, settings)


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
        names, describe = describer(folder, made_by)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, ("features.mfcc", *problem["loc"])))
        raise errors.UserError(
            f"{folder / classifier.SETTINGS}: not of this version of the project ({where}: "
            f"{problem['msg']})"
        ) from None
    except (KeyError, TypeError):
        raise errors.UserError(
            f"{folder / classifier.SETTINGS}: not of this version of the project (features.embed)"
        ) from None
    if strange := set(model.columns) - set(names):
        raise errors.UserError(f"{folder}: needs the unknown feature {min(strange)}")

    def answer(samples: np.ndarray, clip: str) -> np.ndarray:
        # As numbers of the table that it was trained on.
        row = pd.DataFrame([describe(samples, clip)], columns=names, dtype=np.float32)
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


def heard(clip: str) -> np.ndarray | errors.UserError:
    """A clip's samples: int16, shape (n,), 16 kHz; or why there are none."""
    try:
        return audio.decode(clip, limit=LONGEST)
    except errors.UserError as error:
        return error


def attempt(
    answer: Answer, clip: str, samples: np.ndarray | errors.UserError
) -> np.ndarray | errors.UserError:
    """A clip's probabilities of EMOTIONS, shape (8,); or why there are none.

    Args:
        answer: of the model.
        clip: name for messages.
        samples: what `heard` returned.
    """
    if isinstance(samples, errors.UserError):
        return samples
    try:
        probabilities = answer(samples / np.float32(2**15), clip)
    except errors.UserError as error:
        return error
    if not np.isfinite(probabilities).all():
        return errors.UserError(f"{clip}: the model answers with what is not a number")
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
        help="w2v: fine-tuned models of all folds, averaged (default); probe; svm; or a folder",
    )
    parser.add_argument(
        "--json", action="store_true", help="a JSON object per line instead of a table"
    )
    options = parser.parse_args()
    answer = load(options.model)

    # What is piped in comes to this process alone.
    piped = {clip: heard(clip) for clip in {"-"} & {*options.clips}}
    answers = parallel.streamed(
        lambda clip: attempt(answer, clip, piped[clip] if clip in piped else heard(clip)),
        options.clips,
        None,
    )

    width = max(len(clip) for clip in options.clips)
    if not options.json:
        print("clip".ljust(width), "predicted".ljust(9), *(f"{emotion:>9}" for emotion in EMOTIONS))
    failed = False
    for clip, probabilities in zip(options.clips, answers, strict=True):
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
            print(clip.ljust(width), predicted.ljust(9), *columns)
        sys.stdout.flush()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
