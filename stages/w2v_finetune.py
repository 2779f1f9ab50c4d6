"""Fine-tune wav2vec 2.0 on the speakers outside one fold, then predict the clips in it.

    python -m stages.w2v_finetune FOLD

The held-out clips are looked at once, after the last step: nothing here can choose by them. Stopped
or killed, the same command goes on from the state last saved, and ends with the same weights.

Reads:  data/features/clips.arrow, data/folds.csv, data/checkpoint, the top-level params
Writes: data/w2v/fold_K/
            predictions.csv: clip, speaker, fold, actual, predicted, a probability per label;
                a row per held-out clip, sorted by clip
            curve.csv: step, epoch, loss, accuracy, lr (`lr` by the schedule), grad_norm,
                batch_size; a row per optimizer step
            epochs.csv: epoch; loss, accuracy, uar of the training clips, each as it was when its
                turn came; with `select: inner` also inner_loss, inner_accuracy, inner_uar of the
                inner fold; a row per epoch
            protocol.txt: a line that says what was trained
            run.json: device, precision, processes, threads, versions
        data/models/w2v/fold_K/: what transformers.pipeline("audio-classification", ...) loads, with
            a model card
        runs/, outside of data: TensorBoard's event files, for watching only
"""

import argparse
import os
import sys

from ser import params
from ser.encoder import checkpoint
from ser.finetune import card, device, train
from ser.run import errors, outputs, processes, project, resources


def protocol(settings: params.Params) -> str:
    """A line on the training, to stand beside the figures."""
    pretrained = checkpoint.weights(train.CHECKPOINT) is not None
    start = "pretrained" if pretrained else "from scratch, no pretraining"
    trimmed = f", silence trimmed at {settings.trim_db:g} dB" if settings.trim_db else ""
    head = ", head over all layers" if settings.head == "layers" else ""
    if head and settings.head_probe is not None:
        head += " from a probe"
    chosen = "last epoch"
    if settings.select == "inner":
        chosen = "best epoch on an inner fold of training speakers"
    return (
        f"{settings.checkpoint} ({start}){trimmed}, {settings.epochs} epochs, "
        f"{settings.schedule}, lr {settings.lr:g}{head}, {chosen}"
    )


def forecast(seconds: float, folds: int, settings: params.Params, on_cpu: bool) -> str:
    """The time for one fold and for all, in one line, and how to make it shorter when that is
    hours."""
    every = seconds * folds
    text = (
        f"about {seconds / 60:.0f} min for this fold, {every / 3600:.1f} h for all {folds}, "
        "on this machine"
    )
    if every > 2 * 3600:
        shorter = ["fewer folds (-S folds=[0])", "fewer epochs"]
        shorter += ["frozen layers (-S frozen_layers=6)"] if not settings.frozen_layers else []
        shorter += ["a CUDA GPU"] if on_cpu else ["more of them (`accelerate config`)"]
        text += f"; shorter: {', '.join(shorter)}"
    return text


@errors.one_line
def main() -> None:
    """Train on the other folds, predict this one, write tables and model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fold", type=int)
    fold = parser.parse_args().fold
    settings = params.load()
    code = processes.launch("stages.w2v_finetune", str(fold), most=settings.batch_size)
    if code is not None:
        sys.exit(code)

    accelerator = device.make_accelerator(settings.precision)
    device.announce(accelerator, "w2v_finetune")
    saved = train.state_file(settings, fold, accelerator)
    training = train.prepare(settings, fold, accelerator, settings.select == "inner", saved)
    resumed = training.done > 0
    folds, on_cpu = training.table["fold"].nunique(), accelerator.device.type == "cpu"
    log = project.folder() / "runs" / os.environ.get("DVC_EXP_NAME", "workspace") / f"fold_{fold}"
    train.run(training, saved, log, lambda seconds: forecast(seconds, folds, settings, on_cpu))
    curve, epochs = training.finish()
    predictions = training.predictions()
    accelerator.end_training()  # the processes need each other no more
    if not accelerator.is_main_process:
        return

    speakers = sorted(set(training.table.loc[training.numbers, "speaker"]))
    with outputs.whole(f"data/models/w2v/fold_{fold}") as folder:
        training.encoder.save(folder)
        text = card.write(
            predictions,
            speakers,
            protocol(settings),
            settings.corpus,
            settings.trim_db,
            training.encoder.not_pipeline,
        )
        (folder / "README.md").write_text(text, encoding="utf-8")
    with outputs.whole(f"data/w2v/fold_{fold}") as folder:
        folder.mkdir()
        predictions.to_csv(folder / "predictions.csv", index=False)
        curve.to_csv(folder / "curve.csv", index=False)
        epochs.to_csv(folder / "epochs.csv", index=False)
        (folder / "protocol.txt").write_text(protocol(settings) + "\n", encoding="utf-8")
        outputs.write_json(folder / "run.json", device.describe(accelerator))
    saved.unlink(missing_ok=True)
    if not resumed:
        resources.note(f"data/w2v/fold_{fold}/predictions.csv")
    last = epochs.iloc[-1]
    print(
        f"fold {fold}: {len(curve)} steps; last epoch on training clips: "
        f"loss {last['loss']:.3f}, {last['accuracy']:.1%} right"
    )


if __name__ == "__main__":
    main()
