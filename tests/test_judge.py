"""The judge: right about real pictures, and its distance what the formula says."""

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.evaluate import judged
from helpers.judge import features, frechet_distance, load_judge, read, read_background, to_views
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


def exact_normals(mean: torch.Tensor, cov: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Features (count, D) whose sample mean and covariance are the ones given, to rounding."""
    x = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(dim=0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False).T
    return mean + white @ torch.linalg.cholesky(cov).T


def turned(values: list[float], seed: int) -> torch.Tensor:
    """A covariance with these variances along the axes of a random rotation."""
    start = torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, _ = torch.linalg.qr(start)
    return q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ q.T


def test_frechet_distance_of_known_covariances_along_common_axes():
    """Where both have the same axes it is |mean_a - mean_b|^2 + sum (std_a - std_b)^2, however they are turned."""
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    a = exact_normals(mean, turned([4.0, 1.0, 0.25], seed=5), 50, seed=1)
    b = exact_normals(0 * mean, turned([1.0, 9.0, 0.25], seed=5), 60, seed=2)
    assert frechet_distance(a, b) == pytest.approx(5.25 + 1 + 4 + 0, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_frechet_distance_of_known_covariances_along_different_axes():
    """The trace of the root of a product is that of the roots of its eigenvalues, taken here without symmetry."""
    cov_a, cov_b = turned([4.0, 1.0, 0.25], seed=6), turned([1.0, 9.0, 2.0], seed=7)
    mean = torch.zeros(3, dtype=torch.float64)
    a, b = exact_normals(mean, cov_a, 50, seed=3), exact_normals(mean, cov_b, 50, seed=4)
    cross = torch.linalg.eigvals(cov_a @ cov_b).real.sqrt().sum()
    assert frechet_distance(a, b) == pytest.approx(float(cov_a.trace() + cov_b.trace() - 2 * cross), rel=1e-9)


def test_frechet_distance_of_one_feature_is_that_of_two_normals():
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [7.0]])  # means 1 and 5, variances 2 and 8
    assert frechet_distance(a, b) == pytest.approx(16 + 2, rel=1e-9)  # (2 sqrt 2 - sqrt 2)^2 = 2


def test_frechet_distance_takes_fewer_pictures_than_features_and_is_then_too_large():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 20, generator=generator)
    few, more = (np.mean([frechet_distance(x[i : i + n], x[2000:]) for i in range(0, 2000, n)]) for n in (10, 400))
    assert few > 4 * more > 0
    assert frechet_distance(x[:10], x[:10]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shapes", [((5,), (5, 2)), ((5, 2), (5, 3)), ((1, 2), (5, 2))])
def test_frechet_distance_refuses_what_has_no_covariance(shapes):
    with pytest.raises(ValueError, match="at least 2 rows"):
        frechet_distance(*(torch.zeros(shape) for shape in shapes))


def test_the_features_are_what_the_heads_read():
    rng = np.random.default_rng(3)
    pictures = [draw(random_scene(rng, objects=1 + i % 2)) for i in range(6)]
    net, found = load_judge(), features(pictures)
    assert found.shape == (6, net.widths[-1])
    assert not found.requires_grad
    with torch.no_grad():
        for head, logits in zip((net.word, net.style, net.layout), net(to_views(pictures)), strict=True):
            torch.testing.assert_close(head(found), logits)
