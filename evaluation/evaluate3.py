"""Measure Pocket Diffusion 3 with a judge that never saw it.

    accelerate launch -m evaluation.evaluate3 --model runs/unet/pipeline

Every figure stands beside its ceilings: the same judge on real pictures of the same scenes, and on the autoencoder's
reconstructions of them. Writes `evaluation.json` into the model's folder. This takes the place of `evaluate.py` as soon
as the course ships a model of this world.
"""

import argparse
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline
from PIL import Image

from evaluation.evaluate import EvaluationConfig, draw_with
from evaluation.studies import small
from helpers.judge import Reading, read
from helpers.latents import decode, encode
from helpers.loading import load_pipeline
from helpers.measures import psnr
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
ALIKE = 16  # pictures of one caption


# --- what is drawn


def one_thing(count: int, seed: int) -> list[Scene]:
    """Every word in turn, in a style and a colour that training had."""
    endless = _scenes(np.random.default_rng(seed), 1)
    return [next(scene for scene in endless if scene.words == (WORDS[i % len(WORDS)],)) for i in range(count)]


def _scenes(rng: np.random.Generator, things: int) -> Iterable[Scene]:
    while True:
        yield random_scene(rng, things=things)


def two_things(count: int, seed: int) -> list[Scene]:
    """Two things, every pair of word and style and of word and colour a trained one."""
    return list(itertools.islice(_scenes(np.random.default_rng(seed), 2), count))


def two_colours(count: int, seed: int) -> list[Scene]:
    """Two things with two different colours."""
    endless = _scenes(np.random.default_rng(seed), 2)
    both = (scene for scene in endless if len({thing.colour for thing in scene.things} - {None}) == 2)
    return list(itertools.islice(both, count))


def unseen_styles(count: int, seed: int) -> list[Scene]:
    """Every (word, style) pair that training never had, without a colour, as often as fits."""
    pairs = [(word, style) for word in WORDS for style in STYLES if held_out_style(word, style)]
    return _of_pairs(pairs, count, seed, lambda word, style, rng: (Thing(word), style))


def unseen_colours(count: int, seed: int) -> list[Scene]:
    """Every (word, colour) pair that training never had, in a style that it had, as often as fits."""

    def thing(word: str, colour: str, rng: np.random.Generator) -> tuple[Thing, str]:
        return Thing(word, colour), str(rng.choice(_styles(word)))

    pairs = [(word, colour) for word in WORDS for colour in COLOURS if held_out_colour(word, colour) and _styles(word)]
    return _of_pairs(pairs, count, seed, thing)


def _styles(word: str) -> list[str]:
    return [style for style in STYLES if takes_colours(word, style) and not held_out_style(word, style)]


def _of_pairs(pairs: Sequence[tuple[str, str]], count: int, seed: int, thing: Callable) -> list[Scene]:
    rng = np.random.default_rng(seed)
    scenes = []
    for word, other in list(pairs) * max(1, count // len(pairs)):
        shown, style = thing(word, other, rng)
        scenes.append(vary(Scene((shown,), ground=str(rng.choice(list(GROUNDS))), style=style), rng))
    return scenes


# --- what is read


def verdicts(readings: Sequence[Reading], scenes: Sequence[Scene]) -> dict[str, list[bool | None]]:
    """For each picture, what is right; None where a caption says nothing of it.

    words: the layout, and every word in its place. style, ground. colours: all that are named. swapped: two named
    colours, each read at the other thing. leaked: exactly one of two things has the other's named colour.
    """
    found: dict[str, list[bool | None]] = {
        name: [] for name in ("words", "style", "ground", "colours", "swapped", "leaked")
    }
    for reading, scene in zip(readings, scenes, strict=True):
        wanted = [thing.colour for thing in _ordered(scene)]
        right = reading.layout == layout_of(scene) and reading.words == in_reading_order(scene)
        whole = len(reading.colours) == len(wanted)
        found["words"].append(right)
        found["style"].append(reading.style == scene.style)
        found["ground"].append(reading.ground == scene.ground)
        matches = [seen == colour for seen, colour in zip(reading.colours, wanted, strict=False) if colour]
        found["colours"].append(whole and all(matches) if any(wanted) else None)
        two = len(set(wanted) - {None}) == 2
        others = [seen == colour for seen, colour in zip(reading.colours, wanted[::-1], strict=False)]
        found["swapped"].append(whole and all(others) if two else None)
        found["leaked"].append(whole and sum(others) == 1 if two else None)
    return found


def _ordered(scene: Scene) -> tuple[Thing, ...]:
    return scene.things[::-1] if scene.relation in ("right of", "below") else scene.things


def share(values: Sequence[bool | None], clusters: Sequence[Any] | None = None) -> dict[str, float]:
    """The share that is right, and its 95 % interval (Wilson, 1927), which counts each cluster as one trial.

    clusters: what pictures are right or wrong together by, such as their pair; by default each is for itself.
    """
    kept = [i for i, value in enumerate(values) if value is not None]
    if not kept:
        return {}
    n = len({clusters[i] for i in kept}) if clusters else len(kept)
    p, z = float(np.mean([values[i] for i in kept])), 1.96
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return {"share": p, "low": low, "high": high, "pictures": len(kept)}


def judged(pictures: Sequence[Image.Image], scenes: Sequence[Scene], clusters: Sequence[Any] | None = None) -> dict:
    """Each of `verdicts` as a share with its interval; what no caption of these scenes says is left out."""
    shares = {name: share(values, clusters) for name, values in verdicts(read(pictures), scenes).items()}
    return {name: value for name, value in shares.items() if value}


# --- variety


def variety(pictures: Sequence[Image.Image]) -> float:
    """Mean distance of all pairs of pictures, the root mean square over 32 x 32 pixels from 0 to 1."""
    rows = small(pictures)
    return float(torch.pdist(rows).mean()) / rows.shape[1] ** 0.5


def sharpness(pictures: Sequence[Image.Image]) -> float:
    """Mean difference of neighbouring pixels, of 255."""
    arrays = np.stack([np.asarray(picture, float) for picture in pictures])
    return float((np.abs(np.diff(arrays, axis=1)).mean() + np.abs(np.diff(arrays, axis=2)).mean()) / 2)


def varied(pipe: StableDiffusionPipeline, config: EvaluationConfig, accelerator: Accelerator) -> dict:
    """Variety, sharpness and right words of sixteen pictures of each of twelve captions, over guidance."""
    rng = np.random.default_rng(config.seed + 9)
    captions = [random_scene(rng, things=1) for _ in range(12)]
    scenes = [vary(scene, rng) for scene in captions for _ in range(ALIKE)]
    groups = [slice(i, i + ALIKE) for i in range(0, len(scenes), ALIKE)]
    real = [draw(scene) for scene in scenes]
    base = [variety(real[group]) for group in groups]
    results: dict[str, Any] = {"captions": [scene.caption() for scene in captions], "real sharpness": sharpness(real)}
    for guidance in GUIDANCES:
        asked = replace(config, guidance=guidance)
        drawn = draw_with(pipe, [scene.caption() for scene in scenes], asked, accelerator)
        ratios = [variety(drawn[group]) / there for group, there in zip(groups, base, strict=True)]
        results[f"{guidance:g}"] = {
            "variety of real": float(np.mean(ratios)),
            "standard error": float(np.std(ratios, ddof=1) / len(ratios) ** 0.5),
            "sharpness": sharpness(drawn),
            "words": share(verdicts(read(drawn), scenes)["words"], [i // ALIKE for i in range(len(scenes))]),
        }
    return results


def paired(one: Sequence[bool], other: Sequence[bool]) -> dict[str, float]:
    """The exact test of McNemar (1947): how likely so uneven a split of the pictures that differ is by chance."""
    only = Counter((a, b) for a, b in zip(one, other, strict=True) if a != b)
    first, second = only[(True, False)], only[(False, True)]
    n, k = first + second, min(first, second)
    p = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0
    return {"only the first": first, "only the second": second, "p": p}


KINDS: dict[str, tuple[Callable[[int, int], list[Scene]], Callable[[Scene], Any] | None]] = {
    "one thing": (one_thing, None),
    "two things": (two_things, None),
    "two colours": (two_colours, None),
    "held-out styles": (unseen_styles, lambda scene: (scene.words[0], scene.style)),
    "held-out colours": (unseen_colours, lambda scene: (scene.words[0], scene.things[0].colour)),
}


def evaluate(pipe: StableDiffusionPipeline, config: EvaluationConfig, accelerator: Accelerator) -> dict:
    """All figures of the model card."""
    results: dict = {"settings": vars(config), "kinds": {}}
    for number, (kind, (make, cluster)) in enumerate(KINDS.items()):
        scenes = make(config.pictures, config.seed + number)
        clusters = [cluster(scene) for scene in scenes] if cluster else None
        real = [draw(scene) for scene in scenes]
        rebuilt = decode(pipe, encode(pipe, real))
        captions = [scene.caption() for scene in scenes]
        drawn = draw_with(pipe, captions, config, accelerator)
        unguided = draw_with(pipe, captions, replace(config, guidance=1.0), accelerator)
        told = [verdicts(read(pictures), scenes)["words"] for pictures in (drawn, unguided)]
        results["kinds"][kind] = {
            "pictures": len(scenes),
            "psnr": float(np.mean([psnr(a, b) for a, b in zip(real, rebuilt, strict=True)])),
            "model": judged(drawn, scenes, clusters),
            "reconstruction": judged(rebuilt, scenes, clusters),
            "real": judged(real, scenes, clusters),
            "guidance 1": judged(unguided, scenes, clusters),
            f"words, guidance {config.guidance:g} against 1": paired(*told),
        }
    return results | {"variety": varied(pipe, config, accelerator)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the pipeline; the results go there too")
    add_flags(parser, EvaluationConfig())
    args = parser.parse_args(arguments)
    config = filled(EvaluationConfig(), vars(args))
    accelerator = Accelerator()
    pipe = load_pipeline(args.model, device=accelerator.device)
    pipe.set_progress_bar_config(disable=True)
    results = evaluate(pipe, config, accelerator)
    if accelerator.is_main_process:
        (args.model / "evaluation.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
