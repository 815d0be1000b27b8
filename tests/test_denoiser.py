"""The small world of lesson 10: what its network is trained on, and what is new to it."""

from collections import Counter

from helpers.scenes import draw
from training import train_denoiser
from training.train_denoiser import GROUNDS, STYLE, THINGS, small_world


def test_fresh_pictures_repeat_no_training_picture(monkeypatch):
    monkeypatch.setattr(train_denoiser, "PLACINGS", 4)
    scenes = small_world(seed=0)
    assert Counter((scene.words, scene.ground) for scene in scenes) == {
        ((thing,), ground): 4 for thing in THINGS for ground in GROUNDS
    }
    assert {scene.style for scene in scenes} == {STYLE}
    assert small_world(seed=0) == scenes
    # The same seed draws every placing again: all of them must give way to others.
    fresh = small_world(seed=0, known=scenes)
    pictures = [draw(scene).tobytes() for scene in scenes + fresh]
    assert len(fresh) == len(scenes) and len(set(pictures)) == len(pictures)
