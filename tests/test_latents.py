"""Encoding, decoding and looking at latents: by hand equals the helper, and the scale comes from the config."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import latents as module
from helpers.latents import channel_pictures, decode, decode_tensor, encode
from tests.pipelines.tiny import SIDE, tiny_pipeline

FACTOR = 2  # of the tiny VAE


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(2)]


@pytest.fixture(scope="module")
def pixels(pipe, pictures):
    """The pictures as the pipeline itself reads them."""
    return pipe.image_processor.preprocess(pictures)


@pytest.fixture
def x0():
    return torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(0))


# Encoding


@torch.no_grad()
def test_latents_are_the_scaled_mean(pipe, pictures, pixels):
    mean = pipe.vae.encode(pixels).latent_dist.mean
    for given in (pictures, pixels):
        latents = encode(pipe, given)
        assert latents.shape == (2, 4, SIDE // FACTOR, SIDE // FACTOR) and not latents.requires_grad
        torch.testing.assert_close(latents, 0.5 * mean, atol=1e-5, rtol=1e-5)  # the tiny factor is 0.5
    torch.testing.assert_close(encode(pipe, pictures[0]), 0.5 * mean[:1], atol=1e-5, rtol=1e-5)


def test_the_scale_comes_from_the_config(pictures, x0):
    pipe = tiny_pipeline()
    latents, decoded = encode(pipe, pictures), decode_tensor(pipe, x0)
    pipe.vae.register_to_config(scaling_factor=2.0)
    torch.testing.assert_close(encode(pipe, pictures), 4 * latents)
    torch.testing.assert_close(decode_tensor(pipe, 4 * x0), decoded)
    assert not torch.allclose(decode_tensor(pipe, x0), decoded, atol=1e-3)


@torch.no_grad()
def test_sampling_adds_sigma_times_seeded_noise(pipe, pictures, pixels):
    posterior = pipe.vae.encode(pixels).latent_dist
    eps = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(3))
    drawn = encode(pipe, pictures, sample=True, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(drawn, 0.5 * (posterior.mean + posterior.std * eps), atol=1e-5, rtol=1e-5)
    other = encode(pipe, pictures, sample=True, generator=torch.Generator().manual_seed(4))
    assert not torch.allclose(drawn, other, atol=1e-3)


def test_slices_change_nothing(pipe, pictures, x0, monkeypatch):
    def everything():
        drawn = encode(pipe, pictures, sample=True, generator=torch.Generator().manual_seed(3))
        return encode(pipe, pictures), drawn, decode_tensor(pipe, x0)

    whole = everything()
    monkeypatch.setattr(module, "SLICE_PIXELS", 1)  # one picture at a time
    torch.testing.assert_close(everything(), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no pictures to encode"),
        (["fox.png"], "pictures holds a str"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 10))], r"several sizes \(8 x 10, 8 x 8\)"),
        ([Image.new("RGB", (9, 8))], "9 x 8 pixels, but this VAE needs multiples of 2.* to 8 x 8"),
        (torch.zeros(3, 8, 8), r"not \(3, 8, 8\); add the batch"),
        (torch.zeros(1, 4, 8, 8), r"\(B, 3, height, width\), not \(1, 4, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "floats from -1 to 1, not torch.uint8"),
        (torch.full((1, 3, 8, 8), 255.0), "not 255 to 255"),
        (torch.full((1, 3, 8, 8), math.nan), "not nan to nan"),
    ],
)
def test_what_cannot_be_encoded_says_so(pipe, given, message):
    with pytest.raises(ValueError, match=message):
        encode(pipe, given)


# Decoding


@torch.no_grad()
def test_decoding_divides_by_the_scale(pipe, x0):
    by_hand = pipe.vae.decode(x0 / 0.5).sample
    torch.testing.assert_close(decode_tensor(pipe, x0), by_hand, atol=1e-5, rtol=1e-5)
    pictures = decode(pipe, x0)
    assert [picture.size for picture in pictures] == [(12 * FACTOR, 8 * FACTOR)] * 2
    expected = ((by_hand.clamp(-1, 1) + 1) * 127.5).round().movedim(1, -1).numpy()
    assert np.abs(np.stack([np.asarray(picture) for picture in pictures]) - expected).max() <= 1


def test_other_dtypes_follow_the_vae(x0):
    pipe = tiny_pipeline()
    assert decode_tensor(pipe, x0.half()).dtype == torch.float32
    pipe.vae.to(torch.bfloat16)
    assert decode_tensor(pipe, x0).dtype == torch.bfloat16
    assert encode(pipe, decode(pipe, x0)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(4, 8, 8), r"not \(4, 8, 8\); add the batch"),
        (torch.zeros(1, 3, 8, 8), r"\(B, 4, height, width\), not \(1, 3, 8, 8\)"),
        (torch.zeros(1, 4, 8, 8, dtype=torch.int64), "floats, not torch.int64"),
    ],
)
def test_what_cannot_be_decoded_says_so(pipe, given, message):
    with pytest.raises(ValueError, match=message):
        decode(pipe, given)


# Channels as pictures


def test_channels_share_one_symmetric_scale():
    latents = torch.zeros(4, 2, 3)
    latents[0, 0, 0], latents[1, 0, 0], latents[2, 0, 0] = -2.0, 2.0, 1.0
    channels, limit = channel_pictures(latents)
    assert limit == 2.0
    assert [(channel.shape, channel.dtype) for channel in channels] == [((2, 3, 3), np.uint8)] * 4
    low, high, half, zero = channels[0][0, 0], channels[1][0, 0], channels[2][0, 0], channels[3][0, 0]
    assert low[2] > low[0] and high[0] > high[2]  # negative is blue, positive is red
    assert zero.min() > 240  # white
    assert high[1] < half[1] < zero[1]  # paler nearer to zero

    (again, *_), limit = channel_pictures(latents[None], limit=1.0)  # half the scale: clipped at both ends
    assert limit == 1.0 and np.array_equal(again[0, 0], low)
    assert np.array_equal(channel_pictures(latents, limit=1.0)[0][2][0, 0], high)


def test_channels_of_nothing_are_white():
    channels, limit = channel_pictures(torch.zeros(4, 2, 2))
    assert limit == 1.0 and min(channel.min() for channel in channels) > 240


@pytest.mark.parametrize(
    ("given", "limit", "message"),
    [
        (torch.zeros(2, 4, 2, 2), None, r"one picture .* not \(2, 4, 2, 2\)"),
        (torch.full((4, 2, 2), math.inf), None, "not finite"),
        (torch.zeros(4, 2, 2), 0, "limit is 0: choose a number above 0"),
    ],
)
def test_what_has_no_channel_pictures_says_so(given, limit, message):
    with pytest.raises(ValueError, match=message):
        channel_pictures(given, limit=limit)
