"""Lesson 04 by hand, held to the training and the shipped model."""

import base64
import io
import json
import re

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.exercises.lesson_04 import best_sigma, downhill
from helpers.measures import psnr
from helpers.model_folder import POCKET
from helpers.plots import as_picture
from helpers.sampling import normal
from tests.lessons import NOTEBOOKS, cell_with, definitions
from tests.pipelines.tiny import SIDE, tiny_pipeline
from training.train_vae import VaeConfig, VaeLoss

LESSON = NOTEBOOKS / "04_vae_latent_decoding.ipynb"


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def pixels():
    return torch.rand((2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def lesson(pipe):
    """The functions of the lesson and its imports, with the tiny pipeline where the lesson has loaded one."""
    return definitions(LESSON, pipe=pipe, vae=pipe.vae, side=SIDE, f=pipe.vae_scale_factor)


@torch.no_grad()
def test_the_lesson_s_terms_add_up_to_the_loss_of_the_training(pipe, pixels, lesson):
    noise = torch.zeros((2, 4, SIDE // 2, SIDE // 2))  # the mean is decoded
    posterior = pipe.vae.encode(pixels).latent_dist
    terms = lesson["pixel_terms"](pixels, pipe.vae.decode(posterior.mean).sample).sum()
    theirs = VaeLoss(pipe.vae, VaeConfig(mse_weight=8.0))(pixels, noise)
    ours = terms + 1e-6 * lesson["kl"](posterior.mean, posterior.std) / len(pixels)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_lesson_s_draw_and_its_kl_are_the_library_s(pipe, pixels, lesson):
    with torch.no_grad():
        posterior = pipe.vae.encode(pixels[:1]).latent_dist
    drawn = posterior.mean + posterior.std * normal(count=1, seed=0, like=posterior.mean)
    torch.testing.assert_close(drawn, posterior.sample(torch.Generator().manual_seed(0)))
    torch.testing.assert_close(lesson["kl"](posterior.mean, posterior.std), posterior.kl()[0])


def test_the_lesson_s_weights_are_those_of_the_shipped_vae():
    record = json.loads((POCKET / "vae" / "training.json").read_text(encoding="utf-8"))
    settings = record.get("runs", [record])[0]["settings"]
    assert (settings["mse_weight"], settings["edge_weight"], settings["kl_weight"]) == (8.0, 1.0, 1e-6)


def greys(space, capsys):
    """What the lesson's cell prints for lines every seven pixels: the best greys, and the VAE's brightness."""
    exec(cell_with(LESSON, "greys = torch.linspace"), space)
    return [int(number) for number in re.findall(r"(?:: |mean |std )(\d+)", capsys.readouterr().out)]


def test_the_best_grey_is_the_mean_the_median_and_for_the_loss_one_near_the_mean(lesson, capsys):
    def there_and_back(pictures):  # a VAE that changes nothing
        whole = pictures[..., : SIDE // 7 * 7]
        return [whole, whole]

    squared, l1, loss, brightness, _ = greys(lesson | {"there_and_back": there_and_back}, capsys)
    assert squared == brightness == round(255 * 4 / 7)
    assert (l1, loss) == (255, 147)


def test_the_edges_ask_for_no_grey_in_particular(lesson):
    lines = lesson["lines"](7)
    edges = [lesson["pixel_terms"](lines, torch.full_like(lines, grey))[2] for grey in (-1.0, 0.1, 1.0)]
    torch.testing.assert_close(edges, [edges[0]] * 3)


@pytest.mark.parametrize(("c", "w"), [(1e-3, 1e-6), (0.3, 0.7)])
def test_no_other_sigma_makes_the_sum_smaller(c, w):
    def total(sigma):
        return c * sigma**2 + w / 2 * (sigma**2 - 1 - np.log(sigma**2))

    best = best_sigma(c, w)
    assert total(best) < min(total(0.99 * best), total(1.01 * best))


def test_without_pixel_terms_sigma_is_1():
    assert best_sigma(0.0, 1e-6) == 1.0


@pytest.fixture
def linear():
    """A decoder without a bend: 2 channels to 3, each place to 4 pixels."""
    weight = torch.randn((2, 3, 2, 2), generator=torch.Generator().manual_seed(0))
    return lambda z: torch.conv_transpose2d(z, weight, stride=2)


def test_a_step_downhill_is_the_gradient_by_hand(linear):
    z, wanted = (
        torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in [(1, 2, 3, 3), (1, 3, 6, 6)]
    )
    matrix = torch.stack([linear(unit.view_as(z)).flatten() for unit in torch.eye(z.numel())], dim=1)
    gradient = 2 / wanted.numel() * matrix.T @ (matrix @ z.flatten() - wanted.flatten())
    torch.testing.assert_close(downhill(linear, wanted, z, 0.5), z - 0.5 * gradient.view_as(z), rtol=1e-4, atol=1e-5)


def test_downhill_finds_a_latent_that_there_is_while_gradients_are_off(linear):
    hidden = torch.randn((1, 2, 3, 3), generator=torch.Generator().manual_seed(2))
    wanted, z = linear(hidden), torch.zeros_like(hidden)
    with torch.no_grad():
        for _ in range(300):
            z = downhill(linear, wanted, z, 4.0)
    assert not z.requires_grad
    torch.testing.assert_close(linear(z), wanted, rtol=0, atol=1e-2)


@pytest.fixture(scope="module")
def lesson_in_pocket():
    """What the lesson's exercises need of it, in Pocket Diffusion."""
    gradients = torch.is_grad_enabled()
    space = {}
    for part in ("pipe = load_pipeline", "def to_tensor", "def pixel_terms", "def cost_of_noise"):
        exec(cell_with(LESSON, part).replace('load_pipeline("auto")', 'load_pipeline("pocket", device="cpu")'), space)
    torch.set_grad_enabled(gradients)
    return space


@pytest.mark.slow
@torch.no_grad()
def test_the_formula_s_sigmas_are_within_3_percent_of_the_encoder_s(lesson_in_pocket, capsys):
    cell = cell_with(LESSON, '"04.best_sigma", best_sigma').split("\n", 1)[1]
    exec(cell, lesson_in_pocket | {"best_sigma": best_sigma})
    found = [line.replace(",", "").split() for line in capsys.readouterr().out.splitlines()]
    formula, encoder = np.array([[float(line[k]) for k in (1, 3)] for line in found if "formula" in line]).T
    assert len(formula) == 4
    assert np.array_equal(formula.argsort(), encoder.argsort())
    assert np.all(abs(formula / encoder - 1) < 0.032)  # of numbers with two or three digits
    (cell,) = (cell for cell in nbformat.read(LESSON, 4).cells if "formula         0" in cell.source)
    rows = [line.split()[-4:] for line in cell.source.splitlines() if line.startswith(("formula  ", "encoder  "))]
    assert np.allclose(np.array(rows, float), [formula, encoder], atol=2e-4, rtol=0)
    assert encoder.argmin() == 2


@pytest.mark.slow
@torch.no_grad()
def test_the_vae_is_nearer_than_shrinking_on_each_of_the_24_scenes(lesson_in_pocket, capsys):
    exec(cell_with(LESSON, "def shrink"), dict(lesson_in_pocket))
    assert "the VAE nearer in 24, on average by 6.5 dB" in capsys.readouterr().out


@pytest.mark.slow
@torch.no_grad()
def test_the_vae_s_brightness_is_near_the_mean_and_the_grey_of_the_loss_and_far_from_that_of_l1(
    lesson_in_pocket, capsys
):
    space = dict(lesson_in_pocket)
    exec(cell_with(LESSON, "def there_and_back"), space)
    squared, l1, loss, brightness, std = greys(space, capsys)
    assert max(abs(brightness - squared), abs(brightness - loss)) <= 5
    assert abs(brightness - l1) >= 100
    assert std <= 4


@pytest.mark.slow
@torch.no_grad()
def test_lines_come_back_from_11_pixels_apart_on_and_not_up_to_10(lesson_in_pocket):
    space = dict(lesson_in_pocket)
    exec(cell_with(LESSON, "def kept"), space)
    assert len(space["shares"]) == 8  # all the ways to lie on the places
    apart = np.array(space["spacings"])
    assert space["shares"][:, apart <= 10].max() < 0.1
    assert space["shares"][:, apart >= 11].min() > 0.6


@pytest.mark.slow
@torch.no_grad()
def test_a_latent_found_downhill_has_a_bluish_grey_saddle_and_gains_1_5_db_as_in_the_picture_of_the_fold(
    lesson_in_pocket,
):
    two, vae, to_tensor = (lesson_in_pocket[name] for name in ("two", "vae", "to_tensor"))

    def painted(latent):
        return vae.decode(latent).sample

    def picture(latent):
        return Image.fromarray(as_picture(painted(latent)[0]))

    wanted = to_tensor(two)
    start = better = vae.encode(wanted).latent_dist.mean
    for _ in range(40):
        better = downhill(painted, wanted, better, 1000.0)
    assert psnr(two, picture(better)) - psnr(two, picture(start)) == pytest.approx(1.5, abs=0.2)
    (data,) = (
        cell.attachments for cell in nbformat.read(LESSON, 4).cells if "grey-saddle.jpg" in cell.get("attachments", {})
    )
    shown = Image.open(io.BytesIO(base64.b64decode(data["grey-saddle.jpg"]["image/jpeg"])))
    for i, one in enumerate([two, picture(start), picture(better)]):
        left = 28 + 264 * i
        tile = one.crop((4, 32, 68, 96)).resize((256, 256), Image.Resampling.NEAREST)
        off = np.asarray(shown.crop((left, 50, left + 256, 306)), float) - np.asarray(tile, float)
        assert np.abs(off).mean() < 4
    before, after = (
        picture(latent).resize((1, 1), Image.Resampling.BOX, (38, 50, 46, 52)) for latent in (start, better)
    )
    red, green, blue = after.getpixel((0, 0))
    assert red < blue < red + 25
    assert green - red < (before.getpixel((0, 0))[1] - before.getpixel((0, 0))[0]) / 2
