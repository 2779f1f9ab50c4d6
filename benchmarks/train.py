"""How fast and how big fine-tuning is, against transformers' Trainer: same clips, batch, epochs and
model; weights random.

    python -m benchmarks.train [--config FOLDER] [--clips 160] [--epochs 1] [--batch 8]
    [--freeze-cnn]

The model has the architecture of wav2vec2-base unless --config names another folder with
config.json, such as configs/whisper-tiny.en. Clips are noise as long as those of RAVDESS. Every
side trains in a process of its own, one after the other:

  ours          params.yaml's defaults: inputs stored, micro-batches by length, CNN frozen,
                attention without dropout, mixed precision where the hardware has it
  trainer       Trainer as it comes: fp32, batches as they come, CNN trained, attention with the
                configuration's dropout; Whisper's clips in windows of 30 s, as its feature
                extractor pads them
  trainer best  Trainer with bf16=True and train_sampling_strategy="group_by_length"

With --freeze-cnn Trainer's CNN is frozen too, as in transformers' own example for audio
classification.

Prints: clips per second in steady state, from the third step on; seconds of the first two; peak
memory of the process; of our side the share of the machine's rate for matrix products that the
model's own products make up. What the stored inputs took is printed apart: the pipeline computes
them once for all epochs, folds and later experiments.
"""

import torch

from benchmarks import fine_tuning
from ser.run import errors


@errors.one_line
def main() -> None:
    """Measure each side in a fresh process, print the table."""
    parser = fine_tuning.options(__doc__.splitlines()[0], clips=160, epochs=1, batch=8)
    work = vars(parser.parse_args())
    config = work["config"]
    measured = fine_tuning.measure(folds=1, parts=1, **work)
    print(
        f"{config or 'wav2vec2-base'}: {work['clips']} clips, batch {work['batch']}, "
        f"{work['epochs']} epochs, {torch.get_num_threads()} threads"
    )
    print(fine_tuning.table(measured, {"warm_up": ("warm-up", "s"), "memory": ("GiB", "")}))


if __name__ == "__main__":
    main()
