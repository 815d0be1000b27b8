"""The exercises of lesson 05: the next merge of a tokenizer, where a map lies, all heads at once, several prompts."""

from collections.abc import Sequence
from itertools import combinations, pairwise

import torch
from torch import Tensor

from helpers import attention
from helpers.exercises import Exercise, Mistake

Ranks = dict[tuple[str, str], int]


def next_pair(symbols: list[str], ranks: Ranks) -> tuple[str, str] | None:
    """The two neighbours that byte pair encoding joins next (Sennrich et al., 2016): the lowest rank, None if none."""
    known = [pair for pair in pairwise(symbols) if pair in ranks]
    return min(known, key=ranks.get, default=None)


def share_in_half(heat: Tensor, side: str) -> float:
    """Share of a map's sum in one half of the picture: `side` is left, right, top or bottom; heat (rows, columns)."""
    return attention.mass_share(heat, side)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of all heads at once: Vaswani et al. (2017), section 3.2.2, without the projections.

    q: (B, N, heads * d), k and v: (B, T, heads * d). Returns (B, N, heads * d).
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, heads, N or T, d)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (B, heads, N, T)
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)  # (B, N, heads * d)


def compose(noise_uncond: Tensor, noises: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """Guidance by several prompts: Liu et al. (2022), arXiv:2206.01714, section 4; a negative scale leads away.

    noise_uncond and each of `noises`: (B, 4, h, w). scales: as many as noises.
    """
    pulls = [scale * (noise - noise_uncond) for noise, scale in zip(noises, scales, strict=True)]
    return noise_uncond + sum(pulls)


def _merges(*pairs: str) -> Ranks:
    return {tuple(pair.split()): rank for rank, pair in enumerate(pairs)}


_RANKS = _merges("e r", "o w</w>", "l o", "er s</w>", "l ow</w>", "w er", "a t", "h at</w>", "t h")


def _only_where_known(symbols: list[str], ranks: Ranks) -> tuple[str, str]:
    return min((pair for pair in pairwise(symbols) if pair in ranks), key=ranks.get)  # nothing known: ValueError


NEXT_PAIR = Exercise(
    name="05.next_pair",
    solution=next_pair,
    cases=[
        (["l", "o", "w", "er", "s</w>"], _RANKS),
        (["l", "o", "w</w>"], _RANKS),
        (["t", "h", "a", "t"], _RANKS),
        (["f", "o", "x</w>"], _RANKS),
        (["e", "l", "o", "r", "s</w>"], _RANKS),
        (["t", "a", "l", "o", "w</w>"], _RANKS),
        (["fox</w>"], _RANKS),
    ],
    mistakes=(
        Mistake(
            lambda symbols, ranks: next((pair for pair in pairwise(symbols) if pair in ranks), None),
            "this is the leftmost pair. The one with the lowest rank, the earliest merge learnt, comes first.",
        ),
        Mistake(
            lambda symbols, ranks: max(
                (pair for pair in pairwise(symbols) if pair in ranks), key=ranks.get, default=None
            ),
            "this is the highest rank, the latest merge learnt. Merges are applied in the order they were learnt.",
        ),
        Mistake(
            _only_where_known,
            "right where there is a pair; a word with nothing left to join needs None, and min has a `default`.",
        ),
        Mistake(
            lambda symbols, ranks: min(pairwise(symbols), key=lambda pair: ranks.get(pair, 0), default=None),
            "pairs that are no merge at all must not win: leave them out before you look for the lowest.",
        ),
        Mistake(
            lambda symbols, ranks: min(
                (pair for pair in combinations(symbols, 2) if pair in ranks), key=ranks.get, default=None
            ),
            "only neighbours can be joined: zip the symbols with themselves, moved by one.",
        ),
        Mistake(
            lambda symbols, ranks: min((ranks[pair] for pair in pairwise(symbols) if pair in ranks), default=None),
            "this is the rank; asked for is the pair that has it.",
        ),
    ),
)


def _heat() -> Tensor:
    return torch.rand((4, 6), generator=torch.Generator().manual_seed(4)) ** 3  # far from even


_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
_TURNED = {"left": "top", "right": "bottom", "top": "left", "bottom": "right"}


def _half(heat: Tensor, side: str) -> Tensor:
    rows, columns = heat.shape
    return {
        "left": heat[:, : columns // 2],
        "right": heat[:, columns // 2 :],
        "top": heat[: rows // 2],
        "bottom": heat[rows // 2 :],
    }[side]


SHARE_IN_HALF = Exercise(
    name="05.share_in_half",
    solution=share_in_half,
    cases=lambda: [(_heat(), side) for side in _OPPOSITE],
    mistakes=(
        Mistake(
            lambda heat, side: share_in_half(heat, _TURNED[side]),
            "rows and columns have changed places: heat[row, column], so left and right are told by the column.",
        ),
        Mistake(
            lambda heat, side: share_in_half(heat, _OPPOSITE[side]),
            "this is the other half. Rows count from the top, columns from the left.",
        ),
        Mistake(
            lambda heat, side: float(_half(heat, side).sum()),
            "this is the sum of the half. A share is that sum divided by the sum of the whole map.",
        ),
        Mistake(
            lambda heat, side: float(_half(heat, side).mean() / heat.mean()),
            "mean by mean is 1 for an even map, where half of it lies in each half: divide sums.",
        ),
        Mistake(
            lambda heat, side: float(_half(heat, side).sum() / _half(heat, _OPPOSITE[side]).sum()),
            "this compares the two halves. A share has the whole map below the line.",
        ),
        Mistake(
            lambda heat, side: 0.5,
            "half of the places, yes; of the mass there is as much as the map holds there.",
        ),
    ),
)


def _qkv() -> list[tuple[Tensor, Tensor, Tensor, int]]:
    generator = torch.Generator().manual_seed(4)
    q, k, v = (2 * torch.randn(shape, generator=generator) for shape in ((2, 6, 8), (2, 5, 8), (2, 5, 8)))
    return [(q, k, v, 2), (q, k, v, 4), (q[:1], k[:1], v[:1], 1)]


def _with_scores(q: Tensor, k: Tensor, v: Tensor, heads: int, *, scale: float, dim: int = -1) -> Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return ((q @ k.transpose(-1, -2) * scale).softmax(dim=dim) @ v).transpose(1, 2).flatten(2)


def _cut_by_view(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    parts = [x.reshape(len(x), heads, x.shape[1], -1) for x in (q, k, v)]
    scores = parts[0] @ parts[1].transpose(-1, -2) / parts[0].shape[-1] ** 0.5
    return (scores.softmax(dim=-1) @ parts[2]).transpose(1, 2).flatten(2)


def _not_put_back(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    out = attend(q, k, v, heads).unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, heads, N, d)
    return out.reshape(q.shape)


ATTEND = Exercise(
    name="05.attend",
    solution=attend,
    cases=_qkv,
    mistakes=(
        Mistake(
            lambda q, k, v, heads: _with_scores(q, k, v, heads, scale=1.0),
            "the scores are not divided by the root of d yet.",
        ),
        Mistake(
            lambda q, k, v, heads: _with_scores(q, k, v, heads, scale=q.shape[-1] ** -0.5),
            "d is the width of one head, not of all of them together.",
        ),
        Mistake(
            lambda q, k, v, heads: _with_scores(q, k, v, heads, scale=heads / q.shape[-1]),
            "the scores are divided by d; it is the root of d.",
        ),
        Mistake(
            lambda q, k, v, heads: _with_scores(q, k, v, heads, scale=(heads / q.shape[-1]) ** 0.5, dim=-2),
            "each place shares out its attention over the tokens: softmax along the last dimension.",
        ),
        Mistake(
            lambda q, k, v, heads: attend(q, k, v, 1),
            "this is one head that is as wide as all. Cut the last dimension into heads first.",
        ),
        Mistake(
            _cut_by_view,
            "reshape to (B, heads, N, d) mixes places and channels. Cut the last dimension, then transpose.",
        ),
        Mistake(
            _not_put_back,
            "at the end the heads have to move back beside their channels, (B, N, heads, d), before you flatten.",
        ),
    ),
)


def _noises() -> list[tuple[Tensor, list[Tensor], list[float]]]:
    uncond, fox, pizza = torch.randn((3, 2, 4, 3, 5), generator=torch.Generator().manual_seed(4))
    return [(uncond, [fox], [4.0]), (uncond, [fox, pizza], [3.0, 2.5]), (uncond, [fox, pizza], [4.0, -1.5])]


COMPOSE = Exercise(
    name="05.compose",
    solution=compose,
    cases=_noises,
    mistakes=(
        Mistake(
            lambda uncond, noises, scales: (
                uncond + sum(scale * noise for noise, scale in zip(noises, scales, strict=True))
            ),
            "each prompt pulls by its difference from the prediction without a prompt, not by its whole prediction.",
        ),
        Mistake(
            lambda uncond, noises, scales: sum(
                uncond + scale * (noise - uncond) for noise, scale in zip(noises, scales, strict=True)
            ),
            "the prediction without a prompt is counted once for every prompt. It is where all of them start: once.",
        ),
        Mistake(
            lambda uncond, noises, scales: uncond + (compose(uncond, noises, scales) - uncond) / len(noises),
            "this is the mean of the pulls. Prompts add up: what each of them weighs is said by its scale.",
        ),
        Mistake(
            lambda uncond, noises, scales: sum(
                scale * (noise - uncond) for noise, scale in zip(noises, scales, strict=True)
            ),
            "these are the pulls alone: add them to the prediction without a prompt.",
        ),
        Mistake(
            lambda uncond, noises, scales: compose(uncond, noises, [abs(scale) for scale in scales]),
            "a negative scale has to keep its sign: it leads away from its prompt.",
        ),
        Mistake(
            lambda uncond, noises, scales: compose(uncond, noises, [-scale for scale in scales]),
            "the sign is turned around: the difference is prompt minus no prompt.",
        ),
        Mistake(
            lambda uncond, noises, scales: compose(uncond, noises[:1], scales[:1]),
            "only the first prompt is in it. Sum over all of them.",
        ),
    ),
)

EXERCISES = (NEXT_PAIR, SHARE_IN_HALF, ATTEND, COMPOSE)
