"""One training loop for both stages: accelerate, EMA, checkpoints, resume, a progress bar.

Every batch is a function of the seed and the step alone. A run that was stopped therefore continues
exactly where it was, and several processes share the same global batch that one process would see.
"""

import csv
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how fast to train; one reason per field."""

    steps: int  # the decay below is planned for this number, so a run should end
    batch_size: int  # of the whole run; each process takes its equal share
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.99)  # second moments over 100 steps suit short runs
    weight_decay: float = 0.01
    warmup_steps: int = 100  # the first gradients of a fresh network are not to be trusted
    decay_from: float = 0.5  # share of the run at the full rate; most visible quality comes after it
    final_rate: float = 0.02  # share of the full rate left at the end
    ema_decay: float = 0.999  # the averaged weights are the ones that are kept
    clip: float = 1.0  # largest gradient norm, against the rare bad batch
    seed: int = 0
    checkpoint_minutes: float = 5.0


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
    stop_after: int | None = None,
) -> nn.Module:
    """Train `trainee`, whose forward takes a batch's tensors by name and returns the mean loss.

    A checkpoint found in `folder` is resumed. `stop_after` ends the call early, at that step, with a
    checkpoint: the plan of the learning rate stays that of the whole run. Returns the bare module with
    its averaged (EMA) weights; `folder/log.csv` holds step, loss, rate and seconds.
    """
    accelerator = accelerator or Accelerator()
    folder.mkdir(parents=True, exist_ok=True)
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
    if (folder / "checkpoint").is_dir():
        accelerator.load_state(folder / "checkpoint")
    last = min(config.steps, stop_after or config.steps)

    trainee.train()
    saved_at, losses = time.monotonic(), []
    with tqdm(
        total=config.steps, initial=position.step, disable=not accelerator.is_local_main_process, mininterval=5
    ) as bar:
        while position.step < last:
            batch = local_share(make_batch(position.step), accelerator)
            loss = trainee(**batch)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(bare.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad()
            rates.step()
            ema.step(bare.parameters())
            position.step += 1
            losses.append(accelerator.reduce(loss.detach(), "mean").item())
            bar.update()
            if len(losses) == 50 or position.step == last:
                _log(folder / "log.csv", position.step, float(np.mean(losses)), rates.get_last_lr()[0], accelerator)
                bar.set_postfix(loss=f"{np.mean(losses):.4f}")
                losses.clear()
            if time.monotonic() - saved_at > 60 * config.checkpoint_minutes or position.step == last:
                _checkpoint(accelerator, folder)
                saved_at = time.monotonic()
    ema.copy_to(bare.parameters())
    return bare.eval()


def _checkpoint(accelerator: Accelerator, folder: Path) -> None:
    """Write a whole new checkpoint before the old one goes, so that a stop at any moment leaves one."""
    accelerator.save_state(folder / "checkpoint.new")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        (folder / "checkpoint.new").rename(folder / "checkpoint")
    accelerator.wait_for_everyone()


def _log(path: Path, step: int, loss: float, rate: float, accelerator: Accelerator) -> None:
    if not accelerator.is_main_process:
        return
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "loss", "rate", "time"])
        writer.writerow([step, f"{loss:.6f}", f"{rate:.3e}", f"{time.time():.0f}"])
