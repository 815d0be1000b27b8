"""Two tasks beside the denoising, which teach which of two things stands where. `README.md` says why and how well.

Both learn from what `targets` tells of a caption's things. Nothing of them is left in the finished model.
"""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from helpers.grounds import SIZE
from helpers.scenes import RELATIONS, Scene
from training.unet import LATENT

NO_PLACE = -100  # what torch's cross_entropy leaves out


class PlaceReading(nn.Module):
    """A linear layer that reads, from the text encoder's vector of the second thing's word, where that thing stands.

    Without this task the vectors of `left` and `right` stay alike: each is of use only together with the other words,
    so at first no gradient tells them apart, and a U-Net that had seen 230,000 samples put two things in each
    other's place every second time.
    """

    def __init__(self, width: int):
        super().__init__()
        self.read = nn.Linear(width, len(RELATIONS))

    def forward(self, text: Tensor, words: Tensor, place: Tensor) -> Tensor:
        """Cross entropy. text: (B, tokens, width); words, place: as from `targets`."""
        logits = self.read(text[torch.arange(len(text), device=text.device), words[:, 1]])  # (B, 4)
        # A mean over the whole batch, not over those with two things: so that shares of a batch add up to it.
        return cross_entropy(logits, place, ignore_index=NO_PLACE, reduction="sum") / len(place)


class GroundedAttention(AttnProcessor):
    """Cross-attention that remembers its probabilities, so that they can be asked to lie on the thing they name.

    The loss of a word is (1 - its share inside the thing)^2, averaged over words and layers: the grounding of tokens
    of TokenCompose (Wang et al., 2023, arXiv:2312.03626, section 3.2), with masks that are known instead of found.
    Without it the U-Net left unused, for 2,000 steps, what the text then told.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
        temb: None = None,
    ) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))  # (B * heads, N, width)
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))  # (B * heads, tokens, width)
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        probabilities = attn.get_attention_scores(query, key)  # (B * heads, N, tokens)
        self.maps = probabilities.unflatten(0, (-1, attn.heads)).mean(dim=1)  # (B, N, tokens)
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(probabilities @ value)))

    def loss(self, words: Tensor, masks: Tensor) -> Tensor:
        """words: (B, 2), each thing's token. masks: (B, 2, 16, 16), 1 on the thing, all 0 where there is none."""
        side = round(self.maps.shape[1] ** 0.5)
        inside = (adaptive_avg_pool2d(masks, side) > 0.5).flatten(2)  # (B, 2, N)
        there = masks.amax(dim=(2, 3))  # (B, 2)
        maps = self.maps.float().gather(2, words[:, None].expand(-1, side**2, -1)).movedim(2, 1)  # (B, 2, N)
        share = (maps * inside).sum(dim=2) / (maps.sum(dim=2) + 1e-6)
        return ((1 - share).square() * there).mean()


def targets(
    scenes: Sequence[Scene], captions: Sequence[str], ends: Sequence[Sequence[int]], boxes: np.ndarray
) -> dict[str, np.ndarray]:
    """What the captions' things are, for both tasks. An empty caption has no things.

    captions: of the scenes, each beginning as the scene's own or empty. ends: where each token ends in its caption, in
    characters, 0 for tokens that are not of the text. boxes: (B, 2, 4), where each thing is seen, in pixels.

    Returns `words` (B, 2), the last token of each thing's word, 0 where there is none; `masks` (B, 2, 16, 16), 1 where
    that thing is seen; and `place` (B,), the number of the second thing's relation to the first: `right of` if the
    first is `left of` it, NO_PLACE if there is no second.
    """
    words = np.zeros((len(scenes), 2), dtype=np.int64)
    masks = np.zeros((len(scenes), 2, LATENT, LATENT), dtype=np.float32)
    place = np.full(len(scenes), NO_PLACE, dtype=np.int64)
    at = (np.arange(LATENT) + 0.5) * SIZE / LATENT  # pixels
    for row, (scene, text) in enumerate(zip(scenes, captions, strict=True)):
        if not text:
            continue
        named = [scene.things[0].phrase, scene.caption(ground=False, style=False)]  # up to the first, up to the last
        for i, (left, top, right, bottom) in enumerate(boxes[row, : len(scene.things)]):
            words[row, i] = list(ends[row]).index(len(named[i]))
            masks[row, i] = ((at > left) & (at < right)) & ((at > top) & (at < bottom))[:, None]
        if scene.relation is not None:
            place[row] = RELATIONS.index(scene.relation) ^ 1  # RELATIONS has each beside its opposite
    return {"words": words, "masks": masks, "place": place}
