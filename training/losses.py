"""The loss of the U-Net and its text encoder."""

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import compute_snr
from torch import Tensor, nn
from transformers import CLIPTextModel

from training.extra_tasks import GroundedAttention, PlaceReading
from training.unet import build_scheduler


class DenoisingLoss(nn.Module):
    """Weighted mean squared error of the predicted noise: the loss of Ho et al. (2020), equation 14.

    With Min-SNR weighting each timestep's error is weighted by min(SNR, gamma) / SNR (arXiv:2303.09556, section 3.4),
    which is to weight the error in x0 by min(SNR, gamma). `floor` bounds that weight from below as well. With gamma
    infinite and no floor every weight is 1: the plain loss.

    `PlaceReading` and `GroundedAttention` add their losses, multiplied by `place_weight` and `grounding_weight`; with a
    weight of 0 the task does not exist.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        gamma: float,
        floor: float = 0.0,
        place_weight: float = 0.0,
        grounding_weight: float = 0.0,
    ):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.gamma, self.floor = gamma, floor
        self.place_weight, self.grounding_weight = place_weight, grounding_weight
        self.place = PlaceReading(text_encoder.config.hidden_size) if place_weight else None
        self.scheduler = build_scheduler()
        # Plain products instead of torch's fused attention, which is slow backwards on a CPU (the whole step
        # measured: 32 samples a second with it, 43 without).
        processors = {name: AttnProcessor() for name in unet.attn_processors}
        if grounding_weight:
            processors |= {name: GroundedAttention() for name in processors if "attn2" in name}
        self.grounded = [layer for layer in processors.values() if isinstance(layer, GroundedAttention)]
        unet.set_attn_processor(processors)

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        input_ids: Tensor,
        words: Tensor | None = None,
        masks: Tensor | None = None,
        place: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of B latents; the tasks need `words`, `masks` and `place`, as from `targets`."""
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        text = self.text_encoder(input_ids).last_hidden_state
        predicted = self.unet(noisy, timesteps, text).sample
        error = (predicted - noise).square().mean(dim=(1, 2, 3))  # (B,)
        snr = compute_snr(self.scheduler, timesteps)
        loss = (error * snr.clamp(min=self.floor, max=self.gamma) / snr).mean()
        if self.place is not None:
            loss = loss + self.place_weight * self.place(text, words, place)
        if self.grounded:
            off = torch.stack([layer.loss(words, masks) for layer in self.grounded]).mean()
            loss = loss + self.grounding_weight * off
        return loss
