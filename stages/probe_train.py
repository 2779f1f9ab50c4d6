"""Choose and train a classifier on the frozen encoder's hidden states inside each fold's training
speakers, and predict the held-out clips.

Reads:  data/embeddings.parquet, data/folds.csv, data/checkpoint, params `probe_train`,
            `checkpoint`, `corpus`
Writes: data/predictions/probe/: predictions.csv, search.csv, protocol.txt, as `svm_train` does
        data/models/probe/: the final model, chosen and trained on all speakers, with all that it
        needs to predict: model.json, model.safetensors and, in checkpoint/, the encoder
"""

from pathlib import Path

from ser import params
from ser.classifier import crossval
from ser.run import errors, resources

CHECKPOINT = Path("data/checkpoint")


def encoder(name: str) -> str:
    """The encoder, in the words that stand beside every figure."""
    weights = [path for path in CHECKPOINT.iterdir() if path.suffix in (".safetensors", ".bin")]
    return f"{name}, frozen, {'pretrained' if weights else 'with random weights'}"


@errors.one_line
def main() -> None:
    """Train a model per fold and one on all speakers; write predictions, search and the last
    model."""
    everything = params.load()
    settings = everything.probe_train
    data = crossval.read("data/embeddings.parquet", "embed", settings, everything.corpus)
    layers = list(dict.fromkeys(name.partition("_")[0] for name in data.table.columns))
    blocks = [
        dict.fromkeys(layers[1:], 1.0) if layer == "all" else {f"layer{layer}": 1.0}
        for layer in settings.layers
    ]
    grid = crossval.candidates(blocks, settings, data.table)
    predictions, search, model = crossval.fit_folds("probe_train", data, grid, settings.inner_folds)
    protocol = f"{encoder(everything.checkpoint)}; {crossval.protocol(settings)}"
    crossval.write("probe", predictions, search, model, protocol, encoder=CHECKPOINT)
    resources.note("data/predictions/probe/predictions.csv")


if __name__ == "__main__":
    main()
