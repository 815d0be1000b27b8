"""PSNR, the Frechet distance, Wilson's interval: what their formulas say, and what has none is refused."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.measures import frechet_distance, psnr, wilson

# PSNR


def test_psnr_is_its_formula():
    a = np.full((4, 4, 3), 100, np.uint8)
    b = a.copy()
    b[0, 0, 0] = 40  # a mean squared error of 60^2 / 48 = 75; in uint8, 40 - 100 would wrap
    assert psnr(a, b) == pytest.approx(10 * math.log10(255**2 / 75))
    assert psnr(Image.fromarray(a), Image.fromarray(b)) == psnr(b, a)
    assert psnr(np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)) == 0.0
    assert psnr(a, a) == math.inf


def test_psnr_compares_like_with_like():
    a = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r"one size, not \(4, 4, 3\) with \(4, 2, 3\)"):
        psnr(a, a[:, :2])
    with pytest.raises(ValueError, match=r"8-bit pictures, 0 to 255 .* not float64"):
        psnr(a, a / 255)


# The Frechet distance


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
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


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


# Wilson's interval


def test_the_interval_of_a_share_is_wilson_s():
    low, high = wilson(10, 12)
    # Both ends solve |p - share| = z sqrt(p (1 - p) / n), which defines the interval.
    for p in (low, high):
        assert abs(p - 10 / 12) == pytest.approx(1.96 * math.sqrt(p * (1 - p) / 12))
    assert wilson(0, 12)[0] == 0 and wilson(12, 12)[1] == 1
    assert wilson(0, 0) == (0, 1)  # no trials tell nothing


@pytest.mark.parametrize(("hits", "n"), [(-1, 12), (13, 12), (1, 0)])
def test_more_hits_than_trials_have_no_interval(hits, n):
    with pytest.raises(ValueError, match=f"hits is {hits} of {n}"):
        wilson(hits, n)


@pytest.mark.parametrize(("hits", "n", "least", "most"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634)])
def test_wilson_s_interval_of_known_counts(hits, n, least, most):
    assert wilson(hits, n) == pytest.approx((least, most), abs=1e-3)
