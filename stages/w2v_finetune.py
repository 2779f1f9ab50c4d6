"""Fine-tune wav2vec 2.0 on the actors outside one fold, then predict the clips of the actors in it.

    python -m stages.w2v_finetune FOLD

The held-out clips are looked at once, after the last step: nothing here can choose by them. Stopped
or killed, the same command goes on from the state last saved, and ends with the same weights.

Reads:  data/features/clips.arrow, data/folds.csv, data/checkpoint, the top-level params
Writes: data/w2v/fold_K/
            predictions.csv: clip, actor, fold, actual, predicted, a probability per emotion;
                a row per held-out clip, sorted by clip
            curve.csv: step, epoch, loss, accuracy, lr (what the schedule makes of `lr`), grad_norm,
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
from functools import partial

from ser import params
from ser.finetune import card, device, finetuning, loop
from ser.run import errors, outputs, processes, project, resources


@errors.one_line
def main() -> None:
    """Train on the other folds, predict this one, write tables and model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fold", type=int)
    fold = parser.parse_args().fold
    settings = params.load()
    most = finetuning.most_processes(settings)
    code = processes.launch("stages.w2v_finetune", str(fold), most=most)
    if code is not None:
        sys.exit(code)

    training, table = finetuning.prepare(settings, fold, inner=settings.select == "inner")
    saved = finetuning.saved_state(settings, training)
    resumed = saved.path.exists()
    experiment = os.environ.get("DVC_EXP_NAME", "workspace")
    log = project.folder() / "runs" / experiment / f"fold_{fold}"
    forecast = partial(
        finetuning.forecast, folds=table["fold"].nunique(), settings=settings, training=training
    )
    loop.run(training, saved, f"fold {fold}", log, forecast)
    curve, epochs = training.finish()
    predictions = finetuning.predictions(training, table, fold)
    training.accelerator.end_training()  # the processes need each other no more
    if not training.accelerator.is_main_process:
        return

    protocol = finetuning.protocol(settings)
    actors = sorted(set(table.loc[training.numbers, "actor"]))
    with outputs.whole(f"data/models/w2v/fold_{fold}") as folder:
        training.encoder.save(folder)
        text = card.write(
            predictions,
            actors,
            protocol,
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
        (folder / "protocol.txt").write_text(protocol + "\n", encoding="utf-8")
        outputs.write_json(folder / "run.json", device.describe(training.accelerator))
    saved.remove()
    if not resumed:
        resources.note(f"data/w2v/fold_{fold}/predictions.csv")
    last = epochs.iloc[-1]
    print(
        f"fold {fold}: {len(curve)} steps; last epoch on training clips: "
        f"loss {last['loss']:.3f}, {last['accuracy']:.1%} right"
    )


if __name__ == "__main__":
    main()
