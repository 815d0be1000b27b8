"""A page to play on: a prompt, every dial of the pipeline, a picture and how it came to be. Used by `playground.ipynb`.

`draw` does the work and can be called without any widget; `suggestions` knows how a prompt could go on; `playground`
puts a page of widgets around the two, for JupyterLab and, through Voila, for the browser alone.
"""

import base64
import difflib
import html
import io
import re
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import ipywidgets as widgets
import torch
from PIL import Image, ImageOps

from helpers import inputs
from helpers.latents import decode
from helpers.loading import is_pocket, memory_advice, quiet
from helpers.pictures import save_pictures
from helpers.plots import as_picture
from helpers.scenes import BACKGROUNDS, RELATIONS, STYLES, WORDS, with_article

if TYPE_CHECKING:
    from diffusers import SchedulerMixin, StableDiffusionPipeline

# The name on the page, the class in diffusers, and what it needs beyond the pipeline's own settings.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),  # as Stable Diffusion does
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "DPM-Solver++ 2M": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "UniPC": ("UniPCMultistepScheduler", {}),
}
FRAMES = 7  # of a film strip
SUGGESTIONS = 8  # buttons under the prompt
EXAMPLE = "a fox on a blue background"
MAX_PIXELS = 50_000_000  # of an upload: more than any camera, far less than would fill the memory


@dataclass(frozen=True)
class Drawing:
    """A picture, the film strip of its run as (label, picture) from noise to the end, and what there is to say."""

    picture: Image.Image
    frames: list[tuple[str, Image.Image]]
    notes: list[str]


def make_sampler(pipe: "StableDiffusionPipeline", name: str) -> "SchedulerMixin":
    """The sampler of this name in `SAMPLERS`, with the pipeline's betas. Raises ValueError for another name."""
    if name not in SAMPLERS:
        raise ValueError(f"sampler is {name!r}: choose one of {', '.join(SAMPLERS)}")
    kind, options = SAMPLERS[name]
    with quiet():  # some have no use for a setting of the pipeline's own scheduler, and say so
        return getattr(diffusers, kind).from_config(pipe.scheduler.config, **options)


def draw(
    pipe: "StableDiffusionPipeline",
    prompt: str,
    *,
    steps: int = 25,
    guidance: float | None = None,
    seed: int = 0,
    sampler: str = "DDIM",
    negative_prompt: str = "",
    picture: Image.Image | None = None,
    strength: float = 0.6,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Drawing:
    """One picture for a prompt: from noise, or with `picture` from that one, changed by `strength` (image to image).

    sampler: a name in `SAMPLERS`. progress: called after each step with the steps done and all there are to do.
    picture: of any size; its middle is used. The other arguments are those of `pictures.generate`; `pipe` is left as
    it is. The film strip shows up to 7 steps: x_t as the U-Net would see it next, decoded.

    Everything is checked before any work: ValueError says what is wrong and what would do. What the model will not
    understand of the prompts is in the notes. A full GPU raises MemoryError with advice.
    """
    inputs.check_prompt(prompt)
    if not prompt.strip():
        raise ValueError(f"The prompt is empty: write what to draw, such as '{EXAMPLE}'")
    inputs.check_prompt(negative_prompt, name="negative_prompt")
    scheduler = make_sampler(pipe, sampler)
    printed = io.StringIO()
    with redirect_stdout(printed):
        _, guidance = inputs.check_run(
            pipe,
            prompt,
            scheduler=scheduler,
            steps=steps,
            guidance=guidance,
            seed=seed,
            negative_prompt=negative_prompt,
            height=None,
            width=None,
        )
    options: dict[str, Any] = {}
    if picture is not None:
        inputs.check_strength(strength, steps=steps)
        options = {"image": fit(pipe, picture), "strength": float(strength)}

    # A pipeline of its own around the same weights: the sampler is its own, so that the caller's stays as it was.
    kind = type(pipe) if picture is None else diffusers.StableDiffusionImg2ImgPipeline
    with quiet():
        own = kind(
            **pipe.components | {"scheduler": scheduler}, requires_safety_checker=pipe.config.requires_safety_checker
        )
    own.set_progress_bar_config(disable=True)
    seen = []

    def keep(_: Any, index: int, t: Any, tensors: dict) -> dict:
        # Euler's latents are x0 + sigma eps: scaled as for the next call they decode like those of the others.
        seen.append(scheduler.scale_model_input(tensors["latents"], t))
        progress(index + 1, own.num_timesteps)
        return tensors

    with quiet(bars=True), memory_advice():  # the library's own warning about cut text repeats the note
        result = own(
            prompt,
            num_inference_steps=int(steps),
            guidance_scale=guidance,
            negative_prompt=negative_prompt or None,
            generator=torch.Generator("cpu").manual_seed(int(seed)),
            callback_on_step_end=keep,
            **options,
        )
    chosen = _spread(list(range(len(seen))), FRAMES)
    decoded = decode(pipe, torch.cat([seen[index] for index in chosen]))
    labels = [f"step {index + 1} of {len(seen)}" for index in chosen]
    return Drawing(result.images[0], list(zip(labels, decoded, strict=True)), printed.getvalue().splitlines())


def fit(pipe: "StableDiffusionPipeline", picture: Image.Image) -> Image.Image:
    """The middle of a picture in the size that the model draws, white where it was transparent."""
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    return ImageOps.fit(Image.fromarray(as_picture(picture)), (side, side), Image.Resampling.LANCZOS)


def read_picture(data: bytes, name: str = "The file") -> Image.Image:
    """The picture in the bytes of a file, turned as its camera says. ValueError if it cannot be read or is too big."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the check below is stricter
            image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(
                f"{name} has {image.width} x {image.height} pixels: choose a picture of at most 50 million"
            )
        return ImageOps.exif_transpose(image).convert("RGBA")
    # PIL answers damaged files with any of these.
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be read as a picture: choose a JPEG, PNG or WebP file") from error


# How a prompt could go on, in the grammar that Pocket's captions are made of

_OBJECTS = [with_article(word) for word in WORDS]


def _any_of(phrases: Any) -> str:
    return "|".join(map(re.escape, sorted(phrases, key=len, reverse=True)))


_GRAMMAR = re.compile(
    rf"(?P<one>(?:{_any_of(_OBJECTS)})\b)?"
    rf"(?(one)(?: (?P<relation>{_any_of(RELATIONS)}) (?P<other>{_any_of(_OBJECTS)})\b)?)"
    rf"(?(one)(?P<background> on an? (?:{_any_of(BACKGROUNDS)}) background\b)?)"
    rf"(?(one)(?P<style>, (?:{_any_of(STYLES)}) style\b)?)"
)


def suggestions(prompt: str, limit: int = SUGGESTIONS) -> list[tuple[str, str]]:
    """Up to `limit` ways a prompt could go on in Pocket's grammar, each as (what would be added, whole prompt).

    A word that is being typed is completed, also one that stands where the grammar has no place for it; a word with a
    slip is offered as the nearest ones that Pocket knows.
    """
    text = re.sub(r"\s+", " ", prompt.lstrip())
    match = _GRAMMAR.match(text.lower())
    done, rest = text[: match.end()], text[match.end() :].lower()

    offered = [
        (phrase.strip(" ,"), done + phrase)
        for phrase in _next(match, rest)
        if phrase != rest and (phrase.startswith(rest) or re.sub(r"^an? ", "", phrase).startswith(rest.strip() or " "))
    ]
    if offered:
        return _spread(offered, limit)

    head, _, fragment = text.rpartition(" ")
    if not fragment or not rest:  # nothing is being typed, or a whole caption is there
        return []
    vocabulary = dict.fromkeys([*WORDS, *BACKGROUNDS, *STYLES])
    near = [word for word in vocabulary if word.startswith(fragment.lower())]
    near = near or difflib.get_close_matches(fragment.lower(), vocabulary, n=3)
    return [(word, f"{head} {word}".strip()) for word in near if word != fragment.lower()][:limit]


def _next(match: re.Match, rest: str) -> list[str]:
    """The phrases that may stand after what the grammar has read of a prompt; `rest` is what it has not read."""
    if match["one"] is None:
        return _OBJECTS
    backgrounds = [f" on {with_article(name)} background" for name in BACKGROUNDS]
    styles = [f", {style} style" for style in STYLES]
    if match["style"]:
        return []
    if match["background"]:
        return styles
    if match["other"]:
        return backgrounds + styles
    for relation in RELATIONS:
        if rest.startswith(f" {relation}"):
            return [f" {relation} {other}" for other in _OBJECTS]
    return [f" {relation}" for relation in RELATIONS] + backgrounds + styles


def _spread(items: list, count: int) -> list:
    """`count` of the items at even distances, the first and the last among them; all if there are no more."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


# The page

WIDE = {"description_width": "9em"}
LINE = {"width": "calc(100% - 4px)", "max_width": "46em"}  # its margins are 2 pixels on each side
SHORT = {"width": "24em", "max_width": "100%"}
WRAPPED = {"flex_flow": "row wrap", "width": "100%"}  # goes on below where the window ends
AUTO = {"width": "auto"}


class Playground:
    """The widgets of the page, by name, and what happens when they are used; `page` holds them all.

    Whatever goes wrong is said in `message`: an exception in a widget's callback would be shown nowhere, or as a
    traceback in the middle of the page.
    """

    def __init__(self, pipe: "StableDiffusionPipeline", folder: str | Path = "pictures") -> None:
        self.pipe, self.folder = pipe, folder
        self.start: Image.Image | None = None  # the picture to begin with, for image to image
        self.drawing: Drawing | None = None
        pocket = is_pocket(pipe)

        self.prompt = widgets.Text(description="Prompt", placeholder=EXAMPLE, style=WIDE, layout=LINE)
        self.words = [widgets.Button(layout=AUTO) for _ in range(SUGGESTIONS if pocket else 0)]
        self.negative = widgets.Text(
            description="Negative prompt", placeholder="what to stay away from", style=WIDE, layout=LINE
        )
        self.steps = widgets.IntText(value=25, description="Steps", style=WIDE, layout=SHORT)
        self.guidance = widgets.FloatSlider(
            value=inputs.POCKET_GUIDANCE if pocket else inputs.USUAL_GUIDANCE,
            min=1,
            max=15,
            step=0.5,
            description="Guidance",
            style=WIDE,
            layout=SHORT,
        )
        self.seed = widgets.IntText(value=0, description="Seed", style=WIDE, layout=SHORT)
        self.sampler = widgets.Dropdown(options=list(SAMPLERS), description="Sampler", style=WIDE, layout=SHORT)
        self.upload = widgets.FileUpload(accept="image/*", description="Start from a picture", layout=AUTO)
        self.remove = widgets.Button(description="Remove the picture", disabled=True)
        self.strength = widgets.FloatSlider(
            value=0.6, min=0, max=1, step=0.05, description="Strength", disabled=True, style=WIDE, layout=SHORT
        )
        self.given = widgets.HTML()
        self.draw = widgets.Button(description="Draw", button_style="primary")
        self.save = widgets.Button(description="Save", disabled=True)
        self.progress = widgets.IntProgress(description="Progress", style=WIDE, layout=SHORT | {"display": "none"})
        self.message = widgets.HTML()
        self.result = widgets.HTML()
        self.page = widgets.VBox(
            [
                self.prompt,
                widgets.HBox(self.words, layout=WRAPPED),
                self.negative,
                widgets.HBox([self.steps, self.guidance, self.seed, self.sampler], layout=WRAPPED),
                widgets.HBox([self.upload, self.remove, self.strength, self.given], layout=WRAPPED),
                widgets.HBox([self.draw, self.save, self.progress], layout=WRAPPED),
                self.message,
                self.result,
            ]
        )
        self.page.add_class("playground")
        for name in ("message", "result", "given"):
            getattr(self, name).add_class(f"playground-{name}")

        for button in self.words:
            button.on_click(self._take_word)
        self.prompt.observe(self._suggest, names="value")
        self.upload.observe(self._take_upload, names="value")
        self.remove.on_click(self._remove_picture)
        self.draw.on_click(self._draw)
        self.save.on_click(self._save)
        self._suggest()

    def say(self, *sentences: str) -> None:
        """Show sentences, one a line, in place of the last ones."""
        lines = "<br>".join(html.escape(sentence) for sentence in sentences)
        self.message.value = f'<div role="status" style="line-height: 1.5">{lines}</div>'

    def _suggest(self, _: Any = None) -> None:
        found = suggestions(self.prompt.value, len(self.words)) if self.words else []
        for index, button in enumerate(self.words):
            added, whole = found[index] if index < len(found) else ("", "")
            button.description, button.tooltip = added, whole
            button.layout.display = "" if added else "none"

    def _take_word(self, button: widgets.Button) -> None:
        if button.tooltip:
            self.prompt.value = button.tooltip

    def _take_upload(self, _: Any = None) -> None:
        if not self.upload.value:
            return
        file = self.upload.value[0]
        try:
            self.start = fit(self.pipe, read_picture(bytes(file["content"]), repr(file["name"])))
        except ValueError as error:
            self._remove_picture()
            self.say(f"{error}.")
            return
        self.given.value = _figure(self.start, "The uploaded picture, in the size of the model", "", side=64)
        self.remove.disabled = self.strength.disabled = False
        self.say("The picture will be changed towards the prompt: a little or a lot, as the strength says.")

    def _remove_picture(self, _: Any = None) -> None:
        self.start, self.given.value, self.upload.value = None, "", ()
        self.remove.disabled = self.strength.disabled = True
        self.say("Without a picture, the prompt is drawn from noise.")

    def _advance(self, done: int, total: int) -> None:
        self.progress.max, self.progress.value = total, done

    def _draw(self, _: Any = None) -> None:
        prompt, started = self.prompt.value, time.perf_counter()
        self.draw.disabled, self.progress.value, self.progress.layout.display = True, 0, ""
        self.say("Drawing ...")
        try:
            self.drawing = draw(
                self.pipe,
                prompt,
                steps=self.steps.value,
                guidance=self.guidance.value,
                seed=self.seed.value,
                sampler=self.sampler.value,
                negative_prompt=self.negative.value,
                picture=self.start,
                strength=self.strength.value,
                progress=self._advance,
            )
        except (ValueError, MemoryError) as error:
            self.say(f"{error}.")
        except KeyboardInterrupt:
            self.say("Interrupted. The last picture is still there.")
        except Exception as error:  # whatever it is, the page stays usable
            self.say(f"This did not work ({type(error).__name__}: {error}). Other settings may.")
        else:
            self.result.value = _shown(self.drawing, prompt)
            self.save.disabled = False
            seconds = time.perf_counter() - started
            how = "" if self.start is None else f", strength {self.strength.value:g}"
            self.say(
                f"Drawn in {seconds:.1f} seconds: {self.sampler.value}, {self.steps.value} steps, "
                f"guidance {self.guidance.value:g}, seed {self.seed.value}{how}.",
                *(f"{note}." for note in self.drawing.notes),
            )
        finally:
            self.draw.disabled, self.progress.layout.display = False, "none"

    def _save(self, _: Any = None) -> None:
        if self.drawing is None:
            return
        try:
            (path,) = save_pictures([self.drawing.picture], self.folder)
        except (OSError, ValueError) as error:
            self.say(f"The picture could not be saved: {error}.")
        else:
            self.say(f"Saved as {path}.")


def playground(pipe: "StableDiffusionPipeline", folder: str | Path = "pictures") -> widgets.VBox:
    """The page, ready to be shown as the last line of a cell. Pictures are saved in `folder`, none is overwritten."""
    return Playground(pipe, folder).page


def _figure(picture: Image.Image, alt: str, caption: str, *, side: int) -> str:
    """A picture as HTML with its description for those who cannot see it. `widgets.Image` has no place for one."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure style="margin: 0 8px 8px 0; width: {side}px"><img src="data:image/png;base64,{data}" '
        f'alt="{html.escape(alt)}" style="width: {side}px; image-rendering: pixelated">'
        f'<figcaption style="line-height: 1.4">{html.escape(caption)}</figcaption></figure>'
    )


def _shown(drawing: Drawing, prompt: str) -> str:
    """The picture and, below it, the film strip, which goes on in a new line where the window ends."""
    side = max(256, min(drawing.picture.width, 512))
    strip = "".join(_figure(frame, f"The run at {label}, decoded", label, side=112) for label, frame in drawing.frames)
    picture = _figure(drawing.picture, f"The picture drawn for the prompt: {prompt}", prompt, side=side)
    return f'{picture}<div style="display: flex; flex-wrap: wrap">{strip}</div>'
