"""The training recipe, in the order in which things happen: schedule, model and optimizer, steps,
saved states, and the loop around them.

Every clip has a random generator of its own for its speed, dropout and SpecAugment. So what is
drawn depends neither on micro-batches and processes nor on what was drawn before: a resumed
training ends with the bytes of an uninterrupted one.
"""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from scipy.special import softmax
from sklearn.metrics import log_loss, recall_score
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler, get_wsd_schedule

from ser import corpus, params, tables
from ser.encoder import checkpoint
from ser.encoder.families.encoder import Encoder, send
from ser.finetune import progress
from ser.finetune.clips import Clips
from ser.finetune.device import make_accelerator, versions
from ser.finetune.draws import Draws, replace_dropout
from ser.finetune.head import LayersHead
from ser.run import errors, outputs, processes, project, signals
from ser.run.errors import UserError

CHECKPOINT = Path("data/checkpoint")
FEATURES = Path("data/features/clips.arrow")

SAVE_SECONDS = float(os.environ.get("RAVDESS_SAVE_SECONDS", 60))  # of work that a kill may cost
KEPT_SECONDS = 30 * 24 * 3600  # that a saved state waits for its training to go on
LOOK_SECONDS = 1.0  # between looks at the steps' results: each keeps a GPU waiting


# Schedule


def batches(clips: int, settings: params.Params) -> list[np.ndarray]:
    """Cut a shuffle per epoch of the numbers 0 to clips - 1, one after another, into the batches
    of the optimizer's steps.

    A batch may end one epoch and begin the next; the last batch takes what is left, if that is less
    than half a batch. From `decay_start` of the way on, batches grow in a straight line to
    `batch_growth` times `batch_size`: a larger batch calms the gradient as a smaller step does.

    Source: Smith et al. (2018), "Don't decay the learning rate, increase the batch size".
    """
    generators = [np.random.default_rng([settings.seed, epoch]) for epoch in range(settings.epochs)]
    order = np.concatenate([generator.permutation(clips) for generator in generators])
    begin = settings.decay_start
    cuts, position = [], 0
    while position < len(order):
        late = max(0.0, position / len(order) - begin) / max(1 - begin, 1e-9)
        size = round(settings.batch_size * (1 + (settings.batch_growth - 1) * late))
        position += size if len(order) - position >= 1.5 * size else len(order) - position
        cuts.append(position)
    return np.split(order, cuts[:-1])


def learning_rate(
    optimizer: torch.optim.Optimizer, steps: list[np.ndarray], settings: params.Params
) -> LRScheduler:
    """A linear warm-up over the first steps, then the course of `settings.schedule`: `wsd` stays
    until `decay_start` and then falls in a straight line to zero; `constant` stays; `linear` and
    `cosine` fall to zero from the end of the warm-up on."""
    done = np.cumsum([len(step) for step in steps]) / sum(len(step) for step in steps)
    rising = round(settings.warmup * len(steps))
    if settings.schedule == "wsd":
        falling = min(int((done > settings.decay_start).sum()), len(steps) - rising)
        return get_wsd_schedule(optimizer, rising, falling, len(steps), decay_type="linear")
    names = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
    return get_scheduler(names[settings.schedule], optimizer, rising, len(steps))


# Model and optimizer


def fine_tunable(folder: Path, settings: params.Params, labels: list[str]) -> Encoder:
    """The encoder in `folder` under a new head, regularised and frozen as the params say."""
    config, _ = checkpoint.read_config(folder, settings.checkpoint)
    regularisation, notes = checkpoint.family(config).regularisation(settings)
    for note in notes:
        print(f"w2v_finetune: {note}", file=sys.stderr)
    draws = Draws()
    encoder = checkpoint.load(
        folder,
        settings.checkpoint,
        settings.seed,
        settings.freeze_cnn,
        headless=True,
        head=LayersHead if settings.head == "layers" else None,
        head_dropout=settings.head_dropout,
        draws=draws,
        labels=labels,
        trim_db=settings.trim_db,  # `commands.predict` reads both from the saved model
        corpus=settings.corpus,
        use_weighted_layer_sum=settings.weighted_layer_sum,
        **regularisation,
    )
    replace_dropout(encoder, draws)
    encoder.freeze(settings.frozen_layers)
    return encoder


def make_optimizer(encoder: Encoder, settings: params.Params) -> torch.optim.AdamW:
    """AdamW with a learning rate of its own for the head, and weight decay of matrices and kernels
    only."""
    head = set(encoder.parameters_of_head())
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            lr = settings.head_lr if parameter in head else settings.lr
            decay = settings.weight_decay if parameter.squeeze().ndim > 1 else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
    options = [
        {"params": chosen, "lr": lr, "weight_decay": decay}
        for (lr, decay), chosen in groups.items()
    ]
    first, second = settings.adam_betas
    return torch.optim.AdamW(options, betas=(first, second), fused=True)


# Steps


def uar(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Unweighted average recall over the labels that occur."""
    return float(recall_score(truth, predicted, labels=np.unique(truth), average="macro"))


class Training:
    """A training of an encoder and its head, from its first step or from a saved state.

    Attributes:
        numbers: of the clips to train on, places in `table`.
        inner: of the clips of the inner fold of training speakers, whose UAR is known after every
            epoch; with `select: inner` the best epoch's weights are the result.
        batches: of each optimizer step, the places in `numbers` of its clips.
        done: steps taken.
        curve: a row of curve.csv for each settled step.
        inner_scores: a row (epoch, inner_loss, inner_accuracy, inner_uar) for each epoch, with
            inner clips only.
    """

    def __init__(
        self,
        encoder: Encoder,
        clips: Clips,
        table: pd.DataFrame,
        names: list[str],
        fold: int,
        settings: params.Params,
        accelerator: Accelerator,
        inner: bool = False,
        state: dict | None = None,
    ):
        """Get everything ready for the next step; at the start that includes to fit a head over all
        layers, which may take minutes.

        Args:
            encoder: trained in place.
            table: fold and label of every clip in `clips`, in their order.
            names: of the labels, in the corpus's order.
            fold: whose clips are held out.
            inner: whether one more fold, the next or after the last the first, is held out as
                `inner`.
            state: of `state()`, to go on from; None: the training starts.

        Raises:
            UserError: SpecAugment's spans are longer than the shortest clip.
        """
        self.encoder, self.clips, self.table, self.fold = encoder, clips, table, fold
        self.names = names
        self.settings, self.accelerator = settings, accelerator
        folds = sorted({fold, *table["fold"]})
        next_fold = folds[(folds.index(fold) + 1) % len(folds)]
        apart = (table["fold"] == next_fold).to_numpy() & inner
        self.numbers = np.flatnonzero((table["fold"] != fold).to_numpy() & ~apart)
        self.inner = np.flatnonzero(apart)
        self.labels = table["label"].map(names.index).to_numpy()
        shortest = int(encoder.frames(torch.tensor(clips.lengths[self.numbers].min())))
        if settings.mask_time_prob and settings.mask_time_length > shortest:
            raise UserError(
                f"mask_time_length = {settings.mask_time_length}: "
                f"the shortest clip has {shortest} frames"
            )

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
        self.batches = batches(len(self.numbers), settings)
        # Any: optimizers take `found_inf`, and these schedules have `lr_lambdas`, unknown to types.
        self.optimizer: Any = make_optimizer(encoder, settings)
        self.scheduler: Any = learning_rate(self.optimizer, self.batches, settings)

        self.done = 0
        self.ends = list(accumulate(map(len, self.batches)))  # clips seen after each step
        self.curve: list[dict] = []
        self.inner_scores: list[dict] = []
        self.best: dict[str, torch.Tensor] = {}  # the weights with the highest inner UAR
        # What the steps leave behind stays on the device until `settle`, since to fetch it is to
        # wait for the device: of each clip the loss and the prediction when its turn came, of each
        # step the gradient's norm, and whether there is an infinite one among them.
        self.seen = torch.zeros(self.ends[-1], 2, device=device)
        self.norms = torch.zeros(len(self.batches), device=device)
        self.broken = torch.zeros((), device=device)
        counts = np.bincount(self.labels[self.numbers], minlength=len(names))
        balance = np.ones(len(names))
        if settings.class_weights:
            balance = len(self.numbers) / np.maximum(counts, 1) / np.count_nonzero(counts)
        self.balance = balance.astype(np.float32)
        self.weight = torch.from_numpy(self.balance).to(device)
        self.truth = torch.tensor(self.labels, device=device)
        if state is not None:
            self.restore(state)
        elif encoder.head is not None:
            self.fit_head()

    def fit_head(self) -> None:
        """Standardise the head's inputs on the training clips, and start it as a probe of the
        encoder as it is, unless it is to start at random."""
        head = self.encoder.head
        pooled = self.over_clips(
            self.numbers,
            head.linear.in_features,
            lambda *batch: head.pool(self.encoder.hidden_states(*batch)),
        )
        head.fit(pooled, self.labels[self.numbers], self.settings.head_probe)

    def step(self) -> None:
        """Take one optimizer step; after one that ends an epoch, score the inner clips."""
        batch, end = self.numbers[self.batches[self.done]], self.ends[self.done]
        start = end - len(batch)
        self.add_gradients(batch, range(start, end))
        trained = self.trained.values()
        gradients = [grad for parameter in trained if (grad := parameter.grad) is not None]
        self.norms[self.done] = norm = torch.nn.utils.get_total_norm(gradients)
        if self.settings.max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(trained, self.settings.max_grad_norm, norm)
        # From the first step on that is not finite, the optimizer leaves the weights as they are;
        # `settle` reports it.
        self.broken = torch.maximum(self.broken, (~norm.isfinite()).float())
        self.optimizer.found_inf = self.broken
        self.optimizer.step()
        self.scheduler.step()
        self.done += 1
        # More than one epoch may end, if a batch is longer than that.
        ended = range(start // len(self.numbers) + 1, end // len(self.numbers) + 1)
        if len(self.inner) and ended:
            self.settle()
            self.score_inner(ended)

    def add_gradients(self, batch: np.ndarray, turns: range) -> None:
        """Add the gradient of the batch's mean loss to every trained parameter; put each clip's
        loss and prediction into `seen`, in one of the processes.

        `attention_dropout` alone is torch's own and drawn once per micro-batch.

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
                own = [generators[place] for place in part]
                self.encoder.draws.begin(own, self.encoder.frames(lengths), device)
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
        length, which need little padding."""
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
        """Apply `function` to inputs and lengths of micro-batches of these clips, in float32 and
        with nothing random; its results, shape (clips, width)."""
        device = self.accelerator.device
        results = torch.zeros(len(numbers), width, device=device)

        def own_share() -> None:
            for part in self.share(self.clips.lengths[numbers, 0]):
                inputs, lengths = self.clips.batch(numbers[part])
                places = send(torch.from_numpy(part), device)
                results[places] = function(send(inputs, device), lengths)

        self.encoder.eval()
        self.in_memory(own_share)
        self.encoder.train()
        return self.accelerator.reduce(results, "sum").cpu().numpy()

    def settle(self) -> None:
        """Fetch the losses, predictions and norms of the steps since the last call, and add their
        rows to `curve`; in all processes at once.

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
            truth = self.labels[self.numbers[self.batches[step]]]
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

    def probabilities(self, numbers: np.ndarray) -> np.ndarray:
        """Probabilities of the labels for these clips, shape (n, labels), float64, from
        float32 logits whatever training uses."""
        logits = self.over_clips(numbers, len(self.names), self.encoder)
        return softmax(logits.astype(float), axis=1)  # not every device has float64

    def score_inner(self, epochs: range) -> None:
        """Score the inner clips for the epochs that have just ended; keep the weights if their UAR
        is the highest so far."""
        probabilities, truth = self.probabilities(self.inner), self.labels[self.inner]
        predicted = probabilities.argmax(axis=1)
        scores = {
            "inner_loss": float(log_loss(truth, probabilities, labels=range(len(self.names)))),
            "inner_accuracy": float((predicted == truth).mean()),
            "inner_uar": uar(truth, predicted),
        }
        if scores["inner_uar"] > max((row["inner_uar"] for row in self.inner_scores), default=-1):
            self.best = {
                name: weight.detach().to("cpu", copy=True) for name, weight in self.trained.items()
            }
        self.inner_scores += [{"epoch": epoch, **scores} for epoch in epochs]

    def finish(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Put the weights that count in place, the best inner epoch's or the last; return the
        tables curve.csv and epochs.csv."""
        self.settle()
        self.put(self.best)
        order, seen = np.concatenate(self.batches), self.seen.cpu().numpy()
        rows = []
        for epoch in range(self.settings.epochs):
            turns = slice(epoch * len(self.numbers), (epoch + 1) * len(self.numbers))
            truth, (loss, predicted) = self.labels[self.numbers[order[turns]]], seen[turns].T
            rows.append({
                "epoch": epoch + 1,
                "loss": loss.mean(dtype=float),
                "accuracy": (predicted == truth).mean(),
                "uar": uar(truth, predicted),
            })  # fmt: skip
        epochs = pd.DataFrame(rows)
        if self.inner_scores:
            epochs = epochs.merge(pd.DataFrame(self.inner_scores), on="epoch")
        return pd.DataFrame(self.curve), epochs

    def predictions(self) -> pd.DataFrame:
        """The rows of predictions.csv: the held-out clips, with the weights as they are."""
        held_out = self.table[self.table["fold"] == self.fold]
        probabilities = self.probabilities(held_out.index.to_numpy())
        table = pd.DataFrame(probabilities, columns=self.names)
        return tables.from_probabilities(held_out, table)

    def put(self, weights: dict[str, torch.Tensor]) -> None:
        """Overwrite the trained parameters named in `weights`."""
        with torch.no_grad():
            for name, tensor in weights.items():
                self.trained[name].copy_(tensor)

    def state(self) -> dict:
        """Everything that another training of the same arguments needs to go on from here."""
        return {
            "weights": {name: parameter.detach() for name, parameter in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "done": self.done,
            "micro_batch": self.micro_batch,
            "curve": self.curve,
            "inner_scores": self.inner_scores,
            "best": self.best,
            "seen": self.seen,
            "norms": self.norms,
            "head": self.encoder.head.state_dict() if self.encoder.head is not None else {},
        }

    def restore(self, state: dict) -> None:
        """Go to where `state` was taken."""
        self.put(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.done, self.micro_batch = state["done"], state["micro_batch"]
        self.curve, self.inner_scores = state["curve"], state["inner_scores"]
        self.best = state["best"]
        self.seen.copy_(state["seen"])
        self.norms.copy_(state["norms"])
        if self.encoder.head is not None:
            self.encoder.head.load_state_dict(state["head"])


# Saved states


def state_file(settings: params.Params, fold: int, accelerator: Accelerator) -> Path:
    """The file for the state of a stopped training, named by a hash of all that its numbers come
    from: no training of other params, data, code or packages finds it.

    It lies in the project's own `.checkpoints/`, which git ignores: DVC deletes a stage's outs
    before it runs, and the work tree of `dvc exp run --temp` after it failed.
    """
    # These names stand for files, whose contents count.
    by_files = {"checkpoint", "revision", "speeds"}
    values = settings.model_dump(include=set(params.Finetuning.model_fields) - by_files) | {
        "fold": fold,
        "device": accelerator.device.type,
        "precision": accelerator.mixed_precision,
        "versions": versions(),
    }
    total = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    ser = Path(__file__).parents[1]
    code = [*ser.glob("*.py"), *ser.glob("encoder/**/*.py"), *ser.glob("finetune/**/*.py")]
    for file in (FEATURES, tables.FOLDS, *sorted(CHECKPOINT.iterdir()), *sorted(code)):
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return project.folder() / ".checkpoints" / f"{total.hexdigest()[:32]}.pt"


def save(state: dict, file: Path) -> None:
    """Replace the state in `file`; forget states of other trainings that nobody went on with."""
    # Into an open file, or PyTorch would hide why it can't write.
    with outputs.whole(file) as path, path.open("wb") as stream:
        torch.save(state, stream)
    for other in file.parent.glob("*.pt"):
        if time.time() - other.stat().st_mtime > KEPT_SECONDS:
            other.unlink(missing_ok=True)


def load(file: Path, accelerator: Accelerator) -> dict | None:
    """The state in `file`, in main memory, for all processes; None if there is none, or one that is
    damaged, which is reported and removed."""
    state = None
    if accelerator.is_main_process and file.exists():
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception:  # torch and pickle raise whatever they stumble over
            print(f"{file}: damaged; the training begins anew", file=sys.stderr)
            file.unlink()
    return broadcast_object_list([state])[0]


# Loop


def prepare(
    settings: params.Params,
    fold: int,
    accelerator: Accelerator,
    inner: bool,
    saved: Path | None = None,
) -> Training:
    """The training on the speakers outside `fold`, made of the files that earlier stages wrote.

    Args:
        inner: whether the next fold is held out as well, and scored after every epoch.
        saved: file that may hold a state to go on from.

    Raises:
        UserError: no such fold; a checkpoint or params that do not fit; folds of other clips than
            the stored ones.
    """
    checkpoint.quiet()
    table = tables.folds(tables.FOLDS)
    if fold not in set(table["fold"]):
        folds = sorted(set(table["fold"]))
        raise UserError(f"fold {fold}: not in {tables.FOLDS}; expected one of {folds}")
    names = corpus.labels(table)
    encoder = fine_tunable(CHECKPOINT, settings, names)
    clips = Clips.read(FEATURES)
    if lonely := set(table["clip"]) ^ set(clips.names):
        raise UserError(
            f"{min(lonely)}: not in both {tables.FOLDS} and {FEATURES}; `dvc repro` makes them "
            "agree"
        )
    table = table.set_index("clip").loc[clips.names].reset_index()
    state = load(saved, accelerator) if saved else None
    return Training(encoder, clips, table, names, fold, settings, accelerator, inner, state)


def run(training: Training, saved: Path, log: Path, forecast: Callable[[float], str]) -> None:
    """Take all steps that are left, show them, and save the state now and then.

    A signal waits for the end of the step, and for the state to be saved.

    Args:
        saved: file for the state.
        log: folder for TensorBoard's event files.
        forecast: makes a line of the seconds that the whole training takes.

    Raises:
        Stopped: by a signal to any of the processes, or since their parent is gone; the state is
            saved.
    """
    accelerator, first = training.accelerator, training.accelerator.is_main_process
    title, steps, start = f"fold {training.fold}", len(training.batches), 0
    if training.done:
        start = training.ends[training.done - 1]
        accelerator.print(f"{title}: goes on after step {training.done} of {steps}")
    looked = last_save = time.monotonic()
    shown, pause, due = training.done, 1, training.done + 1  # steps, the same in all processes
    watched = progress.shown(title, training.ends[-1], start, log, forecast)
    with signals.caught() as caught, watched if first else nullcontext() as show:
        while training.done < steps:
            training.step()
            if training.done < min(due, steps):
                continue
            training.settle()
            if show:
                show(training.curve[shown:])
            shown = training.done
            # A signal to one process stops all; and all agree when to look again.
            now = time.monotonic()
            stop = float(bool(caught) or processes.orphaned())
            shared = torch.tensor([stop, now - looked], device=accelerator.device)
            stop, seconds = accelerator.reduce(shared, "sum").tolist()
            fitting = LOOK_SECONDS * accelerator.num_processes * pause / max(seconds, 1e-6)
            pause, looked = min(max(1, int(fitting)), 2 * pause), now
            due = training.done + pause
            if first and (stop or now - last_save >= SAVE_SECONDS):
                save(training.state(), saved)
                last_save = time.monotonic()
            if stop:
                accelerator.end_training()  # or NCCL complains
                raise errors.Stopped(
                    f"stopped after step {training.done} of {steps}; "
                    "the same command goes on from there",
                    next(iter(caught), signal.SIGTERM),
                )


# For the search


def inner_scores(settings: params.Params, fold: int) -> Iterator[float]:
    """After every epoch, the UAR on the inner fold of training speakers: of that epoch, or the best
    so far if `select` is inner."""
    training = prepare(settings, fold, make_accelerator(settings.precision), inner=True)
    curve: list[float] = []
    while training.done < len(training.batches):
        training.step()
        for row in training.inner_scores[len(curve) :]:
            curve.append(row["inner_uar"])
            yield max(curve) if settings.select == "inner" else curve[-1]


def predict(settings: params.Params, fold: int) -> pd.Series:
    """Train outside the fold as `w2v_finetune` does; the labels predicted in it, by clip."""
    accelerator, inner = make_accelerator(settings.precision), settings.select == "inner"
    training = prepare(settings, fold, accelerator, inner)
    while training.done < len(training.batches):
        training.step()
    training.finish()
    return training.predictions().set_index("clip")["predicted"]
