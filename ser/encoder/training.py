"""The training loop's parts: what one optimizer step does, what it leaves behind, and what a
stopped training needs to go on."""

from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from scipy.special import softmax
from sklearn.metrics import log_loss, recall_score
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ser.corpus import EMOTIONS
from ser.encoder import schedule
from ser.encoder.clips import Clips, respeed
from ser.encoder.families.encoder import HEAD, Encoder
from ser.params import Params
from ser.run.errors import UserError


def make_optimizer(classifier: Encoder, settings: Params) -> torch.optim.AdamW:
    """AdamW with a learning rate of its own for the head, and weight decay of matrices and kernels
    only."""
    groups: dict[tuple[float, float], list] = {}
    for name, parameter in classifier.named_parameters():  # its CNN stands beside its model
        if parameter.requires_grad:
            lr = settings.head_lr if name.removeprefix("model.").startswith(HEAD) else settings.lr
            decay = settings.weight_decay if parameter.squeeze().ndim > 1 else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
    options = [
        {"params": chosen, "lr": lr, "weight_decay": decay}
        for (lr, decay), chosen in groups.items()
    ]
    first, second = settings.adam_betas
    return torch.optim.AdamW(options, betas=(first, second), eps=settings.adam_eps, fused=True)


def uar(truth: np.ndarray, predicted: np.ndarray) -> float:
    """The mean recall of the emotions that occur."""
    return float(recall_score(truth, predicted, labels=np.unique(truth), average="macro"))


class Training:
    """A classifier on its way through all steps of its schedule.

    Attributes:
        steps: of each optimizer step, the places in `numbers` of its clips.
        done: steps taken.
        curve: a row of curve.csv per step that is settled.
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
        """Make everything ready for the first step.

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
                f"mask_time_length = {settings.mask_time_length}: "
                f"the shortest clip has {int(shortest)} frames"
            )
        self.classifier, self.clips, self.labels = classifier, clips, labels
        self.numbers, self.inner = numbers, inner
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
        self.done = 0
        self.curve: list[dict] = []
        self.inner_scores: list[dict] = []
        self.best: dict[str, torch.Tensor] = {}

        device = accelerator.device
        classifier.to(device).train()
        self.trained = {
            name: parameter
            for name, parameter in classifier.named_parameters()
            if parameter.requires_grad
        }
        # Any: optimizers take `found_inf`, and these schedules have `lr_lambdas`, unknown to types.
        self.optimizer: Any = make_optimizer(classifier, settings)
        self.scheduler: Any = schedule.learning_rate(
            self.optimizer, settings.schedule, self.steps, settings.warmup, settings.decay_start
        )
        # What the steps leave behind stays on the device until `settle`, since to fetch it is to
        # wait for the device: of each clip the loss and the prediction when its turn came, of each
        # step the gradient's norm, and whether there is an infinite one among them.
        self.seen = torch.zeros(self.ends[-1], 2, device=device)
        self.norms = torch.zeros(len(self.steps), device=device)
        self.broken = torch.zeros((), device=device)
        counts = np.bincount(labels[numbers], minlength=len(EMOTIONS))
        balance = np.ones(len(EMOTIONS))
        if settings.class_weights:
            balance = len(numbers) / np.maximum(counts, 1) / np.count_nonzero(counts)
        self.weight = torch.tensor(balance, dtype=torch.float32, device=device)

    def advance(self) -> None:
        """Take one optimizer step; after one that ends an epoch, score the inner clips."""
        step = self.done
        end, batch = self.ends[step], self.numbers[self.steps[step]]
        self.optimizer.zero_grad()
        self.add_gradients(batch, self.seen[end - len(batch) : end])
        trained = self.trained.values()
        gradients = [grad for parameter in trained if (grad := parameter.grad) is not None]
        self.norms[step] = norm = torch.nn.utils.get_total_norm(gradients)
        if self.settings.max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(trained, self.settings.max_grad_norm, norm)
        # From the first step on that is not finite, the optimizer leaves the weights as they are;
        # `settle` will say so.
        self.broken = torch.maximum(self.broken, (~norm.isfinite()).float())
        self.optimizer.found_inf = self.broken
        self.optimizer.step()
        self.scheduler.step()
        self.done += 1
        before, now = (end - len(batch)) // len(self.numbers), end // len(self.numbers)
        if len(self.inner) and now > before:
            self.settle()
            self.score_inner(range(before + 1, now + 1))

    def settle(self) -> None:
        """Fetch what the steps since the last call left behind, and add their rows to `curve`; in
        all processes at once.

        Raises:
            UserError: a step's loss or gradient is not finite. The weights are those before it.
        """
        first = len(self.curve)
        start, end = (self.ends[step - 1] if step else 0 for step in (first, self.done))
        seen = self.accelerator.reduce(self.seen[start:end], "sum")
        self.seen[start:end] = seen
        seen, norms = seen.cpu().numpy(), self.norms[first : self.done].tolist()
        weight, rows = self.weight.cpu().numpy(), []
        for step in range(first, self.done):
            truth = self.labels[self.numbers[self.steps[step]]]
            loss, predicted = seen[self.ends[step] - len(truth) - start : self.ends[step] - start].T
            rows.append({
                "step": step + 1,
                "epoch": self.ends[step] / len(self.numbers),
                "loss": float(np.average(loss, weights=weight[truth])),
                "accuracy": float((predicted == truth).mean()),
                "lr": self.settings.lr * self.scheduler.lr_lambdas[0](step),
                "grad_norm": norms[step - first],
                "batch_size": len(truth),
            })  # fmt: skip
            if not np.isfinite([rows[-1]["loss"], rows[-1]["grad_norm"]]).all():
                raise UserError(
                    f"step {step + 1}: the loss is {rows[-1]['loss']:g}, its gradient's norm "
                    f"{rows[-1]['grad_norm']:g}: lower lr, or set precision=fp32 or max_grad_norm=1"
                )
        self.curve += rows

    def add_gradients(self, batch: np.ndarray, seen: torch.Tensor) -> None:
        """Add the gradient of the batch's mean loss to every trained parameter; put each clip's
        loss and prediction into `seen`, shape (n, 2), in one of the processes.

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
            logits = logits.detach()
            seen[part] = torch.stack(
                [cross_entropy(logits, truth[part], reduction="none"), logits.argmax(-1)], dim=1
            )
        if accelerator.num_processes > 1:
            gradients = []
            for parameter in self.trained.values():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
            flat = accelerator.reduce(parameters_to_vector(gradients), "sum")
            vector_to_parameters(flat, gradients)

    def change(self, speed: float) -> Callable[[np.ndarray], np.ndarray] | None:
        """What makes an input for the encoder of a stored clip, played faster or slower by up to a
        share `speed`, drawn from NumPy's global generator; None where inputs are stored."""

        def prepare(samples: np.ndarray) -> np.ndarray:
            if speed:
                samples = respeed(samples, (1 + speed) ** np.random.uniform(-1, 1))
            return self.classifier.prepare(samples)

        return prepare if self.settings.speed else None

    @torch.inference_mode()
    def probabilities(self, numbers: np.ndarray) -> np.ndarray:
        """Probabilities of the emotions for these clips, shape (n, 8), float64, from float32
        logits whatever training uses."""
        accelerator, device = self.accelerator, self.accelerator.device
        order = np.argsort(self.clips.lengths[numbers], kind="stable")
        parts = np.array_split(order, -(-len(order) // self.settings.micro_batch))
        logits = torch.zeros(len(numbers), len(EMOTIONS), device=device)
        self.classifier.eval()
        for part in parts[accelerator.process_index :: accelerator.num_processes]:
            inputs, lengths = self.clips.batch(numbers[part], self.change(0.0))
            logits[part] = self.classifier(inputs.to(device), lengths)
        self.classifier.train()
        # NumPy's float64: not every device has one.
        return softmax(accelerator.reduce(logits, "sum").cpu().numpy().astype(float), axis=1)

    def score_inner(self, epochs: Iterable[int]) -> None:
        """Score the inner clips for the epochs that have just ended, more than one if a batch is
        longer than an epoch; keep the weights if their UAR is the highest so far."""
        probabilities, truth = self.probabilities(self.inner), self.labels[self.inner]
        predicted = probabilities.argmax(axis=1)
        scores = {
            "inner_loss": float(log_loss(truth, probabilities, labels=range(len(EMOTIONS)))),
            "inner_accuracy": float((predicted == truth).mean()),
            "inner_uar": uar(truth, predicted),
        }
        if scores["inner_uar"] > max((row["inner_uar"] for row in self.inner_scores), default=-1):
            self.best = {
                name: parameter.detach().cpu().clone() for name, parameter in self.trained.items()
            }
        self.inner_scores += [{"epoch": epoch, **scores} for epoch in epochs]

    def finish(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Put the chosen epoch's weights in place; return the tables curve.csv and epochs.csv."""
        self.settle()
        self.put(self.best)
        order, seen = np.concatenate(self.steps), self.seen.cpu().numpy()
        epochs = []
        for epoch in range(self.settings.epochs):
            turn = slice(epoch * len(self.numbers), (epoch + 1) * len(self.numbers))
            truth, (loss, predicted) = self.labels[self.numbers[order[turn]]], seen[turn].T
            epochs.append({
                "epoch": epoch + 1,
                "loss": loss.mean(dtype=float),
                "accuracy": (predicted == truth).mean(),
                "uar": uar(truth, predicted),
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
            "norms": self.norms,
            "inner_scores": self.inner_scores,
            "best": self.best,
        }

    def restore(self, state: dict) -> None:
        """Go to where `state` was taken."""
        self.put(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.done, self.curve = state["done"], state["curve"]
        self.seen.copy_(state["seen"])
        self.norms.copy_(state["norms"])
        self.inner_scores, self.best = state["inner_scores"], state["best"]
