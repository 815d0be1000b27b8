"""Checks of what a learner passes in: each raises ValueError with one sentence, or returns notes to print."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from helpers.grammar import unknown_words
from helpers.loading import is_pocket
from helpers.scenes import SIZE, WORDS

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedTokenizerBase

MAX_GUIDANCE = 50.0
POCKET_GUIDANCE, USUAL_GUIDANCE = 4.0, 7.5
MIN_SIDE, MAX_SIDE = 64, 2048  # pixels
EXAMPLES = f"{len(WORDS)} things, such as 'fox', 'pizza' and 'castle'"  # for words with nothing near them


@dataclass(frozen=True)
class CheckedRun:
    """What `check_run` found: the prompts as a list, the guidance chosen, and notes to print, each a sentence."""

    prompts: list[str]
    guidance: float
    notes: list[str]


def check_steps(steps: int, scheduler: Any) -> None:
    """A number of denoising steps: a whole number from 1 to what the scheduler was trained for.

    With "leading" spacing and an offset of 1, as in Stable Diffusion, as many steps as there are training
    timesteps would begin past the last one, where diffusers' DDIM raises IndexError; so one less is the most.
    PNDM that begins with its Runge-Kutta steps takes them in the first four.
    """
    config = scheduler.config
    most = config.num_train_timesteps
    if config.get("timestep_spacing") == "leading":
        most -= config.get("steps_offset", 0)
    least = 4 if config.get("skip_prk_steps") is False else 1
    if not _is_integer(steps) or not least <= steps <= most:
        raise ValueError(f"steps is {steps!r}: choose a whole number from {least} to {most}")


def check_guidance(scale: float) -> None:
    """A guidance scale s of `uncond + s * (cond - uncond)`: 0 ignores the prompt, 1 means off, at most 50."""
    if not _is_number(scale) or not 0 <= scale <= MAX_GUIDANCE:
        raise ValueError(
            f"guidance is {scale!r}: choose a number from 0 to {MAX_GUIDANCE:g} (1 means off, 4 to 8 is usual)"
        )


def check_pipeline_guidance(scale: float) -> None:
    """A guidance scale for diffusers' pipelines: from 1, off. Below, they draw with 1 and do not say so."""
    if _is_number(scale) and 0 <= scale < 1:
        raise ValueError(f"guidance is {scale!r}: this pipeline cannot go below 1 (off); choose 1 to {MAX_GUIDANCE:g}")
    if not _is_number(scale) or not 1 <= scale <= MAX_GUIDANCE:
        raise ValueError(f"guidance is {scale!r}: choose a number from 1 (off) to {MAX_GUIDANCE:g}; 4 to 8 is usual")


def check_strength(strength: float, *, steps: int | None = None) -> None:
    """An image-to-image strength from 0 (keep the picture) to 1 (start from noise).

    With `steps`, also that at least one of them is left to do: strength * steps must reach 1.
    """
    if not _is_number(strength) or not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength!r}: choose a number from 0 (keep the picture) to 1 (start from noise)")
    if steps is not None and int(steps * strength) < 1:
        least = math.ceil(1000 / steps) / 1000  # rounded up, so that it is enough
        raise ValueError(f"strength {strength!r} of {steps} steps leaves none to do: choose at least {least:g}")


def check_size(height: int | None, width: int | None, pipe: "DiffusionPipeline") -> None:
    """Height and width of a picture in pixels; None stands for the model's own.

    Each is a multiple of the VAE's downscale factor, and of the 8 that diffusers insists on, from 64 to 2048.
    """
    factor = math.lcm(8, pipe.vae_scale_factor)
    for name, side in (("height", height), ("width", width)):
        if side is None:
            continue
        if not _is_integer(side) or not MIN_SIDE <= side <= MAX_SIDE or side % factor:
            raise ValueError(f"{name} is {side!r}: choose a multiple of {factor} from {MIN_SIDE} to {MAX_SIDE} pixels")


def check_seed(seed: int) -> None:
    """A seed for torch.Generator: a whole number from 0 to 2**63 - 1."""
    if not _is_integer(seed) or not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed!r}: choose a whole number from 0 to 2**63 - 1")


def check_prompt(prompt: str, *, name: str = "prompt") -> None:
    """One prompt: a string, which may be empty."""
    if not isinstance(prompt, str):
        raise ValueError(f"{name} is {prompt!r}: give text in quotes, such as 'a fox on a blue background'")


def check_prompts(prompt: str | Sequence[str]) -> list[str]:
    """The prompts as a list: one string, or a sequence of at least one."""
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, (list, tuple)) or not prompt:
        raise ValueError(f"prompt is {prompt!r}: give text in quotes, or a list of at least one such text")
    for one in prompt:
        check_prompt(one, name="a prompt in the list")
    return list(prompt)


def check_run(
    pipe: "DiffusionPipeline",
    prompt: str | Sequence[str],
    *,
    scheduler: Any,
    steps: int,
    guidance: float | None,
    seed: int,
    negative_prompt: str | None,
    height: int | None,
    width: int | None,
) -> CheckedRun:
    """All checks of one run from text to picture.

    guidance: None stands for 4.0 with Pocket, else 7.5. The notes say what the model will not understand of the
    prompts, and which settings have no effect or an odd one; each is there once.

    Raises ValueError for the first thing that is wrong. Nothing is printed: that is for the caller.
    """
    prompts = check_prompts(prompt)
    if negative_prompt is not None:
        check_prompt(negative_prompt, name="negative_prompt")
    check_steps(steps, scheduler)
    if guidance is None:
        guidance = POCKET_GUIDANCE if is_pocket(pipe) else USUAL_GUIDANCE
    check_guidance(guidance)
    check_seed(seed)
    check_size(height, width, pipe)

    notes = [note for text in [*prompts, negative_prompt or ""] for note in prompt_notes(pipe, text)]
    notes += size_notes(pipe, height, width)
    if negative_prompt and guidance == 1:
        notes.append("The negative prompt has no effect with guidance 1 (off)")
    return CheckedRun(prompts, float(guidance), list(dict.fromkeys(notes)))


def prompt_notes(pipe: "DiffusionPipeline", prompt: str) -> list[str]:
    """Sentences on what a pipeline will not understand of a prompt: text past its limit, words new to Pocket.

    Raises ValueError if the prompt is not a string.
    """
    check_prompt(prompt)
    notes = []
    cut = cut_text(pipe.tokenizer, prompt)
    if cut:
        limit = pipe.tokenizer.model_max_length
        notes.append(f"The text encoder reads only {limit} tokens, so this end of the prompt was cut: {cut!r}")
    if is_pocket(pipe):
        # Words added to the tokenizer, as textual inversion does, are known to this pipeline.
        added = pipe.tokenizer.get_added_vocab()
        for token in sorted(added, key=len, reverse=True):
            prompt = prompt.replace(token, " ")
        unknown = unknown_words(prompt)
        notes += [
            f"Pocket has never seen {word!r}; the nearest it knows: {', '.join(map(repr, near))}"
            for word, near in unknown.items()
            if near
        ]
        far = ", ".join(repr(word) for word, near in unknown.items() if not near)
        if far:
            notes.append(f"Pocket has never seen {far}, nor anything near; it knows {EXAMPLES}")
    return notes


def size_notes(pipe: "DiffusionPipeline", height: int | None, width: int | None) -> list[str]:
    """A sentence if Pocket is asked for another size than the only one it was trained on."""
    height, width = height or SIZE, width or SIZE
    if not is_pocket(pipe) or (height, width) == (SIZE, SIZE):
        return []
    return [f"Pocket has only seen pictures of {SIZE} x {SIZE} pixels: expect odd shapes at {width} x {height}"]


def cut_text(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> str:
    """The end of a prompt that does not fit into `tokenizer.model_max_length` tokens, from the start of a word."""
    encoded = tokenizer(prompt, return_offsets_mapping=True, verbose=False)
    limit = tokenizer.model_max_length
    if len(encoded.input_ids) <= limit:
        return ""
    start = encoded["offset_mapping"][limit - 1][0]  # the last place read holds the end token
    while start > 0 and not prompt[start - 1].isspace():
        start -= 1  # half a word has not been read either
    return prompt[start:].strip()


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
