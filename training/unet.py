"""The network that predicts noise, its schedule, and the settings of its training."""

from dataclasses import dataclass, field

from diffusers import DDIMScheduler, UNet2DConditionModel

from helpers.grounds import SIZE
from training.loop import LoopConfig

LATENT = SIZE // 8  # latent pixels, both sides


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """What the U-Net is made of and what it is shown."""

    channels: tuple[int, ...] = (64, 128, 192)  # at 16 x 16, 8 x 8 and 4 x 4
    heads: int = 4  # of every attention layer
    text_width: int = 128  # of the text encoder
    text_layers: int = 3  # of the text encoder
    scenes: int = 16_000  # encoded once; the run sees each several times
    pairs: float = 0.6  # share of scenes with two things, which take longest to learn
    named: float = 0.85  # share of captions that name the ground, and of those that name the style
    empty: float = 0.1  # share of empty captions, for classifier-free guidance (arXiv:2207.12598)
    min_snr_gamma: float = 5.0  # Min-SNR weighting (Hang et al., 2023, arXiv:2303.09556); inf: the plain loss
    snr_floor: float = 0.0  # least weight of an error in x0; more than 0 helps the noisiest steps, which set the layout
    place_weight: float = 0.015  # of the text encoder's second task, see `PlaceReading`; 0: without it
    grounding_weight: float = 0.1  # of the cross-attention's second task, see `GroundedAttention`; 0: without it
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=10_000, batch_size=16, learning_rate=7e-4, warmup_steps=300, ema_decay=0.9995
        )
    )


def build_unet(config: UNetConfig) -> UNet2DConditionModel:
    """Stable Diffusion's U-Net, with cross-attention at every resolution, in a small size."""
    levels = len(config.channels)
    return UNet2DConditionModel(
        sample_size=LATENT,
        block_out_channels=config.channels,
        down_block_types=["CrossAttnDownBlock2D"] * levels,
        up_block_types=["CrossAttnUpBlock2D"] * levels,
        layers_per_block=1,
        attention_head_dim=config.heads,  # diffusers reads this as the number of heads, as in Stable Diffusion 1.5
        cross_attention_dim=config.text_width,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule: scaled linear betas from 0.00085 to 0.012 over 1000 steps."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
