"""The model card of Pocket Diffusion, written from the figures that were measured.

    python -m training.model_card

writes it again from `evaluation.json`, without measuring.
"""

import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from helpers.loading import POCKET
from helpers.scenes import STYLES, WORDS, held_out

# Prompts of the sample grid: the twelve scenes of the first trial.
SAMPLES = (
    "a fox on a blue background, flat style",
    "a pizza on a white background, noto style",
    "a cat left of a dog on a yellow background",
    "a tree above a car on a pink background",
    "a red heart on a black background, glossy style",
    "an owl on a green background, twemoji style",
    "a rocket left of a star on a purple background",
    "a snail above a penguin on a white background",
    "a robot on an orange background, flat style",
    "a ghost right of a pumpkin on a black background",
    "a frog on a pink background, noto style",
    "a house above a panda on a grey background",
)

CARD = """\
---
license: cc-by-4.0
library_name: diffusers
pipeline_tag: text-to-image
---

# Pocket Diffusion

A text-to-image latent diffusion model in the format of Stable Diffusion 1.5, small enough to live in the repository
of the course *Stable Diffusion, step by step*. It draws one or two emoji on a plain background: 124 words, four
drawing styles, ten background colours. It is made to be taken apart, on a laptop, with no network.

![Twelve prompts, seeds 0 to 11, none chosen](samples.webp)

*Seeds 0 to 11, none chosen, {steps} DDIM steps, guidance {guidance:g}:* {samples}.

## Use

    from diffusers import StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained("models/pocket-diffusion")
    pipe("a fox on a blue background, flat style", num_inference_steps={steps}, guidance_scale={guidance:g}).images[0]

Prompts it knows: `a fox`, `a fox on a blue background`, `a fox left of a pizza on a white background, glossy
style`; with `left of`, `right of`, `above`, `below`; styles `flat`, `glossy`, `noto`, `twemoji`. The background and
the style can be left out.

## Parts

| part | class | parameters |
|---|---|---:|
{parts}

Pictures of 128 x 128 pixels are latents of 4 x 16 x 16. The schedule is Stable Diffusion's: 1000 steps, scaled
linear betas from 0.00085 to 0.012, the network predicts the noise. Text is read up to {tokens} tokens. Weights are
stored as safetensors, those of the VAE and the U-Net in float16; `SHA256SUMS` lists their hashes.

## Figures

Judged on {pictures} pictures of each kind by a small classifier that was trained on real sprites only and never saw
this model (`models/sprite-judge`). Beside each figure stand its ceilings: the same judge on real pictures of the
same scenes, and on this model's autoencoder's reconstructions of them.

{figures}

*Words* asks for the right layout and for every word in its place. *Held-out pairs* are the {held_out} (word, style)
pairs that U-Net training never saw: each word was seen in other styles and each style on other words.

Autoencoder: {psnr:.1f} dB PSNR on unseen scenes ({psnr_one:.1f} dB with one object, {psnr_two:.1f} dB with two).

Frechet distance between features of the judge, generated against real pictures of the same prompts: {frechet:.2f};
the autoencoder's reconstructions against the same real pictures: {frechet_floor:.2f}. The features and the number
of pictures are this course's own, so the distance compares versions of this model and nothing else.

## Limits

It knows nothing but its 124 words, and draws something even for words it does not know. Two objects are harder than
one; small ones are soft. It knows no other layout and no plain colours but the ten.

## Data and licences

Trained on scenes composed from 496 rendered emoji (`images/sprites`): Fluent Emoji (Microsoft, MIT), Noto Emoji
(Google, Apache-2.0) and Twemoji (Twitter, Inc. and other contributors, CC BY 4.0). The weights are licensed under
[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/), the strictest of these: name the course and the four
emoji sets, as in `images/sprites/README.md`.

## Reproduce

{commands}
"""

COMMANDS = """\
    accelerate launch -m training.train_vae                      # runs/vae
    accelerate launch -m training.train_unet --steps 4200        # runs/unet
    accelerate launch --mixed_precision bf16 -m training.train_unet --folder runs/more \\
        --start-from runs/unet/pipeline --vae runs/vae/vae --seed 1 --scenes 24000 \\
        --steps 5200 --batch-size 32 --learning-rate 9e-4        # runs/more
    accelerate launch --mixed_precision bf16 -m training.train_unet --folder runs/bound \\
        --start-from runs/more/pipeline --vae runs/vae/vae --seed 2 --scenes 32000 --pairs 0.75 \\
        --steps 4600 --decay-from 0.6 --batch-size 32 --learning-rate 9e-4 --snr-floor 0.5   # runs/bound
    cp -r runs/bound/pipeline/. models/pocket-diffusion
    python -m training.train_judge                               # models/sprite-judge
    accelerate launch -m training.evaluate                       # these figures and this card"""


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def figures_table(results: dict) -> str:
    """Shares in per cent: a row for each kind of scene and each thing judged."""
    lines = ["| scenes | judged | model | reconstructions | real pictures |", "|---|---|---:|---:|---:|"]
    for kind, result in results["kinds"].items():
        for what in ("words", "style", "background", "words and style"):
            shares = (100 * result[source][what] for source in ("model", "reconstruction", "real"))
            lines.append(
                f"| {kind} ({result['pictures']}) | {what} | " + " | ".join(f"{x:.1f} %" for x in shares) + " |"
            )
    return "\n".join(lines)


def write_card(folder: Path) -> None:
    """Write `README.md` into the model's folder from its `evaluation.json` and its weights."""
    results = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    parts = [
        f"| {name} | `{type(part).__name__}` | {_count(part):,} |"
        for name, part in (("VAE", pipe.vae), ("text encoder", pipe.text_encoder), ("U-Net", pipe.unet))
    ]
    card = CARD.format(
        **{key: results["settings"][key] for key in ("steps", "guidance", "pictures")},
        samples="; ".join(f"`{prompt}`" for prompt in SAMPLES),
        parts="\n".join(parts),
        tokens=pipe.tokenizer.model_max_length,
        figures=figures_table(results),
        held_out=sum(held_out(word, style) for word in WORDS for style in STYLES),
        psnr=results["psnr"],
        psnr_one=results["kinds"]["one object"]["psnr"],
        psnr_two=results["kinds"]["two objects"]["psnr"],
        frechet=results["frechet"]["model"],
        frechet_floor=results["frechet"]["reconstruction"],
        commands=COMMANDS,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    write_card(POCKET)
