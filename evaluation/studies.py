"""Longer measurements of Pocket Diffusion, beside the figures of `evaluate.py`.

    accelerate launch -m evaluation.studies distance                 # Frechet distance and memorisation
    accelerate launch -m evaluation.studies steps                    # how many are enough
    accelerate launch -m evaluation.studies choices --runs runs/gamma-5 runs/gamma-inf      # what training chose

Each writes its part of `studies.json` into the model's folder, and the model card again. Pictures are kept under
`runs/studies` as they are drawn, so that a study that was stopped goes on where it was.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from evaluation.evaluate import EvaluationConfig, asked, draw_with, judged, paired, sheet, small, weights_key
from evaluation.model_card import of_this_world, write_card
from helpers.checksums import write_checksums
from helpers.judge import features
from helpers.latents import decode, encode
from helpers.loading import POCKET, load_pipeline
from helpers.measures import frechet_distance
from helpers.scenes import Scene, draw, random_scene
from training.dataset import training_scenes
from training.flags import filled
from training.run_folder import HISTORY, history
from training.unet import UNetConfig

FILE, NEAREST = "studies.json", "nearest.webp"
KINDS = ("one thing", "two things")


@dataclass(frozen=True, kw_only=True)
class StudiesConfig:
    """How much is drawn, and with what."""

    # The settings where a study does not change them.
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    pictures: int = 5000  # of the Frechet distance
    kept: int = 250  # pictures in a file
    seed: int = 3_000_000  # far from the seeds of training, evaluation and samplers
    steps: tuple[int, ...] = (10, 20, 100)
    timesteps: tuple[int, ...] = (50, 200, 400, 600, 800, 950)  # where the error of a training choice is measured
    shown: int = 6  # pictures with their nearest training pictures


def unseen_scenes(config: StudiesConfig, seed: int) -> list[Scene]:
    """Scenes of one thing and of two in turn; scene i depends on the seed and i alone."""
    return [random_scene(np.random.default_rng((seed, i)), things=1 + i % 2) for i in range(config.pictures)]


def in_parts(count: int, part: int) -> Iterator[slice]:
    return (slice(first, min(first + part, count)) for first in range(0, count, part))


def kept_pictures(
    pipe: StableDiffusionPipeline,
    scenes: Sequence[Scene],
    config: StudiesConfig,
    evaluation: EvaluationConfig,
    accelerator: Accelerator,
    folder: Path,
) -> list[Image.Image]:
    """A picture for each scene's caption; those that `folder` holds already are not drawn again."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[Image.Image] = []
    for part in in_parts(len(scenes), config.kept):
        path = folder / f"{part.start:05}-{part.stop:05}.npy"
        there = path.exists()
        accelerator.wait_for_everyone()  # nobody looks for a file that another has just written
        if not there:
            captions = [scene.caption() for scene in scenes[part]]
            pictures = draw_with(pipe, captions, evaluation, accelerator, first=part.start)
            if accelerator.is_main_process:
                fresh = path.with_name(f"{path.stem}.new.npy")
                np.save(fresh, np.stack([np.asarray(picture) for picture in pictures]))
                fresh.rename(path)
            accelerator.wait_for_everyone()
        drawn += [Image.fromarray(array) for array in np.load(path)]
    return drawn


def all_features(pictures: Sequence[Image.Image]) -> Tensor:
    return torch.cat([features(pictures[part]) for part in in_parts(len(pictures), 100)])


def nearest(pictures: Tensor, training: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Each row's root mean squared distance to the nearest row of the parts of `training`, and that row's number.

    The parts may be made as they are asked for: no more than one is kept at a time.
    """
    distances = torch.full((len(pictures),), torch.inf)
    numbers = torch.zeros(len(pictures), dtype=torch.long)
    first = 0
    for part in training:
        found = torch.cdist(pictures, part).min(dim=1)
        nearer = found.values < distances
        distances[nearer], numbers[nearer] = found.values[nearer], first + found.indices[nearer]
        first += len(part)
    return distances / pictures.shape[1] ** 0.5, numbers


def trained_scenes(model: Path) -> list[Scene]:
    """All scenes of this world that the U-Net of a model was trained on, each once, as its `training.json` tells.

    The first weights were those of Pocket Diffusion 2, whose scenes no program draws any more: see `of_this_world`.
    Raises FileNotFoundError if no run is of this world.
    """
    runs = [run for run in history(model) if run["program"] == "train_unet" and of_this_world(run)]
    if not runs:
        raise FileNotFoundError(f"{model / HISTORY} tells of no training of a U-Net: nobody knows what it was shown")
    configs = [filled(UNetConfig(), run["settings"]) for run in runs]
    return list(dict.fromkeys(scene for config in configs for scene in training_scenes(config)))


def distance_study(
    pipe: StableDiffusionPipeline,
    training: Sequence[Scene],
    config: StudiesConfig,
    accelerator: Accelerator,
    runs: Path,
) -> tuple[dict, Image.Image]:
    """Frechet distance beside its two baselines, and whether pictures are copies of `training`, all scenes trained on.

    All three distances are to the same real pictures, of other scenes than any that was drawn: real pictures have one
    too, for there are finitely many. Copies would be nearer to the training set than unseen real pictures are; the
    autoencoder moves every picture away from it a little, so those are compared after it as well. "nearer than 95 %"
    is the share of pictures nearer than 95 % of those reconstructions are: by definition 0.05 of these themselves.
    """
    scenes = unseen_scenes(config, config.seed)
    real = [draw(scene) for scene in scenes]
    rebuilt = decode(pipe, encode(pipe, real))
    drawn = kept_pictures(pipe, scenes, config, config.evaluation, accelerator, runs)
    others = all_features([draw(scene) for scene in unseen_scenes(config, config.seed + 1)])
    sources = {"model": drawn, "reconstruction": rebuilt, "real": real}
    frechet = {name: frechet_distance(all_features(pictures), others) for name, pictures in sources.items()}

    rows = (small([draw(scene) for scene in training[part]]) for part in in_parts(len(training), 1000))
    distances, numbers = nearest(torch.cat([small(pictures) for pictures in sources.values()]), rows)
    found = dict(zip(sources, zip(distances.split(len(scenes)), numbers.split(len(scenes)), strict=True), strict=True))
    memory, read = {}, {}
    for kind, things in zip(KINDS, (1, 2), strict=True):
        numbers = [i for i, scene in enumerate(scenes) if len(scene.things) == things]
        read[kind] = judged([drawn[i] for i in numbers], [scenes[i] for i in numbers])
        distances = {name: there[numbers] for name, (there, _) in found.items()}
        limit = distances["reconstruction"].quantile(0.05)
        memory[kind] = {
            name: {"median": float(there.median()), "nearer than 95 %": float((there < limit).float().mean())}
            for name, there in distances.items()
        }
    shown = []
    for name in ("model", "real"):
        shown += sources[name][: config.shown]
        shown += [draw(training[i]) for i in found[name][1][: config.shown].tolist()]
    results = {
        "pictures": config.pictures,
        "training scenes": len(training),
        "frechet": frechet,
        "nearest": memory,
        "judged": read,
    }
    return results, sheet(shown, config.shown)


def judged_with(
    pipe: StableDiffusionPipeline,
    config: StudiesConfig,
    evaluation: EvaluationConfig,
    accelerator: Accelerator,
    folder: Path,
) -> dict[str, dict]:
    """What the judge reads in the evaluation's pictures of one thing and of two, drawn with these settings."""
    found = {}
    for kind in KINDS:
        scenes = asked(kind, evaluation)
        pictures = kept_pictures(pipe, scenes, config, evaluation, accelerator, folder / kind)
        found[kind] = judged(pictures, scenes)
    return found


def steps_study(pipe: StableDiffusionPipeline, config: StudiesConfig, accelerator: Accelerator, runs: Path) -> dict:
    """The same prompts and the same noise with other numbers of steps; each beside the most, picture by picture."""
    found = {
        steps: judged_with(pipe, config, replace(config.evaluation, steps=steps), accelerator, runs / f"{steps}-steps")
        for steps in config.steps
    }
    most = found[max(config.steps)]
    for kinds in found.values():
        for kind, read in kinds.items():
            read["against most steps"] = paired(read["right"], most[kind]["right"])
    return {
        "pictures": config.evaluation.pictures,
        "guidance": config.evaluation.guidance,
        "steps": {str(steps): kinds for steps, kinds in found.items()},
    }


@torch.no_grad()
def noise_errors(pipe: StableDiffusionPipeline, config: StudiesConfig) -> dict[str, float]:
    """Mean squared error of the predicted noise at single timesteps, on the evaluation's pairs of things."""
    scenes = asked("two things", config.evaluation)
    x0 = encode(pipe, [draw(scene) for scene in scenes])
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(config.seed)).to(x0)
    text = pipe.encode_prompt([scene.caption() for scene in scenes], pipe.device, 1, False)[0]
    errors = {}
    for t in config.timesteps:
        noisy = pipe.scheduler.add_noise(x0, eps, torch.tensor(t))
        parts = [(pipe.unet(noisy[i], t, text[i]).sample - eps[i]).square() for i in in_parts(len(scenes), 31)]
        errors[str(t)] = float(torch.cat(parts).mean())
    return errors


def choices_study(config: StudiesConfig, accelerator: Accelerator, trained: Sequence[Path], runs: Path) -> dict:
    """Runs of `train_unet` against each other, each with its averaged weights and with those of its last step."""
    results: dict[str, dict] = {}
    for folder in trained:
        pipe = load_pipeline(str(folder / "pipeline"), device=accelerator.device)
        pipe.set_progress_bar_config(disable=True)
        for weights in ("averaged", "last"):
            if weights == "last":
                state = load_file(folder / "checkpoint" / "model.safetensors")
                for name in ("unet", "text_encoder"):
                    part = {key.removeprefix(f"{name}."): x for key, x in state.items() if key.startswith(f"{name}.")}
                    getattr(pipe, name).load_state_dict(part)
            drawn = runs / weights_key(folder / "pipeline") / weights
            results[f"{folder.name}, {weights}"] = {
                "errors": noise_errors(pipe, config),
                **judged_with(pipe, config, config.evaluation, accelerator, drawn),
            }
    return {"pictures": config.evaluation.pictures, "runs": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("distance", "steps", "choices"))
    parser.add_argument("--model", type=Path, default=POCKET, help="folder of the pipeline; the results go there too")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="of `choices`: folders of train_unet's runs")
    args = parser.parse_args()
    if args.study == "choices" and not args.runs:
        parser.error("choices needs --runs: the folders of the training runs to compare")
    config, accelerator = StudiesConfig(), Accelerator()
    weights = weights_key(args.model)
    runs = Path("runs/studies")
    pipe = load_pipeline(str(args.model), device=accelerator.device)
    pipe.set_progress_bar_config(disable=True)
    picture = None
    if args.study == "distance":
        training = trained_scenes(args.model)
        results, picture = distance_study(pipe, training, config, accelerator, runs / weights / "distance")
    elif args.study == "steps":
        results = steps_study(pipe, config, accelerator, runs / weights)  # pictures of other weights are not these
    else:
        results = choices_study(config, accelerator, args.runs, runs)
    if accelerator.is_main_process:
        path = args.model / FILE
        studies = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        studies[args.study] = {"weights": weights} | results
        path.write_text(json.dumps(studies, indent=1) + "\n", encoding="utf-8")
        if picture:
            picture.save(args.model / NEAREST, quality=90)
        write_card(args.model)
        write_checksums(args.model)
        print(json.dumps(studies[args.study], indent=1))


if __name__ == "__main__":
    main()
