"""What fine-tuning all folds takes on a GPU, against transformers' Trainer: six folds of ten epochs
of the architecture of wav2vec2-base, on clips of noise as many and as long as RAVDESS's.

    python -m benchmarks.gpu [--folds 6] [--epochs 10] [--clips 1440] [--batch 32]
    [--config FOLDER] [--freeze-cnn]

The sides are those of `benchmarks.train`, each in a process of its own, one after the other; where
there is a GPU, Trainer at its best also prepares its batches in four more processes. A fold trains
on five sixths of the clips. Without a GPU it runs only if something makes it smaller than it is.

Prints: clips per second in steady state, from the third step of a fold on; seconds for a fold, from
loading the weights to the last step, and for all; seconds of the first two steps; peak memory on
the GPU; of our side the share of the measured rate of matrix products that the model's own products
make up. Left out: starting Python, which the pipeline does once a fold, and the stored inputs,
which it computes once; their time is printed.
"""

import torch

from benchmarks import fine_tuning
from ser.run import errors

PARTS = 6  # folds of the corpus


@errors.one_line
def main() -> None:
    """Measure each side in a fresh process, print the table."""
    parser = fine_tuning.options(__doc__.splitlines()[0], clips=1440, epochs=10, batch=32)
    parser.add_argument("--folds", type=int, default=PARTS, choices=range(1, PARTS + 1))
    work = vars(parser.parse_args())
    smaller = any(work[name] < parser.get_default(name) for name in ("folds", "epochs", "clips"))
    gpu = torch.cuda.is_available()
    if not gpu and not smaller:
        raise errors.UserError(
            "no CUDA device here, where it would take days; fewer --folds, --epochs or --clips "
            "run on a CPU too"
        )
    config = work["config"]
    measured = fine_tuning.measure(parts=PARTS, **work)
    name = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{name}; {config or 'wav2vec2-base'}: {work['clips']} clips, batch {work['batch']}, "
        f"{work['folds']} folds of {work['epochs']} epochs"
    )
    columns = {"fold": ("a fold", "s"), "all": ("all", "s"), "warm_up": ("warm-up", "s")}
    print(fine_tuning.table(measured, columns))


if __name__ == "__main__":
    main()
