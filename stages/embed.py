"""Embed every clip by the hidden states of the frozen encoder: no training, minutes on a CPU.

Reads:  data/audio/*.wav, data/checkpoint, params `embed`
Writes: data/embeddings.parquet: a row per clip, sorted by clip; the column clip, then float32:
          layer0_mean_000 …    mean over time of what enters the first transformer layer
          layer0_std_000 …     its standard deviation over time
          layer1_mean_000 …    and so on, for the output of each layer
        With the table's `attrs`: checkpoint (a hash of the encoder's files), trim_db, seed.
"""

from pathlib import Path

import torch

from ser import audio, corpus, params, parquet
from ser.encoder import checkpoint
from ser.encoder.embeddings import Embedder
from ser.run import errors, outputs, parallel, resources


@errors.one_line
def main() -> None:
    """Run over every clip, on all cores or one GPU; write the table."""
    settings = params.load()
    checkpoint.quiet()
    embedder = Embedder(Path("data/checkpoint"), settings.checkpoint, settings.embed)
    torch.set_num_threads(1)  # every core has a clip of its own
    paths = corpus.files("data/audio")
    with outputs.whole("data/embeddings.parquet") as path:
        rows = parallel.streamed(lambda path: embedder(audio.read(path), path.stem), paths, "embed")
        clips = [path.stem for path in paths]
        parquet.write(path, clips, embedder.columns, rows, embedder.origin)
    layers = len(embedder.encoder.layers)
    print(
        f"{len(paths)} clips; {layers + 1} layers of {embedder.encoder.width}, mean and deviation"
    )
    resources.note("data/embeddings.parquet")


if __name__ == "__main__":
    main()
