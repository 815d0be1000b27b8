"""The model card of Pocket Diffusion, written from the figures that were measured.

    python -m evaluation.model_card

writes it again from `evaluation.json`, `studies.json` and `training.json`, without measuring.
"""

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from helpers.grounds import PLACES
from helpers.loading import POCKET
from helpers.scenes import COLOURS, PLAIN, RELATIONS, STYLES, WORDS
from training.flags import as_flags
from training.run_folder import history
from training.train_vae import VaeConfig
from training.unet import UNetConfig

# Prompts of the sample grid.
SAMPLES = (
    "a blue fox on grass",
    "a red car above a green house in the snow",
    "a rocket in space, glossy style",
    "an owl at night, noto style",
    "a pizza on a white background, flat style",
    "a purple fish under water, twemoji style",
    "a cat left of a dog on a yellow background",
    "a castle at sunset",
    "an orange balloon in the sky, glossy style",
    "a snake right of a cactus in the desert",
    "a pink butterfly on a black background, noto style",
    "a penguin below a cloud in the snow, flat style",
)

CARD = """\
---
license: cc-by-4.0
library_name: diffusers
pipeline_tag: text-to-image
---

# Pocket Diffusion

A text-to-image latent diffusion model in the format of Stable Diffusion 1.5, small enough to live in the repository
of the course *Stable Diffusion, step by step*. It draws one or two emoji: {words} words, {styles} drawing styles,
{colours} colours, {plain} plain backgrounds and {places} places. It is made to be taken apart, on a laptop, with no
network.

![Twelve prompts, seeds 0 to 11, none chosen](samples.webp)

*Seeds 0 to 11, none chosen, {steps} DDIM steps, guidance {guidance:g}:* {samples}.

## Use

    from diffusers import StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained("models/pocket-diffusion")
    pipe("a blue fox on grass", num_inference_steps={steps}, guidance_scale={guidance:g}).images[0]

Prompts it knows, where what stands in brackets may be missing:

    a [blue] fox [left of a [red] car] [on a white background, or a place] [, flat style]

- relations: {relation_names}
- styles: {style_names}
- colours: {colour_names}
- plain backgrounds: {plain_names}
- places: {place_names}

No caption says how a thing is tilted, mirrored, sized and where exactly it stands: the noise decides.

## Parts

| part | class | parameters |
|---|---|---:|
{parts}

Pictures of 128 x 128 pixels are latents of 4 x 16 x 16. The schedule is Stable Diffusion's: 1000 steps, scaled
linear betas from 0.00085 to 0.012, the network predicts the noise. Text is read up to {tokens} tokens. Weights are
stored as safetensors, those of the VAE and the U-Net in float16; `SHA256SUMS` lists their hashes.

## Figures

Judged by a small classifier that was trained on real scenes only and never saw this model (`models/scene-judge`). Each
figure of the model has its 95 % interval (Wilson, 1927) and stands beside its ceilings: the same judge on this model's
autoencoder's reconstructions of the same scenes, and on the real pictures.

{figures}

*Words* asks for the right layout and for every word in its place, *colours* for all that the prompt names. *Swapped*:
each of two things has the colour of the other. *Leaked*: one of two things has the colour of the other. *Held-out
styles* are (word, style) pairs that the training of the U-Net in this world never had, *held-out colours* (word,
colour) pairs that it never had. Pictures of one pair may be right or wrong together, so that there an interval counts
pairs, not pictures. The judge has seen all pairs.

Autoencoder, PSNR on unseen scenes: {psnr}.

**Guidance.** The same prompts and the same noise with guidance {guidance:g} and without (1), words right:

| scenes | guidance {guidance:g} | 1 | right with {guidance:g} only | with 1 only | p (McNemar, 1947) |
|---|---:|---:|---:|---:|---:|
{guided}

**Variety.** {alike} pictures of each of {captions} captions with one thing. Variety is the mean distance of two
pictures of one caption (root mean square over 32 x 32 pixels), as a share of that of real ones, with its standard error
over captions. Sharpness is the mean difference of neighbouring pixels, of 255; real pictures have {real_sharpness:.2f}.

| guidance | words | variety | sharpness |
|---:|---:|---:|---:|
{varied}

**One look.** What the network makes of the noise alone, at t = 999, for the prompts of one thing and for the empty
prompt, beside the finished pictures from the same noise:

| pictures | words | sharpness |
|---|---:|---:|
{looks}

{studies}## Limits

It knows nothing but its {words} words, and draws something even for words it does not know. Two things are harder than
one, and the style of two small ones is harder than their words. It knows no other layout, no third thing and no grounds
but these. The judge is a network too, and wrong as often as its figures on real pictures say.

## Data and licences

Trained on scenes composed from {emoji} rendered emoji (`images/sprites`), recoloured, on drawn grounds: Fluent Emoji
(Microsoft, MIT), Noto Emoji (Google, Apache-2.0) and Twemoji (Twitter, Inc. and other contributors, CC BY 4.0). The
weights are licensed under [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/), the strictest of these: name the
course and the four emoji sets, as in `images/sprites/README.md`.

## Reproduce

{ancestor}{commands}
"""

# Where the runs are that are not of this world.
ANCESTOR = """\
Its first weights were those of Pocket Diffusion 2, which knew no colours and no places: `models/pocket-diffusion` of
commit 6999113, where its card has its commands. That U-Net had not seen these (word, style) pairs either, but for the
heart in `twemoji` style; that autoencoder had seen them all. `models/pocket-diffusion-3` is what the run before had
made.

"""

# What to type for each part of the figures, in this order.
MEASURED = """\
    python -m training.train_judge                               # models/scene-judge
    accelerate launch -m evaluation.evaluate --model {pipeline}   # figures, to look at before anything is replaced
    cp -r {pipeline}/. models/pocket-diffusion
    accelerate launch -m evaluation.evaluate                     # the figures and this card"""
STUDIED = {
    "distance": "    accelerate launch -m evaluation.studies distance             # Frechet distance, copies",
    "steps": "    accelerate launch -m evaluation.studies steps                # how many are enough",
    "choices": """\
    for gamma in 5 inf; do
        accelerate launch --mixed_precision bf16 -m training.train_unet --folder runs/gamma-$gamma \\
            --start-from models/pocket-diffusion --vae models/pocket-diffusion/vae --seed 6 --min-snr-gamma $gamma \\
            --steps 600 --decay-from 1 --batch-size 32
    done
    accelerate launch -m evaluation.studies choices --runs runs/gamma-5 runs/gamma-inf""",
}

BY_COLOUR = ("words, colour named", "words, none named")  # of captions that name a colour, and of the others
JUDGED = ("words", *BY_COLOUR, "style", "ground", "colours", "swapped", "leaked")  # the rows of each kind of scene
ONLY = dict.fromkeys(BY_COLOUR, "one thing") | dict.fromkeys(("swapped", "leaked"), "two colours")  # of one kind alone

DEFAULTS = {"train_vae": VaeConfig(), "train_unet": UNetConfig()}


def of_this_world(run: Mapping[str, Any]) -> bool:
    """False for the runs that made Pocket Diffusion 2, from which this model went on.

    Their records were written when the runs were over, so that none has the key of its autoencoder; and an autoencoder
    of that time had no number of scenes.
    """
    if run["program"] == "train_vae":
        return "scenes" in run["settings"]
    return run["inputs"]["vae"]["key"] is not None


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


def commands(runs: Sequence[Mapping[str, Any]], studies: Iterable[str] = ()) -> str:
    """All that was run to make and to measure a model, as an indented block. studies: those that were made."""
    trained = [run["folder"] for run in runs if run["program"] == "train_unet"]
    pipeline = f"{trained[-1]}/pipeline" if trained else "runs/unet/pipeline"
    studied = [text for name, text in STUDIED.items() if name in studies]
    return "\n".join([*map(command, runs), MEASURED.format(pipeline=pipeline), *studied])


def listed(names: Iterable[str]) -> str:
    """Names as code, with commas."""
    return ", ".join(f"`{name}`" for name in names)


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def per_cent(share: Mapping[str, float]) -> str:
    """A share with its interval: `97.5 % (94.7 to 98.8)`."""
    return f"{100 * share['share']:.1f} % ({100 * share['low']:.1f} to {100 * share['high']:.1f})"


def figures_table(kinds: Mapping[str, Any]) -> str:
    """A row for each kind of scene and each thing judged of it."""
    lines = ["| scenes | judged | pictures | model | reconstructions | real |", "|---|---|---:|---:|---:|---:|"]
    for kind, result in kinds.items():
        for what in JUDGED:
            if what not in result["model"] or ONLY.get(what, kind) != kind:
                continue
            model, *ceilings = (result[source][what] for source in ("model", "reconstruction", "real"))
            pairs = f" of {model['clusters']} pairs" if "clusters" in model else ""
            cells = [kind, what, f"{model['pictures']}{pairs}", per_cent(model)]
            cells += [f"{100 * ceiling['share']:.1f} %" for ceiling in ceilings]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def guided_rows(kinds: Mapping[str, Any]) -> str:
    """With and without guidance: the words that are right, and whether that is chance."""
    rows = []
    for kind, result in kinds.items():
        test = result["model against guidance 1"]
        shares = " | ".join(per_cent(result[source]["words"]) for source in ("model", "guidance 1"))
        rows.append(f"| {kind} | {shares} | {test['only the first']} | {test['only the second']} | {test['p']:.2g} |")
    return "\n".join(rows)


def varied_rows(results: Mapping[str, Any]) -> str:
    """Fidelity, variety and sharpness for each guidance."""
    return "\n".join(
        f"| {guidance} | {per_cent(found['words'])} | {found['variety of real']:.2f} ± {found['standard error']:.2f} | "
        f"{found['sharpness']:.2f} |"
        for guidance, found in results.items()
        if isinstance(found, dict)
    )


def look_rows(one_thing: Mapping[str, Any], guidance: float) -> str:
    """First looks beside finished pictures: words right and sharpness."""
    titles = {"guidance 1": "finished, guidance 1", "model": f"finished, guidance {guidance:g}"}
    rows = []
    for source in ("first look, empty prompt", "first look", "guidance 1", "model", "real"):
        found = one_thing[source]
        rows.append(f"| {titles.get(source, source)} | {per_cent(found['words'])} | {found['sharpness']:.2f} |")
    return "\n".join(rows)


DISTANCE = """\
## Longer measurements

`evaluation/studies.py` measured these, each on the weights that are here.

**Frechet distance** of features of the judge, {pictures:,} pictures, to as many real pictures of other scenes:
{model:.2f}. Real pictures have {real:.2f}, the autoencoder's reconstructions of them {reconstruction:.2f}, which is the
least this model could reach. The features are this course's own, so the distance compares versions of this model and
nothing else. On these pictures the judge read the words right in {one} with one thing, in {two} with two.

**Is it copying?** Root mean squared distance of a picture (32 x 32 pixels, 0 to 1) to the nearest of {training:,}
training scenes, all that the runs of the U-Net in this world had:

| pictures | one thing, median | two things, median | one: nearer than 95 % of reconstructions | two |
|---|---:|---:|---:|---:|
{nearest}

![Samples over their nearest training scenes, then unseen real pictures over theirs](nearest.webp)

*Six samples, the training scene nearest to each; six unseen real pictures, the training scene nearest to each. None was
chosen.*

"""

STEPS = """\
**Steps.** The same {pictures} prompts of each kind and the same noise, guidance {guidance:g}, words right and in place.
Beside each share stands how many pictures are right with these steps only, and with {most} only:

| DDIM steps | one thing | only these : only {most} | two things | only these : only {most} |
|---:|---:|---:|---:|---:|
{rows}

"""

CHOICES = """\
**What training chose.** From the weights that are here, runs of 600 steps of 32 with a constant learning rate. gamma-5
weighs the loss by Min-SNR with a gamma of 5, gamma-inf is the plain loss. The runs that made these weights had a floor
under the weight of the error in x0 as well (`snr_floor`, in turn {floors}), which this study does not test.
"averaged" are the weights of the moving average, "last" those of the last step. The error is the mean square of the
predicted noise on {pictures} unseen pairs:

| run and weights | {timesteps} | one thing | two things |
|---|{rules}---:|---:|
{rows}

"""


def studies_section(studies: Mapping[str, Any], runs: Sequence[Mapping[str, Any]] = ()) -> str:
    """The part of the card that says what `evaluation/studies.py` measured; nothing if it has not.

    runs: the records of the runs of this world that made the model.
    """
    section = ""
    kinds = ("one thing", "two things")
    if "distance" in studies:
        study = studies["distance"]
        titles = {"model": "samples", "reconstruction": "reconstructions", "real": "unseen real pictures"}
        rows = []
        for name, title in titles.items():
            one, two = (study["nearest"][kind][name] for kind in kinds)
            shares = " | ".join(f"{100 * kind['nearer than 95 %']:.1f} %" for kind in (one, two))
            rows.append(f"| {title} | {one['median']:.4f} | {two['median']:.4f} | {shares} |")
        section += DISTANCE.format(
            pictures=study["pictures"],
            **study["frechet"],
            one=per_cent(study["judged"]["one thing"]["words"]),
            two=per_cent(study["judged"]["two things"]["words"]),
            training=study["training scenes"],
            nearest="\n".join(rows),
        )
    if "steps" in studies:
        study = studies["steps"]
        rows = []
        for steps, found in study["steps"].items():
            cells = [steps]
            for kind in kinds:
                test = found[kind]["against most steps"]
                cells += [per_cent(found[kind]["words"]), f"{test['only the first']} : {test['only the second']}"]
            rows.append(f"| {' | '.join(cells)} |")
        most = max(map(int, study["steps"]))
        section += STEPS.format(pictures=study["pictures"], guidance=study["guidance"], most=most, rows="\n".join(rows))
    if "choices" in studies:
        study = studies["choices"]
        timesteps = list(next(iter(study["runs"].values()))["errors"])
        rows = [
            f"| {name} | "
            + " | ".join(f"{run['errors'][t]:.4f}" for t in timesteps)
            + " | "
            + " | ".join(per_cent(run[kind]["words"]) for kind in kinds)
            + " |"
            for name, run in study["runs"].items()
        ]
        section += CHOICES.format(
            pictures=study["pictures"],
            floors=", ".join(f"{run['settings']['snr_floor']:g}" for run in runs if run["program"] == "train_unet"),
            timesteps=" | ".join(f"t = {t}" for t in timesteps),
            rules="---:|" * len(timesteps),
            rows="\n".join(rows),
        )
    return section


def write_card(folder: Path) -> None:
    """Write `README.md` into the model's folder from what was measured, the runs that made it and its weights."""
    results = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    path = folder / "studies.json"
    studies = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    all_runs = history(folder)
    runs = [run for run in all_runs if of_this_world(run)]
    settings, kinds, variety = (results[name] for name in ("settings", "kinds", "variety"))
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    parts = [
        f"| {name} | `{type(part).__name__}` | {_count(part):,} |"
        for name, part in (("VAE", pipe.vae), ("text encoder", pipe.text_encoder), ("U-Net", pipe.unet))
    ]
    card = CARD.format(
        steps=settings["steps"],
        guidance=settings["guidance"],
        words=len(WORDS),
        styles=len(STYLES),
        colours=len(COLOURS),
        plain=len(PLAIN),
        places=len(PLACES),
        relation_names=listed(RELATIONS),
        style_names=listed(STYLES),
        colour_names=listed(COLOURS),
        plain_names=listed(PLAIN),
        place_names=listed(phrase for phrase, _ in PLACES.values()),
        emoji=len(WORDS) * len(STYLES),
        samples="; ".join(f"`{prompt}`" for prompt in SAMPLES),
        parts="\n".join(parts),
        tokens=pipe.tokenizer.model_max_length,
        figures=figures_table(kinds),
        psnr=", ".join(f"{result['psnr']:.1f} dB with {kind}" for kind, result in kinds.items() if "thing" in kind),
        guided=guided_rows(kinds),
        captions=len(variety["captions"]),
        alike=len(variety["1"]["right"]) // len(variety["captions"]),
        real_sharpness=variety["real sharpness"],
        varied=varied_rows(variety),
        looks=look_rows(kinds["one thing"], settings["guidance"]),
        studies=studies_section(studies, runs),
        ancestor=ANCESTOR if len(runs) < len(all_runs) else "",
        commands=commands(runs, studies),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    write_card(POCKET)
