"""Measure Pocket Diffusion with judges that never saw it, and write its model card.

    accelerate launch -m evaluation.evaluate

Every figure stands beside its ceilings: the same judge on real pictures of the same scenes, and on the
autoencoder's reconstructions of them. Writes `evaluation.json`, `samples.webp` and `README.md` into the
model's folder.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import StableDiffusionPipeline
from PIL import Image
from tqdm import tqdm

from evaluation.model_card import SAMPLES, write_card
from helpers.checksums import sha256, write_checksums
from helpers.judge import read
from helpers.latents import decode, encode
from helpers.loading import POCKET, load_pipeline
from helpers.measures import psnr
from helpers.scenes import BACKGROUNDS, STYLES, WORDS, Scene, draw, held_out, place_scene, random_scene
from training.flags import add_flags, filled
from training.train_judge import in_reading_order, layout_of


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How the pictures of the evaluation are drawn."""

    pictures: int = 248  # of each kind: every word twice
    steps: int = 20  # of DDIM
    guidance: float = 4.0  # 1 is none
    batch_size: int = 8  # pictures drawn at once
    seed: int = 1_000_000  # far from the seeds of training: these scenes are unseen


def single_scenes(config: EvaluationConfig) -> list[Scene]:
    """Every word in turn, in a style it was trained in, on a random background."""
    rng = np.random.default_rng(config.seed)
    scenes = []
    for i in range(config.pictures):
        word = WORDS[i % len(WORDS)]
        styles = [style for style in STYLES if not held_out(word, style)]
        scenes.append(place_scene((word,), str(rng.choice(styles)), str(rng.choice(list(BACKGROUNDS))), None, rng))
    return scenes


def pair_scenes(config: EvaluationConfig) -> list[Scene]:
    """Two objects, every (word, style) pair a trained one."""
    rng = np.random.default_rng(config.seed + 1)
    return [random_scene(rng, objects=2) for _ in range(config.pictures)]


def held_out_scenes(config: EvaluationConfig) -> list[Scene]:
    """Every held-out (word, style) pair, as often as fits."""
    rng = np.random.default_rng(config.seed + 2)
    pairs = [(word, style) for word in WORDS for style in STYLES if held_out(word, style)]
    backgrounds = list(BACKGROUNDS)
    return [
        place_scene((word,), style, str(rng.choice(backgrounds)), None, rng)
        for _ in range(max(1, config.pictures // len(pairs)))
        for word, style in pairs
    ]


def draw_with(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    config: EvaluationConfig,
    accelerator: Accelerator,
    first: int = 0,
) -> list[Image.Image]:
    """One picture per prompt, in order. Each has its own seed, so the number of processes changes nothing.

    first: the number of the first picture, where these are a part of more.
    """
    with accelerator.split_between_processes(list(enumerate(prompts, first))) as mine:
        pictures = []
        for start in tqdm(range(0, len(mine), config.batch_size), mininterval=10):
            numbers, texts = zip(*mine[start : start + config.batch_size], strict=True)
            generators = [torch.Generator().manual_seed(config.seed + number) for number in numbers]
            drawn = pipe(
                list(texts), num_inference_steps=config.steps, guidance_scale=config.guidance, generator=generators
            ).images
            pictures += list(zip(numbers, drawn, strict=True))
    return [picture for _, picture in sorted(gather_object(pictures), key=lambda item: item[0])]


def judged(pictures: Sequence[Image.Image], scenes: Iterable[Scene]) -> dict[str, float]:
    """Shares of pictures whose words stand where they should, whose style and whose background is the scene's.

    `words` asks for the right layout and for every word in its place; `all` for words, style and background.
    """
    rows = []
    for reading, scene in zip(read(pictures), scenes, strict=True):
        words = reading.layout == layout_of(scene) and reading.words == in_reading_order(scene)
        style, background = reading.style == scene.style, reading.background == scene.background
        rows.append((words, style, background, words and style and background, words and style))
    shares = np.mean(rows, axis=0)
    return dict(zip(("words", "style", "background", "all", "words and style"), shares.tolist(), strict=True))


def evaluate(pipe: StableDiffusionPipeline, config: EvaluationConfig, accelerator: Accelerator) -> dict:
    """All figures of the model card."""
    kinds = {
        "one object": single_scenes(config),
        "two objects": pair_scenes(config),
        "held-out pairs": held_out_scenes(config),
    }
    results: dict = {"settings": vars(config), "kinds": {}}
    for kind, scenes in kinds.items():
        real = [draw(scene) for scene in scenes]
        rebuilt = decode(pipe, encode(pipe, real))  # the best this model could draw
        drawn = draw_with(pipe, [scene.caption() for scene in scenes], config, accelerator)
        results["kinds"][kind] = {
            "pictures": len(scenes),
            "psnr": float(np.mean([psnr(a, b) for a, b in zip(real, rebuilt, strict=True)])),
            "model": judged(drawn, scenes),
            "reconstruction": judged(rebuilt, scenes),
            "real": judged(real, scenes),
        }
    results["psnr"] = float(np.mean([results["kinds"][kind]["psnr"] for kind in ("one object", "two objects")]))
    return results


def sheet(pictures: Sequence[Image.Image], columns: int = 6) -> Image.Image:
    """Pictures of one size in rows, side by side."""
    width, height = pictures[0].size
    whole = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height))
    for i, picture in enumerate(pictures):
        whole.paste(picture, (i % columns * width, i // columns * height))
    return whole


def draw_samples(pipe: StableDiffusionPipeline, config: EvaluationConfig) -> list[Image.Image]:
    """The twelve sample prompts, seeds 0 to 11, none chosen."""
    generators = [torch.Generator().manual_seed(i) for i in range(len(SAMPLES))]
    return pipe(
        list(SAMPLES), num_inference_steps=config.steps, guidance_scale=config.guidance, generator=generators
    ).images


def weights_key(folder: Path) -> str:
    """Twelve digits that change with any weight of the model."""
    hashes = [sha256(path) for path in sorted(folder.rglob("*.safetensors"))]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:12]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=POCKET, help="folder of the pipeline; the results go there too")
    add_flags(parser, EvaluationConfig())
    args = parser.parse_args(arguments)
    config = filled(EvaluationConfig(), vars(args))
    accelerator = Accelerator()
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            write_checksums(args.model)  # of weights that have just been put there: loading compares them
    pipe = load_pipeline(str(args.model), device=accelerator.device)
    pipe.set_progress_bar_config(disable=True)
    results = {"weights": weights_key(args.model)} | evaluate(pipe, config, accelerator)
    if accelerator.is_main_process:
        (args.model / "evaluation.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        sheet(draw_samples(pipe, config)).save(args.model / "samples.webp", quality=90)
        write_card(args.model)
        write_checksums(args.model)
        print((args.model / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
