"""What an option of the pipeline costs and saves: seconds, memory, and how far its pictures are from the plain ones."""

import copy
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers.library_calls import quiet

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

GUIDANCE = 4.0
TOO_SLOW = 8  # times the plain pipeline's time for a step: then an option is not drawn with


class PeakBytes(TorchDispatchMode):
    """The most bytes that tensors made inside it have held at once. What was there before does not count.

    It sees every operation: the bytes of each new tensor are added, and taken off when it is freed. Views of another
    tensor hold nothing of their own.
    """

    now = most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        old = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in old:
                self.now += x.untyped_storage().nbytes()
                weakref.finalize(x.untyped_storage(), self._freed, x.untyped_storage().nbytes())
        self.most = max(self.most, self.now)
        return result

    def _freed(self, size: int) -> None:
        self.now -= size


@dataclass(frozen=True)
class Cost:
    """A line of the table: what was tried, and either why it was not drawn with or what it took.

    seconds: for one picture. megabytes: the most that were in use beside the weights. apart: the largest difference of
    any pixel from the picture drawn plainly, of 255.
    """

    label: str
    missing: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0
    apart: int = 0

    def __str__(self) -> str:
        if self.missing:
            return f"{self.label:28}{self.missing}"
        return f"{self.label:28}{self.seconds:7.3f} s {self.megabytes:9.1f} MB {self.apart:6} of 255"


def seconds(function: Callable[..., Any], *values: Any, **options: Any) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function(*values, **options)
    return time.perf_counter() - start


def compare(pipe: "StableDiffusionPipeline", prompt: str, *, steps: int, pictures: int) -> Iterator[Cost]:
    """The cost of each option in turn: switched on, measured, and switched off again. The first is the plain one.

    steps, pictures: of each drawing; the two options for large pictures draw one of twice the side.
    """
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    small = {"prompts": [prompt] * pictures, "steps": steps, "side": side}
    large = {"prompts": [prompt], "steps": steps, "side": 2 * side}
    plain, drawn = _measured("plain", pipe, **small)
    yield plain
    yield from _half_precision(pipe, drawn, small)
    slicing = pipe.enable_attention_slicing, pipe.disable_attention_slicing
    yield _with("attention slicing", *slicing, pipe, drawn, small)
    layouts = [lambda kind=kind: _arrange(pipe, kind) for kind in (torch.channels_last, torch.contiguous_format)]
    yield _with("channels last", *layouts, pipe, drawn, small)
    yield _with("VAE slicing", pipe.vae.enable_slicing, pipe.vae.disable_slicing, pipe, drawn, small)
    plain, drawn = _measured("plain, twice the side", pipe, **large)
    yield plain
    yield _with("VAE tiling, twice the side", pipe.vae.enable_tiling, pipe.vae.disable_tiling, pipe, drawn, large)


def _half_precision(pipe: Any, drawn: Sequence[Image.Image], work: dict[str, Any]) -> Iterator[Cost]:
    """The dtypes that the pipeline does not have, unless one step takes far longer with them."""
    once = {**work, "steps": 1, "prompts": work["prompts"][:1]}
    _draw(pipe, **once)
    usual = seconds(_draw, pipe, **once)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        if dtype == pipe.dtype:
            continue
        label = str(dtype).removeprefix("torch.")
        try:
            with quiet():  # the library advises against casting, and here its effect is measured
                cast = copy.deepcopy(pipe).to(dtype)
            _draw(cast, **once)
            slower = seconds(_draw, cast, **once) / usual
            if slower > TOO_SLOW:
                yield Cost(label, f"not drawn: one step took {slower:.0f} times as long")
            else:
                yield _measured(label, cast, drawn, **work)[0]
        except RuntimeError as error:
            yield Cost(label, f"does not work on this {pipe.device.type}: {_first_line(error)}")


def _with(
    label: str,
    on: Callable[[], Any],
    off: Callable[[], Any],
    pipe: Any,
    drawn: Sequence[Image.Image],
    work: dict[str, Any],
) -> Cost:
    """The cost of drawing with an option on. It is off again afterwards, also if that fails."""
    try:
        on()
        return _measured(label, pipe, drawn, **work)[0]
    except (RuntimeError, ImportError, ValueError) as error:
        return Cost(label, f"failed: {_first_line(error)}")
    finally:
        off()


def _measured(
    label: str, pipe: Any, plain: Sequence[Image.Image] | None = None, **work: Any
) -> tuple[Cost, list[Image.Image]]:
    """The cost of one drawing and its pictures; the first drawing warms up and counts memory, the second is timed."""
    with _memory(pipe) as peak:
        pictures = _draw(pipe, **work)
    apart = max(_apart(*pair) for pair in zip(pictures, plain or pictures, strict=True))
    return Cost(label, "", seconds(_draw, pipe, **work) / len(pictures), peak[0] / 1e6, apart), pictures


@contextmanager
def _memory(pipe: Any) -> Iterator[list[int]]:
    """A list that holds the most bytes in use inside, once it is left. On CUDA PyTorch counts them itself."""
    found: list[int] = []
    if pipe.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield found
        found.append(torch.cuda.max_memory_allocated() - before)
    else:
        with PeakBytes() as counter:
            yield found
        found.append(counter.most)


def _draw(pipe: Any, prompts: Sequence[str], steps: int, side: int) -> list[Image.Image]:
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(len(prompts))]
    options = {"num_inference_steps": steps, "guidance_scale": GUIDANCE, "height": side, "width": side}
    with quiet(bars=True):
        return pipe(list(prompts), generator=generators, **options).images


def _arrange(pipe: Any, memory_format: torch.memory_format) -> None:
    for part in (pipe.unet, pipe.vae):
        part.to(memory_format=memory_format)


def _apart(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:60]
