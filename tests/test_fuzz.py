"""Inputs that nobody thought of: each gives a right result, or one sentence that names what is wrong.

The same cases in every run. With pytest's option --hypothesis-profile nightly (in conftest.py) there are 20 times as
many, new ones each time, and what fails is printed in a form that can be tried again.
"""

import io
import json
import math
from numbers import Integral, Real

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from helpers import grammar, inputs
from helpers.images import MAX_PIXELS, read_picture
from helpers.latents import encode
from helpers.loading import HUB_ID, load_pipeline
from helpers.playground import SAMPLERS, draw, fit
from helpers.plots import as_picture
from helpers.sampling import denoise
from tests.pipelines.tiny import SIDE, TOKENS, tiny_pipeline

TIMES = settings.default.max_examples // 100  # Hypothesis's own number
LONGEST = 600  # characters of a sentence, beside the value that it names


def cases(count):
    """Run a test on this many cases, or a multiple of them."""
    return settings(
        max_examples=count * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if TIMES > 1 else [])],
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def answer(call, *, names, errors=(ValueError,), value=""):
    """What a call gives; None if it raises one of `errors` with one line that contains one of `names`.

    value: what else the line may hold, however long that is.
    """
    try:
        return call()
    except errors as error:
        text = str(error)
        assert len(text.splitlines()) == 1 and any(name in text for name in names), text
        assert len(text) <= LONGEST + max(map(len, names)) + len(repr(value)), text
        return None


# --- the settings of a run

plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text(), max_size=2)
)  # what JSON can hold
anything = plain | st.binary()
words = st.sampled_from(
    [*grammar.THINGS, "a red fox", " left of ", " on a blue background", ", flat style", "a dragon", " "]
)
texts = st.one_of(st.text(), st.lists(words, max_size=8).map("".join))
whole = st.one_of(st.integers(-2, 1100), st.integers(), st.integers(0, 2**64))
numbers = st.one_of(st.floats(-1, 60), st.floats(), st.integers(-2, 60))
sides = st.one_of(st.none(), st.integers(4, 40).map(lambda n: 8 * n), st.integers(-10, 2100))


def mostly(usual):
    """Now and then something of another kind."""
    return st.one_of(usual, usual, usual, anything)


def is_whole(value, least, most):
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= value <= most


def is_number(value, least, most):
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and math.isfinite(value) and least <= value <= most


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@cases(100)
@given(
    prompt=mostly(texts),
    steps=mostly(whole),
    guidance=mostly(numbers),
    seed=mostly(whole),
    negative_prompt=mostly(texts),
    height=mostly(sides),
    width=mostly(sides),
)
def test_a_run_begins_right_or_is_refused_with_the_wrong_value(pipe, **options):
    prompt = options["prompt"]
    many = isinstance(prompt, list) and prompt
    wrong = {
        "prompt": not isinstance(prompt, str) and not many,
        "steps": not is_whole(options["steps"], 1, 999),
        "guidance": options["guidance"] is not None and not is_number(options["guidance"], 0, 50),
        "seed": not is_whole(options["seed"], 0, 2**63 - 1),
        "negative_prompt": not isinstance(options["negative_prompt"], str),
        **{
            name: options[name] is not None and not (is_whole(options[name], 64, 2048) and options[name] % 8 == 0)
            for name in ("height", "width")
        },
    }
    wrong = [f"{name} is {options[name]!r}" for name, bad in wrong.items() if bad]
    loop = answer(lambda: denoise(pipe, **options), names=wrong or ["nothing is wrong"])
    assert (loop is None) == bool(wrong), wrong
    height, width = (options[name] or SIDE for name in ("height", "width"))
    if loop is not None and height * width <= 256**2:
        x0 = next(loop).x0
        assert x0.shape == (len(prompt) if many else 1, 4, height // 2, width // 2)
        assert x0.isfinite().all()


@cases(150)
@given(strength=mostly(numbers), steps=st.integers(1, 1000))
def test_a_strength_leaves_a_step_or_the_least_that_does_is_told(strength, steps):
    try:
        inputs.check_strength(strength, steps=steps)
    except ValueError as error:
        assert f"{strength!r}" in str(error)
        if is_number(strength, 0, 1):
            assert int(steps * strength) < 1
            inputs.check_strength(float(str(error).rpartition("at least ")[2]), steps=steps)
    else:
        assert int(steps * strength) >= 1


@cases(30)
@given(
    prompt=mostly(texts),
    steps=mostly(st.integers(1, 3)),
    guidance=mostly(st.none() | st.floats(1, 50)),
    sampler=mostly(st.sampled_from(list(SAMPLERS))),
    negative_prompt=texts,
    strength=st.floats(0, 1) | numbers,
    size=st.none() | st.tuples(st.integers(1, 70), st.integers(1, 70)),
)
def test_the_playground_draws_or_says_what_is_wrong(pipe, size, **options):
    picture = None if size is None else Image.new("RGB", size, "skyblue")
    values = [f"{name} is {options[name]!r}" for name in ("prompt", "steps", "guidance", "sampler", "strength")]
    names = [*values, "prompt is empty", f"strength {options['strength']!r} of {options['steps']} steps"]
    drawing = answer(lambda: draw(pipe, picture=picture, **options), names=names)
    if drawing is not None:
        assert drawing.picture.size == (SIDE, SIDE)
        assert 1 <= len(drawing.frames) <= 7
        assert all("\n" not in note for note in drawing.notes)


@cases(100)
@given(prompt=texts)
def test_what_is_cut_of_a_prompt_is_its_end(pipe, prompt):
    cut = inputs.cut_text(pipe.tokenizer, prompt)
    assert prompt.rstrip().endswith(cut)
    if not cut:
        assert len(pipe.tokenizer(prompt).input_ids) <= TOKENS
    for note in inputs.prompt_notes(pipe, prompt):
        assert "\n" not in note


@cases(100)
@given(prompt=texts)
def test_suggestions_go_on_with_any_prompt(prompt):
    offered = grammar.suggestions(prompt, 8)
    assert len(offered) <= 8
    assert all(added and whole.endswith(added) for added, whole in offered)
    assert all("".join(word.split()) in "".join(prompt.lower().split()) for word in grammar.unknown_words(prompt))


# --- pictures


def file_of(mode, kind, size=(13, 9), **options):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    buffer = io.BytesIO()
    picture.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


EXIF = Image.Exif()
EXIF[0x0112] = 8
FILES = [
    *(file_of(mode, "PNG", exif=EXIF) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(file_of(mode, "JPEG", exif=EXIF) for mode in ("L", "RGB", "CMYK")),
    *(file_of("RGB", "JPEG", progressive=True, comment=b"x"),),
    *(file_of(mode, "WEBP", lossless=lossless, exif=EXIF) for mode in ("RGB", "RGBA") for lossless in (True, False)),
    *(file_of("RGB", kind, save_all=True, append_images=[Image.new("RGB", (13, 9))]) for kind in ("PNG", "WEBP")),
    *(file_of("RGB", kind) for kind in ("TIFF", "GIF", "BMP", "PPM", "EPS")),
]


@st.composite
def mutated(draw_one, originals):
    """A valid file with some of its bytes changed, left out or put in."""
    data = bytearray(draw_one(st.sampled_from(originals)))
    for _ in range(draw_one(st.integers(0, 4))):
        place = draw_one(st.integers(0, len(data)))
        length = draw_one(st.sampled_from([0, 1, 1, 2, 4, 40]))
        data[place : place + length] = draw_one(st.one_of(st.binary(max_size=4), st.just(b"\xff" * length)))
    return bytes(data[: draw_one(st.one_of(st.none(), st.none(), st.integers(0, len(data))))])


@cases(400)
@given(data=st.one_of(mutated(FILES), mutated(FILES), st.binary()))
def test_an_upload_is_a_picture_or_one_sentence(pipe, data):
    picture = answer(lambda: read_picture(data, "'x.png'"), names=["'x.png' cannot be read", "'x.png' has"])
    if picture is not None:
        assert picture.mode == "RGB"
        assert 1 <= picture.width * picture.height <= MAX_PIXELS
        if picture.width * picture.height <= 10**6:
            assert fit(pipe, picture).size == (SIDE, SIDE)


colour_modes = st.sampled_from(["RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"])


@cases(100)
@given(
    mode=colour_modes,
    size=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    colour=st.tuples(*[st.integers(0, 255)] * 3),
)
def test_a_pillow_picture_is_shown_in_its_colour(mode, size, colour):
    shown = as_picture(Image.new("RGB", size, colour).convert(mode))
    assert (shown.shape, shown.dtype) == ((size[1], size[0], 3), np.uint8)
    assert np.abs(shown - np.array(colour, float)).max(initial=0) <= 30  # LAB has few dark blues


@cases(50)
@given(mode=st.sampled_from(["I;16", "I;16B", "I;16L"]), level=st.integers(0, 65535))
def test_sixteen_bits_are_scaled(mode, level):
    assert (as_picture(Image.new(mode, (2, 1), level)) == round(level / 257)).all()


floats = st.sampled_from([np.float16, np.float32, np.float64])
shapes = arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)
rows_first = st.tuples(st.integers(0, 3), st.integers(0, 3), st.just(3)) | shapes
colours_first = st.tuples(st.just(3), st.integers(0, 3), st.integers(0, 3)) | shapes


@cases(100)
@given(
    x=arrays.arrays(floats, rows_first, elements=st.floats(0, 1, width=16))
    | arrays.arrays(arrays.scalar_dtypes(), rows_first)
)
def test_an_array_is_a_picture_or_is_refused(x):
    pixels = answer(lambda: as_picture(x), names=["picture as"])
    if pixels is not None:
        assert (pixels.shape, pixels.dtype) == (x.shape, np.uint8)
        if x.dtype != np.uint8:
            assert np.abs(pixels / 255 - x).max(initial=0) <= 0.5 / 255 + 1e-3


@cases(100)
@given(x=arrays.arrays(floats, colours_first, elements=st.floats(-12, 12, width=16) | st.just(math.nan)))
def test_a_tensor_is_a_picture_or_is_refused(x):
    x = torch.from_numpy(x)
    pixels = answer(lambda: as_picture(x), names=["picture as"])
    if pixels is not None:
        assert (pixels.shape, pixels.dtype) == ((*x.shape[1:], 3), np.uint8)


# --- models and their weights


@cases(60)
@given(name=st.one_of(anything, st.text(max_size=4000)).filter(lambda name: not HUB_ID.fullmatch(str(name))))
def test_a_model_of_any_name_is_there_or_refused_in_a_sentence(name):
    if name not in ("auto", "pocket", "sd15"):
        assert answer(lambda: load_pipeline(name, device="cpu"), names=["choose"], value=str(name)) is None


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(folder)
    return folder


WEIGHTS = [
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
]


@st.composite
def spoiled(draw_one, data):
    """A safetensors file, some of it spoiled: its header as text, an entry of its header, its length, or all of it."""
    size = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + size], data[8 + size :]
    how = draw_one(st.sampled_from(["bytes", "cut", "length", "header", "entry", "entry", "entry"]))
    if how == "bytes":
        return draw_one(st.binary(max_size=200))
    if how == "cut":
        return data[: draw_one(st.integers(0, len(data) - 1))]
    if how == "length":
        return draw_one(st.integers(0, 2**64 - 1)).to_bytes(8, "little") + header + rest
    if how == "header":
        header = draw_one(mutated([header]))
    else:
        entries = json.loads(header)
        name = draw_one(st.sampled_from(sorted(entries)))
        part = draw_one(st.sampled_from(["dtype", "shape", "data_offsets", "name", "entry", "nothing"]))
        if part == "name":
            entries[draw_one(st.text())] = entries.pop(name)
        elif part == "nothing":
            del entries[name]
        elif part in entries[name]:
            kinds = st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL"])
            entries[name][part] = draw_one(kinds | st.lists(whole, max_size=4) | plain)
        else:
            entries[name] = draw_one(plain)
        header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + rest


def replace(path, data):
    """Write a file in place of another, which a model that was loaded from it may still read."""
    path.unlink()
    path.write_bytes(data)


@cases(20)
@given(data=st.data(), name=st.sampled_from(WEIGHTS))
def test_spoiled_weights_are_a_pipeline_or_one_sentence(model, data, name):
    right = (model / name).read_bytes()
    try:
        replace(model / name, data.draw(spoiled(right)))
        pipe = answer(lambda: load_pipeline(model, device="cpu"), names=[str(model)], errors=(ValueError, OSError))
        if pipe is not None:
            assert encode(pipe, Image.new("RGB", (SIDE, SIDE))).shape == (1, 4, SIDE // 2, SIDE // 2)
    finally:
        replace(model / name, right)
