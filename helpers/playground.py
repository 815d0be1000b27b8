"""A page to play on: a prompt, every dial of the pipeline, a picture and how it came to be. Used by `playground.ipynb`.

`draw` does the work and can be called without any widget; `playground` puts a page of widgets around it, for JupyterLab
and, through Voila, for the browser alone. How a prompt could go on is in `grammar`.
"""

import base64
import html
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from helpers import inputs
from helpers.grammar import suggestions
from helpers.images import read_picture
from helpers.latents import decode
from helpers.library_calls import memory_advice, quiet
from helpers.loading import is_pocket
from helpers.pictures import save_pictures
from helpers.plots import as_picture, picture_file

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, SchedulerMixin, StableDiffusionPipeline

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


@dataclass(frozen=True)
class Drawing:
    """A picture, the film strip of its run as (label, picture) from noise to the end, and what there is to say."""

    picture: Image.Image
    frames: list[tuple[str, Image.Image]]
    notes: list[str]


def make_sampler(pipe: "StableDiffusionPipeline", name: str) -> "SchedulerMixin":
    """The sampler of this name in `SAMPLERS`, with the pipeline's betas. Raises ValueError for another name."""
    if name not in list(SAMPLERS):  # a dict would refuse what has no hash in its own words
        raise ValueError(f"sampler is {name!r}: choose one of {', '.join(SAMPLERS)}")
    kind, options = SAMPLERS[name]
    with quiet():  # some have no use for a setting of the pipeline's own scheduler, and say so
        return getattr(diffusers, kind).from_config(pipe.scheduler.config, **options)


@memory_advice()
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
    if guidance is not None:
        inputs.check_pipeline_guidance(guidance)
    scheduler = make_sampler(pipe, sampler)
    checked = inputs.check_run(
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
    start: dict[str, Any] = {}
    if picture is not None:
        inputs.check_strength(strength, steps=steps)
        start = {"image": fit(pipe, picture), "strength": float(strength)}

    own = _with_sampler(pipe, scheduler, to_change=picture is not None)
    shown: list[Tensor] = []

    def after_step(_: Any, index: int, t: Any, tensors: dict) -> dict:
        # Euler's latents are x0 + sigma eps: scaled as for the next call they decode like those of the others.
        shown.append(scheduler.scale_model_input(tensors["latents"], t))
        progress(index + 1, own.num_timesteps)
        return tensors

    with quiet(bars=True):  # the library's own warning about cut text repeats the note
        result = own(
            prompt,
            num_inference_steps=int(steps),
            guidance_scale=checked.guidance,
            negative_prompt=negative_prompt or None,
            generator=torch.Generator("cpu").manual_seed(int(seed)),
            callback_on_step_end=after_step,
            **start,
        )
    return Drawing(result.images[0], _film(pipe, shown), checked.notes)


def _with_sampler(
    pipe: "StableDiffusionPipeline", scheduler: "SchedulerMixin", *, to_change: bool
) -> "DiffusionPipeline":
    """A pipeline around the same weights with a sampler of its own, so that the caller's stays as it was.

    to_change: one that changes a picture (image to image).
    """
    kind = diffusers.StableDiffusionImg2ImgPipeline if to_change else type(pipe)
    with quiet():
        own = kind(
            **pipe.components | {"scheduler": scheduler}, requires_safety_checker=pipe.config.requires_safety_checker
        )
    own.set_progress_bar_config(disable=True)
    return own


def _film(pipe: "StableDiffusionPipeline", latents: list[Tensor]) -> list[tuple[str, Image.Image]]:
    """Up to 7 steps of a run at even distances, the first and the last among them, as (label, picture)."""
    chosen = sorted({round(index) for index in np.linspace(0, len(latents) - 1, FRAMES)})
    labels = [f"step {index + 1} of {len(latents)}" for index in chosen]
    return list(zip(labels, decode(pipe, torch.cat([latents[index] for index in chosen])), strict=True))


def fit(pipe: "StableDiffusionPipeline", picture: Image.Image) -> Image.Image:
    """The middle of a picture in the size that the model draws, white where it was transparent."""
    size = pipe.unet.config.sample_size  # of the latents: one number if they are square, else rows and columns
    rows, columns = (size, size) if isinstance(size, int) else size
    sides = (columns * pipe.vae_scale_factor, rows * pipe.vae_scale_factor)
    return ImageOps.fit(Image.fromarray(as_picture(picture)), sides, Image.Resampling.LANCZOS)


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
        self.upload = widgets.FileUpload(
            accept="image/jpeg,image/png,image/webp", description="Start from a picture", layout=AUTO
        )
        self.remove = widgets.Button(description="Remove the picture", disabled=True)
        self.strength = widgets.FloatSlider(
            value=0.6, min=0, max=1, step=0.05, description="Strength", disabled=True, style=WIDE, layout=SHORT
        )
        self.given = widgets.HTML()
        self.draw_button = widgets.Button(description="Draw", button_style="primary")
        self.save_button = widgets.Button(description="Save", disabled=True)
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
                widgets.HBox([self.draw_button, self.save_button, self.progress], layout=WRAPPED),
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
        self.draw_button.on_click(self._run)
        self.save_button.on_click(self._save)
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

    def _run(self, _: Any = None) -> None:
        prompt, started = self.prompt.value, time.perf_counter()
        self.draw_button.disabled, self.progress.value, self.progress.layout.display = True, 0, ""
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
            self.save_button.disabled = False
            seconds = time.perf_counter() - started
            how = "" if self.start is None else f", strength {self.strength.value:g}"
            self.say(
                f"Drawn in {seconds:.1f} seconds: {self.sampler.value}, {self.steps.value} steps, "
                f"guidance {self.guidance.value:g}, seed {self.seed.value}{how}.",
                *(f"{note}." for note in self.drawing.notes),
            )
        finally:
            self.draw_button.disabled, self.progress.layout.display = False, "none"

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
    data = base64.b64encode(picture_file(picture)).decode()
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
