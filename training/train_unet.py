"""Stage two: the U-Net that predicts noise in latents, and the text encoder that steers it.

    accelerate launch -m training.train_unet --folder runs/unet --vae runs/vae/vae

Writes the finished pipeline, all four components, to `<folder>/pipeline`.
"""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.training_utils import compute_snr
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from helpers.scenes import RELATIONS, SIZE, Scene, caption, draw, random_scene
from training.loop import LoopConfig, step_rng, train
from training.text import build_text_encoder, build_tokenizer
from training.train_vae import to_tensor

LATENT = SIZE // 8
NO_PLACE = -100  # what torch's cross_entropy leaves out


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """What the U-Net is made of and what it is shown."""

    channels: tuple[int, ...] = (64, 128, 192)  # at 16 x 16, 8 x 8 and 4 x 4
    heads: int = 4  # of every attention layer
    text_width: int = 128
    text_layers: int = 3
    scenes: int = 16_000  # encoded once; the run sees each several times
    pairs: float = 0.6  # share of scenes with two objects, which take longest to learn
    named: float = 0.85  # share of captions that name the background, and of those that name the style
    empty: float = 0.1  # share of empty captions, for classifier-free guidance (arXiv:2207.12598)
    min_snr_gamma: float = 5.0  # Min-SNR weighting (Hang et al., 2023, arXiv:2303.09556); infinity: plain loss
    snr_floor: float = 0.0  # least weight of an error in x0; more than 0 helps the noisiest steps, which set the layout
    place_weight: float = 0.015  # of the text encoder's second task, see `DenoisingLoss`
    grounding_weight: float = 0.1  # of the cross-attention's second task, see `GroundedAttention`
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


class GroundedAttention(AttnProcessor):
    """Cross-attention that remembers its probabilities, so that they can be asked to lie on the object they name.

    The loss of a word is (1 - its share inside the object)^2, averaged over words and layers: the grounding of tokens
    of TokenCompose (Wang et al., 2023, arXiv:2312.03626, section 3.2), with masks that are known instead of found.
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
        """words: (B, 2), each object's token. masks: (B, 2, 16, 16), 1 on the object, all 0 where there is none."""
        side = round(self.maps.shape[1] ** 0.5)
        inside = (adaptive_avg_pool2d(masks, side) > 0.5).flatten(2)  # (B, 2, N)
        there = masks.amax(dim=(2, 3))  # (B, 2)
        maps = self.maps.float().gather(2, words[:, None].expand(-1, side**2, -1)).movedim(2, 1)  # (B, 2, N)
        share = (maps * inside).sum(dim=2) / (maps.sum(dim=2) + 1e-6)
        return ((1 - share).square() * there).mean()


class DenoisingLoss(nn.Module):
    """Weighted mean squared error of the predicted noise: the loss of Ho et al. (2020), equation 14.

    With Min-SNR weighting each timestep's error is weighted by min(SNR, gamma) / SNR (arXiv:2303.09556, section 3.4),
    which is to weight the error in x0 by min(SNR, gamma). `floor` bounds that weight from below as well. With gamma
    infinite and no floor every weight is 1: the plain loss.

    The text encoder has a second task, weighted by `place_weight`: a linear layer, thrown away after training,
    reads from the vector of the second object's word where that object stands. Without it the vectors of `left`
    and `right` stay alike (each is of use only together with the other words, so at first no gradient tells them
    apart), and a U-Net that had seen 230,000 samples put two objects in each other's place every second time.

    The U-Net has a second task too, weighted by `grounding_weight`: that of its `GroundedAttention` layers. Without it
    the U-Net left unused, for 2,000 steps, what the text then told. `training/README.md` has the figures.
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
        self.place = nn.Linear(text_encoder.config.hidden_size, len(RELATIONS)) if place_weight else None
        self.scheduler = build_scheduler()
        self.grounded: list[GroundedAttention] = []
        if grounding_weight:
            # Plain products for self-attention too: torch's fused attention is slow backwards on a CPU (the whole
            # step measured: 32 samples a second with it, 43 without).
            plain = {name: AttnProcessor() for name in unet.attn_processors if "attn1" in name}
            grounded = {name: GroundedAttention() for name in unet.attn_processors if "attn2" in name}
            self.grounded = list(grounded.values())
            unet.set_attn_processor(plain | grounded)

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
        """The loss of a batch of B latents; the tasks need `words`, `masks` and `place`, as from `places`."""
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        text = self.text_encoder(input_ids).last_hidden_state
        predicted = self.unet(noisy, timesteps, text).sample
        error = (predicted - noise).square().mean(dim=(1, 2, 3))  # (B,)
        snr = compute_snr(self.scheduler, timesteps)
        error = error * snr.clamp(min=self.floor, max=self.gamma) / snr
        loss = error.mean()
        # The tasks are means over the whole batch, not over those with objects: so that shares of a batch add up to it.
        if self.place is not None:
            read = self.place(text[torch.arange(len(text)), words[:, 1]])  # (B, 4)
            wrong = cross_entropy(read, place, ignore_index=NO_PLACE, reduction="sum") / len(place)
            loss = loss + self.place_weight * wrong
        if self.grounded:
            off = torch.stack([layer.loss(words, masks) for layer in self.grounded]).mean()
            loss = loss + self.grounding_weight * off
        return loss


def training_scenes(config: UNetConfig) -> list[Scene]:
    """The scenes of the training set, none with a held-out (word, style) pair."""
    rng = np.random.default_rng(config.loop.seed)
    return [random_scene(rng, objects=1 + int(rng.random() < config.pairs)) for _ in range(config.scenes)]


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, scenes: list[Scene], batch_size: int = 32) -> Tensor:
    """Latents of scenes, scaled to unit variance: (N, 4, 16, 16) float16."""
    latents = []
    for start in tqdm(range(0, len(scenes), batch_size), desc="encoding", mininterval=5):
        pictures = np.stack([np.asarray(draw(scene)) for scene in scenes[start : start + batch_size]])
        mean = vae.encode(to_tensor(pictures).to(vae.device)).latent_dist.mean
        latents.append((mean * vae.config.scaling_factor).half().cpu())
    return torch.cat(latents).contiguous()


def cached_latents(folder: Path, vae: AutoencoderKL, scenes: list[Scene], accelerator: Accelerator) -> Tensor:
    """The latents of the training scenes, encoded once by the first process and read by all."""
    path = folder / "latents.safetensors"
    with accelerator.main_process_first():
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            save_file({"latents": encode_scenes(vae.to(accelerator.device), scenes)}, path)
    latents = load_file(path)["latents"]
    if len(latents) != len(scenes):
        raise ValueError(f"{path} holds {len(latents)} latents, the run has {len(scenes)} scenes: delete the file")
    return latents


def random_caption(scene: Scene, rng: np.random.Generator, config: UNetConfig) -> str:
    """A caption of the scene with phrases left out at random, or none at all."""
    if rng.random() < config.empty:
        return ""
    return scene.caption(background=rng.random() < config.named, style=rng.random() < config.named)


def places(scene: Scene, text: str, tokenizer: CLIPTokenizer) -> tuple[list[int], np.ndarray, int]:
    """What a caption's objects are, for the two tasks beside the denoising.

    Returns the last token of each object's word (0 where there is none), a mask for each (2, 16, 16) with 1 where it
    stands, and the number of the second object's relation to the first: `right of` if the first is `left of` it,
    NO_PLACE if there is no second. An empty caption has no objects.
    """
    words, masks = [0, 0], np.zeros((2, LATENT, LATENT), dtype=np.float32)
    if not text:
        return words, masks, NO_PLACE
    at = (np.arange(LATENT) + 0.5) * SIZE / LATENT  # pixels
    for i, (size, (x, y)) in enumerate(zip(scene.sizes, scene.centres, strict=True)):
        so_far = caption(scene.words[: i + 1], relation=scene.relation)
        words[i] = len(tokenizer(so_far).input_ids) - 2  # counted with a start and an end
        masks[i] = (abs(at - x) < size / 2) & (abs(at[:, None] - y) < size / 2)
    if scene.relation is None:
        return words, masks, NO_PLACE
    return words, masks, RELATIONS.index(scene.relation) ^ 1  # RELATIONS has each beside its opposite


def denoising_batch(
    step: int, scenes: list[Scene], latents: Tensor, tokenizer: CLIPTokenizer, config: UNetConfig
) -> dict[str, Tensor]:
    """The global batch of one step: clean latents, noise, timesteps and captions."""
    rng = step_rng(config.loop.seed, step)
    chosen = rng.integers(len(scenes), size=config.loop.batch_size)
    captions = [random_caption(scenes[i], rng, config) for i in chosen]
    noise = rng.standard_normal((len(chosen), 4, LATENT, LATENT), dtype=np.float32)
    told = [places(scenes[i], text, tokenizer) for i, text in zip(chosen, captions, strict=True)]
    words, masks, place = zip(*told, strict=True)
    return {
        "latents": latents[torch.from_numpy(chosen)].float(),
        "noise": torch.from_numpy(noise),
        "timesteps": torch.from_numpy(rng.integers(1000, size=len(chosen))),
        "input_ids": tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids,
        "words": torch.tensor(words),
        "masks": torch.from_numpy(np.stack(masks)),
        "place": torch.tensor(place),
    }


def save_pipeline(folder: Path, trainee: DenoisingLoss, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> None:
    """The finished model as a plain Stable Diffusion folder; VAE and U-Net in float16 to halve its size."""
    for part in (vae, trainee.unet):
        part.register_to_config(_name_or_path=None)  # where it was trained says nothing to anybody else
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=trainee.text_encoder,
        tokenizer=tokenizer,
        unet=trainee.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float16)
    # transformers loads weights in the dtype they were saved in, diffusers in float32: one folder, one dtype.
    pipe.text_encoder.float()
    pipe.save_pretrained(folder)


def main() -> None:
    loop = UNetConfig().loop
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/unet"), help="checkpoints, log and the pipeline")
    parser.add_argument("--vae", type=Path, default=Path("runs/vae/vae"), help="folder of the trained VAE")
    parser.add_argument("--start-from", type=Path, help="folder of a trained pipeline to begin with")
    parser.add_argument("--scenes", type=int, default=UNetConfig().scenes, help="size of the training set")
    parser.add_argument("--pairs", type=float, default=UNetConfig().pairs, help="share of scenes with two objects")
    parser.add_argument("--named", type=float, default=UNetConfig().named, help="share of captions naming the style")
    parser.add_argument("--min-snr-gamma", type=float, default=UNetConfig().min_snr_gamma, help="inf: the plain loss")
    parser.add_argument("--snr-floor", type=float, default=UNetConfig().snr_floor, help="least weight of errors in x0")
    parser.add_argument("--steps", type=int, default=loop.steps)
    parser.add_argument("--batch-size", type=int, default=loop.batch_size)
    parser.add_argument("--learning-rate", type=float, default=loop.learning_rate)
    parser.add_argument("--decay-from", type=float, default=loop.decay_from)
    parser.add_argument("--seed", type=int, default=loop.seed, help="another seed shows a continued run other scenes")
    args = parser.parse_args()
    loop = replace(
        loop,
        steps=args.steps,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        decay_from=args.decay_from,
        seed=args.seed,
    )
    config = UNetConfig(
        scenes=args.scenes,
        pairs=args.pairs,
        named=args.named,
        min_snr_gamma=args.min_snr_gamma,
        snr_floor=args.snr_floor,
        loop=loop,
    )

    set_seed(config.loop.seed)
    accelerator = Accelerator()
    vae = AutoencoderKL.from_pretrained(args.vae).requires_grad_(False).eval()
    if args.start_from:
        tokenizer = CLIPTokenizer.from_pretrained(args.start_from / "tokenizer")
        text_encoder = CLIPTextModel.from_pretrained(args.start_from / "text_encoder", dtype=torch.float32)
        unet = UNet2DConditionModel.from_pretrained(args.start_from / "unet")
    else:
        tokenizer = build_tokenizer()
        text_encoder = build_text_encoder(tokenizer, width=config.text_width, layers=config.text_layers)
        unet = build_unet(config)
    scenes = training_scenes(config)
    latents = cached_latents(args.folder, vae, scenes, accelerator)
    trainee = train(
        DenoisingLoss(
            unet,
            text_encoder,
            config.min_snr_gamma,
            config.snr_floor,
            config.place_weight,
            config.grounding_weight,
        ),
        lambda step: denoising_batch(step, scenes, latents, tokenizer, config),
        config.loop,
        args.folder,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        save_pipeline(args.folder / "pipeline", trainee, vae, tokenizer)


if __name__ == "__main__":
    main()
