"""The judge: a small classifier of real sprites, trained before and apart from the diffusion model.

    python -m training.train_judge --folder runs/judge

Writes `models/sprite-judge`. Views are blurred, shifted and made noisy at random, so that the judge reads
shapes and colours and does not depend on an outline of exactly one pixel.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch import Tensor, nn

from helpers.judge import JUDGE, LAYOUTS, PLACES, JudgeNet, to_views
from helpers.scenes import STYLES, WORDS, Scene, draw, random_scene
from training.flags import add_flags, filled
from training.loop import LoopConfig, step_rng, train
from training.run_folder import describe

NOTHING = -100  # cross_entropy leaves this target out


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """How hard the judge's examples are made."""

    pairs: float = 0.67  # of scenes; half of these are seen as a whole, half object by object
    blur: float = 1.5  # largest radius, in pixels of the scene: generated pictures are a little soft
    shift: int = 4  # pixels of the scene by which a view may be off
    noise: float = 0.1  # largest standard deviation, on pixels in [-1, 1]
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=3000, batch_size=64, learning_rate=2e-3))


class JudgeLoss(nn.Module):
    """Sum of the cross entropies of word, style and layout."""

    def __init__(self, net: JudgeNet):
        super().__init__()
        self.net = net

    def forward(self, views: Tensor, word: Tensor, style: Tensor, layout: Tensor) -> Tensor:
        logits = self.net(views)
        return sum(
            F.cross_entropy(logit, target, ignore_index=NOTHING)
            for logit, target in zip(logits, (word, style, layout), strict=True)
        )


def layout_of(scene: Scene) -> str:
    """The judge's name for where the objects of a scene stand."""
    if scene.relation is None:
        return "one"
    return "beside" if scene.relation in ("left of", "right of") else "above"


def in_reading_order(scene: Scene) -> tuple[str, ...]:
    """Its words from left to right, or from top to bottom."""
    return scene.words[::-1] if scene.relation in ("right of", "below") else scene.words


def random_view(rng: np.random.Generator, config: JudgeConfig) -> tuple[Image.Image, int, int, int]:
    """A view and its targets: word, style, layout."""
    scene = random_scene(rng, objects=1 + int(rng.random() < config.pairs), allow_held_out=True)
    layout = layout_of(scene)
    picture = draw(scene).filter(ImageFilter.GaussianBlur(rng.uniform(0, config.blur)))
    style = STYLES.index(scene.style)
    if layout == "one":
        return picture, WORDS.index(scene.words[0]), style, LAYOUTS.index(layout)
    if rng.random() < 0.5:
        return picture, NOTHING, style, LAYOUTS.index(layout)
    which = int(rng.integers(2))
    dx, dy = rng.integers(-config.shift, config.shift + 1, size=2)
    left, top, right, bottom = PLACES[layout][which]
    view = picture.crop((left + dx, top + dy, right + dx, bottom + dy))
    return view, WORDS.index(in_reading_order(scene)[which]), style, NOTHING


def judge_batch(step: int, config: JudgeConfig) -> dict[str, Tensor]:
    """The global batch of one step."""
    rng = step_rng(config.loop.seed, step)
    views, word, style, layout = zip(*(random_view(rng, config) for _ in range(config.loop.batch_size)), strict=True)
    tensor = to_views(views)
    noise = rng.standard_normal(tensor.shape, dtype=np.float32) * rng.uniform(0, config.noise, (len(views), 1, 1, 1))
    return {
        "views": tensor + torch.from_numpy(noise.astype(np.float32)),
        "word": torch.tensor(word),
        "style": torch.tensor(style),
        "layout": torch.tensor(layout),
    }


def save_judge(net: JudgeNet, folder: Path) -> None:
    """The judge's weights in float16, and the words it was trained for."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.half().contiguous() for name, value in net.state_dict().items()}, folder / "model.safetensors"
    )
    config = {"widths": net.widths, "words": WORDS, "styles": STYLES, "layouts": LAYOUTS}
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
    trained = train(
        JudgeLoss(JudgeNet()),
        lambda step: judge_batch(step, config),
        config.loop,
        args.folder,
        accelerator=accelerator,
        record=record,
    )
    if accelerator.is_main_process:
        save_judge(trained.net, args.output)


if __name__ == "__main__":
    main()
