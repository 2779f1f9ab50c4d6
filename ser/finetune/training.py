"""The training loop's parts: what one optimizer step does, what it leaves behind, and what a
stopped training needs to go on."""

from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from scipy.special import softmax
from sklearn.metrics import log_loss, recall_score
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.swa_utils import get_swa_multi_avg_fn

from ser.corpus import EMOTIONS
from ser.encoder.families.encoder import Encoder
from ser.finetune import schedule
from ser.finetune.clips import Clips, send
from ser.params import Params
from ser.run.errors import UserError


def make_optimizer(encoder: Encoder, settings: Params) -> torch.optim.AdamW:
    """AdamW with a learning rate of its own for the head, lower ones for lower layers, and weight
    decay of matrices and kernels only."""
    head, depths = set(encoder.parameters_of_head()), encoder.depths()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            lr = settings.lr * settings.layer_decay ** depths[parameter]
            lr = settings.head_lr if parameter in head else lr
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
    """An encoder and its head on their way through all steps of a schedule.

    Attributes:
        steps: of each optimizer step, the places in `numbers` of its clips.
        done: steps taken.
        curve: a row of curve.csv per step that is settled.
        inner_scores: a row (epoch, inner_loss, inner_accuracy, inner_uar) per epoch, with inner
            clips only.
    """

    def __init__(
        self,
        encoder: Encoder,
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
            encoder: trained in place.
            labels: index in EMOTIONS of every clip in `clips`.
            numbers: of the clips to train on.
            inner: numbers of clips of other training actors, whose UAR chooses the epoch that
                counts; empty: the last counts.
            fold: goes into the seeds.

        Raises:
            UserError: SpecAugment's spans are longer than the shortest clip.
        """
        shortest = int(encoder.frames(torch.tensor(clips.lengths[numbers].min())))
        if settings.mask_time_prob and settings.mask_time_length > shortest:
            raise UserError(
                f"mask_time_length = {settings.mask_time_length}: "
                f"the shortest clip has {shortest} frames"
            )
        self.encoder, self.clips, self.labels = encoder, clips, labels
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
        self.begun = False
        self.curve: list[dict] = []
        self.inner_scores: list[dict] = []
        self.best: dict[str, torch.Tensor] = {}

        device = accelerator.device
        encoder.to(device).train()
        clips.to(device)
        # Found to be the fastest on CPUs; on a GPU, the larger the faster.
        fastest = 8 if device.type == "cpu" else settings.batch_size
        self.micro_batch = settings.micro_batch or fastest
        self.trained = {
            name: parameter
            for name, parameter in encoder.named_parameters()
            if parameter.requires_grad
        }
        # Any: optimizers take `found_inf`, and these schedules have `lr_lambdas`, unknown to types.
        self.optimizer: Any = make_optimizer(encoder, settings)
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
        self.balance = balance.astype(np.float32)
        self.weight = torch.tensor(balance, dtype=torch.float32, device=device)
        self.truth = torch.tensor(labels, device=device)
        # The mean of the weights after each of the last steps, and of how many.
        self.mean: dict[str, torch.Tensor] = {}
        self.averaged = 0

    def begin(self) -> None:
        """Do what comes before the first step and may take minutes: start a head that looks at all
        layers. `advance` does it if nobody has."""
        if self.encoder.head is not None:
            self.fit_head()
        self.begun = True

    def advance(self) -> None:
        """Take one optimizer step; after one that ends an epoch, score the inner clips."""
        if not self.begun:
            self.begin()
        step = self.done
        end, batch = self.ends[step], self.numbers[self.steps[step]]
        self.add_gradients(batch, range(end - len(batch), end))
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
        if self.done > len(self.steps) - round(self.settings.average * len(self.steps)):
            self.add_to_mean()
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
        rows = []
        for step in range(first, self.done):
            truth = self.labels[self.numbers[self.steps[step]]]
            loss, predicted = seen[self.ends[step] - len(truth) - start : self.ends[step] - start].T
            rows.append({
                "step": step + 1,
                "epoch": self.ends[step] / len(self.numbers),
                "loss": float(np.average(loss, weights=self.balance[truth])),
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

    def add_gradients(self, batch: np.ndarray, turns: range) -> None:
        """Add the gradient of the batch's mean loss to every trained parameter; put each clip's
        loss and prediction into `seen`, in one of the processes.

        Every clip has a generator of its own, for its speed, dropout and SpecAugment: what is drawn
        does not depend on what was drawn before (a resumed run equals an uninterrupted one), nor,
        but for rounding, on micro-batches and processes. Two regularisations are torch's own and
        draw once per micro-batch: `attention_dropout` and `layerdrop`.

        Args:
            turns: places of the batch's clips among all that training sees.
        """
        accelerator, settings = self.accelerator, self.settings
        device = accelerator.device
        total = float(self.balance[self.labels[batch]].sum())

        def own_share() -> None:
            self.optimizer.zero_grad()
            generators = [np.random.default_rng([settings.seed, self.fold, turn]) for turn in turns]
            speeds = np.array([each.integers(len(self.clips.speeds)) for each in generators])
            seeds = [int(each.integers(2**63)) for each in generators]
            for part in self.share(self.clips.lengths[batch, speeds]):
                inputs, lengths = self.clips.batch(batch[part], speeds[part])
                drawing = [generators[place] for place in part]
                self.encoder.draws.begin(drawing, self.encoder.frames(lengths), device)
                torch.manual_seed(seeds[part[0]])
                truth = self.truth[send(torch.from_numpy(batch[part]), device)]
                with accelerator.autocast():
                    logits = self.encoder(send(inputs, device), lengths).float()
                losses = cross_entropy(
                    logits,
                    truth,
                    self.weight,
                    reduction="none",
                    label_smoothing=settings.label_smoothing,
                )
                (losses.sum() / total).backward()
                logits = logits.detach()
                self.seen[send(torch.from_numpy(part + turns.start), device)] = torch.stack(
                    [cross_entropy(logits, truth, reduction="none"), logits.argmax(-1)], dim=1
                )
            self.encoder.draws.end()

        self.in_memory(own_share)
        if accelerator.num_processes > 1:
            gradients = []
            for parameter in self.trained.values():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
            flat = accelerator.reduce(parameters_to_vector(gradients), "sum")
            vector_to_parameters(flat, gradients)

    def share(self, lengths: np.ndarray) -> list[np.ndarray]:
        """This process's micro-batches of clips of these lengths: places of clips of about the same
        length, that need little padding."""
        accelerator = self.accelerator
        order = np.argsort(lengths, kind="stable")
        own = order[accelerator.process_index :: accelerator.num_processes]
        return np.array_split(own, -(-len(own) // self.micro_batch)) if len(own) else []

    def in_memory(self, function: Callable[[], None]) -> None:
        """Call `function`, which works on micro-batches; should the memory not suffice, with
        smaller ones, from here on."""
        while True:
            try:
                return function()
            except RuntimeError as error:
                if self.micro_batch == 1 or not should_reduce_batch_size(error):
                    raise
            clear_device_cache(garbage_collection=True)
            self.micro_batch //= 2

    @torch.inference_mode()
    def over_clips(self, numbers: np.ndarray, width: int, function: Callable) -> np.ndarray:
        """What `function` makes of inputs and lengths of these clips, as they are, in float32,
        shape (clips, width); nothing is random in it."""
        device = self.accelerator.device
        made = torch.zeros(len(numbers), width, device=device)

        def own_share() -> None:
            for part in self.share(self.clips.lengths[numbers, 0]):
                inputs, lengths = self.clips.batch(numbers[part])
                places = send(torch.from_numpy(part), device)
                made[places] = function(send(inputs, device), lengths)

        self.encoder.eval()
        self.in_memory(own_share)
        self.encoder.train()
        return self.accelerator.reduce(made, "sum").cpu().numpy()

    def fit_head(self) -> None:
        """Start the head with a probe of the encoder as it is, on the training clips; or only
        standardise what it looks at, if it is to start at random."""
        head = self.encoder.head
        pooled = self.over_clips(
            self.numbers,
            head.linear.in_features,
            lambda *batch: head.pool(self.encoder.hidden_states(*batch)),
        )
        head.fit(pooled, self.labels[self.numbers], self.settings.head_probe)

    @torch.no_grad()
    def add_to_mean(self) -> None:
        """Take the weights as they are into the mean over the last steps."""
        if not self.averaged:
            self.mean = {name: weight.detach().clone() for name, weight in self.trained.items()}
        else:
            average = get_swa_multi_avg_fn()
            average(list(self.mean.values()), list(self.trained.values()), self.averaged)
        self.averaged += 1

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights that count at this point: the mean over the last steps, if it has begun."""
        return self.mean or {name: weight.detach() for name, weight in self.trained.items()}

    def probabilities(self, numbers: np.ndarray) -> np.ndarray:
        """Probabilities of the emotions for these clips, shape (n, 8), float64, from float32
        logits whatever training uses."""
        logits = self.over_clips(numbers, len(EMOTIONS), self.encoder)
        return softmax(logits.astype(float), axis=1)  # not every device has float64

    def score_inner(self, epochs: Iterable[int]) -> None:
        """Score the inner clips for the epochs that have just ended, more than one if a batch is
        longer than an epoch; keep the weights if their UAR is the highest so far."""
        latest = {name: weight.detach().clone() for name, weight in self.trained.items()}
        self.put(self.mean)
        probabilities, truth = self.probabilities(self.inner), self.labels[self.inner]
        predicted = probabilities.argmax(axis=1)
        scores = {
            "inner_loss": float(log_loss(truth, probabilities, labels=range(len(EMOTIONS)))),
            "inner_accuracy": float((predicted == truth).mean()),
            "inner_uar": uar(truth, predicted),
        }
        if scores["inner_uar"] > max((row["inner_uar"] for row in self.inner_scores), default=-1):
            self.best = {
                name: weight.to("cpu", copy=True) for name, weight in self.weights().items()
            }
        self.put(latest)
        self.inner_scores += [{"epoch": epoch, **scores} for epoch in epochs]

    def finish(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Put the weights that count in place, the chosen epoch's or the last; return the tables
        curve.csv and epochs.csv."""
        self.settle()
        self.put(self.best or self.weights())
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
            "micro_batch": self.micro_batch,
            "mean": self.mean,
            "averaged": self.averaged,
            "head": self.encoder.head.state_dict() if self.encoder.head is not None else {},
            "inner_scores": self.inner_scores,
            "best": self.best,
        }

    def restore(self, state: dict) -> None:
        """Go to where `state` was taken."""
        self.put(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.done, self.begun, self.curve = state["done"], True, state["curve"]
        self.seen.copy_(state["seen"])
        self.norms.copy_(state["norms"])
        self.micro_batch = state["micro_batch"]
        self.averaged = state["averaged"]
        self.mean = {name: weight.to(self.seen.device) for name, weight in state["mean"].items()}
        if self.encoder.head is not None:
            self.encoder.head.load_state_dict(state["head"])
        self.inner_scores, self.best = state["inner_scores"], state["best"]
