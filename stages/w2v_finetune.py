"""Fine-tune wav2vec 2.0 on the actors outside one fold, then predict the clips of the actors in it.

    python -m stages.w2v_finetune FOLD

The held-out clips are looked at once, after the last step: nothing here can choose by them.

Reads:  data/features/clips.arrow, data/folds.csv, data/checkpoint, the top-level params
Writes: data/w2v/fold_K/
        predictions.csv: clip, actor, fold, actual, predicted, a probability per emotion; a row per held-out clip, sorted by clip
        curve.csv: step, epoch, loss, accuracy, lr, grad_norm, batch_size; a row per optimizer step
        epochs.csv: epoch, loss, accuracy, uar on the training clips, as they were when their turn came; a row per epoch
        model/: what transformers.pipeline("audio-classification", ...) loads
        protocol.txt: a line that says what was trained, for the metrics
"""

import argparse
import shutil
from pathlib import Path

import accelerate
import numpy as np
import pandas as pd
import torch
from sklearn.metrics import balanced_accuracy_score
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from stages import errors, outputs, params, schedule, wav2vec
from stages.corpus import EMOTIONS
from stages.wav2vec import Classifier, Clips

CHECKPOINT = Path("data/checkpoint")


def build(settings: params.Params) -> Classifier:
    """The checkpoint as a classifier, regularised and frozen as the params say."""
    model = wav2vec.load(
        CHECKPOINT, settings.checkpoint, settings.seed,
        hidden_dropout=settings.dropout, feat_proj_dropout=settings.dropout, activation_dropout=settings.dropout,
        attention_dropout=settings.attention_dropout, layerdrop=settings.layerdrop,
        apply_spec_augment=settings.mask_time_prob + settings.mask_feature_prob > 0,
        mask_time_prob=settings.mask_time_prob, mask_time_length=settings.mask_time_length,
        mask_feature_prob=settings.mask_feature_prob, mask_feature_length=settings.mask_feature_length,
        use_weighted_layer_sum=settings.weighted_layer_sum,
    )  # fmt: skip
    encoder = model.base_model
    model.requires_grad_(True)
    if settings.freeze_cnn:
        encoder.feature_extractor._freeze_parameters()
    if settings.frozen_layers:  # nothing below them needs a gradient either
        frozen = [encoder.feature_projection, encoder.encoder.pos_conv_embed, *encoder.encoder.layers[: settings.frozen_layers]]
        for module in frozen:
            module.requires_grad_(False)
        if hasattr(encoder, "masked_spec_embed"):
            encoder.masked_spec_embed.requires_grad_(False)
    return Classifier(model)


def optimizer_for(classifier: Classifier, settings: params.Params) -> torch.optim.AdamW:
    """AdamW with a learning rate of its own for the head, and no weight decay on biases, gains and embeddings of one dimension."""
    groups = []
    for head in (False, True):
        for decays in (False, True):
            chosen = [
                parameter for name, parameter in classifier.model.named_parameters()
                if parameter.requires_grad and name.startswith(wav2vec.HEAD) == head and (parameter.squeeze().ndim > 1) == decays
            ]  # fmt: skip
            groups.append({
                "params": chosen,
                "lr": settings.head_lr if head else settings.lr,
                "weight_decay": settings.weight_decay if decays else 0.0,
            })  # fmt: skip
    return torch.optim.AdamW(groups, betas=tuple(settings.adam_betas), eps=settings.adam_eps, fused=True)


def seed_for(*numbers: int) -> int:
    """A seed for this purpose alone, whatever was drawn before: what makes a resumed run equal an uninterrupted one."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def train(
    classifier: Classifier, clips: Clips, numbers: np.ndarray, labels: np.ndarray, settings: params.Params, fold: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train in place.

    Args:
        numbers: of the training clips in `clips`, shape (n,).
        labels: indices in EMOTIONS of all clips, by number.

    Returns:
        The tables curve.csv and epochs.csv.
    """
    accelerator = accelerate.Accelerator(mixed_precision=wav2vec.mixed_precision(settings.precision))
    steps = schedule.batches(
        len(numbers), settings.epochs, settings.batch_size, settings.batch_growth, settings.decay_start, settings.seed
    )
    optimizer = optimizer_for(classifier, settings)
    scheduler = schedule.learning_rate(optimizer, settings.schedule, steps, settings.warmup, settings.decay_start)
    model, optimizer = accelerator.prepare(classifier, optimizer)
    model.train()

    counts = np.bincount(labels[numbers], minlength=len(EMOTIONS))
    balance = len(numbers) / np.maximum(counts, 1) / np.count_nonzero(counts) if settings.class_weights else np.ones(len(EMOTIONS))
    weight = torch.tensor(balance, dtype=torch.float32, device=accelerator.device)

    curve, seen = [], []
    bar = tqdm(total=len(numbers) * settings.epochs, desc=f"fold {fold}", unit="clip", mininterval=1)
    for step, chosen in enumerate(steps):
        batch = numbers[chosen]
        total_weight = balance[labels[batch]].sum()
        loss_sum = 0.0
        # Sorted by length, a batch falls into micro-batches that need little padding; its gradient stays the same.
        ordered = batch[np.argsort(clips.lengths[batch], kind="stable")]
        parts = np.array_split(ordered, -(-len(batch) // settings.micro_batch))
        for part, micro in enumerate(parts):
            accelerate.utils.set_seed(seed_for(settings.seed, fold, step, part))  # of dropout and SpecAugment
            inputs, lengths = (tensor.to(accelerator.device) for tensor in clips.batch(micro))
            truth = torch.from_numpy(labels[micro]).to(accelerator.device)
            logits = model(inputs, lengths)
            loss = cross_entropy(logits, truth, weight, reduction="sum", label_smoothing=settings.label_smoothing) / total_weight
            accelerator.backward(loss)
            loss_sum += loss.item()
            seen.append(pd.DataFrame({
                "actual": labels[micro], "predicted": logits.argmax(-1).cpu().numpy(),
                "loss": cross_entropy(logits.detach(), truth, reduction="none").cpu().numpy(),
            }))  # fmt: skip
        norm = accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm or float("inf"))
        lr = scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        bar.update(len(batch))
        bar.set_postfix(loss=f"{loss_sum:.3f}")
        hits = sum((part["actual"] == part["predicted"]).sum() for part in seen[-len(parts) :])
        curve.append((step + 1, bar.n / len(numbers), loss_sum, hits / len(batch), lr, norm.item(), len(batch)))
    bar.close()
    curve = pd.DataFrame(curve, columns=["step", "epoch", "loss", "accuracy", "lr", "grad_norm", "batch_size"])
    seen = pd.concat(seen, ignore_index=True)
    epochs = [
        (1 + epoch, part["loss"].mean(), (part["actual"] == part["predicted"]).mean(),
         balanced_accuracy_score(part["actual"], part["predicted"]))
        for epoch, part in seen.groupby(seen.index // len(numbers))
    ]  # fmt: skip
    return curve, pd.DataFrame(epochs, columns=["epoch", "loss", "accuracy", "uar"])


@torch.inference_mode()
def probabilities(classifier: Classifier, clips: Clips, numbers: np.ndarray, batch_size: int) -> np.ndarray:
    """Probabilities of the emotions for the clips of these numbers, shape (n, 8), in full precision."""
    classifier.eval()
    device = next(classifier.parameters()).device
    order = np.argsort(clips.lengths[numbers], kind="stable")
    found = np.empty((len(numbers), len(EMOTIONS)))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        logits = classifier(*(tensor.to(device) for tensor in clips.batch(numbers[chosen])))
        found[chosen] = logits.double().softmax(-1).cpu().numpy()
    return found


@errors.one_line
def main() -> None:
    """Train on the other folds, predict this one, write tables and model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fold", type=int)
    fold = parser.parse_args().fold
    settings = params.load()
    wav2vec.quiet()

    folds = pd.read_csv("data/folds.csv")
    classifier = build(settings)
    config = classifier.model.config
    clips = Clips(Path("data/features/clips.arrow"), config.conv_dim[-1] if settings.freeze_cnn else None)
    folds = folds.set_index("clip").loc[clips.names].reset_index()
    if fold not in set(folds["fold"]):
        raise errors.UserError(f"fold {fold}: not in data/folds.csv; expected one of {sorted(set(folds['fold']))}")
    labels = folds["emotion"].map(EMOTIONS.index).to_numpy()
    held_out = (folds["fold"] == fold).to_numpy()

    curve, epochs = train(classifier, clips, np.flatnonzero(~held_out), labels, settings, fold)
    scores = probabilities(classifier, clips, np.flatnonzero(held_out), settings.micro_batch)

    table = folds.loc[held_out, ["clip", "actor", "fold"]].assign(
        actual=folds.loc[held_out, "emotion"], predicted=np.array(EMOTIONS)[scores.argmax(axis=1)]
    )
    table[list(EMOTIONS)] = scores
    with outputs.whole(f"data/w2v/fold_{fold}") as folder:
        classifier.save(folder / "model")
        shutil.copy(CHECKPOINT / "preprocessor_config.json", folder / "model")
        table.sort_values("clip").to_csv(folder / "predictions.csv", index=False)
        curve.to_csv(folder / "curve.csv", index=False)
        epochs.to_csv(folder / "epochs.csv", index=False)
        (folder / "protocol.txt").write_text(f"{settings.checkpoint}, {settings.epochs} epochs, lr {settings.lr:g}\n")
    last = epochs.iloc[-1]
    print(f"fold {fold}: {len(curve)} steps; last epoch on training clips: loss {last['loss']:.3f}, {last['accuracy']:.1%} right")


if __name__ == "__main__":
    main()
