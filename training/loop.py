"""One training loop for all networks: accelerate, EMA, checkpoints, resume, a progress bar.

Every batch is a function of the seed and the step alone. A run that was stopped therefore continues
exactly where it was, and several processes share the same global batch that one process would see.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from training.run_folder import claim, describe, last_checkpoint, save_checkpoint

LOG_EVERY = 50  # steps; a GPU waits for nobody between them


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how fast to train; one reason per field."""

    steps: int  # the decay is planned for this number, so a run should end
    batch_size: int  # of the whole run; each process takes its equal share
    learning_rate: float  # the full one, of AdamW
    betas: tuple[float, float] = (0.9, 0.99)  # second moments over 100 steps suit short runs
    weight_decay: float = 0.01  # of AdamW
    warmup_steps: int = 100  # the first gradients of a fresh network are not to be trusted
    decay_from: float = 0.5  # share of the run at the full rate; most visible quality comes after it
    final_rate: float = 0.02  # share of the full rate left at the end
    ema_decay: float = 0.999  # the averaged weights are the ones that are kept
    clip: float = 1.0  # largest gradient norm, against the rare bad batch
    seed: int = 0  # another one shows a continued run other pictures
    checkpoint_minutes: float = 5.0  # at most this much is lost by a stop
    stop_after: int | None = None  # end early, after this step, with a checkpoint; the plan of the rate stays


def rate_at(step: int, config: LoopConfig) -> float:
    """Learning rate at a step as a share of the full one: linear warm-up, constant, linear decay."""
    hold_until = config.decay_from * config.steps
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if step < hold_until or config.decay_from == 1:
        return 1.0
    left = max(0.0, (config.steps - step) / (config.steps - hold_until))
    return config.final_rate + (1 - config.final_rate) * left


def step_rng(seed: int, step: int) -> np.random.Generator:
    """The random numbers of one step, independent of every other step."""
    return np.random.default_rng((seed, step))


def local_share(batch: dict[str, Tensor], accelerator: Accelerator) -> dict[str, Tensor]:
    """This process's slice of a global batch, on its device."""
    size = len(next(iter(batch.values())))
    if size % accelerator.num_processes:
        raise ValueError(f"Batch size {size} does not divide by {accelerator.num_processes} processes")
    share = size // accelerator.num_processes
    start = accelerator.process_index * share
    return {name: value[start : start + share].to(accelerator.device) for name, value in batch.items()}


def batches(make_batch: Callable[[int], dict[str, Tensor]], first: int, last: int) -> Iterator[dict[str, Tensor]]:
    """The batches of the steps `first` to `last` - 1, each made in a thread while the one before it is in use."""
    with ThreadPoolExecutor(max_workers=1) as maker:
        following = maker.submit(make_batch, first) if first < last else None
        for step in range(first, last):
            batch = following.result()
            following = maker.submit(make_batch, step + 1) if step + 1 < last else None
            yield batch


class _Position:
    """The number of finished steps, saved with each checkpoint."""

    step = 0

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


def train(
    trainee: nn.Module,
    make_batch: Callable[[int], dict[str, Tensor]],
    config: LoopConfig,
    folder: Path,
    *,
    accelerator: Accelerator | None = None,
    record: dict[str, Any] | None = None,
) -> nn.Module:
    """Train `trainee`, whose forward takes a batch's tensors by name and returns the mean loss.

    make_batch: the global batch of a step, tensors on the CPU. It runs in another thread than the training.
    record: what the run is made of, as from `describe`; by default the loop's settings alone.

    A checkpoint found in `folder` is resumed; SystemExit if it is of a run with another record. Returns the bare
    module with its averaged (EMA) weights; `folder/log.csv` holds step, mean loss since the row before, rate and time.
    """
    accelerator = accelerator or Accelerator()
    claim(folder, record or describe("loop", config, folder, accelerator), accelerator)
    optimizer = torch.optim.AdamW(
        trainee.parameters(), config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, foreach=True
    )
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, config))
    trainee, optimizer = accelerator.prepare(trainee, optimizer)
    bare = accelerator.unwrap_model(trainee)
    ema = EMAModel(bare.parameters(), decay=config.ema_decay, foreach=True)
    ema.to(accelerator.device)
    position = _Position()
    accelerator.register_for_checkpointing(rates, ema, position)
    checkpoint = last_checkpoint(folder, accelerator)
    if checkpoint:
        accelerator.load_state(checkpoint)
    log = _Log(folder / "log.csv", position.step, accelerator)
    last = min(config.steps, config.stop_after or config.steps)

    trainee.train()
    saved_at = time.monotonic()
    bar = tqdm(total=config.steps, initial=position.step, disable=not accelerator.is_local_main_process, mininterval=5)
    with bar:
        for batch in batches(make_batch, position.step, last):
            loss = trainee(**local_share(batch, accelerator))
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(bare.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad()
            rates.step()
            ema.step(bare.parameters())
            position.step += 1
            log.add(loss)
            bar.update()
            if position.step % LOG_EVERY == 0 or position.step == last:
                bar.set_postfix(loss=f"{log.write(position.step, rates.get_last_lr()[0]):.4f}")
            overdue = time.monotonic() - saved_at > 60 * config.checkpoint_minutes
            if position.step == last or _agreed(overdue, position.step, accelerator):
                save_checkpoint(folder, accelerator)
                saved_at = time.monotonic()
    ema.copy_to(bare.parameters())
    return bare.eval()


def _agreed(overdue: bool, step: int, accelerator: Accelerator) -> bool:
    """Whether to checkpoint now. All must save at one step and each has its own clock, so the first process decides."""
    if accelerator.num_processes == 1:
        return overdue
    return step % LOG_EVERY == 0 and broadcast_object_list([overdue])[0]


class _Log:
    """`log.csv`. Losses are summed where they are computed: to read each at once would have a GPU wait every step."""

    def __init__(self, path: Path, step: int, accelerator: Accelerator):
        """step: the one to go on from; rows of later steps, which will be made again, are dropped."""
        self.path, self.accelerator = path, accelerator
        self.total, self.count = torch.zeros((), device=accelerator.device), 0
        if accelerator.is_main_process:
            rows = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
            kept = [row for row in rows if int(row.split(",")[0]) <= step]
            path.write_text("\n".join(["step,loss,rate,time", *kept]) + "\n", encoding="utf-8")

    def add(self, loss: Tensor) -> None:
        self.total += loss.detach()
        self.count += 1

    def write(self, step: int, rate: float) -> float:
        """Write a row, and return the mean loss since the last one."""
        loss = self.accelerator.reduce(self.total / self.count, "mean").item()
        self.total.zero_()
        self.count = 0
        if self.accelerator.is_main_process:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(f"{step},{loss:.6f},{rate:.3e},{time.time():.0f}\n")
        return loss
