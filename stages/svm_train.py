"""Choose and train an SVM on the MFCC table inside each fold's training actors, and predict the
held-out clips.

Reads:  data/mfcc.parquet, data/folds.csv, params `svm_train`
Writes: data/svm/: predictions.csv: clip, actor, fold, actual, predicted, a probability per emotion;
        a row per clip, sorted by clip; protocol.txt: how they came about, in one line; search.csv:
        fold, blocks, kernel, C, gamma, accuracy (on inner held-out actors), chosen; a row per fold
        and candidate;
data/models/svm/model.joblib: the final model, chosen and trained on all actors (fold `all` in
search.csv), which predicts from the table:
        `model.predict(table[model.feature_names_in_])`
"""

import joblib
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from ser import params
from ser.run import errors, outputs, parallel
from ser.svm import model


@errors.one_line
def main() -> None:
    """Train a model per fold and one on all actors, write predictions, search and the last
    model."""
    settings = params.load().svm_train
    clips, table = model.read(settings)
    jobs = [
        (str(number), (clips["fold"] != number).to_numpy())
        for number in sorted(clips["fold"].unique())
    ]
    jobs.append(("all", np.ones(len(clips), bool)))
    # Threads, since nearly all the time goes into libsvm and BLAS, which let go of Python's lock.
    # The limit is set here once more: the first fold to end would lift its own for all, and the
    # last digits of products depend on the number of threads.
    with threadpool_limits(1), joblib.parallel_config(backend="threading"):
        trained = parallel.over(
            lambda job: model.fold(job, table, clips, settings), jobs, "svm_train", unit="search"
        )
    probabilities = pd.concat([part for _, _, part in trained]).sort_index()
    predictions = clips[["clip", "actor", "fold"]].assign(
        actual=clips["emotion"], predicted=probabilities.idxmax(axis=1)
    )
    with outputs.whole("data/svm") as folder:
        folder.mkdir()
        (folder / "protocol.txt").write_text(model.protocol(settings) + "\n")
        pd.concat([predictions, probabilities], axis=1).to_csv(
            folder / "predictions.csv", index=False
        )
        pd.DataFrame([row for _, found, _ in trained for row in found]).to_csv(
            folder / "search.csv", index=False
        )
    with outputs.whole("data/models/svm") as folder:
        folder.mkdir()
        joblib.dump(trained[-1][0], folder / "model.joblib")
    print(
        f"accuracy on held-out actors: {(predictions.predicted == predictions.actual).mean():.3f}"
    )


if __name__ == "__main__":
    main()
