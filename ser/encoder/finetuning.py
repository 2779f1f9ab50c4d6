"""A fine-tuning assembled from checkpoint, stored clips and params, for the stage and for the
search alike."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn

from ser import params
from ser.corpus import EMOTIONS
from ser.encoder import checkpoint, training
from ser.encoder.clips import Clips
from ser.encoder.families.encoder import Encoder
from ser.encoder.layers import Dropout

CHECKPOINT, FEATURES, FOLDS = (
    Path("data/checkpoint"),
    Path("data/features/clips.arrow"),
    Path("data/folds.csv"),
)


def for_training(folder: Path, settings: params.Params) -> Encoder:
    """The encoder, regularised and frozen as the params say."""
    config, _ = checkpoint.read_config(folder, settings.checkpoint)
    changes, notes = checkpoint.family(config).regularisation(settings)
    for note in notes:
        print(f"w2v_finetune: {note}", file=sys.stderr)
    encoder = checkpoint.load(
        folder,
        settings.checkpoint,
        settings.seed,
        settings.freeze_cnn,
        trim_db=settings.trim_db,  # `commands.predict` reads it from the saved model
        use_weighted_layer_sum=settings.weighted_layer_sum,
        **changes,
    )
    for module in encoder.modules():
        if type(module) is nn.Dropout:
            module.__class__ = Dropout
    encoder.freeze(settings.frozen_layers)
    return encoder


def mixed_precision(wanted: str) -> str:
    """What Accelerate calls the precision `wanted` (auto, fp32, bf16) on this machine: `no` or
    `bf16`."""
    if wanted == "auto":
        gpu = torch.cuda.is_available()
        native = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if gpu
            else torch.cpu.get_capabilities().get("avx512_bf16")
        )
        wanted = "bf16" if native else "fp32"
    return {"fp32": "no", "bf16": "bf16"}[wanted]


def inner_fold(fold: int, folds: list[int]) -> int:
    """The fold of training actors that `select: inner` chooses the epoch on: the next one, after
    the last the first."""
    return folds[(folds.index(fold) + 1) % len(folds)]


def forecast(seconds: float, settings: params.Params, accelerator: Accelerator) -> str:
    """What the whole stage will take here, and how to make it shorter when that is hours."""
    every = seconds * len(settings.folds)
    text = f"about {seconds / 60:.0f} min for this fold, {every / 3600:.1f} h for all {len(settings.folds)}, on this machine"
    if every > 2 * 3600:
        ways = ["fewer folds (-S folds=[0])", "fewer epochs"]
        ways += ["frozen layers (-S frozen_layers=6)"] if not settings.frozen_layers else []
        ways += (
            ["a CUDA GPU"]
            if accelerator.device.type == "cpu"
            else ["more of them (`accelerate config`)"]
        )
        text += f"; shorter: {', '.join(ways)}"
    return text


def protocol(settings: params.Params) -> str:
    """What was trained, in one line for the metrics."""
    start = "pretrained" if checkpoint.weights(CHECKPOINT) else "from scratch, no pretraining"
    chosen = (
        "best epoch on an inner fold of training actors"
        if settings.select == "inner"
        else "last epoch"
    )
    trimmed = f", silence trimmed at {settings.trim_db:g} dB" if settings.trim_db else ""
    return f"{settings.checkpoint} ({start}){trimmed}, {settings.epochs} epochs, {settings.schedule}, lr {settings.lr:g}, {chosen}"


def inputs(clips: Iterable[str]) -> Iterator[bytes]:
    """What a training on these clips starts from: the checkpoint and the clips' features, as
    bytes."""
    for file in sorted(CHECKPOINT.iterdir()):
        yield file.read_bytes()
    store = Clips(FEATURES)
    for number in np.flatnonzero(np.isin(store.names, list(clips))):
        yield store.table[int(number)]["values"].tobytes()


def prepare(
    settings: params.Params, fold: int, inner: bool
) -> tuple[training.Training, pd.DataFrame]:
    """A training on the actors outside the fold, with or without one more fold held out; and the
    clips by number."""
    checkpoint.quiet()
    classifier = for_training(CHECKPOINT, settings)
    store = Clips(FEATURES)
    table = pd.read_csv(FOLDS).set_index("clip").loc[store.names].reset_index()
    known = sorted(set(table["fold"]))
    apart = (table["fold"] == inner_fold(fold, known)).to_numpy() & inner
    numbers = np.flatnonzero((table["fold"] != fold).to_numpy() & ~apart)
    labels = table["emotion"].map(EMOTIONS.index).to_numpy()
    accelerator = Accelerator(mixed_precision=mixed_precision(settings.precision))
    return training.Training(
        classifier, store, labels, numbers, np.flatnonzero(apart), settings, fold, accelerator
    ), table


def inner_scores(settings: params.Params, fold: int) -> Iterator[float]:
    """After every epoch, the UAR on the inner fold of training actors: of that epoch, or the best
    so far if `select` is inner."""
    way, _ = prepare(settings, fold, inner=True)
    epochs = 0
    while way.done < len(way.steps):
        way.advance()
        if len(way.inner_scores) > epochs:
            epochs = len(way.inner_scores)
            curve = [row["inner_uar"] for row in way.inner_scores]
            yield max(curve) if settings.select == "inner" else curve[-1]


def predict(settings: params.Params, fold: int) -> pd.Series:
    """Train outside the fold as the stage does, predict in it: emotions by clip."""
    way, table = prepare(settings, fold, inner=settings.select == "inner")
    while way.done < len(way.steps):
        way.advance()
    way.finish()
    numbers = np.flatnonzero(table["fold"] == fold)
    return pd.Series(
        np.array(EMOTIONS)[way.probabilities(numbers).argmax(axis=1)],
        index=table.loc[numbers, "clip"],
    )
