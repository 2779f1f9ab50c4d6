"""The training loop's parts: what one optimizer step does, what it leaves behind, and what a
stopped training needs to go on."""

from collections.abc import Callable
from itertools import accumulate

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.metrics import balanced_accuracy_score, log_loss
from torch.nn.functional import cross_entropy

from ser.corpus import EMOTIONS
from ser.encoder import schedule
from ser.encoder.clips import Clips, respeed
from ser.encoder.families.encoder import HEAD, Encoder
from ser.params import Params
from ser.run.errors import UserError


def make_optimizer(classifier: Encoder, settings: Params) -> torch.optim.AdamW:
    """AdamW with a learning rate of its own for the head, and weight decay of matrices and kernels
    only."""
    groups = {}
    for name, parameter in classifier.named_parameters():  # its CNN stands beside its model
        if parameter.requires_grad:
            lr = settings.head_lr if name.removeprefix("model.").startswith(HEAD) else settings.lr
            decay = settings.weight_decay if parameter.squeeze().ndim > 1 else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
    groups = [
        {"params": chosen, "lr": lr, "weight_decay": decay}
        for (lr, decay), chosen in groups.items()
    ]
    return torch.optim.AdamW(
        groups, betas=tuple(settings.adam_betas), eps=settings.adam_eps, fused=True
    )


class Training:
    """A classifier on its way through all steps of its schedule.

    Attributes:
        steps: of each optimizer step, the places in `numbers` of its clips.
        done: steps taken.
        curve: a row of curve.csv per step taken.
        inner_scores: a row (epoch, inner_loss, inner_accuracy, inner_uar) per epoch, with inner
            clips only.
    """

    def __init__(
        self,
        classifier: Encoder,
        clips: Clips,
        labels: np.ndarray,
        numbers: np.ndarray,
        inner: np.ndarray,
        settings: Params,
        fold: int,
        accelerator: Accelerator,
    ):
        """Set out.

        Args:
            classifier: trained in place.
            labels: index in EMOTIONS of every clip in `clips`.
            numbers: of the clips to train on.
            inner: numbers of clips of other training actors, whose UAR chooses the epoch that
                counts; empty: the last counts.
            fold: goes into the seeds.

        Raises:
            UserError: SpecAugment's spans are longer than the shortest clip.
        """
        shortest = torch.tensor(clips.lengths[numbers].min())
        if settings.speed:  # samples are stored
            shortest = torch.tensor(len(classifier.prepare(np.zeros(int(shortest), np.float32))))
        shortest = classifier.frames(shortest)
        if settings.mask_time_prob and settings.mask_time_length > shortest / (1 + settings.speed):
            raise UserError(
                f"mask_time_length = {settings.mask_time_length}: the shortest clip has {int(shortest)} frames"
            )
        self.classifier, self.clips, self.labels, self.numbers, self.inner = (
            classifier,
            clips,
            labels,
            numbers,
            inner,
        )
        self.settings, self.fold, self.accelerator = settings, fold, accelerator
        self.steps = schedule.batches(
            len(numbers),
            settings.epochs,
            settings.batch_size,
            settings.batch_growth,
            settings.decay_start,
            settings.seed,
        )
        self.ends = list(accumulate(len(step) for step in self.steps))  # clips seen after each step
        self.done, self.curve, self.inner_scores, self.best = 0, [], [], {}
        self.seen = torch.zeros(
            self.ends[-1], 2
        )  # loss and prediction of each clip when its turn came

        classifier.to(accelerator.device).train()
        self.trained = {
            name: parameter
            for name, parameter in classifier.named_parameters()
            if parameter.requires_grad
        }
        self.optimizer = make_optimizer(classifier, settings)
        self.scheduler = schedule.learning_rate(
            self.optimizer, settings.schedule, self.steps, settings.warmup, settings.decay_start
        )
        counts = np.bincount(labels[numbers], minlength=len(EMOTIONS))
        balance = (
            len(numbers) / np.maximum(counts, 1) / np.count_nonzero(counts)
            if settings.class_weights
            else np.ones(len(EMOTIONS))
        )
        self.weight = torch.tensor(balance, dtype=torch.float32, device=accelerator.device)

    @property
    def seen_clips(self) -> int:
        """Clips seen so far, each as often as it was."""
        return self.ends[self.done - 1] if self.done else 0

    def advance(self) -> dict[str, float]:
        """Take one optimizer step; return its row of curve.csv."""
        batch = self.numbers[self.steps[self.done]]
        self.optimizer.zero_grad()
        found = self.add_gradients(batch)
        norm = torch.nn.utils.clip_grad_norm_(
            self.trained.values(), self.settings.max_grad_norm or float("inf")
        )
        lr = self.scheduler.get_last_lr()[0]
        self.optimizer.step()
        self.scheduler.step()

        end = self.ends[self.done]
        self.seen[end - len(batch) : end] = found
        self.done += 1
        weight = self.weight.cpu()[self.labels[batch]]
        row = {
            "step": self.done,
            "epoch": end / len(self.numbers),
            "loss": float((found[:, 0] * weight).sum() / weight.sum()),
            "accuracy": float((found[:, 1].numpy() == self.labels[batch]).mean()),
            "lr": lr,
            "grad_norm": norm.item(),
            "batch_size": len(batch),
        }
        self.curve.append(row)
        if len(self.inner) and end // len(self.numbers) > (end - len(batch)) // len(self.numbers):
            self.score_inner(end // len(self.numbers))
        return row

    def add_gradients(self, batch: np.ndarray) -> torch.Tensor:
        """Add the gradient of the batch's mean loss to every trained parameter; return each clip's
        loss and prediction, (n, 2).

        Sorted by length, the batch falls into micro-batches that need little padding, and that the
        processes share out. Each has a seed of its own for dropout and SpecAugment: the outcome
        does not depend on what was drawn before (a resumed run equals an uninterrupted one), nor,
        but for rounding, on the number of processes.
        """
        accelerator, device = self.accelerator, self.accelerator.device
        order = np.argsort(self.clips.lengths[batch], kind="stable")
        parts = np.array_split(order, -(-len(batch) // self.settings.micro_batch))
        truth = torch.from_numpy(self.labels[batch]).to(device)
        total = self.weight[truth].sum()
        found = torch.zeros(len(batch), 2, device=device)
        for number, part in list(enumerate(parts))[
            accelerator.process_index :: accelerator.num_processes
        ]:
            seed = np.random.SeedSequence([self.settings.seed, self.fold, self.done, number])
            set_seed(int(seed.generate_state(1)[0]))
            inputs, lengths = self.clips.batch(batch[part], self.change(self.settings.speed))
            with accelerator.autocast():
                logits = self.classifier(inputs.to(device), lengths).float()
            losses = cross_entropy(
                logits,
                truth[part],
                self.weight,
                reduction="none",
                label_smoothing=self.settings.label_smoothing,
            )
            (losses.sum() / total).backward()
            found[part] = torch.stack(
                [cross_entropy(logits.detach(), truth[part], reduction="none"), logits.argmax(-1)],
                dim=1,
            )
        if accelerator.num_processes > 1:
            for parameter in self.trained.values():
                mine = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = accelerator.reduce(mine, "sum")
        return accelerator.reduce(found, "sum").cpu()

    def change(self, speed: float) -> Callable[[np.ndarray], np.ndarray] | None:
        """What makes an input for the encoder of a stored clip, at up to `speed` times its speed:
        None where inputs are stored."""
        if not self.settings.speed:
            return None
        return lambda samples: self.classifier.prepare(
            respeed(samples, speed) if speed else samples
        )

    @torch.inference_mode()
    def probabilities(self, numbers: np.ndarray) -> np.ndarray:
        """Probabilities of the emotions for these clips, shape (n, 8), in full precision whatever
        training uses."""
        accelerator, device = self.accelerator, self.accelerator.device
        order = np.argsort(self.clips.lengths[numbers], kind="stable")
        parts = np.array_split(order, -(-len(order) // self.settings.micro_batch))
        found = torch.zeros(len(numbers), len(EMOTIONS), dtype=torch.float64, device=device)
        self.classifier.eval()
        for part in parts[accelerator.process_index :: accelerator.num_processes]:
            inputs, lengths = self.clips.batch(numbers[part], self.change(0))
            found[part] = self.classifier(inputs.to(device), lengths).double().softmax(-1)
        self.classifier.train()
        return accelerator.reduce(found, "sum").cpu().numpy()

    def score_inner(self, epoch: int) -> None:
        """Score the inner clips; keep the weights if their UAR is the highest so far."""
        found, truth = self.probabilities(self.inner), self.labels[self.inner]
        predicted = found.argmax(axis=1)
        row = {
            "epoch": epoch,
            "inner_loss": float(log_loss(truth, found, labels=range(len(EMOTIONS)))),
            "inner_accuracy": float((predicted == truth).mean()),
            "inner_uar": float(balanced_accuracy_score(truth, predicted)),
        }
        if row["inner_uar"] > max(
            (earlier["inner_uar"] for earlier in self.inner_scores), default=-1
        ):
            self.best = {
                name: parameter.detach().cpu().clone() for name, parameter in self.trained.items()
            }
        self.inner_scores.append(row)

    def finish(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Put the chosen epoch's weights in place; return the tables curve.csv and epochs.csv."""
        self.put(self.best)
        order = np.concatenate(self.steps)
        epochs = []
        for epoch in range(self.settings.epochs):
            turn = slice(epoch * len(self.numbers), (epoch + 1) * len(self.numbers))
            truth, (loss, predicted) = (
                self.labels[self.numbers[order[turn]]],
                self.seen[turn].numpy().T,
            )
            epochs.append({
                "epoch": epoch + 1,
                "loss": loss.mean(dtype=float),
                "accuracy": (predicted == truth).mean(),
                "uar": balanced_accuracy_score(truth, predicted),
            })  # fmt: skip
        epochs = pd.DataFrame(epochs)
        if self.inner_scores:
            epochs = epochs.merge(pd.DataFrame(self.inner_scores), on="epoch")
        return pd.DataFrame(self.curve), epochs

    def put(self, weights: dict[str, torch.Tensor]) -> None:
        """Overwrite the trained parameters named in `weights`."""
        with torch.no_grad():
            for name, tensor in weights.items():
                self.trained[name].copy_(tensor)

    def state(self) -> dict:
        """All that `restore` needs, in a copy of the class made from the same arguments, to go on
        as if nothing had happened."""
        return {
            "done": self.done,
            "weights": {name: parameter.detach() for name, parameter in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "curve": self.curve,
            "seen": self.seen,
            "inner_scores": self.inner_scores,
            "best": self.best,
        }

    def restore(self, state: dict) -> None:
        """Go to where `state` was taken."""
        self.put(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.done, self.curve, self.seen = state["done"], state["curve"], state["seen"]
        self.inner_scores, self.best = state["inner_scores"], state["best"]
