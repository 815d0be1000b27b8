"""Measure how well and how fast each sampler draws with Pocket Diffusion, once, for lesson 09.

    python -m evaluation.measure_samplers

Every sampler draws the same scenes from the same noise, with several numbers of steps. Each row goes to
`runs/samplers.csv` when it is measured, so that a stopped run goes on where it was. When all are there, the file is
copied beside the model as `samplers.csv`. The defaults take about 20 minutes on two cores.
"""

import argparse
import csv
import hashlib
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import SchedulerMixin, StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from evaluation.evaluate import verdicts
from helpers.checksums import sha256, write_checksums
from helpers.judge import JUDGE, features, read
from helpers.latents import decode, encode
from helpers.loading import POCKET, load_pipeline
from helpers.measures import frechet_distance
from helpers.sampling import run
from helpers.scenes import Scene, draw, random_scene
from training.flags import add_flags, filled

RUNS = Path("runs") / "samplers.csv"
FILE = "samplers.csv"
COLUMNS = (
    "sampler",
    "steps",
    "guidance",  # 1 is none; 0 where nothing is drawn by a sampler
    "calls",  # of the U-Net: Heun and PNDM make more of them than steps
    "pictures",
    "words",  # how many pictures show the right things in the right places
    "style",
    "ground",
    "frechet",  # distance to real pictures of other scenes
    "frechet_error",  # its standard error
    "seconds",  # for one picture, in a batch
    "device",  # what those seconds are true of
    "right",  # one digit for each picture: 1 where its words are right
    "setup",  # of the model, the judge and the settings: rows of another setup are measured again
)
# "trailing" is the one spacing that gives all of them the same timesteps, from the last one down to a clean picture.
SHARED = {"timestep_spacing": "trailing"}
SAMPLERS = {
    "DDPM": ("DDPMScheduler", {"variance_type": "fixed_small", "clip_sample": False}),
    "DDIM": ("DDIMScheduler", {"set_alpha_to_one": True, "clip_sample": False}),
    "PNDM": ("PNDMScheduler", {"set_alpha_to_one": True, "skip_prk_steps": True}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    "UniPC": ("UniPCMultistepScheduler", {"solver_order": 2}),
}
REAL = ("real", "rebuilt")  # what the figures of the samplers are to be held against; no sampler takes part


@dataclass(frozen=True, kw_only=True)
class SamplersConfig:
    """What is drawn, and how often."""

    pictures: int = 100  # for each row: an error of at most 5 per cent points
    steps: tuple[int, ...] = (2, 4, 8, 20, 40)  # divisors of 1000, so that every scheduler lands on whole timesteps
    heun_steps: tuple[int, ...] = (2, 4, 10, 20)  # each of them two calls of the U-Net, but for the last
    # Not Euler and Euler a, which draw the same pictures as DDIM and DDPM.
    samplers: tuple[str, ...] = tuple(name for name in SAMPLERS if not name.startswith("Euler"))
    guidance: float = 4.0  # 1 is none
    unguided: tuple[tuple[str, int], ...] = (("DDIM", 4), ("DPM++ 2M", 4))  # drawn without guidance, too: a control
    seed: int = 2_000_000  # far from the seeds of training and of the evaluation
    reference: int = 2000  # real pictures to compare with
    groups: int = 10  # of pictures, left out in turn to find the error of the distance


def plan(config: SamplersConfig) -> list[tuple[str, int, float]]:
    """All rows to measure, as (sampler, steps, guidance); those without a sampler first; last the control."""
    rows = [(name, 0, 0.0) for name in REAL]
    for name in config.samplers:
        rows += [(name, steps, config.guidance) for steps in (config.heun_steps if name == "Heun" else config.steps)]
    control = [(name, steps, 1.0) for name, steps in config.unguided]
    return rows + [row for row in control if row not in rows]


def build_sampler(name: str, pipe: StableDiffusionPipeline) -> SchedulerMixin:
    """A sampler of the table, for the schedule of a pipeline."""
    kind, options = SAMPLERS[name]
    return getattr(diffusers, kind).from_config(pipe.scheduler.config, **SHARED, **options)


def measured_scenes(config: SamplersConfig, start: int = 0, count: int | None = None) -> list[Scene]:
    """Scenes in turn of one thing and of two. Scene i depends on the seed and i alone, as does its noise."""
    numbers = range(start, start + (config.pictures if count is None else count))
    return [random_scene(np.random.default_rng((config.seed, i)), things=1 + i % 2) for i in numbers]


def jackknife_error(found: Tensor, reference: Tensor, groups: int) -> float:
    """Standard error of the Frechet distance of features (N, D), by leaving out one group of pictures at a time.

    found: of pictures with one thing and with two in turn. Each group has as many of both, for a set that lacks one
    kind is at another distance.
    """
    number = torch.arange(len(found)) // 2 % groups
    parts = torch.tensor([frechet_distance(found[number != i], reference) for i in range(groups)])
    return math.sqrt((groups - 1) / groups * float((parts - parts.mean()).square().sum()))


def setup_key(folder: Path, config: SamplersConfig) -> str:
    """Twelve digits that change with any weight of the model or the judge, and with any setting."""
    weights = sorted(path for place in (folder, JUDGE) for path in place.rglob("*.safetensors"))
    parts = [sha256(path) for path in weights]
    # How many rows there are does not change one of them.
    rows = ("steps", "heun_steps", "samplers", "unguided")
    settings = {key: value for key, value in asdict(config).items() if key not in rows}
    return hashlib.sha256("\n".join([*parts, json.dumps(settings)]).encode()).hexdigest()[:12]


def draw_row(
    pipe: StableDiffusionPipeline, name: str, steps: int, guidance: float, config: SamplersConfig, batch_size: int
) -> tuple[list[Image.Image], int, float]:
    """The pictures of one row, the U-Net's calls for each of them, and the seconds that each took, decoding included.

    Picture i starts from noise of seed + i, whatever the batches.
    """
    sampler, captions = build_sampler(name, pipe), [scene.caption() for scene in measured_scenes(config)]
    pictures, calls, began = [], 0, time.perf_counter()
    for start in range(0, len(captions), batch_size):
        drawn = run(
            pipe,
            captions[start : start + batch_size],
            steps=steps,
            guidance=guidance,
            seed=config.seed + start,
            sampler=sampler,
        )
        calls = len(drawn.steps)
        pictures += decode(pipe, drawn.latents)
    return pictures, calls, (time.perf_counter() - began) / len(captions)


def measure_row(
    pipe: StableDiffusionPipeline,
    name: str,
    steps: int,
    guidance: float,
    config: SamplersConfig,
    reference: Tensor,
    batch_size: int,
) -> dict:
    """One row of the file but for its setup. reference: features of real pictures, (reference, D)."""
    scenes = measured_scenes(config)
    calls, seconds, device = 0, 0.0, ""
    if name in REAL:
        pictures = [draw(scene) for scene in scenes]
        if name == "rebuilt":  # the best that any sampler could do with this VAE
            pictures = decode(pipe, encode(pipe, pictures))
    else:
        pictures, calls, seconds = draw_row(pipe, name, steps, guidance, config, batch_size)
        threads = f", {torch.get_num_threads()} threads" if pipe.device.type == "cpu" else ""
        device = f"{pipe.device.type}{threads}"
    told, found = verdicts(read(pictures), scenes), features(pictures)
    return {
        "sampler": name,
        "steps": steps,
        "guidance": guidance,
        "calls": calls,
        "pictures": len(pictures),
        **{name: sum(told[name]) for name in ("words", "style", "ground")},
        "frechet": f"{frechet_distance(found, reference):.3f}",
        "frechet_error": f"{jackknife_error(found, reference, config.groups):.3f}",
        "seconds": f"{seconds:.4f}",
        "device": device,
        "right": "".join(str(int(one)) for one in told["words"]),
    }


def read_rows(file: Path) -> list[dict]:
    """The rows of a file, every value a string; none if there is no file."""
    if not file.exists():
        return []
    with open(file, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def key_of(row: dict) -> tuple[str, int, float]:
    """What the plan calls a row of a file."""
    return row["sampler"], int(row["steps"]), float(row["guidance"])


def write_rows(file: Path, rows: Sequence[dict]) -> None:
    """Write a whole new file before the old one goes, so that a stop at any moment leaves one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(file.name + ".new")
    with open(fresh, "w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    fresh.replace(file)


def measure(
    pipe: StableDiffusionPipeline, folder: Path, config: SamplersConfig, file: Path, *, batch_size: int = 25
) -> list[dict]:
    """Measure every row of the plan that `file` does not hold yet, and return them all, in the plan's order.

    folder: of the model, whose weights are part of the setup. Rows of another setup are dropped from the file.
    """
    setup = setup_key(folder, config)
    there = {key_of(row): row for row in read_rows(file) if row["setup"] == setup}
    missing = [key for key in plan(config) if key not in there]
    if missing:
        real = [draw(scene) for scene in measured_scenes(config, start=1_000_000, count=config.reference)]
        reference = torch.cat([features(real[i : i + 100]) for i in range(0, len(real), 100)])
        # What the first call of a network costs beyond the others is no sampler's fault.
        decode(pipe, run(pipe, "a fox", steps=2, sampler=build_sampler("DDIM", pipe)).latents)
        for key in tqdm(missing, mininterval=5):
            there[key] = measure_row(pipe, *key, config, reference, batch_size) | {"setup": setup}
            write_rows(file, [there[key] for key in plan(config) if key in there])
    return [there[key] for key in plan(config)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=POCKET, help="folder of the pipeline; the file goes there too")
    parser.add_argument("--rows", type=Path, default=RUNS, help="where each row goes as soon as it is measured")
    parser.add_argument("--batch-size", type=int, default=25, help="pictures drawn at once")
    add_flags(parser, SamplersConfig(), without=("samplers", "steps", "heun_steps", "unguided"))
    args = parser.parse_args(arguments)
    config = filled(SamplersConfig(), vars(args))
    pipe = load_pipeline(str(args.model))
    measure(pipe, args.model, config, args.rows, batch_size=args.batch_size)
    shutil.copyfile(args.rows, args.model / FILE)
    write_checksums(args.model)
    print((args.model / FILE).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
