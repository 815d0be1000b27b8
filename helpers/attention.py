"""See where a pipeline looks: the cross-attention of every layer and step, recorded while it draws.

with attention.capture(pipe) as record:
    picture = generate(pipe, "a fox left of a pizza")[0]
fox = record.word("a fox left of a pizza", "fox")  # (rows, columns)
attention.overlay(picture, fox)
"""

import contextlib
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from helpers.plots import as_picture

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from transformers import PreTrainedTokenizerBase

# How diffusers names cross-attention in every U-Net of Stable Diffusion; attn1 is self-attention.
CROSS = "attn2"
HEAT = "inferno"  # dark to light, so that it reads in grey and with any colour blindness
REGIONS = ("left", "right", "top", "bottom")


@torch.no_grad()
def probabilities(layer: nn.Module, x: Tensor, text: Tensor) -> Tensor:
    """Where each place of the picture looks: softmax(Q K^T / sqrt(d)), Vaswani et al. (2017), arXiv:1706.03762, eq. 1.

    layer: a cross-attention layer of diffusers. x: (B, places, channels), what comes into it. text: (B, tokens, width).
    Returns (B, heads, places, tokens) in float32, whatever the model's dtype; over the tokens they add up to 1. The
    layer's own answer is their product with V, `layer.to_v(text)`, head by head, through `layer.to_out`.
    """
    q = layer.to_q(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2).float()  # (B, heads, places, d)
    k = layer.to_k(text).unflatten(-1, (layer.heads, -1)).transpose(1, 2).float()  # (B, heads, tokens, d)
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)


@dataclass
class AttentionRecord:
    """What `capture` saw.

    layers: name -> (rows, columns) of each cross-attention layer, in the order in which they run;
        `pipe.unet.get_submodule(name)` is the layer itself.
    timesteps: t of every call of the U-Net: one for each step, in PNDM some more.
    calls: for each call, name -> probabilities (pictures, [heads,] rows * columns, tokens), float32 on the CPU. The
        tokens' probabilities at one position add up to 1. With guidance, of the conditional half only.
    """

    layers: dict[str, tuple[int, int]] = field(default_factory=dict)
    timesteps: list[float] = field(default_factory=list)
    calls: list[dict[str, Tensor]] = field(default_factory=list)
    keep_heads: bool = False
    tokenizer: "PreTrainedTokenizerBase | None" = None

    def maps(
        self,
        *,
        token: int | Sequence[int] | None = None,
        layer: str | None = None,
        step: int | Sequence[int] | None = None,
        resolution: tuple[int, int] | None = None,
        head: int | None = None,
        picture: int = 0,
    ) -> Tensor:
        """Attention probabilities over the picture, averaged over all layers, steps and heads that are not chosen.

        token: one token's index, or several whose probabilities add up; None keeps all of them. 0 is the start token.
        layer: one of `layers`.
        step: index of a call of the U-Net, or several; -1 is the last.
        resolution: only layers with these (rows, columns).
        head: one head, if the record keeps them.
        picture: which picture of the batch.

        Returns (rows, columns, tokens), or (rows, columns) if a token was chosen. Layers of different size are first
        brought to the largest among them by nearest neighbour, which at whole multiples keeps what lies in a half of
        the picture in that half, and keeps the sum over tokens at 1.

        Raises ValueError for an empty record, and for a choice that is not in it, with what there is.
        """
        if not self.calls:
            raise ValueError("The record is empty: draw a picture inside `with capture(pipe) as record:`")
        sizes = {
            name: size for name, size in self.layers.items() if layer in (None, name) and resolution in (None, size)
        }
        if not sizes:
            there = ", ".join(f"{name} {size}" for name, size in self.layers.items())
            raise ValueError(f"No layer has the name {layer!r} and the resolution {resolution!r}: there are {there}")
        some = self.calls[0][next(iter(sizes))]
        steps = range(len(self.calls)) if step is None else _chosen("step", step, len(self.calls), from_end=True)
        _chosen("picture", picture, len(some))
        if head is not None:
            if not self.keep_heads:
                raise ValueError("This record holds the mean of the heads: use capture(pipe, keep_heads=True)")
            _chosen("head", head, some.shape[1])
        tokens = None if token is None else _chosen("token", token, some.shape[-1])

        largest = max(sizes.values(), key=math.prod)
        total = torch.zeros(())
        for name, size in sizes.items():
            values = torch.stack([self.calls[index][name][picture] for index in steps]).mean(dim=0)
            if self.keep_heads:
                values = values.mean(dim=0) if head is None else values[head]
            if tokens is not None:
                values = values[:, tokens].sum(dim=-1, keepdim=True)
            values = values.T.unflatten(1, size)  # (tokens, rows, columns)
            total = total + F.interpolate(values[None], size=largest, mode="nearest-exact")[0]
        mean = (total / len(sizes)).movedim(0, -1)  # (rows, columns, tokens)
        return mean if tokens is None else mean[..., 0]

    def word(self, prompt: str, word: str, **chosen: Any) -> Tensor:
        """The map (rows, columns) of a word, or of several that follow each other, such as "red heart".

        prompt: the one that was drawn. chosen: as in `maps`, without `token`. The tokens of a word add up, and so
        do its places in the prompt if it stands there more than once.

        Raises ValueError for a word that is not in the prompt, or that the text encoder did not read.
        """
        return self.maps(token=find_word(self.tokenizer, prompt, word), **chosen)


@contextlib.contextmanager
def capture(
    pipe: "StableDiffusionPipeline", *, keep_heads: bool = False, guided: bool | None = None
) -> Iterator[AttentionRecord]:
    """Record the cross-attention of every call of `pipe.unet`, made by the pipeline or by a loop of your own.

    The record holds what `probabilities` says of each layer. It is computed from what the layer is given, beside the
    layer itself, so the pictures are bit for bit the same. Nothing of it stays behind, after an exception either.

    keep_heads: keep every head instead of their mean: several times the memory.
    guided: True if a batch holds the unconditional half first, as in classifier-free guidance; False if it does not.
        None finds out: both halves of a guided batch hold the same latents. Give False to draw several prompts from
        one and the same noise without guidance.

    Raises ValueError for a pipeline without a U-Net or without cross-attention; and while drawing if a call does not
    fit the calls before it, because one record holds pictures of one size and number.
    """
    unet = getattr(pipe, "unet", nn.Module())
    layers = {name: layer for name, layer in unet.named_modules() if name.endswith(CROSS)}
    if not layers:
        raise ValueError(f"This {type(pipe).__name__} has no U-Net with cross-attention ({CROSS}) to record")
    record = AttentionRecord(keep_heads=keep_heads, tokenizer=getattr(pipe, "tokenizer", None))
    recorder = _Recorder(record, guided)
    with contextlib.ExitStack() as hooks:
        hooks.enter_context(unet.register_forward_pre_hook(recorder.before_call, with_kwargs=True))
        hooks.enter_context(unet.register_forward_hook(recorder.after_call))
        for name, layer in layers.items():
            see = functools.partial(recorder.see, name)
            hooks.enter_context(layer.register_forward_pre_hook(see, with_kwargs=True))
        yield record


@contextlib.contextmanager
def heads_by(pipe: "StableDiffusionPipeline", answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Cross-attention computed by a function of your own, in every layer of `pipe.unet`, while the block lasts.

    answer: one head's, (B, places, d), from q (B, places, d) and k, v (B, tokens, d). The layer's own linear maps make
    q, k and v, and join the heads' answers.
    """

    def replace(layer: nn.Module, args: tuple, named: dict, output: Tensor) -> Tensor:
        text = named["encoder_hidden_states"]
        parts = (layer.to_q(args[0]), layer.to_k(text), layer.to_v(text))
        heads = zip(*(part.chunk(layer.heads, dim=-1) for part in parts), strict=True)
        return layer.to_out[0](torch.cat([answer(q, k, v) for q, k, v in heads], dim=-1))

    layers = [layer for name, layer in pipe.unet.named_modules() if name.endswith(CROSS)]
    with contextlib.ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_hook(replace, with_kwargs=True))
        yield


class _Recorder:
    """Gathers what the layers of one call see, and adds the call to the record once it is complete."""

    def __init__(self, record: AttentionRecord, guided: bool | None):
        self.record, self.guided = record, guided
        self.pending: dict[str, Tensor] | None = None  # None: no call of the U-Net is under way

    def before_call(self, unet: nn.Module, args: tuple, kwargs: dict) -> None:
        sample = args[0] if args else kwargs["sample"]  # (B, C, H, W)
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        half, odd = divmod(len(sample), 2)
        guided = not odd and torch.equal(sample[:half], sample[half:]) if self.guided is None else self.guided
        self.first = half if guided else 0  # of the rows to keep
        self.latent_size = tuple(sample.shape[-2:])
        self.t = float(torch.as_tensor(timestep).flatten()[0])
        self.pending = {}

    def after_call(self, unet: nn.Module, args: tuple, output: Any) -> None:
        self.record.calls.append(self.pending)
        self.record.timesteps.append(self.t)
        self.pending = None

    def see(self, name: str, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        if self.pending is None:
            return  # a layer called by itself
        seen = probabilities(layer, args[0][self.first :], kwargs["encoder_hidden_states"][self.first :])
        seen = (seen if self.record.keep_heads else seen.mean(dim=1)).cpu()
        size = _layer_size(self.latent_size, seen.shape[-2])
        known = self.record.layers.setdefault(name, size)
        before = self.record.calls[0][name].shape if self.record.calls else seen.shape
        if size != known or seen.shape != before:
            raise ValueError(
                f"One record holds pictures of one size and number, but {name} had {tuple(before)} at {known} and now "
                f"has {tuple(seen.shape)} at {size}: use one capture for each, or say guided=True or False"
            )
        self.pending[name] = seen


def _layer_size(latent_size: tuple[int, int], places: int) -> tuple[int, int]:
    """(rows, columns) of a layer that has so many places: the U-Net halves the latents, rounding up."""
    rows, columns = latent_size
    while rows * columns > places:
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    return rows, columns


def _chosen(name: str, choice: int | Iterable[int], length: int, *, from_end: bool = False) -> list[int]:
    """A choice of indices as a list, checked."""
    indices = list(choice) if isinstance(choice, Iterable) else [choice]
    lowest = -length if from_end else 0
    if not indices:
        raise ValueError(f"No {name} was chosen: give at least one, or None for all")
    for index in indices:
        if not isinstance(index, Integral) or not lowest <= index < length:
            raise ValueError(f"{name} is {index!r}: choose a whole number from {lowest} to {length - 1}")
    return indices


def word_tokens(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[tuple[str, list[int]]]:
    """The words of a prompt in order, each with the indices of its tokens; the start token has index 0.

    Tokens that touch inside a word belong together; punctuation stands by itself. What lies beyond the text encoder's
    length is missing, as it is for the encoder.
    """
    words = re.finditer(r"\w+(?:['’]\w+)*", prompt)
    inner = {place for word in words for place in range(word.start() + 1, word.end())}  # where no word begins or ends
    groups: list[tuple[int, int, list[int]]] = []  # start and end in the prompt, tokens
    for index, (start, end) in _spans(tokenizer, prompt):
        if groups:
            first, last, indices = groups[-1]
            if start < last or (start == last and start in inner):  # <: the bytes of one letter, such as é
                groups[-1] = (first, max(last, end), [*indices, index])
                continue
        groups.append((start, end, [index]))
    return [(prompt[start:end], indices) for start, end, indices in groups]


def find_word(tokenizer: "PreTrainedTokenizerBase", prompt: str, word: str) -> list[int]:
    """Indices of the tokens of a word, or of several words that follow each other, wherever they stand in the prompt.

    Upper and lower case are the same, as for CLIP. Raises ValueError, with the words that there are, for a word that is
    not in the prompt, and for one that was cut off because the prompt is too long.
    """
    pattern = r"\s+".join(re.escape(part) for part in word.split())
    places = [match.span() for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", prompt, re.IGNORECASE)]
    words = ", ".join(repr(text) for text, _ in word_tokens(tokenizer, prompt) if any(map(str.isalnum, text)))
    if not pattern or not places:
        raise ValueError(f"The word {word!r} is not in the prompt {prompt!r}: choose one of {words}")
    indices = [
        index for index, (start, end) in _spans(tokenizer, prompt) if any(start < b and a < end for a, b in places)
    ]
    if not indices:
        raise ValueError(f"The word {word!r} lies beyond what the text encoder reads of the prompt: it reads {words}")
    return indices


def _spans(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[tuple[int, tuple[int, int]]]:
    """(index, (start, end) in the prompt) of every token that stands for text; both ends and the padding do not."""
    encoded = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length, return_offsets_mapping=True)
    return [(index, (start, end)) for index, (start, end) in enumerate(encoded.offset_mapping) if end > start]


def overlay(
    picture: Any, heat: Tensor | np.ndarray, *, strength: float = 0.65, span: tuple[float, float] | None = None
) -> Image.Image:
    """A heat map over a picture in grey: black where the map is low, through violet to yellow where it is high.

    picture: as in `plots.as_picture`.
    heat: the map, (rows, columns), enlarged smoothly to the picture's size.
    strength: how much of the colour shows, from 0 (the grey picture) to 1 (the map alone).
    span: the values at both ends of the colours; by default 0 and the map's largest. Give the same to compare maps.

    Raises ValueError for another shape, values that are not finite, or a strength or span out of range.
    """
    values = _as_map(heat)
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength!r}: choose a number from 0 to 1")
    low, high = span or (0.0, float(values.max()) or 1.0)  # all zero: any scale will do
    if not low < high:
        raise ValueError(f"span is {span!r}: choose two numbers, the lower one first")
    pixels = as_picture(picture)
    height, width = pixels.shape[:2]
    smooth = Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)
    scaled = np.clip((np.asarray(smooth) - low) / (high - low), 0, 1)
    colours = Image.fromarray(matplotlib.colormaps[HEAT](scaled, bytes=True)[..., :3].copy())
    grey = Image.fromarray(pixels).convert("L").convert("RGB")
    return Image.blend(grey, colours, strength)


def mass_share(heat: Tensor | np.ndarray, region: str) -> float:
    """Share of a map's mass that lies in one half of the picture, from 0 to 1; 0.5 for an even map.

    heat: the map, (rows, columns), nothing negative. region: "left", "right", "top" or "bottom". A middle row or column
    counts half for each side, so that opposite halves add up to 1.

    Raises ValueError for another region, shape, or a map that is negative somewhere or zero everywhere.
    """
    if region not in REGIONS:
        raise ValueError(f"Unknown region {region!r}: choose one of {', '.join(REGIONS)}")
    values = _as_map(heat).astype(float)
    total = values.sum()
    if values.min() < 0 or total <= 0:
        raise ValueError(
            f"A map holds no negative values and some above 0, not {values.min():.3g} to {values.max():.3g}"
        )
    profile = values.sum(axis=0 if region in ("left", "right") else 1)
    if region in ("right", "bottom"):
        profile = profile[::-1]
    half, odd = divmod(len(profile), 2)
    return float((profile[:half].sum() + odd * profile[half] / 2) / total)


def _as_map(heat: Tensor | np.ndarray) -> np.ndarray:
    values = torch.as_tensor(heat).detach().float().cpu().numpy()
    if values.ndim != 2 or not values.size:
        hint = ": choose a token" if values.ndim == 3 else ""
        raise ValueError(f"A map has the shape (rows, columns), not {values.shape}{hint}")
    if not np.isfinite(values).all():
        raise ValueError("The map holds values that are not finite (nan or inf)")
    return np.ascontiguousarray(values)
