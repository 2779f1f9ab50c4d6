"""Inner scores and outer predictions of wav2vec 2.0: trainings as w2v_finetune runs them, but in this process."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
from accelerate import Accelerator

from stages import params, training, w2v_finetune, wav2vec
from stages.corpus import EMOTIONS


def inputs(clips: Iterable[str]) -> Iterator[bytes]:
    """What a training on these clips starts from: the checkpoint and the clips' features, as bytes."""
    for file in sorted(w2v_finetune.CHECKPOINT.iterdir()):
        yield file.read_bytes()
    store = wav2vec.Clips(w2v_finetune.FEATURES, None)
    for number in np.flatnonzero(np.isin(store.names, list(clips))):
        yield store.table[int(number)]["values"].tobytes()


def prepare(settings: params.Params, fold: int, inner: bool) -> tuple[training.Training, pd.DataFrame]:
    """A training on the actors outside the fold, with or without one more fold held out; and the clips by number."""
    wav2vec.quiet()
    model = wav2vec.for_training(w2v_finetune.CHECKPOINT, settings)
    store = wav2vec.Clips(w2v_finetune.FEATURES, model.config.conv_dim[-1] if settings.freeze_cnn else None)
    table = pd.read_csv(w2v_finetune.FOLDS).set_index("clip").loc[store.names].reset_index()
    known = sorted(set(table["fold"]))
    apart = (table["fold"] == w2v_finetune.inner_fold(fold, known)).to_numpy() & inner
    numbers = np.flatnonzero((table["fold"] != fold).to_numpy() & ~apart)
    labels = table["emotion"].map(EMOTIONS.index).to_numpy()
    accelerator = Accelerator(mixed_precision=wav2vec.mixed_precision(settings.precision))
    classifier = wav2vec.Classifier(model)
    return training.Training(classifier, store, labels, numbers, np.flatnonzero(apart), settings, fold, accelerator), table


def inner_scores(settings: params.Params, fold: int) -> Iterator[float]:
    """After every epoch, the UAR on the inner fold of training actors: of that epoch, or the best so far if `select` is inner."""
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
    return pd.Series(np.array(EMOTIONS)[way.probabilities(numbers).argmax(axis=1)], index=table.loc[numbers, "clip"])
