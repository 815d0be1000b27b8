"""The model card of Pocket Diffusion, written from the figures that were measured.

    python -m evaluation.model_card

writes it again from `evaluation.json`, `studies.json` and `training.json`, without measuring.
"""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from helpers.loading import POCKET
from helpers.scenes import BACKGROUNDS, STYLES, WORDS, held_out
from training.flags import as_flags
from training.run_folder import history
from training.train_vae import VaeConfig
from training.unet import UNetConfig

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
of the course *Stable Diffusion, step by step*. It draws one or two emoji on a plain background: {words} words, {styles}
drawing styles, {backgrounds} background colours. It is made to be taken apart, on a laptop, with no network.

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

Judged on {pictures},
by a small classifier that was trained on real sprites only and never saw this model (`models/sprite-judge`). Beside
each figure stand its ceilings: the same judge on real pictures of the same scenes, and on this model's autoencoder's
reconstructions of them.

{figures}

*Words* asks for the right layout and for every word in its place. *Held-out pairs* are the {held_out} (word, style)
pairs that U-Net training never saw: each word was seen in other styles and each style on other words. The training of
the autoencoder and of the judge did see them. Pictures of one pair are right or wrong together, so that the figures of
held-out pairs are about as uncertain as those of {held_out} pictures would be.

Autoencoder: {psnr:.1f} dB PSNR on unseen scenes ({psnr_one:.1f} dB with one object, {psnr_two:.1f} dB with two).

{studies}## Limits

It knows nothing but its {words} words, and draws something even for words it does not know. Two objects are harder than
one; small ones are soft. It knows no other layout and no plain colours but the {backgrounds}.

## Data and licences

Trained on scenes composed from {emoji} rendered emoji (`images/sprites`): Fluent Emoji (Microsoft, MIT), Noto Emoji
(Google, Apache-2.0) and Twemoji (Twitter, Inc. and other contributors, CC BY 4.0). The weights are licensed under
[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/), the strictest of these: name the course and the four
emoji sets, as in `images/sprites/README.md`.

## Reproduce

{commands}
"""

MEASURED = """\
    python -m training.train_judge                               # models/sprite-judge
    accelerate launch -m evaluation.evaluate --model {pipeline}   # figures, to look at before anything is replaced
    cp -r {pipeline}/. models/pocket-diffusion
    accelerate launch -m evaluation.evaluate                     # the figures and this card
    accelerate launch -m evaluation.studies distance             # the longer measurements: Frechet distance, copies
    accelerate launch -m evaluation.studies settings             # steps and guidance
    for gamma in 5 inf; do
        accelerate launch --mixed_precision bf16 -m training.train_unet --folder runs/gamma-$gamma \\
            --start-from models/pocket-diffusion --vae models/pocket-diffusion/vae --seed 6 --min-snr-gamma $gamma \\
            --steps 600 --decay-from 1 --batch-size 32
    done
    accelerate launch -m evaluation.studies choices --runs runs/gamma-5 runs/gamma-inf"""

DEFAULTS = {"train_vae": VaeConfig(), "train_unet": UNetConfig()}


def command(run: Mapping[str, Any]) -> str:
    """What to type to repeat a run, from its record; with a remark above it if the record has a note."""
    precision = "" if run["mixed_precision"] == "no" else f" --mixed_precision {run['mixed_precision']}"
    inputs = "".join(f" --{name.replace('_', '-')} {used['folder']}" for name, used in run["inputs"].items())
    whole = f"accelerate launch{precision} -m training.{run['program']} --folder {run['folder']}{inputs}"
    whole += f" {as_flags(run['settings'], DEFAULTS[run['program']])}"
    remark = textwrap.wrap(run.get("note", ""), 110, initial_indent="    # ", subsequent_indent="    # ")
    whole = re.sub(r"(--\S+) (?!-)", "\\1\0", whole)  # a flag and its value stay on one line
    lines = textwrap.wrap(whole, 110, initial_indent="    ", subsequent_indent=" " * 8, break_on_hyphens=False)
    return "\n".join([*remark, " \\\n".join(lines).replace("\0", " ")])


def commands(runs: Sequence[Mapping[str, Any]]) -> str:
    """All that was run to make and to measure a model, as an indented block."""
    trained = [run["folder"] for run in runs if run["program"] == "train_unet"]
    pipeline = f"{trained[-1]}/pipeline" if trained else "runs/unet/pipeline"
    return "\n".join([*map(command, runs), MEASURED.format(pipeline=pipeline)])


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


DISTANCE = """\
## Longer measurements

`evaluation/studies.py` measured these, each on the weights that are here.

**Frechet distance** of features of the judge, {pictures:,} pictures, to as many real pictures of other scenes:
{model:.2f}. Real pictures have {real:.2f}, the autoencoder's reconstructions of them {reconstruction:.2f}, which is the
least this model could reach. The features are this course's own, so the distance compares versions of this model and
nothing else. On these pictures the judge read the words right in {one:.1f} % with one object, in {two:.1f} % with two.

**Is it copying?** Root mean squared distance of a picture (32 x 32 pixels, 0 to 1) to the nearest of {training:,}
training scenes, where the runs of the U-Net had {shown:,} in all:

| pictures | one object, median | two objects, median | one: nearer than 95 % of reconstructions | two |
|---|---:|---:|---:|---:|
{nearest}

![Samples over their nearest training scenes, then unseen real pictures over theirs](nearest.webp)

*Six samples, the training scene nearest to each; six unseen real pictures, the training scene nearest to each. None was
chosen.*

"""

SETTINGS = """\
**Steps and guidance.** The same {pictures} prompts of each kind and the same noise, words right and in place (and with
the style right as well):

| DDIM steps | guidance | one object | two objects |
|---:|---:|---:|---:|
{rows}

"""

CHOICES = """\
**What training chose.** From the weights that are here, runs of 600 steps of 32 with a constant learning rate. gamma-5
weighs the loss by Min-SNR with a gamma of 5, gamma-inf is the plain loss. The runs that made these weights had a floor
under the weight of the error in x0 as well (`snr_floor`, in turn {floors}), which this study does not test.
"averaged" are the weights of the moving average, "last" those of the last step. The error is the mean square of the
predicted noise on {pictures} unseen pairs:

| run and weights | {timesteps} | one object | two objects |
|---|{rules}---:|---:|
{rows}

"""


def _words(shares: dict[str, float]) -> str:
    return f"{100 * shares['words']:.1f} % ({100 * shares['words and style']:.1f} %)"


def studies_section(studies: dict, runs: Sequence[Mapping[str, Any]] = ()) -> str:
    """The part of the card that says what `evaluation/studies.py` measured; nothing if it has not.

    runs: the records of the runs that made the model.
    """
    section = ""
    unet = [run["settings"] for run in runs if run["program"] == "train_unet"]
    shown = {(settings["seed"], settings["pairs"]): settings["scenes"] for settings in unet}
    if "distance" in studies:
        study = studies["distance"]
        rows = []
        for name, title in (
            ("model", "samples"),
            ("reconstruction", "reconstructions"),
            ("real", "unseen real pictures"),
        ):
            one, two = (study["nearest"][kind][name] for kind in ("one object", "two objects"))
            shares = " | ".join(f"{100 * kind['nearer than 95 %']:.1f} %" for kind in (one, two))
            rows.append(f"| {title} | {one['median']:.4f} | {two['median']:.4f} | {shares} |")
        section += DISTANCE.format(
            pictures=study["pictures"],
            **study["frechet"],
            one=100 * study["judged"]["one object"]["words"],
            two=100 * study["judged"]["two objects"]["words"],
            training=study["training scenes"],
            shown=sum(shown.values()),
            nearest="\n".join(rows),
        )
    if "settings" in studies:
        study = studies["settings"]
        settings = [(steps, f"{study['default']['guidance']:g}", shares) for steps, shares in study["steps"].items()]
        settings += [
            (study["default"]["steps"], guidance, shares)
            for guidance, shares in study["guidance"].items()
            if float(guidance) != study["default"]["guidance"]  # which is among the steps
        ]
        rows = [
            f"| {steps} | {guidance} | {_words(shares['one object'])} | {_words(shares['two objects'])} |"
            for steps, guidance, shares in settings
        ]
        section += SETTINGS.format(pictures=study["pictures"], rows="\n".join(rows))
    if "choices" in studies:
        study = studies["choices"]
        timesteps = list(next(iter(study["runs"].values()))["errors"])
        rows = [
            f"| {name} | "
            + " | ".join(f"{run['errors'][t]:.4f}" for t in timesteps)
            + f" | {_words(run['one object'])} | {_words(run['two objects'])} |"
            for name, run in study["runs"].items()
        ]
        section += CHOICES.format(
            pictures=study["pictures"],
            floors=", ".join(f"{settings['snr_floor']:g}" for settings in unet),
            timesteps=" | ".join(f"t = {t}" for t in timesteps),
            rules="---:|" * len(timesteps),
            rows="\n".join(rows),
        )
    return section


def write_card(folder: Path) -> None:
    """Write `README.md` into the model's folder from what was measured, the runs that made it and its weights."""
    results = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    studies = folder / "studies.json"
    runs = history(folder)
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    parts = [
        f"| {name} | `{type(part).__name__}` | {_count(part):,} |"
        for name, part in (("VAE", pipe.vae), ("text encoder", pipe.text_encoder), ("U-Net", pipe.unet))
    ]
    card = CARD.format(
        **{key: results["settings"][key] for key in ("steps", "guidance")},
        words=len(WORDS),
        styles=len(STYLES),
        backgrounds=len(BACKGROUNDS),
        emoji=len(WORDS) * len(STYLES),
        pictures=", ".join(f"{result['pictures']} pictures of {kind}" for kind, result in results["kinds"].items()),
        samples="; ".join(f"`{prompt}`" for prompt in SAMPLES),
        parts="\n".join(parts),
        tokens=pipe.tokenizer.model_max_length,
        figures=figures_table(results),
        held_out=sum(held_out(word, style) for word in WORDS for style in STYLES),
        psnr=results["psnr"],
        psnr_one=results["kinds"]["one object"]["psnr"],
        psnr_two=results["kinds"]["two objects"]["psnr"],
        studies=studies_section(json.loads(studies.read_text(encoding="utf-8")) if studies.exists() else {}, runs),
        commands=commands(runs),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    write_card(POCKET)
