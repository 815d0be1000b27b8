"""The judge: right about real pictures, wherever they stand."""

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.evaluate import judged
from helpers.judge import features, load_judge, read, read_background, to_views
from helpers.scenes import BACKGROUNDS, STYLES, WORDS, draw, place_scene, random_scene


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


def test_other_sizes_and_no_pictures_are_refused():
    with pytest.raises(ValueError, match="128 x 128 pixels, not 64 x 64"):
        read([Image.new("RGB", (64, 64))])
    for function in (read, features):
        with pytest.raises(ValueError, match="no pictures to read: give at least one"):
            function([])


def test_the_features_are_what_the_heads_read():
    rng = np.random.default_rng(3)
    pictures = [draw(random_scene(rng, objects=1 + i % 2)) for i in range(6)]
    net, found = load_judge(), features(pictures)
    assert found.shape == (6, net.widths[-1])
    assert not found.requires_grad
    with torch.no_grad():
        for head, logits in zip((net.word, net.style, net.layout), net(to_views(pictures)), strict=True):
            torch.testing.assert_close(head(found), logits)
