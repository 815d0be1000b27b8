"""What an option of the pipeline costs and saves: seconds, memory, and how far its pictures are from the plain ones."""

import copy
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
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
HEAD = f"{'':28}{'s a picture':>11}{'U-Net MB':>10}{'decoder MB':>12}{'difference':>12}"
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

    seconds: for one picture. unet, decoder: the most megabytes that were in use beside the weights, while the U-Net ran
    and while the decoder did. apart: the largest difference of any pixel from the picture drawn plainly, of 255.
    """

    label: str
    missing: str = ""
    seconds: float = 0.0
    unet: float = 0.0
    decoder: float = 0.0
    apart: int = 0

    def __str__(self) -> str:
        if self.missing:
            return f"{self.label:28}{self.missing}"
        return f"{self.label:28}{self.seconds:11.3f}{self.unet:10.1f}{self.decoder:12.1f}{self.apart:12}"


def seconds(function: Callable[..., Any], *values: Any, **options: Any) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function(*values, **options)
    return time.perf_counter() - start


def compare(pipe: "StableDiffusionPipeline", prompt: str, *, steps: int, pictures: int) -> Iterator[Cost]:
    """The cost of each option in turn: switched on, measured, and switched off again. Differences are from the plain
    drawing above: of so many pictures, and then of one large picture.

    steps, pictures: of each drawing; the large picture has twice the side.
    """
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    small = {"prompts": [prompt] * pictures, "steps": steps, "side": side}
    large = {"prompts": [prompt], "steps": steps, "side": 2 * side}
    plain, drawn = _measured(f"{pictures} pictures, plain", pipe, **small)
    yield plain
    yield from _half_precision(pipe, drawn, small)
    slicing = pipe.enable_attention_slicing, pipe.disable_attention_slicing
    yield _with("  attention slicing", *slicing, pipe, drawn, small)
    yield _with("  VAE slicing", pipe.vae.enable_slicing, pipe.vae.disable_slicing, pipe, drawn, small)
    plain, drawn = _measured("1 of twice the side, plain", pipe, **large)
    yield plain
    yield _with("  VAE tiling", pipe.vae.enable_tiling, pipe.vae.disable_tiling, pipe, drawn, large)


def _half_precision(pipe: Any, drawn: Sequence[Image.Image], work: dict[str, Any]) -> Iterator[Cost]:
    """The dtypes that the pipeline does not have, unless one step takes far longer with them."""
    once = {**work, "steps": 1, "prompts": work["prompts"][:1]}
    _draw(pipe, **once)
    usual = seconds(_draw, pipe, **once)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        if dtype == pipe.dtype:
            continue
        label = "  " + str(dtype).removeprefix("torch.")
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
    with _memory(pipe) as peaks:
        pictures = _draw(pipe, **work)
    apart = max(_apart(*pair) for pair in zip(pictures, plain or pictures, strict=True))
    taken = seconds(_draw, pipe, **work) / len(pictures)
    return Cost(label, "", taken, peaks["unet"] / 1e6, peaks["decoder"] / 1e6, apart), pictures


@contextmanager
def _memory(pipe: Any) -> Iterator[dict[str, int]]:
    """The most bytes in use beside the weights while the U-Net ran, and while the decoder did.

    On CUDA PyTorch counts them itself; elsewhere `PeakBytes` does.
    """
    peaks = {"unet": 0, "decoder": 0}
    on_gpu = pipe.device.type == "cuda"
    before = torch.cuda.memory_allocated() if on_gpu else 0
    counter = nullcontext() if on_gpu else PeakBytes()

    def begin(*_: Any) -> None:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            counter.most = counter.now

    def end(name: str) -> None:
        most = torch.cuda.max_memory_allocated() - before if on_gpu else counter.most
        peaks[name] = max(peaks[name], most)

    hooks = []
    for name, part in (("unet", pipe.unet), ("decoder", pipe.vae.decoder)):
        hooks.append(part.register_forward_pre_hook(begin))
        hooks.append(part.register_forward_hook(lambda *_, name=name: end(name)))
    try:
        with counter:
            yield peaks
    finally:
        for hook in hooks:
            hook.remove()


def _draw(pipe: Any, prompts: Sequence[str], steps: int, side: int) -> list[Image.Image]:
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(len(prompts))]
    options = {"num_inference_steps": steps, "guidance_scale": GUIDANCE, "height": side, "width": side}
    with quiet(bars=True):
        return pipe(list(prompts), generator=generators, **options).images


def _apart(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:60]
