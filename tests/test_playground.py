"""The playground: what it draws is what the library draws, what it suggests is Pocket's grammar, and no tracebacks."""

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from helpers import inputs, playground
from helpers.latents import decode
from helpers.loading import load_pipeline
from helpers.pictures import generate
from helpers.playground import SAMPLERS, Playground, draw, fit, make_sampler, read_picture, suggestions
from helpers.sampling import run
from tests.pipelines.tiny import SIDE, tiny_pipeline

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8))


def pixels(picture):
    return np.asarray(picture.convert("RGB")).astype(int)


def encoded(picture, kind="PNG"):
    buffer = io.BytesIO()
    picture.save(buffer, format=kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def pocket():
    return load_pipeline("pocket", device="cpu")


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
    before = pipe.scheduler, pipe.components.keys(), dict(getattr(pipe, "_progress_bar_config", {}))
    draw(pipe, "a fox", steps=1, sampler="Euler")
    assert before == (pipe.scheduler, pipe.components.keys(), dict(getattr(pipe, "_progress_bar_config", {})))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_with_pocket(pocket, sampler):
    drawing = draw(pocket, "a fox", steps=2, sampler=sampler)
    assert drawing.picture.size == (128, 128)
    assert pixels(drawing.picture).std() > 1  # not one flat colour, which is what nan gives
    assert not drawing.notes


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prompt": "  "}, "The prompt is empty: write what to draw, such as 'a fox on a blue background'"),
        ({"steps": 0}, "steps is 0: choose a whole number from 1 to 999"),
        ({"steps": 1000}, "steps is 1000: choose"),
        ({"guidance": 51.0}, r"guidance is 51\.0: choose a number from 0 to 50"),
        ({"seed": -1}, "seed is -1: choose a whole number from 0"),
        ({"sampler": "Heun"}, "sampler is 'Heun': choose one of DDIM, DDPM"),
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
    tall = Image.new("RGB", (10, 30), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    buffer = io.BytesIO()
    tall.save(buffer, format="JPEG", exif=exif)
    assert read_picture(buffer.getvalue()).size == (30, 10)
    clear = read_picture(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0))))
    fitted = fit(pipe, clear)
    assert (fitted.mode, fitted.size, fitted.getpixel((0, 0))) == ("RGB", (SIDE, SIDE), (255, 255, 255))


@pytest.mark.parametrize("data", [b"", b"hello", encoded(PHOTO)[:200], encoded(PHOTO, "JPEG")[:300]])
def test_an_unreadable_upload_is_named(data):
    with pytest.raises(ValueError, match=r"'x\.png' cannot be read as a picture: choose a JPEG, PNG or WebP file"):
        read_picture(data, "'x.png'")


@pytest.mark.parametrize("side", [10_001, 20_000])  # PIL itself warns about the first and refuses the second
def test_a_huge_upload_is_refused(side):
    with pytest.raises(ValueError, match=r"pixels: choose|cannot be read"):
        read_picture(encoded(Image.new("1", (side, side))))


# --- suggestions


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("fo", "a fox"),
        ("a fo", "a fox"),
        ("A  fo", "a fox"),
        ("a fox", "a fox left of"),
        ("a fox le", "a fox left of"),
        ("a fox left of a pi", "a fox left of a pig"),
        ("a fox left of a pig on a bl", "a fox left of a pig on a black background"),
        ("a fox on a blue background", "a fox on a blue background, flat style"),
        ("a fox, gl", "a fox, glossy style"),
        ("my fo", "my fox"),
        ("my piza", "my pizza"),
    ],
)
def test_a_prompt_is_continued(typed, first):
    assert suggestions(typed)[0][1] == first


@pytest.mark.parametrize("typed", ["a fox on a blue background, flat style", "qqqq", "my ", "my fox"])
def test_where_nothing_fits_nothing_is_suggested(typed):
    assert suggestions(typed) == []


def test_suggestions_lead_to_prompts_that_pocket_knows(pocket):
    rng, seen = np.random.default_rng(0), set()
    for _ in range(40):
        prompt = ""
        while offered := suggestions(prompt):
            assert len(offered) <= playground.SUGGESTIONS
            added, prompt = offered[rng.integers(len(offered))]
            assert prompt.endswith(added)
            seen.add(prompt)
        assert inputs.prompt_notes(pocket, prompt) == []
    assert len(seen) > 40


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
    assert page.save.disabled
    page.prompt.value = "a fox"
    page.draw.click()
    assert "Drawn in" in page.message.value
    assert page.result.value.count("<img") == 3  # the picture and two steps
    assert page.result.value.count("alt=") == 3
    assert (page.progress.value, page.progress.max, page.progress.layout.display) == (2, 2, "none")
    page.save.click()
    page.save.click()
    assert sorted(path.name for path in Path(page.folder).iterdir()) == ["picture_0.jpg", "picture_1.jpg"]
    assert "picture_1.jpg" in page.message.value


def test_a_picture_is_changed_and_taken_away_again(page):
    page.prompt.value = "a fox"
    upload(page, encoded(PHOTO))
    assert "<img" in page.given.value
    assert not page.strength.disabled
    page.strength.value = 0.5
    page.draw.click()
    assert "strength 0.5" in page.message.value
    changed = page.drawing.picture
    page.remove.click()
    assert page.given.value == ""
    assert page.strength.disabled
    assert not page.upload.value
    page.draw.click()
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
    page.draw.click()
    assert sentence in page.message.value
    assert page.drawing is None
    assert not page.draw.disabled


def test_an_unreadable_upload_takes_the_one_before_away(page):
    upload(page, encoded(PHOTO))
    upload(page, b"hello", "notes.txt")
    assert "&#x27;notes.txt&#x27; cannot be read as a picture" in page.message.value
    assert page.start is None
    assert page.strength.disabled


def test_unknown_words_and_a_long_prompt_are_drawn_and_told(page, pocket):
    page.prompt.value = "a pizzza " + "and a fox " * pocket.tokenizer.model_max_length
    page.draw.click()
    assert "Pocket has never seen &#x27;pizzza&#x27;; the nearest it knows: &#x27;pizza&#x27;" in page.message.value
    assert f"reads only {pocket.tokenizer.model_max_length} tokens" in page.message.value
    assert page.drawing is not None


def test_what_nobody_thought_of_is_a_sentence_too(page, monkeypatch):
    page.prompt.value = "a fox"
    monkeypatch.setattr(playground, "decode", lambda *arguments: 1 / 0)
    page.draw.click()
    assert "This did not work (ZeroDivisionError: division by zero)" in page.message.value
    assert not page.draw.disabled


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
    page.draw.click()
    assert "The memory of the GPU is full: draw fewer pictures at a time, or smaller ones;" in page.message.value
    assert "did not work" not in page.message.value
    assert page.drawing is None and not page.draw.disabled


def test_a_prompt_cannot_write_html(page):
    page.prompt.value = "<b>a fox</b>"
    page.draw.click()
    assert "<b>" not in page.result.value + page.message.value


def test_pictures_that_cannot_be_saved_are_told(page, tmp_path):
    (tmp_path / "pictures").write_text("")
    page.prompt.value = "a fox"
    page.draw.click()
    page.save.click()
    assert "could not be saved" in page.message.value
