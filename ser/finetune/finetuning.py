"""A fine-tuning assembled from checkpoint, stored clips and params, for the stage and for the
search alike."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from ser import params, tables
from ser.corpus import EMOTIONS
from ser.encoder import checkpoint
from ser.encoder.families.encoder import Encoder
from ser.finetune import device, draws, state
from ser.finetune.clips import Clips
from ser.finetune.head import LayersHead
from ser.finetune.training import Training
from ser.run import code
from ser.run.errors import UserError

CHECKPOINT = Path("data/checkpoint")
FEATURES = Path("data/features/clips.arrow")
FOLDS = tables.FOLDS


def for_training(folder: Path, settings: params.Params) -> Encoder:
    """The encoder under a head, regularised and frozen as the params say."""
    config, _ = checkpoint.read_config(folder, settings.checkpoint)
    changes, notes = checkpoint.family(config).regularisation(settings)
    for note in notes:
        print(f"w2v_finetune: {note}", file=sys.stderr)
    encoder = checkpoint.load(
        folder,
        settings.checkpoint,
        settings.seed,
        settings.freeze_cnn,
        headless=True,
        trim_db=settings.trim_db,  # `commands.predict` reads it from the saved model
        use_weighted_layer_sum=settings.weighted_layer_sum,
        **changes,
    )
    if settings.head == "layers":
        for parameter in encoder.parameters_of_head():
            parameter.requires_grad_(False)
        encoder.head = LayersHead(len(encoder.layers), encoder.width, settings.head_dropout)
    encoder.head_dropout.p = settings.head_dropout
    encoder.draws = draws.replace_dropout(encoder)
    encoder.freeze(settings.frozen_layers)
    return encoder


def inner_fold(fold: int, folds: list[int]) -> int:
    """The fold of training actors that `select: inner` chooses the epoch on: the next one, after
    the last the first."""
    return folds[(folds.index(fold) + 1) % len(folds)]


def prepare(settings: params.Params, fold: int, inner: bool) -> tuple[Training, pd.DataFrame]:
    """A training on the actors outside the fold that has not begun, and the clips by number.

    Args:
        inner: whether one more fold of actors is held out, whose UAR is known after every epoch.

    Returns:
        the training; data/folds.csv in the order of the stored clips.

    Raises:
        UserError: no such fold; a checkpoint or params that do not fit; folds of other clips than
            the stored ones.
    """
    checkpoint.quiet()
    table = tables.folds(FOLDS)
    folds = sorted(set(table["fold"]))
    if fold not in folds:
        raise UserError(f"fold {fold}: not in {FOLDS}; expected one of {folds}")
    encoder = for_training(CHECKPOINT, settings)
    clips = Clips(FEATURES)
    if lonely := set(table["clip"]) ^ set(clips.names):
        raise UserError(
            f"{min(lonely)}: not in both {FOLDS} and {FEATURES}; `dvc repro` makes them agree"
        )
    table = table.set_index("clip").loc[clips.names].reset_index()
    apart = (table["fold"] == inner_fold(fold, folds)).to_numpy() & inner
    training = Training(
        encoder,
        clips,
        table["emotion"].map(EMOTIONS.index).to_numpy(),
        np.flatnonzero((table["fold"] != fold).to_numpy() & ~apart),
        np.flatnonzero(apart),
        settings,
        fold,
        device.accelerator(settings.precision),
    )
    return training, table


def most_processes(settings: params.Params) -> int:
    """How many processes a training keeps busy: they share the clips of a step."""
    return settings.batch_size


def saved_state(settings: params.Params, training: Training) -> state.Store:
    """Where the state of a stopped training is kept: by what makes its numbers, and nothing
    else."""
    # What the names stand for, the files say.
    by_files = {"checkpoint", "revision", "speeds"}
    names = params.Finetuning.model_fields.keys() - by_files - {"precision"}
    values = {
        **{name: getattr(settings, name) for name in names},
        "fold": training.fold,
        "device": training.accelerator.device.type,
        "precision": training.accelerator.mixed_precision,
        "versions": device.versions(),
    }
    files = [FEATURES, FOLDS, *sorted(CHECKPOINT.iterdir()), *code.behind(Path(__file__))]
    return state.Store(state.fingerprint(files, values))


def predictions(training: Training, table: pd.DataFrame, fold: int) -> pd.DataFrame:
    """The rows of predictions.csv for the clips of the fold, with the weights as they are."""
    held_out = (table["fold"] == fold).to_numpy()
    probabilities = training.probabilities(np.flatnonzero(held_out))
    rows = table.loc[held_out, ["clip", "actor", "fold"]].assign(
        actual=table.loc[held_out, "emotion"],
        predicted=np.array(EMOTIONS)[probabilities.argmax(axis=1)],
    )
    rows[list(EMOTIONS)] = probabilities
    return rows


def forecast(seconds: float, folds: int, settings: params.Params, training: Training) -> str:
    """What the stage will take here for one fold and for all, and how to make it shorter when
    that is hours."""
    every = seconds * folds
    text = (
        f"about {seconds / 60:.0f} min for this fold, {every / 3600:.1f} h for all {folds}, "
        "on this machine"
    )
    if every > 2 * 3600:
        shorter = ["fewer folds (-S folds=[0])", "fewer epochs"]
        shorter += ["frozen layers (-S frozen_layers=6)"] if not settings.frozen_layers else []
        cpu = training.accelerator.device.type == "cpu"
        shorter += ["a CUDA GPU"] if cpu else ["more of them (`accelerate config`)"]
        text += f"; shorter: {', '.join(shorter)}"
    return text


def protocol(settings: params.Params) -> str:
    """What was trained, in one line for the metrics."""
    start = "pretrained" if checkpoint.weights(CHECKPOINT) else "from scratch, no pretraining"
    chosen = "last epoch"
    if settings.select == "inner":
        chosen = "best epoch on an inner fold of training actors"
    heads = {
        "mean": "",
        "layers": ", head over all layers"
        + ("" if settings.head_probe is None else " from a probe"),
    }
    trimmed = f", silence trimmed at {settings.trim_db:g} dB" if settings.trim_db else ""
    return (
        f"{settings.checkpoint} ({start}){trimmed}, {settings.epochs} epochs, "
        f"{settings.schedule}, lr {settings.lr:g}{heads[settings.head]}, {chosen}"
    )


def inputs(clips: Iterable[str]) -> Iterator[bytes]:
    """What a training on these clips starts from: the checkpoint and the clips' features, as
    bytes."""
    for file in sorted(CHECKPOINT.iterdir()):
        yield file.read_bytes()
    store = Clips(FEATURES)
    for number in np.flatnonzero(np.isin(store.names, list(clips))):
        for row in range(number * len(store.speeds), (number + 1) * len(store.speeds)):
            yield store.rows[row].tobytes()


def inner_scores(settings: params.Params, fold: int) -> Iterator[float]:
    """After every epoch, the UAR on the inner fold of training actors: of that epoch, or the best
    so far if `select` is inner."""
    training, _ = prepare(settings, fold, inner=True)
    epochs = 0
    while training.done < len(training.steps):
        training.advance()
        for _ in training.inner_scores[epochs:]:
            epochs += 1
            curve = [row["inner_uar"] for row in training.inner_scores[:epochs]]
            yield max(curve) if settings.select == "inner" else curve[-1]


def predict(settings: params.Params, fold: int) -> pd.Series:
    """Train outside the fold as the stage does, predict in it: emotions by clip."""
    training, table = prepare(settings, fold, inner=settings.select == "inner")
    while training.done < len(training.steps):
        training.advance()
    training.finish()
    return predictions(training, table, fold).set_index("clip")["predicted"]
