"""Measure Pocket Diffusion with a judge that never saw it, and write its model card.

    accelerate launch -m evaluation.evaluate

Every figure stands beside its ceilings: the same judge on real pictures of the same scenes, and on the autoencoder's
reconstructions of them. Writes `evaluation.json`, `samples.webp` and `README.md` into the model's folder.
"""

import argparse
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from evaluation.model_card import SAMPLES, write_card
from helpers.checksums import sha256, write_checksums
from helpers.judge import Reading, read
from helpers.latents import decode, encode
from helpers.loading import POCKET, load_pipeline
from helpers.measures import psnr, wilson
from helpers.sampling import denoise
from helpers.scenes import (
    COLOURS,
    GROUNDS,
    STYLES,
    WORDS,
    Scene,
    Thing,
    draw,
    held_out_colour,
    held_out_style,
    random_scene,
    takes_colours,
    vary,
)
from training.flags import add_flags, filled
from training.train_judge import in_reading_order, layout_of

GUIDANCES = (1.0, 2.0, 4.0, 8.0)  # where variety is measured
CAPTIONS, ALIKE = 12, 16  # and in how many pictures of each of how many captions


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How the pictures of the evaluation are drawn."""

    pictures: int = 240  # of each kind: every word twice
    steps: int = 20  # of DDIM
    guidance: float = 4.0  # 1 is none
    batch_size: int = 8  # pictures drawn at once
    seed: int = 1_000_000  # far from the seeds of training: these scenes are unseen


# --- what is asked for


def one_thing(count: int, seed: int) -> list[Scene]:
    """Every word in turn, in a style and a colour that training had."""
    endless = _scenes(seed, 1)
    return [next(scene for scene in endless if scene.words == (WORDS[i % len(WORDS)],)) for i in range(count)]


def two_things(count: int, seed: int) -> list[Scene]:
    """Two things, every pair of word and style and of word and colour a trained one."""
    return list(itertools.islice(_scenes(seed, 2), count))


def two_colours(count: int, seed: int) -> list[Scene]:
    """Two things with two different colours."""
    both = (scene for scene in _scenes(seed, 2) if len({thing.colour for thing in scene.things} - {None}) == 2)
    return list(itertools.islice(both, count))


def unseen_styles(count: int, seed: int) -> list[Scene]:
    """Every (word, style) pair that training never had, without a colour, as often as fits."""
    pairs = [(Thing(word), [style]) for word in WORDS for style in STYLES if held_out_style(word, style)]
    return _of_pairs(pairs, count, seed)


def unseen_colours(count: int, seed: int) -> list[Scene]:
    """Every (word, colour) pair that training never had, in a style that it had, as often as fits."""
    styles = {
        word: [style for style in STYLES if takes_colours(word, style) and not held_out_style(word, style)]
        for word in WORDS
    }
    pairs = [(Thing(word, colour), styles[word]) for word in WORDS for colour in COLOURS]
    return _of_pairs([pair for pair in pairs if held_out_colour(pair[0].word, pair[0].colour) and pair[1]], count, seed)


def _scenes(seed: int, things: int) -> Iterator[Scene]:
    rng = np.random.default_rng(seed)
    while True:
        yield random_scene(rng, things=things)


def _of_pairs(pairs: Sequence[tuple[Thing, list[str]]], count: int, seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [
        vary(Scene((thing,), ground=str(rng.choice(list(GROUNDS))), style=str(rng.choice(styles))), rng)
        for thing, styles in (list(pairs) * max(1, count // len(pairs)))[:count]
    ]


# Each kind of scene, and what its pictures may be right or wrong together by, if anything.
KINDS: dict[str, tuple[Callable[[int, int], list[Scene]], Callable[[Scene], Any] | None]] = {
    "one thing": (one_thing, None),
    "two things": (two_things, None),
    "two colours": (two_colours, None),
    "held-out styles": (unseen_styles, lambda scene: (scene.words[0], scene.style)),
    "held-out colours": (unseen_colours, lambda scene: (scene.words[0], scene.things[0].colour)),
}


def asked(kind: str, config: EvaluationConfig) -> list[Scene]:
    """The scenes of one of `KINDS`, about `config.pictures` of them."""
    make, _ = KINDS[kind]
    return make(config.pictures, config.seed + list(KINDS).index(kind))


# --- what is drawn


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


def first_looks(pipe: StableDiffusionPipeline, prompts: Sequence[str], config: EvaluationConfig) -> list[Image.Image]:
    """What the network makes of the noise alone: the x0 that it implies at t = 999, without guidance, decoded.

    The noise is that of `draw_with`.
    """
    sampler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")  # its one step is t = 999
    pictures = []
    for start in range(0, len(prompts), config.batch_size):
        texts, seed = list(prompts[start : start + config.batch_size]), config.seed + start
        pictures += decode(pipe, next(denoise(pipe, texts, steps=1, guidance=1.0, seed=seed, sampler=sampler)).x0)
    return pictures


# --- what is read


def verdicts(readings: Sequence[Reading], scenes: Sequence[Scene]) -> dict[str, list[bool | None]]:
    """For each picture, what is right; None where a caption says nothing of it.

    words: the layout, and every word in its place. style, ground. colours: all that are named. swapped: two named
    colours, each read at the other thing, in its place. leaked: exactly one of two things has the other's named colour.
    """
    found: dict[str, list[bool | None]] = {
        name: [] for name in ("words", "style", "ground", "colours", "swapped", "leaked")
    }
    for reading, scene in zip(readings, scenes, strict=True):
        things = scene.things[::-1] if scene.relation in ("right of", "below") else scene.things
        wanted = [thing.colour for thing in things]
        right = reading.layout == layout_of(scene) and reading.words == in_reading_order(scene)
        whole = len(reading.colours) == len(wanted)
        found["words"].append(right)
        found["style"].append(reading.style == scene.style)
        found["ground"].append(reading.ground == scene.ground)
        matches = [seen == colour for seen, colour in zip(reading.colours, wanted, strict=False) if colour]
        found["colours"].append(whole and all(matches) if any(wanted) else None)
        two = len(set(wanted) - {None}) == 2
        others = [seen == colour for seen, colour in zip(reading.colours, wanted[::-1], strict=False)]
        moved = reading.words == in_reading_order(scene)[::-1]  # then each thing took its own colour along
        found["swapped"].append(whole and all(others) and not moved if two else None)
        found["leaked"].append(whole and sum(others) == 1 if two else None)
    return found


def share(values: Sequence[bool | None], clusters: Sequence[Any] | None = None) -> dict[str, float]:
    """The share that is right, and its 95 % interval (Wilson, 1927), which counts each cluster as one trial.

    clusters: what pictures may be right or wrong together by, such as their pair; by default each is for itself.
    """
    kept = [i for i, value in enumerate(values) if value is not None]
    if not kept:
        return {}
    n = len({clusters[i] for i in kept}) if clusters else len(kept)
    p = float(np.mean([values[i] for i in kept]))
    low, high = wilson(p * n, n)
    found = {"share": p, "low": low, "high": high, "pictures": len(kept)}
    return found | {"clusters": n} if clusters else found


def by_colour(words: Sequence[bool], scenes: Sequence[Scene]) -> dict[str, list[bool | None]]:
    """Whether the words are right, apart for captions that name a colour and for those that name none."""
    named = [any(thing.colour for thing in scene.things) for scene in scenes]
    return {
        "words, colour named": [right if colour else None for right, colour in zip(words, named, strict=True)],
        "words, none named": [None if colour else right for right, colour in zip(words, named, strict=True)],
    }


def judged(pictures: Sequence[Image.Image], scenes: Sequence[Scene], clusters: Sequence[Any] | None = None) -> dict:
    """Each of `verdicts` as a share with its interval, left out where no caption of these scenes says anything of it.

    Beside them `right`, a digit for each picture, 1 where its words are right, and the pictures' `sharpness`.
    """
    found = verdicts(read(pictures), scenes)
    found |= by_colour(found["words"], scenes)
    shares = {name: share(values, clusters) for name, values in found.items()}
    right = "".join(str(int(bool(value))) for value in found["words"])
    return {name: value for name, value in shares.items() if value} | {"right": right, "sharpness": sharpness(pictures)}


def paired(one: Sequence, other: Sequence) -> dict[str, float]:
    """The exact test of McNemar (1947): how likely so uneven a split of the pictures that differ is by chance.

    one, other: True or "1" for each picture that is right.
    """
    first, second = (sum(a > b for a, b in zip(x, y, strict=True)) for x, y in ((one, other), (other, one)))
    n, k = first + second, min(first, second)
    p = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
    return {"only the first": first, "only the second": second, "p": p}


# --- variety


def small(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures as rows of 32 x 32 x 3 numbers from 0 to 1: enough to tell a shift by a pixel from another emoji."""
    rows = [np.asarray(picture.resize((32, 32), Image.Resampling.BOX)).reshape(-1) for picture in pictures]
    return torch.from_numpy(np.stack(rows)).float() / 255


def variety(pictures: Sequence[Image.Image]) -> float:
    """Mean distance of all pairs of pictures, the root mean square over 32 x 32 pixels from 0 to 1."""
    rows = small(pictures)
    return float(torch.pdist(rows).mean()) / rows.shape[1] ** 0.5


def sharpness(pictures: Sequence[Image.Image]) -> float:
    """Mean difference of neighbouring pixels, of 255."""
    arrays = np.stack([np.asarray(picture, float) for picture in pictures])
    return float((np.abs(np.diff(arrays, axis=1)).mean() + np.abs(np.diff(arrays, axis=2)).mean()) / 2)


def varied(pipe: StableDiffusionPipeline, config: EvaluationConfig, accelerator: Accelerator) -> dict:
    """For each guidance, how much pictures of one caption differ, beside real ones, and what is judged of them."""
    rng = np.random.default_rng(config.seed + len(KINDS))
    captions = [random_scene(rng, things=1) for _ in range(CAPTIONS)]
    scenes = [vary(scene, rng) for scene in captions for _ in range(ALIKE)]
    groups = [slice(i, i + ALIKE) for i in range(0, len(scenes), ALIKE)]
    real = [draw(scene) for scene in scenes]
    base = [variety(real[group]) for group in groups]
    results: dict[str, Any] = {"captions": [scene.caption() for scene in captions], "real sharpness": sharpness(real)}
    for guidance in GUIDANCES:
        drawn = draw_with(pipe, [scene.caption() for scene in scenes], replace(config, guidance=guidance), accelerator)
        ratios = [variety(drawn[group]) / there for group, there in zip(groups, base, strict=True)]
        results[f"{guidance:g}"] = {
            "variety of real": float(np.mean(ratios)),
            "standard error": float(np.std(ratios, ddof=1) / len(ratios) ** 0.5),
            **judged(drawn, scenes, [i // ALIKE for i in range(len(scenes))]),
        }
    return results


# --- all of it


def evaluate(pipe: StableDiffusionPipeline, config: EvaluationConfig, accelerator: Accelerator) -> dict:
    """All figures of the model card."""
    results: dict = {"settings": vars(config), "kinds": {}}
    for kind, (_, cluster) in KINDS.items():
        scenes = asked(kind, config)
        clusters = [cluster(scene) for scene in scenes] if cluster else None
        real = [draw(scene) for scene in scenes]
        rebuilt = decode(pipe, encode(pipe, real))  # the best this model could draw
        captions = [scene.caption() for scene in scenes]
        found = {
            "model": draw_with(pipe, captions, config, accelerator),
            "guidance 1": draw_with(pipe, captions, replace(config, guidance=1.0), accelerator),
            "reconstruction": rebuilt,
            "real": real,
        }
        if kind == "one thing":
            found["first look"] = first_looks(pipe, captions, config)
            found["first look, empty prompt"] = first_looks(pipe, [""] * len(captions), config)
        told = {source: judged(pictures, scenes, clusters) for source, pictures in found.items()}
        results["kinds"][kind] = {
            "pictures": len(scenes),
            "psnr": float(np.mean([psnr(a, b) for a, b in zip(real, rebuilt, strict=True)])),
            **told,
            "model against guidance 1": paired(told["model"]["right"], told["guidance 1"]["right"]),
        }
    return results | {"variety": varied(pipe, config, accelerator)}


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
