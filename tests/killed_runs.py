"""A model of two numbers to test the training loop with; as a program, runs of it that are killed on the way.

    python -m tests.killed_runs FOLDER

trains in FOLDER again and again. The first run is killed (SIGKILL) before its first file operation on a checkpoint, the
second before its second, and so on, until one ends. Prints, as JSON, the step that each left to go on from.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from training.loop import LoopConfig, train

OPERATIONS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "open")  # Python's audit events
LINE = LoopConfig(steps=40, batch_size=4, learning_rate=0.1, warmup_steps=5, ema_decay=0.9)
SHORT = LoopConfig(steps=8, batch_size=4, learning_rate=0.1, warmup_steps=5, ema_decay=0.9, checkpoint_minutes=0.0)


class Line(nn.Module):
    """y = w x, of two numbers."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0]))

    def forward(self, x, y):
        return (x @ self.weight - y).square().mean()


def line_batch(step):
    """Four points of the line that is to be learned."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(4, 2, generator=generator)
    return {"x": x, "y": x @ torch.tensor([2.0, 3.0])}


def train_until(operation: int, folder: Path) -> None:
    """A run with a checkpoint after every step, which kills itself before the given operation, counted from 0."""
    left = operation

    def watch(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in OPERATIONS and "checkpoint" in str(arguments[0]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    train(Line(), line_batch, SHORT, folder)


def step_left(folder: Path) -> int:
    """The step that a run in this folder can go on from, wherever a stop has left the last whole checkpoint."""
    for name in ("checkpoint", "checkpoint.old"):
        if (folder / name / "custom_checkpoint_2.pkl").exists():
            return torch.load(folder / name / "custom_checkpoint_2.pkl")["step"]
    return 0


def main() -> None:
    folder, steps, status = Path(sys.argv[1]), [], -1
    while status != 0:
        child = os.fork()  # libraries are loaded once; nothing has been computed here yet, so there are no threads
        if child == 0:
            train_until(len(steps), folder)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status not in (0, -signal.SIGKILL):
            raise SystemExit(f"run {len(steps)} ended with {status}")
        steps.append(step_left(folder))
    print(json.dumps(steps))


if __name__ == "__main__":
    main()
