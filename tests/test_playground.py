"""The playground: what it draws is what the library draws, what it suggests is Pocket's grammar, and no tracebacks."""

import io
import os
import struct
import zlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from helpers import playground
from helpers.images import read_picture
from helpers.latents import decode
from helpers.loading import POCKET
from helpers.pictures import generate
from helpers.playground import SAMPLERS, Playground, draw, fit, make_sampler
from helpers.sampling import run
from tests.pipelines.tiny import SIDE, tiny_pipeline

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8))


def pixels(picture):
    return np.asarray(picture.convert("RGB")).astype(int)


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def png(width, height, depth, colour, rows):
    """A PNG file of kinds that Pillow reads and cannot write; colour: 0 gray, 2 RGB, 4 gray and opacity."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def pocket():
    """A pipeline that counts as Pocket Diffusion, by its name."""
    made = tiny_pipeline()
    made.register_to_config(_name_or_path=str(POCKET))
    return made


# --- drawing


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_from_a_prompt_is_that_of_generate(pipe, sampler):
    drawing = draw(pipe, "a fox", steps=3, guidance=4.0, seed=5, sampler=sampler, negative_prompt="blue")
    same = tiny_pipeline()
    same.scheduler = make_sampler(same, sampler)
    (expected,) = generate(same, "a fox", steps=3, guidance=4.0, seed=5, negative_prompt="blue")
    # One colour up or down: the order of float32 sums may differ between two calls.
    assert np.abs(pixels(drawing.picture) - pixels(expected)).max() <= 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_from_a_picture_is_that_of_the_library(pipe, sampler):
    seen = []
    drawing = draw(
        pipe,
        "a fox",
        steps=4,
        guidance=4.0,
        seed=5,
        sampler=sampler,
        picture=PHOTO,
        strength=0.5,
        progress=lambda *numbers: seen.append(numbers),
    )
    own = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    own.scheduler = make_sampler(pipe, sampler)
    own.set_progress_bar_config(disable=True)
    expected = own(
        "a fox",
        image=fit(pipe, PHOTO),
        strength=0.5,
        num_inference_steps=4,
        guidance_scale=4.0,
        generator=torch.Generator("cpu").manual_seed(5),
    ).images[0]
    assert np.abs(pixels(drawing.picture) - pixels(expected)).max() <= 1
    total = own.num_timesteps
    assert seen == [(done, total) for done in range(1, total + 1)]
    assert 2 <= total <= 3  # half of four steps; PNDM calls the U-Net once more


@pytest.mark.parametrize("sampler", ["DDIM", "Euler"])
def test_the_film_strip_shows_x_t_as_the_unet_sees_it_and_ends_with_the_picture(pipe, sampler):
    drawing = draw(pipe, "a fox", steps=9, guidance=4.0, sampler=sampler)
    assert [label for label, _ in drawing.frames] == [f"step {n} of 9" for n in (1, 2, 4, 5, 6, 8, 9)]
    scheduler = make_sampler(pipe, sampler)
    steps = run(pipe, "a fox", steps=9, guidance=4.0, sampler=scheduler).steps
    scheduler.set_timesteps(9)
    after_one = scheduler.scale_model_input(steps[1].latents, scheduler.timesteps[1])
    assert np.abs(pixels(drawing.frames[0][1]) - pixels(decode(pipe, after_one)[0])).max() <= 1
    assert np.abs(pixels(drawing.frames[-1][1]) - pixels(drawing.picture)).max() <= 1


def test_the_pipeline_is_left_as_it_was(pipe):
    before = pipe.scheduler, dict(pipe.scheduler.config), pipe.components
    draw(pipe, "a fox", steps=1, sampler="Euler")
    assert before == (pipe.scheduler, dict(pipe.scheduler.config), pipe.components)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prompt": "  "}, "The prompt is empty: write what to draw, such as 'a fox on a blue background'"),
        ({"steps": 0}, "steps is 0: choose a whole number from 1 to 999"),
        ({"steps": 1000}, "steps is 1000: choose"),
        ({"guidance": 51.0}, r"guidance is 51\.0: choose a number from 1 \(off\) to 50"),
        ({"guidance": 0.5}, r"guidance is 0\.5: this pipeline cannot go below 1 \(off\); choose 1 to 50"),
        ({"seed": -1}, "seed is -1: choose a whole number from 0"),
        ({"sampler": "Heun"}, "sampler is 'Heun': choose one of DDIM, DDPM"),
        ({"sampler": ["DDIM"]}, r"sampler is \['DDIM'\]: choose one of DDIM, DDPM"),
        ({"picture": PHOTO, "strength": 0.1, "steps": 5}, r"strength 0\.1 of 5 steps leaves none to do"),
        ({"negative_prompt": None}, "negative_prompt is None: give text"),
    ],
)
def test_bad_input_is_refused_before_any_work(pipe, monkeypatch, options, sentence):
    monkeypatch.setattr(pipe.unet, "forward", lambda *arguments, **options: pytest.fail("the U-Net was called"))
    with pytest.raises(ValueError, match=sentence):
        draw(pipe, **{"prompt": "a fox", **options})


# --- uploads


def test_an_upload_is_turned_fitted_and_made_opaque(pipe):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    assert read_picture(encoded(Image.new("RGB", (10, 30), "red"), "JPEG", exif=exif)).size == (30, 10)
    clear = read_picture(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0))))
    fitted = fit(pipe, clear)
    assert (fitted.mode, fitted.size, fitted.getpixel((0, 0))) == ("RGB", (SIDE, SIDE), (255, 255, 255))


GRAY16 = np.array([[0, 100 * 257, 65535, 1]], np.uint16)  # 16 bits: black, a gray, white, and all but black
RED, BLUE = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
HALF = Image.new("RGBA", (8, 8), (255, 0, 0, 128))


@pytest.mark.parametrize(
    ("data", "colours"),
    [
        (encoded(Image.fromarray(GRAY16)), [[0] * 3, [100] * 3, [255] * 3, [0] * 3]),
        (
            png(2, 1, 16, 2, b"\0" + struct.pack(">6H", 0, 100 * 257, 65535, 65535, 0, 257)),
            [[0, 100, 255], [255, 0, 1]],
        ),
        (png(2, 1, 16, 4, b"\0" + struct.pack(">4H", 100 * 257, 65535, 100 * 257, 0)), [[100] * 3, [255] * 3]),
        (encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=95), [[0, 255, 255]]),
        (encoded(RED.convert("P")), [[255, 0, 0]]),
        (encoded(RED.convert("P"), transparency=RED.convert("P").getpixel((0, 0))), [[255] * 3]),
        (encoded(Image.new("1", (8, 8), 1)), [[255] * 3]),
        (encoded(HALF, "WEBP", lossless=True), [[255, 127, 127]]),
        (encoded(RED, save_all=True, append_images=[BLUE]), [[255, 0, 0]]),
        (encoded(RED, "WEBP", save_all=True, append_images=[BLUE], lossless=True), [[255, 0, 0]]),
    ],
    ids=["16 gray", "16 RGB", "16 opacity", "CMYK", "palette", "clear palette", "1 bit", "half clear", "APNG", "film"],
)
def test_every_kind_of_upload_is_the_picture_that_it_is(data, colours):
    found = pixels(read_picture(data))[0, : len(colours)]
    assert np.abs(found - colours).max() <= 1


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "BMP", "ICO", "PPM", "TGA"])
def test_other_kinds_of_upload_are_refused(kind):
    with pytest.raises(ValueError, match=r"'x' cannot be read as a picture: choose a JPEG, PNG or WebP file"):
        read_picture(encoded(PHOTO, kind), "'x'")


def test_postscript_is_run_by_nobody(tmp_path, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'run'}\n")
    (tmp_path / "gs").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ValueError, match="cannot be read"):
        read_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    assert not (tmp_path / "run").exists()


DAMAGED_EXIF = b"Exif\0\0II*\0\x08"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        encoded(PHOTO)[:200],
        encoded(PHOTO, "JPEG")[:300],
        encoded(PHOTO, "WEBP")[:300],
        encoded(PHOTO, exif=DAMAGED_EXIF[6:]),
        encoded(PHOTO, "WEBP", exif=DAMAGED_EXIF),
        encoded(PHOTO, "TIFF", compression="tiff_lzw")[:100],
    ],
    ids=["empty", "text", "PNG", "JPEG", "WebP", "PNG's EXIF", "WebP's EXIF", "TIFF"],
)
def test_an_unreadable_upload_is_named(data):
    with pytest.raises(ValueError, match=r"'x\.png' cannot be read as a picture: choose a JPEG, PNG or WebP file"):
        read_picture(data, "'x.png'")


@pytest.mark.parametrize("side", [10_001, 20_000, 2**31 - 1])  # Pillow itself warns of the first and refuses the second
def test_a_huge_upload_is_refused_before_its_pixels_are_read(side):
    with pytest.raises(ValueError, match=r"pixels: choose a picture of at most 50 million"):
        read_picture(png(side, side, 1, 0, b""))


# --- the page


@pytest.fixture
def page(pocket, tmp_path):
    made = Playground(pocket, tmp_path / "pictures")
    made.steps.value = 2
    return made


def upload(page, data, name="x.png"):
    now = datetime.now(UTC)
    page.upload.value = (
        {"name": name, "type": "", "size": len(data), "content": memoryview(data), "last_modified": now},
    )


def test_a_word_is_suggested_and_taken(page):
    page.prompt.value = "a fo"
    assert [button.description for button in page.words if button.layout.display != "none"] == ["a fox", "a football"]
    page.words[0].click()
    assert page.prompt.value == "a fox"


def test_other_models_get_no_suggestions(pipe):
    assert Playground(pipe).words == []


def test_a_picture_is_drawn_shown_and_saved_twice(page):
    assert page.save_button.disabled
    page.prompt.value = "a fox"
    page.draw_button.click()
    assert "Drawn in" in page.message.value
    assert page.result.value.count("<img") == 3  # the picture and two steps
    assert page.result.value.count("alt=") == 3
    assert (page.progress.value, page.progress.max, page.progress.layout.display) == (2, 2, "none")
    page.save_button.click()
    page.save_button.click()
    assert sorted(path.name for path in Path(page.folder).iterdir()) == ["picture_0.jpg", "picture_1.jpg"]
    assert "picture_1.jpg" in page.message.value


def test_a_picture_is_changed_and_taken_away_again(page):
    page.prompt.value = "a fox"
    upload(page, encoded(PHOTO))
    assert "<img" in page.given.value
    assert not page.strength.disabled
    page.strength.value = 0.5
    page.draw_button.click()
    assert "strength 0.5" in page.message.value
    changed = page.drawing.picture
    page.remove.click()
    assert page.given.value == ""
    assert page.strength.disabled
    assert not page.upload.value
    page.draw_button.click()
    assert (pixels(page.drawing.picture) != pixels(changed)).any()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda page: setattr(page.prompt, "value", ""), "The prompt is empty"),
        (lambda page: setattr(page.steps, "value", 0), "steps is 0: choose a whole number from 1 to 999."),
        (lambda page: setattr(page.seed, "value", -1), "seed is -1"),
    ],
)
def test_the_page_says_what_is_wrong_in_a_sentence(page, spoil, sentence):
    page.prompt.value = "a fox"
    spoil(page)
    page.draw_button.click()
    assert sentence in page.message.value
    assert page.drawing is None
    assert not page.draw_button.disabled


def test_an_unreadable_upload_takes_the_one_before_away(page):
    upload(page, encoded(PHOTO))
    upload(page, b"hello", "notes.txt")
    assert "&#x27;notes.txt&#x27; cannot be read as a picture" in page.message.value
    assert page.start is None
    assert page.strength.disabled


def test_unknown_words_and_a_long_prompt_are_drawn_and_told(page, pocket):
    page.prompt.value = "a pizzza " + "and a fox " * pocket.tokenizer.model_max_length
    page.draw_button.click()
    assert "Pocket has never seen &#x27;pizzza&#x27;; the nearest it knows: &#x27;pizza&#x27;" in page.message.value
    assert f"reads only {pocket.tokenizer.model_max_length} tokens" in page.message.value
    assert page.drawing is not None


def test_what_nobody_thought_of_is_a_sentence_too(page, monkeypatch):
    page.prompt.value = "a fox"
    monkeypatch.setattr(playground, "decode", lambda *arguments: 1 / 0)
    page.draw_button.click()
    assert "This did not work (ZeroDivisionError: division by zero)" in page.message.value
    assert not page.draw_button.disabled


@pytest.mark.parametrize("part", ["unet", "vae.decoder", "vae.encoder"])
def test_a_full_gpu_is_advice_on_the_page(tmp_path, part):
    pipe = tiny_pipeline()

    def fail(*inputs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    name, _, inside = part.partition(".")
    pipe.components[name].get_submodule(inside).register_forward_pre_hook(fail)
    page = Playground(pipe, tmp_path)
    page.prompt.value, page.steps.value = "a fox", 2
    upload(page, encoded(PHOTO))
    page.draw_button.click()
    assert "The memory of the GPU is full: draw fewer pictures at a time, or smaller ones;" in page.message.value
    assert "did not work" not in page.message.value
    assert page.drawing is None and not page.draw_button.disabled


def test_a_full_gpu_is_advice_also_while_the_film_is_made(page, monkeypatch):
    def fail(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(playground, "decode", fail)
    page.prompt.value = "a fox"
    page.draw_button.click()
    assert "The memory of the GPU is full: draw fewer pictures at a time" in page.message.value


def test_a_prompt_cannot_write_html(page):
    page.prompt.value = "<b>a fox</b>"
    page.draw_button.click()
    assert "<b>" not in page.result.value + page.message.value


def test_pictures_that_cannot_be_saved_are_told(page, tmp_path):
    (tmp_path / "pictures").write_text("")
    page.prompt.value = "a fox"
    page.draw_button.click()
    page.save_button.click()
    assert "could not be saved" in page.message.value
