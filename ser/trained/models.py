"""Trained models of any kind, each of which answers for one recording at a time.

A model brings all that it needs: labels, feature settings, trimming, the encoder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import pydantic
from scipy.special import softmax

from ser import mfcc, params
from ser.classifier import model as classifier
from ser.run import errors

# Maps float32 samples in [-1, 1], shape (n,), 16 kHz, and the clip's name for messages to
# probabilities of the labels, shape (labels,), or to a clip's features.
Function = Callable[[np.ndarray, str], np.ndarray]


@dataclass(frozen=True)
class Trained:
    """A model that answers.

    Attributes:
        folder: that it lies in.
        labels: that it tells apart, in the order of its probabilities.
        corpus: that it was trained on, as in params.yaml; None: it does not say.
        probabilities: of a recording; or its features, of a model that has `together`.
        together: of a model that was trained on clips normalised by speaker, see
            `classifier.normalised`: probabilities, shape (clips, labels), from the features of all
            clips, shape (clips, features), and their speakers.
    """

    folder: Path
    labels: list[str]
    corpus: str | None
    probabilities: Function
    together: Callable[[np.ndarray, pd.Series], np.ndarray] | None = None


def fine_tuned(folders: list[Path]) -> Trained:
    """The mean over the fine-tuned models in these folders."""
    import torch  # lazy import: an SVM answers before it is loaded

    from ser.encoder import checkpoint
    from ser.finetune import trained

    checkpoint.quiet()
    torch.set_num_threads(1)  # every core has a clip of its own
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = [trained.load(folder).to(device) for folder in folders]
    config = models[0].model.config
    labels = checkpoint.labels_of(config)
    if any(checkpoint.labels_of(model.model.config) != labels for model in models):
        raise errors.UserError(f"{folders[0].parent}: its models tell apart different labels")

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

    def average(samples: np.ndarray, clip: str) -> np.ndarray:
        return np.mean([probabilities(model, samples, clip) for model in models], axis=0)

    return Trained(folders[0], labels, getattr(config, "corpus", None), average)


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


def on_features(folder: Path) -> Trained:
    """The classifier in `folder`, with the features that it was trained on."""
    model = classifier.load(folder)
    made_by = model.settings.features
    transductive = made_by.get("speaker_norm", False)
    try:
        names, extract = feature_extractor(folder, made_by)
        unknown = set(model.columns) - set(names)
    except (pydantic.ValidationError, KeyError) as error:
        unknown = {" ".join(str(error).partition(" [type=")[0].split())}
    if unknown:
        raise errors.UserError(
            f"{folder / classifier.SETTINGS}: of another version of the project ({min(unknown)})"
        )

    def probabilities(samples: np.ndarray, clip: str) -> np.ndarray:
        # float32, as the table that it was trained on
        row = pd.DataFrame([extract(samples, clip)], columns=names, dtype=np.float32)
        return model.probabilities(row).to_numpy()[0]

    def together(features: np.ndarray, speakers: pd.Series) -> np.ndarray:
        table = pd.DataFrame(features, speakers.index, names, np.float32).astype(np.float64)
        return model.probabilities(classifier.normalised(table, speakers)).to_numpy()

    known = folder, model.settings.labels, model.settings.corpus
    return Trained(*known, extract, together) if transductive else Trained(*known, probabilities)


def load(name: str, by_speaker: bool = False) -> Trained:
    """Load the model of a name in data/models, or in a folder.

    Args:
        by_speaker: whether all clips of a speaker are at hand; otherwise a model that has
            `together` is refused.

    Raises:
        UserError: there is none.
    """
    stored = Path("data/models", name)
    folder = stored if stored.is_dir() else Path(name)
    if (folder / classifier.SETTINGS).exists():
        model = on_features(folder)
        if model.together and not by_speaker:
            raise errors.UserError(
                f"{folder}: trained with speaker_norm, which needs many clips of each voice; a "
                "single clip has no answer, a folder with speakers has by commands.score"
            )
        return model
    if folders := sorted(folder.glob("fold_*")):
        return fine_tuned(folders)
    if (folder / "config.json").exists():
        return fine_tuned([folder])
    raise errors.UserError(f"{name}: no model there, nor in {stored}, where `dvc repro` puts it")
