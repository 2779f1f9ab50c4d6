"""Choose and train an SVM on the MFCC table inside each fold's training speakers, and predict the
held-out clips.

Reads:  data/mfcc.parquet, data/folds.csv, params `svm_train`, `corpus`
Writes: data/predictions/svm/:
            predictions.csv  a row per clip, sorted by clip: clip, speaker, fold, actual,
                             predicted, a probability per label
            search.csv       a row per fold and candidate: fold, blocks, kernel, C, gamma, accuracy
                             (on inner held-out speakers), chosen
            protocol.txt     how they came about, in one line
        data/models/svm/: the final model, chosen and trained on all speakers (fold `all` in
        search.csv), with all that it needs to predict:
            model.json         kernel, blocks, names of features, calibration, settings of `mfcc`,
                               corpus
            model.safetensors  support vectors and their coefficients, mean and scale of features
"""

from ser import params
from ser.classifier import crossval
from ser.run import errors, resources


@errors.one_line
def main() -> None:
    """Train a model per fold and one on all speakers; write predictions, search and the last
    model."""
    everything = params.load()
    settings = everything.svm_train
    data = crossval.read("data/mfcc.parquet", "mfcc", settings, everything.corpus)
    grid = crossval.candidates(settings.blocks, settings, data.table)
    predictions, search, model = crossval.fit_folds("svm_train", data, grid, settings.inner_folds)
    crossval.write("svm", predictions, search, model, crossval.protocol(settings))
    resources.note("data/predictions/svm/predictions.csv")


if __name__ == "__main__":
    main()
