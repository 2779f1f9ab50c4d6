"""Fine-tuned models, under the head that they were trained with."""

from pathlib import Path

from safetensors.torch import load_model

from ser.encoder import checkpoint
from ser.encoder.families.encoder import HEAD_FILE, Encoder
from ser.finetune.head import LayersHead
from ser.run.errors import UserError


def load(folder: Path) -> Encoder:
    """The model that `Encoder.save` wrote into `folder`, in eval mode.

    Raises:
        UserError: there is none, it has no head, or it does not load.
    """
    own_head = folder / HEAD_FILE
    if not (folder / "config.json").exists() or checkpoint.weights(folder) is None:
        raise UserError(f"{folder}: no model there")
    if not own_head.exists():
        return checkpoint.load(folder, str(folder), seed=0, headless=False).eval()
    encoder = checkpoint.load(folder, str(folder), seed=0, head=LayersHead)
    with checkpoint.one_line_for(str(own_head), "does not load"):
        load_model(encoder.head, own_head)
        checkpoint.check_finite(encoder)
    return encoder.eval()
