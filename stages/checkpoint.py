"""Fetch the pretrained encoder that probing and fine-tuning start from, and make sure that it fits.

`checkpoint` in params.yaml is a model's name on the hub (at the pinned `revision`, which every
model has its own of), a local folder with weights, or a local folder with a configuration only,
whose weights are drawn at random later on. wav2vec 2.0, HuBERT, WavLM, UniSpeech-SAT and Whisper
fit. Of Whisper only the encoder is kept; the hub's file holds its decoder too, and is fetched
whole. Of a classifier the encoder is kept, and the line printed names what was left out. Weights in
several files are put together. HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are honoured.

Reads:  the model hub or a local folder, params `checkpoint`, `revision`
Writes: data/checkpoint/: config.json, preprocessor_config.json (or processor_config.json) and
        model.safetensors or pytorch_model.bin, as they were, but for a decoder or another's head
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
        commit, head = hub.collect(settings.checkpoint, settings.revision, folder)
        encoder = checkpoint.load(folder, settings.checkpoint, seed=0)
    size = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    pretrained = checkpoint.weights(Path("data/checkpoint"))
    origin = "pretrained" if pretrained else "configuration only, weights drawn at random"
    if commit:
        origin += f", commit {commit}"
        origin += "" if commit == settings.revision else f": -S revision={commit} keeps it"
    if head:
        origin += f"; without its head: {', '.join(head)}"
    print(f"{settings.checkpoint}: {type(encoder.model).__name__}, {size:.1f} M weights, {origin}")


if __name__ == "__main__":
    main()
