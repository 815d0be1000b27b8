"""The exercises of lesson 05: CLIP's loss, and all heads of an attention at once."""

import torch
from torch import Tensor
from torch.nn import functional

from helpers.exercises import Exercise, Mistake, Option, Quiz


def clip_loss(pictures: Tensor, texts: Tensor, scale: float) -> Tensor:
    """CLIP's contrastive loss of N pairs: Radford et al. (2021), arXiv:2103.00020, figure 3.

    pictures, texts: (N, width), of any length. Returns a tensor with one number.
    """
    return _both(_scores(pictures, texts, scale))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of all heads at once: Vaswani et al. (2017), section 3.2.2, without the projections.

    q: (B, N, heads * d), k and v: (B, T, heads * d). Returns (B, N, heads * d).
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, heads, N or T, d)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (B, heads, N, T)
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)  # (B, N, heads * d)


def _pairs() -> list[tuple[Tensor, Tensor, float]]:
    generator = torch.Generator().manual_seed(5)
    pictures, texts = 2 * torch.randn((2, 6, 8), generator=generator)
    return [(pictures, texts, 1.0), (pictures, 3 * texts, 10.0), (texts[:3], texts[:3] + 0.3 * pictures[:3], 5.0)]


def _scores(pictures: Tensor, texts: Tensor, scale: float) -> Tensor:
    return scale * functional.normalize(pictures, dim=1) @ functional.normalize(texts, dim=1).T


def _rows(scores: Tensor) -> Tensor:
    return functional.cross_entropy(scores, torch.arange(len(scores)))


CLIP_LOSS = Exercise(
    name="05.clip_loss",
    solution=clip_loss,
    cases=_pairs,
    hints=(
        "Three parts: vectors of length 1, the N x N table of their products, two cross entropies.",
        "A cross entropy of a row is logsumexp of the row minus the right score, the one on the diagonal.",
        "`scores.logsumexp(dim=1) - scores.diagonal()` is the half for pictures. The other half goes along dim 0.",
    ),
    mistakes=(
        Mistake(
            lambda pictures, texts, scale: _both(scale * pictures @ texts.T),
            "the products are not cosines yet: bring every vector to length 1 first.",
        ),
        Mistake(
            lambda pictures, texts, scale: _rows(_scores(pictures, texts, scale)),
            "this asks every picture for its text. Every text is asked for its picture too: the columns.",
        ),
        Mistake(
            lambda pictures, texts, scale: _rows(_scores(pictures, texts, scale).T),
            "this asks every text for its picture. Every picture is asked for its text too: the rows.",
        ),
        Mistake(
            lambda pictures, texts, scale: 2 * clip_loss(pictures, texts, scale),
            "the two halves are added; the loss is their mean.",
        ),
        Mistake(
            lambda pictures, texts, scale: len(pictures) * clip_loss(pictures, texts, scale),
            "this is a sum over the pairs; the loss is their mean.",
        ),
        Mistake(
            lambda pictures, texts, scale: clip_loss(pictures, texts, 1.0),
            "the scale is missing: the cosines are multiplied by it.",
        ),
        Mistake(
            lambda pictures, texts, scale: -clip_loss(pictures, texts, scale),
            "the sign is turned around: a good match has a low loss.",
        ),
    ),
)


def _both(scores: Tensor) -> Tensor:
    return (_rows(scores) + _rows(scores.T)) / 2


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
    hints=(
        "Give the heads a dimension of their own: (B, N, heads * d) becomes (B, N, heads, d), then (B, heads, N, d).",
        "With heads beside the batch, `q @ k.transpose(-1, -2)` gives all tables of scores at once.",
        "At the end bring the heads back beside their channels, and join the two dimensions into one.",
    ),
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


WHO_KNOWS = Quiz(
    name="05.who_knows",
    question="`a red fox left of a blue car`: which single vector could tell the U-Net that the left thing is red "
    "and the right one blue?",
    options=(
        Option("That of `fox`", "It stands before `blue` and `car`, and the mask hides from it all that comes later."),
        Option(
            "That of `left`, which says where things stand",
            "It has read `a red fox` and itself. What stands right of the fox comes only after it.",
        ),
        Option(
            "Any from `car` on, the padding too",
            "These have read the whole sentence. How much of it each one keeps is another question: see the table.",
            right=True,
        ),
        Option(
            "None: only together do they say it", "The vectors exchange in every layer, so a late one can hold it all."
        ),
    ),
)
PADDING = Quiz(
    name="05.padding",
    question="In `a yellow fox left of a pink owl on grass` the vectors of `yellow` and `pink` were replaced by those "
    "of the empty prompt. Why can the fox still be yellow?",
    options=(
        Option(
            "The U-Net has learnt that foxes are yellow",
            "Pocket's foxes are orange unless a prompt names another colour for them.",
        ),
        Option(
            "The vectors of `fox` and of later tokens have read `yellow` too",
            "The text encoder copied the colour into later tokens before anything was taken away. For the fox that is "
            "enough. The owl keeps pink on its belly only.",
            right=True,
        ),
        Option(
            "Two vectors of 32 are too few to be noticed by the U-Net, whichever they are",
            "They are noticed: the owl beside it turns brown, all but its belly.",
        ),
    ),
)

EXERCISES = (CLIP_LOSS, ATTEND)
QUIZZES = (WHO_KNOWS, PADDING)
