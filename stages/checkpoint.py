"""Fetch the wav2vec 2.0 checkpoint that fine-tuning starts from, and make sure that it fits.

`checkpoint` in params.yaml is a model's name on the hub (at the pinned `revision`), a local folder
with weights, or a local folder with a configuration only, whose weights fine-tuning then draws at
random. HF_ENDPOINT, HF_HOME and HF_TOKEN are honoured.

Reads:  the model hub or a local folder, params `checkpoint`, `revision`
Writes: data/checkpoint/: config.json, preprocessor_config.json and model.safetensors or
        pytorch_model.bin, as they were found
"""

from pathlib import Path

from ser import params
from ser.encoder import checkpoint, hub
from ser.run import errors, outputs


@errors.one_line
def main() -> None:
    """Collect the files, load the model once, copy nothing that does not load."""
    settings = params.load()
    checkpoint.quiet()
    with outputs.whole("data/checkpoint") as folder:
        folder.mkdir()
        hub.collect(settings.checkpoint, settings.revision, folder)
        encoder = checkpoint.load(folder, settings.checkpoint, seed=0)
    size = sum(parameter.numel() for parameter in encoder.parameters())
    origin = (
        "pretrained"
        if checkpoint.weights(Path("data/checkpoint"))
        else "configuration only, weights drawn at random"
    )
    print(
        f"{settings.checkpoint}: {type(encoder.model).__name__}, {size / 1e6:.1f} M parameters, {origin}"
    )


if __name__ == "__main__":
    main()
