"""See where a pipeline looks: the cross-attention of every layer and step, recorded while it draws.

with attention.capture(pipe) as record:
    picture = generate(pipe, "a fox left of a pizza")[0]
fox = record.word("a fox left of a pizza", "fox")  # (rows, columns)
attention.overlay(picture, fox)
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
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
CROSS = "attn2.processor"
HEAT = "inferno"  # dark to light, so that it reads in grey and with any colour blindness
REGIONS = ("left", "right", "top", "bottom")


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

    def maps(self, **chosen: Any) -> Tensor:
        """As the function `maps`."""
        return maps(self, **chosen)

    def word(self, prompt: str, word: str, **chosen: Any) -> Tensor:
        """The map (rows, columns) of a word, or of several that follow each other, such as "red heart".

        prompt: the one that was drawn. chosen: as in `maps`, without `token`. The tokens of a word add up, and so
        do its places in the prompt if it stands there more than once.

        Raises ValueError for a word that is not in the prompt, or that the text encoder did not read.
        """
        return maps(self, token=find_word(self.tokenizer, prompt, word), **chosen)


@contextlib.contextmanager
def capture(
    pipe: "StableDiffusionPipeline", *, keep_heads: bool = False, guided: bool | None = None
) -> Iterator[AttentionRecord]:
    """Record the cross-attention of every call of `pipe.unet`, made by the pipeline or by a loop of your own.

    Each layer computes softmax(Q K^T / sqrt(d)) V (Vaswani et al., 2017, arXiv:1706.03762, eq. 1); the record holds
    the softmax. It is computed beside the pipeline's own processors, which go on making the output, so the pictures
    are bit for bit the same. On the way out the processors are put back, after an exception too.

    keep_heads: keep every head instead of their mean: several times the memory.
    guided: True if a batch holds the unconditional half first, as in classifier-free guidance; False if it does not.
        None finds out: both halves of a guided batch hold the same latents. Give False to draw several prompts from
        one and the same noise without guidance.

    Raises ValueError for a pipeline without a U-Net or without cross-attention; and while drawing if a call does not
    fit the calls before it, because one record holds pictures of one size and number.
    """
    unet = getattr(pipe, "unet", None)
    processors = dict(getattr(unet, "attn_processors", {}))
    if not any(name.endswith(CROSS) for name in processors):
        raise ValueError(f"This {type(pipe).__name__} has no U-Net with cross-attention (attn2) to record")
    record = AttentionRecord(keep_heads=keep_heads, tokenizer=getattr(pipe, "tokenizer", None))
    recorder = _Recorder(record, guided)
    hooks = (
        unet.register_forward_pre_hook(recorder.before_call, with_kwargs=True),
        unet.register_forward_hook(recorder.after_call),
    )
    try:
        unet.set_attn_processor(
            {
                name: _RecordingProcessor(name.removesuffix(".processor"), processor, recorder)
                if name.endswith(CROSS)
                else processor
                for name, processor in processors.items()
            }
        )
        yield record
    finally:
        unet.set_attn_processor(dict(processors))  # a copy: diffusers empties the dictionary it is given
        for hook in hooks:
            hook.remove()


class _Recorder:
    """Gathers what the layers of one call see, and adds the call to the record once it is complete."""

    def __init__(self, record: AttentionRecord, guided: bool | None):
        self.record, self.guided = record, guided
        self.pending: dict[str, Tensor] | None = None  # None: no call of the U-Net is under way

    def before_call(self, unet: nn.Module, args: tuple, kwargs: dict) -> None:
        sample = args[0] if args else kwargs["sample"]  # (B, C, H, W)
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        batch, half = len(sample), len(sample) // 2
        guided = self.guided
        if guided is None:
            guided = batch % 2 == 0 and torch.equal(sample[:half], sample[half:])
        self.first = half if guided else 0  # of the rows to keep
        self.latent_size = tuple(sample.shape[-2:])
        self.t = float(torch.as_tensor(timestep).flatten()[0])
        self.pending = {}

    def after_call(self, unet: nn.Module, args: tuple, output: Any) -> None:
        self.record.calls.append(self.pending)
        self.record.timesteps.append(self.t)
        self.pending = None

    def add(self, name: str, attn: nn.Module, hidden_states: Tensor, text: Tensor, mask: Tensor | None) -> None:
        if self.pending is None:
            return  # a layer called by itself
        probabilities = _probabilities(attn, hidden_states, text, mask, self.first)  # (pictures, heads, N, tokens)
        if not self.record.keep_heads:
            probabilities = probabilities.mean(dim=1)
        probabilities = probabilities.cpu()
        size = _layer_size(self.latent_size, probabilities.shape[-2])
        known = self.record.layers.setdefault(name, size)
        seen = self.record.calls[0][name].shape if self.record.calls else probabilities.shape
        if size != known or probabilities.shape != seen:
            raise ValueError(
                f"One record holds pictures of one size and number, but {name} had {tuple(seen)} at {known} and now "
                f"has {tuple(probabilities.shape)} at {size}: use one capture for each, or say guided=True or False"
            )
        self.pending[name] = probabilities


class _RecordingProcessor:
    """Stands in for a layer's processor: lets it make the output, and records the probabilities beside it."""

    def __init__(self, name: str, processor: Any, recorder: _Recorder):
        self.name, self.processor, self.recorder = name, processor, recorder

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        text = encoder_hidden_states
        if isinstance(text, tuple):  # with an IP-Adapter: the text, then the pictures
            text = text[0]
        self.recorder.add(self.name, attn, hidden_states, hidden_states if text is None else text, attention_mask)
        # The processors of sliced attention know no temb; Stable Diffusion has none for them.
        rest = (temb, *args) if temb is not None or args else ()
        return self.processor(attn, hidden_states, encoder_hidden_states, attention_mask, *rest, **kwargs)


@torch.no_grad()
def _probabilities(attn: nn.Module, hidden_states: Tensor, text: Tensor, mask: Tensor | None, first: int) -> Tensor:
    """softmax(Q K^T / sqrt(d)) of the batch's rows from `first` on: (B - first, heads, N, tokens), float32.

    The steps are those of diffusers' `AttnProcessor2_0`, with scores in float32 whatever the model's dtype.
    """
    batch, tokens, _ = text.shape
    if mask is not None:
        mask = attn.prepare_attention_mask(mask, tokens, batch).view(batch, attn.heads, -1, mask.shape[-1])[first:]
    hidden_states, text = hidden_states[first:], text[first:]
    if attn.group_norm is not None:
        hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
    if attn.norm_cross:
        text = attn.norm_encoder_hidden_states(text)
    query = attn.to_q(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B, heads, N, d)
    key = attn.to_k(text).unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B, heads, tokens, d)
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    if attn.norm_k is not None:
        key = attn.norm_k(key)
    scores = query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5  # (B, heads, N, tokens)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(dim=-1)


def _layer_size(latent_size: tuple[int, int], positions: int) -> tuple[int, int]:
    """(rows, columns) of a layer that has so many positions: the U-Net halves the latents, rounding up."""
    rows, columns = latent_size
    while rows * columns > positions:
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    if rows * columns != positions:
        raise ValueError(f"A layer with {positions} positions does not come from halving latents of {latent_size}")
    return rows, columns


def maps(
    record: AttentionRecord,
    *,
    token: int | Sequence[int] | None = None,
    layer: str | Sequence[str] | None = None,
    step: int | Sequence[int] | None = None,
    resolution: tuple[int, int] | None = None,
    head: int | None = None,
    picture: int = 0,
) -> Tensor:
    """Attention probabilities over the picture, averaged over all layers, steps and heads that are not chosen.

    token: one token's index, or several whose probabilities add up; None keeps all of them. 0 is the start token.
    layer: one of `record.layers`, or several.
    step: index of a call of the U-Net, or several; -1 is the last.
    resolution: only layers with these (rows, columns).
    head: one head, if the record keeps them.
    picture: which picture of the batch.

    Returns (rows, columns, tokens), or (rows, columns) if a token was chosen. Layers of different size are first
    brought to the largest among them by nearest neighbour, which at whole multiples keeps what lies in a half of the
    picture in that half, and keeps the sum over tokens at 1.

    Raises ValueError for an empty record, and for a choice that is not in it, with what there is.
    """
    if not record.calls:
        raise ValueError("The record is empty: draw a picture inside `with capture(pipe) as record:`")
    names = _chosen_layers(record, layer, resolution)
    steps = list(range(len(record.calls))) if step is None else _as_list(step)
    for index in steps:
        _check_index("step", index, len(record.calls), lowest=-len(record.calls))
    if not steps:
        raise ValueError("No step was chosen: give at least one, or None for all")
    some = record.calls[0][names[0]]
    _check_index("picture", picture, len(some))
    if head is not None:
        if not record.keep_heads:
            raise ValueError("This record holds the mean of the heads: use capture(pipe, keep_heads=True)")
        fewest = min(record.calls[0][name].shape[1] for name in names)
        _check_index("head", head, fewest)
    tokens = None if token is None else _as_list(token)
    if tokens is not None:
        for index in tokens:
            _check_index("token", index, some.shape[-1])
        if not tokens:
            raise ValueError("No token was chosen: give at least one, or None for all")

    largest = max((record.layers[name] for name in names), key=lambda size: size[0] * size[1])
    total: Tensor | float = 0.0
    for name in names:
        values = torch.stack([record.calls[index][name][picture] for index in steps]).mean(dim=0)
        if record.keep_heads:
            values = values.mean(dim=0) if head is None else values[head]
        if tokens is not None:
            values = values[:, tokens].sum(dim=-1, keepdim=True)
        values = values.T.unflatten(1, record.layers[name])  # (tokens, rows, columns)
        if values.shape[1:] != largest:
            values = F.interpolate(values[None], size=largest, mode="nearest-exact")[0]
        total = total + values
    mean = (total / len(names)).movedim(0, -1)  # (rows, columns, tokens)
    return mean if tokens is None else mean[..., 0]


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


def overlay(
    picture: Any, map: Tensor | np.ndarray, *, strength: float = 0.65, span: tuple[float, float] | None = None
) -> Image.Image:
    """A heat map over a picture in grey: black where the map is low, through violet to yellow where it is high.

    picture: as in `plots.as_picture`.
    map: (rows, columns), enlarged smoothly to the picture's size.
    strength: how much of the colour shows, from 0 (the grey picture) to 1 (the map alone).
    span: the values at both ends of the colours; by default 0 and the map's largest. Give the same to compare maps.

    Raises ValueError for another shape, values that are not finite, or a strength or span out of range.
    """
    values = _as_map(map)
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength!r}: choose a number from 0 to 1")
    low, high = span if span is not None else (0.0, float(values.max()) or 1.0)  # all zero: any scale will do
    if not low < high:
        raise ValueError(f"span is {span!r}: choose two numbers, the lower one first")
    pixels = as_picture(picture)
    height, width = pixels.shape[:2]
    smooth = Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)
    scaled = np.clip((np.asarray(smooth) - low) / (high - low), 0, 1)
    heat = Image.fromarray(matplotlib.colormaps[HEAT](scaled, bytes=True)[..., :3].copy())
    grey = Image.fromarray(pixels).convert("L").convert("RGB")
    return Image.blend(grey, heat, strength)


def mass_share(map: Tensor | np.ndarray, region: str) -> float:
    """Share of a map's mass that lies in one half of the picture, from 0 to 1; 0.5 for an even map.

    map: (rows, columns), nothing negative. region: "left", "right", "top" or "bottom". A middle row or column counts
    half for each side, so that opposite halves add up to 1.

    Raises ValueError for another region, shape, or a map that is negative somewhere or zero everywhere.
    """
    if region not in REGIONS:
        raise ValueError(f"Unknown region {region!r}: choose one of {', '.join(REGIONS)}")
    values = _as_map(map).astype(float)
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


def _as_map(map: Tensor | np.ndarray) -> np.ndarray:
    values = map.detach().float().cpu().numpy() if isinstance(map, Tensor) else np.asarray(map, dtype=np.float32)
    if values.ndim != 2 or not values.size:
        hint = ": choose a token" if values.ndim == 3 else ""
        raise ValueError(f"A map has the shape (rows, columns), not {values.shape}{hint}")
    if not np.isfinite(values).all():
        raise ValueError("The map holds values that are not finite (nan or inf)")
    return np.ascontiguousarray(values, dtype=np.float32)


def _spans(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[tuple[int, tuple[int, int]]]:
    """(index, (start, end) in the prompt) of every token that stands for text; both ends and the padding do not."""
    encoded = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length, return_offsets_mapping=True)
    return [(index, (start, end)) for index, (start, end) in enumerate(encoded.offset_mapping) if end > start]


def _chosen_layers(
    record: AttentionRecord, layer: str | Sequence[str] | None, resolution: tuple[int, int] | None
) -> list[str]:
    names = list(record.layers) if layer is None else [layer] if isinstance(layer, str) else list(layer)
    for name in names:
        if name not in record.layers:
            raise ValueError(f"Unknown layer {name!r}: choose one of {', '.join(record.layers)}")
    if resolution is not None:
        names = [name for name in names if record.layers[name] == tuple(_as_list(resolution))]
    if not names:
        sizes = ", ".join(str(size) for size in dict.fromkeys(record.layers.values()))
        raise ValueError(f"No layer chosen has the resolution {resolution!r}: the layers have {sizes}")
    return names


def _as_list(x: Any) -> list:
    return list(x) if isinstance(x, Iterable) else [x]


def _check_index(name: str, index: int, length: int, *, lowest: int = 0) -> None:
    if not isinstance(index, Integral) or isinstance(index, bool) or not lowest <= index < length:
        raise ValueError(f"{name} is {index!r}: choose a whole number from {lowest} to {length - 1}")
