"""Reach into a U-Net while it works: see what passes, cut connections or swap them. Nothing stays behind.

PyTorch calls a hook before or after a part of a network runs, and what the hook returns takes the place of what went
in or came out. Every function here hangs hooks on parts, and takes them away again, after an exception too.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

# How diffusers hands the skips and the words to a block of the expanding path.
SKIPS, WORDS = "res_hidden_states_tuple", "encoder_hidden_states"


@contextlib.contextmanager
def cut(unet: nn.Module, *numbers: int, put: Callable[[Tensor], Tensor] = torch.zeros_like) -> Iterator[None]:
    """Skip connections replaced while the block lasts, for every call of a diffusers U-Net.

    numbers: which ones, in the order in which the contracting path makes them; 0 is the output of `conv_in`. put: what
    takes the place of a skip (B, channels, h, w), made from it; by default zeros.

    Raises ValueError for a number that this U-Net does not have.
    """
    counts = [len(block.resnets) for block in unet.up_blocks]
    if lost := [number for number in numbers if not 0 <= number < sum(counts)]:
        raise ValueError(f"There is no skip {lost[0]!r}: choose whole numbers from 0 to {sum(counts) - 1}")
    with contextlib.ExitStack() as hooks:
        first = sum(counts)
        for block, count in zip(unet.up_blocks, counts, strict=True):
            first -= count  # the block below takes the last ones that were made

            def replace(block: nn.Module, args: tuple, named: dict, first: int = first) -> tuple[tuple, dict]:
                skips = enumerate(named[SKIPS], first)
                return args, named | {SKIPS: tuple(put(skip) if i in numbers else skip for i, skip in skips)}

            hooks.enter_context(block.register_forward_pre_hook(replace, with_kwargs=True))
        yield


@contextlib.contextmanager
def cut_below(unet: nn.Module, level: int = 0, put: Callable[[Tensor], Tensor] = torch.zeros_like) -> Iterator[None]:
    """What a level of the expanding path gets from the level below it, replaced while the block lasts; its skips stay.

    level: 0 is the one of full resolution; the lowest gets what the middle block made. put: what takes the place of
    what came (B, channels, h, w), made from it; by default zeros. Raises ValueError for a level that is not there.
    """

    def replace(block: nn.Module, args: tuple, named: dict) -> tuple[tuple, dict]:
        return args, named | {"hidden_states": put(named["hidden_states"])}

    with _level(unet, level).register_forward_pre_hook(replace, with_kwargs=True):
        yield


@contextlib.contextmanager
def cut_words(unet: nn.Module, level: int = 0, put: Callable[[Tensor], Tensor] = torch.zeros_like) -> Iterator[None]:
    """The words that a level of the expanding path reads, replaced while the block lasts.

    level: as in `cut_below`. put: what takes the place of the text's vectors (B, tokens, width), made from them; by
    default zeros. A level without cross-attention reads no words, and stays as it is. Raises ValueError for a level
    that is not there.
    """

    def replace(block: nn.Module, args: tuple, named: dict) -> tuple[tuple, dict]:
        return args, named | {WORDS: put(named[WORDS])} if WORDS in named else named

    with _level(unet, level).register_forward_pre_hook(replace, with_kwargs=True):
        yield


def _level(unet: nn.Module, level: int) -> nn.Module:
    """The block of the expanding path that works at a level, counted from the one of full resolution, 0."""
    if not 0 <= level < len(unet.up_blocks):
        raise ValueError(f"There is no level {level!r}: choose a whole number from 0 to {len(unet.up_blocks) - 1}")
    return unet.up_blocks[-1 - level]


@contextlib.contextmanager
def _hooked(parts: Iterable[nn.Module], hook: Callable[[nn.Module, tuple, Any], Any]) -> Iterator[None]:
    """`hook(part, args, output)` after every call of each part while the block lasts; it may give another output."""
    with contextlib.ExitStack() as hooks:
        for part in parts:
            hooks.enter_context(part.register_forward_hook(hook))
        yield


@contextlib.contextmanager
def alone(*layers: nn.Module) -> Iterator[None]:
    """Self-attention layers in which each place looks at itself alone while the block lasts.

    Its one share is 1 then, so that the answer is the layer's last linear map of its own value. This takes away the
    looking around and nothing else, which an answer of zeros would not.
    """
    with _hooked(layers, lambda layer, args, output: layer.to_out[0](layer.to_v(args[0]))):
        yield


@contextlib.contextmanager
def held(*parts: nn.Module) -> Iterator[None]:
    """Parts that answer once, and repeat that answer in every later call while the block lasts.

    So a change of the input after the first call cannot pass through them, and what comes out of them is still an
    ordinary answer. The batch must stay as large as in the first call, and a part must run once in a call.
    """
    answers: dict[nn.Module, Tensor] = {}
    with _hooked(parts, lambda part, args, output: answers.setdefault(part, output)):
        yield


def passing(unet: nn.Module, layers: list[nn.Module], *inputs: Tensor | int) -> list[tuple[Tensor, Tensor]]:
    """One call of the U-Net on `inputs`: for each of the layers, what went into it first and what came out.

    Of a layer that answers with a tuple, the first of it.
    """
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    with torch.no_grad(), _hooked(layers, lambda layer, args, output: seen.update({layer: (args[0], output)})):
        unet(*inputs)
    found = [seen[layer] for layer in layers]
    return [(goes_in, out[0] if isinstance(out, tuple) else out) for goes_in, out in found]


def skip_makers(unet: nn.Module) -> list[nn.Module]:
    """The parts of a diffusers U-Net whose outputs the skip connections carry, in the order they are made."""
    made = [unet.conv_in]
    for block in unet.down_blocks:
        made += [*(block.attentions if hasattr(block, "attentions") else block.resnets), *(block.downsamplers or [])]
    return made


def skip_shapes(unet: nn.Module, *inputs: Tensor | int) -> list[tuple[int, int, int]]:
    """(channels, rows, columns) of every skip connection in one call on `inputs`, in the order they are made."""
    return [tuple(output.shape[1:]) for _, output in passing(unet, skip_makers(unet), *inputs)]


def self_attention(unet: nn.Module) -> dict[str, nn.Module]:
    """The self-attention layers of a diffusers U-Net by name, in the order in which they run.

    The names count levels from the top, 0, and the layers of a level on its way down or up from 1: `level 0 up 2`.
    """
    lowest = len(unet.up_blocks) - 1
    blocks = [(f"level {level} down", block) for level, block in enumerate(unet.down_blocks)]
    blocks += [(f"level {lowest} middle", unet.mid_block)]
    blocks += [(f"level {lowest - number} up", block) for number, block in enumerate(unet.up_blocks)]
    return {
        f"{name} {number}": transformer.transformer_blocks[0].attn1
        for name, block in blocks
        for number, transformer in enumerate(getattr(block, "attentions", []), start=1)
    }
