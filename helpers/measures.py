"""How far pictures lie apart: two of them pixel by pixel (PSNR), or two crowds of them by their features (Frechet).

And how far to trust a count (Wilson).
"""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def psnr(a: Image.Image | np.ndarray, b: Image.Image | np.ndarray) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures in dB: 10 log10(255^2 / mean((a - b)^2)).

    Twice the error costs 6 dB; above about 40 dB two pictures look the same; two equal pictures give infinity.

    a, b: PIL pictures, or uint8 arrays, of one size. Raises ValueError for two sizes or another dtype.
    """
    one, other = (np.asarray(x.convert("RGB") if isinstance(x, Image.Image) else x) for x in (a, b))
    for x in (one, other):
        if x.dtype != np.uint8:
            raise ValueError(f"PSNR compares 8-bit pictures, 0 to 255 (uint8), not {x.dtype}")
    if one.shape != other.shape:
        raise ValueError(f"PSNR compares pictures of one size, not {one.shape} with {other.shape}")
    error = float(np.square(one.astype(float) - other.astype(float)).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Frechet distance of two sets of features, each taken as a normal distribution (Heusel et al., 2017, eq. 6).

    |mean_a - mean_b|^2 + trace(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)), arXiv:1706.08500, in float64. The trace of the
    square root is the sum of the square roots of the eigenvalues of cov_a cov_b, which are those of the symmetric
    matrix root_a cov_b root_a: no general matrix root is needed.

    a, b: (N, D) and (M, D), at least 2 rows each. The result is 0 for two equal sets and has no upper limit.

    It is biased upwards for small samples: two sets from one distribution have a distance above 0, which falls about
    as 1 / N + 1 / M. So compare distances of equally many pictures only, and beside that of as many real ones.

    Raises ValueError for another shape, or fewer than 2 rows.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"a and b have the shapes {tuple(a.shape)} and {tuple(b.shape)}: give (N, D) and (M, D), at least 2 rows"
        )
    a, b = a.double(), b.double()
    mean_a, mean_b, cov_a, cov_b = a.mean(dim=0), b.mean(dim=0), a.T.cov(), b.T.cov()
    # Of one feature, cov gives a number and not a matrix.
    cov_a, cov_b = (cov.reshape(a.shape[1], a.shape[1]) for cov in (cov_a, cov_b))
    values, vectors = torch.linalg.eigh(cov_a)
    root_a = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def wilson(hits: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share, from hits of n independent trials (Wilson, 1927): both ends, from 0 to 1.

    hits: a whole number, or a share times n where a trial is several pictures. No trials tell nothing: 0 to 1. Raises
    ValueError for more hits than trials.
    """
    if not 0 <= hits <= n:
        raise ValueError(f"hits is {hits} of {n}: give no more hits than trials, and none below 0")
    if not n:
        return 0.0, 1.0
    centre, half = hits + z**2 / 2, z * math.sqrt(hits * (n - hits) / n + z**2 / 4)
    return max(0.0, (centre - half) / (n + z**2)), min(1.0, (centre + half) / (n + z**2))
