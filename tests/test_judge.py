"""The judge: right about real pictures, wherever their things stand, and no judge of anything else."""

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.evaluate import judged
from helpers import judge
from helpers.judge import Judge, features, load_judge, read, tally, things_of, to_views
from helpers.loading import load_pipeline
from helpers.scenes import GROUNDS, STYLES, WORDS, Scene, Thing, draw, random_scene, vary
from tests.pipelines.tiny import tiny_pipeline


def test_the_judge_reads_real_pictures():
    rng = np.random.default_rng(12345)
    grounds = list(GROUNDS)
    one = [
        vary(Scene((Thing(word),), ground=grounds[i % len(grounds)], style=STYLES[i % len(STYLES)]), rng)
        for i, word in enumerate(WORDS)
    ]
    two = [random_scene(rng, things=2, allow_held_out=True) for _ in range(100)]
    for scenes, least in (
        (one, {"words": 0.97, "style": 0.9, "ground": 0.98}),
        (two, {"words": 0.93, "style": 0.9, "ground": 0.98, "colours": 0.93}),
    ):
        found = judged([draw(scene) for scene in scenes], scenes)
        assert all(found[what]["share"] >= share for what, share in least.items()), found


def test_words_and_colours_in_the_wrong_place_are_not_right():
    rng = np.random.default_rng(0)
    fox, car = Thing("fox", "blue"), Thing("car", "red")
    scene = vary(Scene((fox, car), "left of"), rng)
    moved = vary(Scene((car, fox), "left of"), rng)
    painted = vary(Scene((Thing("fox", "red"), Thing("car", "blue")), "left of"), rng)
    (reading,) = read([draw(scene)])
    assert (reading.layout, reading.words, reading.colours) == ("beside", ("fox", "car"), ("blue", "red"))
    shares = [judged([draw(other)], [scene]) for other in (scene, moved, painted)]
    assert [found["words"]["share"] for found in shares] == [1, 0, 1]
    assert [found["swapped"]["share"] for found in shares] == [0, 0, 1]


@pytest.fixture
def any_judge(monkeypatch):
    """Weights at random: what is tested with them does not depend on what was learnt."""
    torch.manual_seed(0)
    net = Judge().eval()
    monkeypatch.setattr(judge, "load_judge", lambda: net)
    return net


def test_the_judge_that_is_shipped_is_of_this_world():
    net = load_judge()
    assert not net.training
    assert {name: head.out_features for name, head in net.heads.items()} == {
        name: len(choices) for name, choices in judge.HEADS.items()
    }


def test_a_judge_of_other_words_is_refused(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"widths": [8], "heads": {"word": ["cat"]}}')
    monkeypatch.setattr(judge, "JUDGE", tmp_path)
    load_judge.cache_clear()
    with pytest.raises(ValueError, match="trained for other words: train it again"):
        load_judge()


def test_other_sizes_and_no_pictures_are_refused(any_judge):
    with pytest.raises(ValueError, match="128 x 128 pixels, not 64 x 64"):
        read([Image.new("RGB", (64, 64))])
    for function in (read, features):
        with pytest.raises(ValueError, match="no pictures to read: give at least one"):
            function([])


def test_the_views_of_two_things_show_one_each():
    picture = draw(Scene((Thing("fox", centre=(32, 64)), Thing("pizza", centre=(96, 64))), "left of"))
    assert [view.size for view in things_of(picture, "beside")] == [(64, 64)] * 2
    alone = draw(Scene((Thing("fox", centre=(32, 64)), Thing("owl", centre=(96, 64))), "left of"))
    views, others = things_of(picture, "beside"), things_of(alone, "beside")
    assert views[0].tobytes() == others[0].tobytes() and views[1].tobytes() != others[1].tobytes()
    assert things_of(picture, "one") == [picture]


def test_the_features_are_what_the_heads_read(any_judge):
    rng = np.random.default_rng(3)
    pictures = [draw(random_scene(rng, things=1 + i % 2)) for i in range(6)]
    found = features(pictures)
    assert found.shape == (6, any_judge.widths[-1])
    assert not found.requires_grad
    with torch.no_grad():
        for name, logits in any_judge(to_views(pictures)).items():
            torch.testing.assert_close(any_judge.heads[name](found), logits)


def test_a_tally_counts_the_commonest_first_and_leaves_other_models_out():
    pipe, pair = load_pipeline("pocket", device="cpu"), Scene((Thing("fox"), Thing("car")), "left of")
    rng = np.random.default_rng(0)
    scenes = [pair, *[vary(Scene((Thing(word),)), rng) for word in ("rocket", "ghost", "rocket", "rocket", "ghost")]]
    assert tally(pipe, [draw(vary(scene, rng)) for scene in scenes]) == "3 rocket, 2 ghost, 1 fox and car"
    assert tally(tiny_pipeline(), [Image.new("RGB", (64, 64))]).startswith("skipped")
