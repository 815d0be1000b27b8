"""The judge: right about real pictures, and its distance what the formula says."""

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.judge import frechet_distance, read, read_background
from helpers.scenes import BACKGROUNDS, STYLES, WORDS, draw, place_scene, random_scene
from training.evaluate import judged


def test_the_judge_reads_real_pictures():
    rng = np.random.default_rng(12345)
    one = [place_scene((word,), STYLES[i % 4], list(BACKGROUNDS)[i % 10], None, rng) for i, word in enumerate(WORDS)]
    two = [random_scene(rng, objects=2, allow_held_out=True) for _ in range(100)]
    for scenes, least in ((one, {"words": 0.97, "style": 0.93}), (two, {"words": 0.93, "style": 0.93})):
        shares = judged([draw(scene) for scene in scenes], scenes)
        assert shares["background"] == 1.0
        assert all(shares[what] >= share for what, share in least.items()), shares


def test_words_in_the_wrong_place_are_not_right():
    rng = np.random.default_rng(0)
    scene = place_scene(("fox", "pizza"), "flat", "white", "left of", rng)
    swapped = place_scene(("pizza", "fox"), "flat", "white", "left of", rng)
    assert judged([draw(scene)], [scene])["words"] == 1.0
    assert judged([draw(swapped)], [scene])["words"] == 0.0
    assert read([draw(scene)])[0].words == ("fox", "pizza")


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_backgrounds_are_read_from_the_border(name):
    picture = Image.new("RGB", (128, 128), BACKGROUNDS[name])
    picture.paste((0, 0, 0), (20, 20, 100, 100))
    assert read_background(picture) == name


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="128 x 128 pixels, not 64 x 64"):
        read([Image.new("RGB", (64, 64))])


def test_frechet_distance_of_normals_is_the_closed_form():
    """For diagonal covariances it is |mean_a - mean_b|^2 + sum (std_a - std_b)^2."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
    b = a * torch.tensor([1.0, 2.0, 3.0]) + torch.tensor([1.0, 0.0, -2.0])
    # Means and covariances of the sample differ from the exact ones by about 1 / sqrt(200,000).
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + 1 + 4, rel=0.01)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
