"""Fine-tune wav2vec 2.0 on the actors outside one fold, then predict the clips of the actors in it.

    python -m stages.w2v_finetune FOLD

The held-out clips are looked at once, after the last step: nothing here can choose by them. Stopped
or killed, the same command goes on from the state last saved, and ends with the same weights.

Reads:  data/features/clips.arrow, data/folds.csv, data/checkpoint, the top-level params
Writes: data/w2v/fold_K/
        predictions.csv: clip, actor, fold, actual, predicted, a probability per emotion; a row per
        held-out clip, sorted by clip curve.csv: step, epoch, loss, accuracy, lr, grad_norm,
        batch_size; a row per optimizer step epochs.csv: epoch; loss, accuracy, uar of the training
        clips, each as it was when its turn came; with `select: inner` also
            inner_loss, inner_accuracy, inner_uar of the inner fold; a row per epoch
        model/: what transformers.pipeline("audio-classification", ...) loads, with a model card
        protocol.txt: a line that says what was trained, for the metrics
        runs/, outside of data: TensorBoard's event files, for watching only
"""

import argparse
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from ser import params
from ser.corpus import EMOTIONS
from ser.encoder import card, checkpoint, finetuning
from ser.encoder.clips import Clips
from ser.encoder.finetuning import CHECKPOINT, FEATURES, FOLDS
from ser.encoder.training import Training
from ser.run import code, errors, launch, outputs, state


def run(training: Training, store: state.Store, fold: int, settings: params.Params) -> None:
    """Take all steps that are left, with a progress bar; save the state now and then, and before
    Ctrl-C or SIGTERM ends it."""
    accelerator = training.accelerator
    (saved,) = broadcast_object_list([store.load() if accelerator.is_main_process else None])
    if saved:
        training.restore(saved)
        accelerator.print(
            f"fold {fold}: goes on after step {training.done} of {len(training.steps)}"
        )
    signals = []
    before = {
        number: signal.signal(number, lambda number, _: signals.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }

    start = training.seen_clips
    bar = tqdm(total=training.ends[-1], initial=start, desc=f"fold {fold}", unit="clip", mininterval=1,
               disable=not accelerator.is_main_process)  # fmt: skip
    began, forecast_due = time.monotonic(), True
    while training.done < len(training.steps):
        row = training.advance()
        if not np.isfinite(row["loss"]):
            raise errors.UserError(
                f"the loss of step {row['step']} is {row['loss']}: lower lr, or set precision=fp32 or max_grad_norm=1"
            )
        bar.update(row["batch_size"])
        bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
        accelerator.log(
            {name: value for name, value in row.items() if name != "step"}, step=row["step"]
        )
        if forecast_due and time.monotonic() - began > 20:
            forecast_due = False
            left = (time.monotonic() - began) * training.ends[-1] / (training.seen_clips - start)
            bar.write(finetuning.forecast(left, settings, accelerator), file=sys.stderr)
        # One process told to stop stops all.
        stopped = accelerator.reduce(
            torch.tensor(len(signals), device=accelerator.device), "sum"
        ).item()
        if accelerator.is_main_process and (stopped or store.due()):
            store.save(training.state())
        if stopped:
            bar.close()
            accelerator.print(
                f"w2v_finetune: stopped after step {training.done} of {len(training.steps)}; the same command goes on from there"
            )
            sys.exit(130)
    bar.close()
    for number, handler in before.items():
        signal.signal(number, handler)


@errors.one_line
def main() -> None:
    """Train on the other folds, predict this one, write tables and model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fold", type=int)
    fold = parser.parse_args().fold
    settings = params.load()
    launch.processes(
        "stages.w2v_finetune", str(fold), most=-(-settings.batch_size // settings.micro_batch)
    )
    checkpoint.quiet()

    table = pd.read_csv(FOLDS)
    known = sorted(set(table["fold"]))
    if fold not in known:
        raise errors.UserError(f"fold {fold}: not in {FOLDS}; expected one of {known}")
    encoder = finetuning.for_training(CHECKPOINT, settings)
    clips = Clips(FEATURES)
    table = table.set_index("clip").loc[clips.names].reset_index()
    labels = table["emotion"].map(EMOTIONS.index).to_numpy()
    held_out = (table["fold"] == fold).to_numpy()
    inner = (table["fold"] == finetuning.inner_fold(fold, known)).to_numpy() & (
        settings.select == "inner"
    )

    name = os.environ.get("DVC_EXP_NAME", "workspace")
    accelerator = Accelerator(
        mixed_precision=finetuning.mixed_precision(settings.precision),
        log_with="tensorboard",
        project_dir=state.project() / "runs" / name,
    )
    accelerator.init_trackers(f"fold_{fold}")
    training = Training(
        encoder,
        clips,
        labels,
        np.flatnonzero(~held_out & ~inner),
        np.flatnonzero(inner),
        settings,
        fold,
        accelerator,
    )
    inputs = [FEATURES, FOLDS, *sorted(CHECKPOINT.iterdir()), *code.behind(Path(__file__))]
    store = state.Store(
        state.fingerprint(inputs, settings.model_dump(), fold, accelerator.device.type)
    )
    run(training, store, fold, settings)
    curve, epochs = training.finish()
    probabilities = training.probabilities(np.flatnonzero(held_out))
    accelerator.end_training()
    if not accelerator.is_main_process:
        return

    predictions = table.loc[held_out, ["clip", "actor", "fold"]].assign(
        actual=table.loc[held_out, "emotion"],
        predicted=np.array(EMOTIONS)[probabilities.argmax(axis=1)],
    )
    predictions[list(EMOTIONS)] = probabilities
    with outputs.whole(f"data/models/w2v/fold_{fold}") as folder:
        training.classifier.save(folder)
        shutil.copy(CHECKPOINT / "preprocessor_config.json", folder)
        actors = sorted(set(table.loc[training.numbers, "actor"]))
        (folder / "README.md").write_text(
            card.write(predictions, actors, finetuning.protocol(settings), settings)
        )
    with outputs.whole(f"data/w2v/fold_{fold}") as folder:
        folder.mkdir()
        predictions.to_csv(folder / "predictions.csv", index=False)
        curve.to_csv(folder / "curve.csv", index=False)
        epochs.to_csv(folder / "epochs.csv", index=False)
        (folder / "protocol.txt").write_text(finetuning.protocol(settings) + "\n")
    store.remove()
    last = epochs.iloc[-1]
    print(
        f"fold {fold}: {len(curve)} steps; last epoch on training clips: loss {last['loss']:.3f}, {last['accuracy']:.1%} right"
    )


if __name__ == "__main__":
    main()
