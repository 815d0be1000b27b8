"""The judge: a small classifier of real scenes, trained before and apart from the diffusion model.

    python -m training.train_judge --folder runs/judge

Writes `models/scene-judge`. Views are blurred, shifted and made noisy at random, so that the judge reads shapes and
colours and does not depend on an outline of exactly one pixel.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch import Tensor, nn

from helpers.judge import HEADS, JUDGE, PLACES, Judge, to_views
from helpers.scenes import COLOURS, Scene, Thing, random_scene, takes_colours
from training.flags import add_flags, filled
from training.loop import LoopConfig, step_rng, train
from training.run_folder import describe
from training.train_vae import draw_all

NOTHING = -100  # cross_entropy leaves this target out


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """How hard the judge's examples are made."""

    scenes: int = 24_000  # drawn once; a view is one of them or a thing in it
    pairs: float = 0.67  # of scenes; half of these are seen as a whole, half thing by thing
    coloured: float = 0.7  # share given a colour of the things that can take one: these are the hardest to read
    blur: float = 1.5  # largest radius, in pixels of the scene: generated pictures are a little soft
    shift: int = 4  # pixels of the scene by which a view may be off
    noise: float = 0.1  # largest standard deviation, on pixels in [-1, 1]
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=8000, batch_size=64, learning_rate=2e-3))


class JudgeLoss(nn.Module):
    """Sum of the cross entropies of all heads."""

    def __init__(self, net: Judge):
        super().__init__()
        self.net = net

    def forward(self, views: Tensor, **targets: Tensor) -> Tensor:
        logits = self.net(views)
        # A mean over the batch, not over those with a target: a head that a batch says nothing of has a loss of 0.
        return sum(
            F.cross_entropy(logits[name], targets[name], ignore_index=NOTHING, reduction="sum") / len(views)
            for name in HEADS
        )


def layout_of(scene: Scene) -> str:
    """The judge's name for where the things of a scene stand."""
    if scene.relation is None:
        return "one"
    return "beside" if scene.relation in ("left of", "right of") else "above"


def in_reading_order(scene: Scene) -> tuple[str, ...]:
    """Its words from left to right, or from top to bottom."""
    return scene.words[::-1] if scene.relation in ("right of", "below") else scene.words


def judged_scenes(config: JudgeConfig) -> list[Scene]:
    """The scenes the judge learns from: all pairs that there are, the held-out ones too."""
    rng = np.random.default_rng(config.loop.seed)

    def coloured(thing: Thing, style: str) -> Thing:
        if not takes_colours(thing.word, style):
            return thing
        given = rng.random() < config.coloured
        return replace(thing, colour=str(rng.choice(list(COLOURS))) if given else None)

    scenes = []
    for _ in range(config.scenes):
        scene = random_scene(rng, things=1 + int(rng.random() < config.pairs), allow_held_out=True)
        scenes.append(replace(scene, things=tuple(coloured(thing, scene.style) for thing in scene.things)))
    return scenes


def random_view(
    rng: np.random.Generator, scene: Scene, pixels: np.ndarray, config: JudgeConfig
) -> tuple[Image.Image, dict[str, int]]:
    """A view of a scene's picture, (128, 128, 3) uint8, and the number of the right choice of each head."""
    layout = layout_of(scene)
    picture = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(rng.uniform(0, config.blur)))
    said: dict[str, str | None] = {"style": scene.style}
    thing = scene.things[0]
    if layout == "one" or rng.random() < 0.5:
        said |= {"layout": layout, "ground": scene.ground}
    else:
        which = int(rng.integers(2))
        dx, dy = rng.integers(-config.shift, config.shift + 1, size=2)
        left, top, right, bottom = PLACES[layout][which]
        picture = picture.crop((left + dx, top + dy, right + dx, bottom + dy))
        ordered = scene.things[::-1] if scene.relation in ("right of", "below") else scene.things
        thing = ordered[which]
    if layout == "one" or "layout" not in said:
        said |= {"word": thing.word, "colour": thing.colour}
    return picture, {name: choices.index(said[name]) if said.get(name) else NOTHING for name, choices in HEADS.items()}


def judge_batch(step: int, scenes: Sequence[Scene], pictures: np.ndarray, config: JudgeConfig) -> dict[str, Tensor]:
    """The global batch of one step. pictures: (N, 128, 128, 3) uint8, of the scenes."""
    rng = step_rng(config.loop.seed, step)
    chosen = rng.integers(len(scenes), size=config.loop.batch_size)
    views, targets = zip(*(random_view(rng, scenes[i], pictures[i], config) for i in chosen), strict=True)
    tensor = to_views(views)
    noise = rng.standard_normal(tensor.shape, dtype=np.float32) * rng.uniform(0, config.noise, (len(views), 1, 1, 1))
    batch = {name: torch.tensor([target[name] for target in targets]) for name in HEADS}
    return batch | {"views": tensor + torch.from_numpy(noise.astype(np.float32))}


def save_judge(net: Judge, folder: Path) -> None:
    """The judge's weights in float16, and what it tells apart."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.half().contiguous() for name, value in net.state_dict().items()}, folder / "model.safetensors"
    )
    config = {"widths": net.widths, "heads": HEADS}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/judge"), help="checkpoints and log")
    parser.add_argument("--output", type=Path, default=JUDGE, help="where the trained judge goes")
    add_flags(parser, JudgeConfig())
    args = parser.parse_args(arguments)
    config = filled(JudgeConfig(), vars(args))

    set_seed(config.loop.seed)
    accelerator = Accelerator()
    record = describe("train_judge", config, args.folder, accelerator)
    scenes = judged_scenes(config)
    pictures = draw_all(scenes)
    trained = train(
        JudgeLoss(Judge()),
        lambda step: judge_batch(step, scenes, pictures, config),
        config.loop,
        args.folder,
        accelerator=accelerator,
        record=record,
    )
    if accelerator.is_main_process:
        save_judge(trained.net, args.output)


if __name__ == "__main__":
    main()
