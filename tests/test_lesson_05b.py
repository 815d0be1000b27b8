"""What lesson 05b measures and exchanges. The functions are taken from the notebook itself."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from transformers import CLIPTokenizer

from helpers.attention import heads_by
from helpers.exercises.lesson_05b import attend, shrink
from helpers.judge import Reading
from helpers.latents import decode
from helpers.loading import POCKET
from helpers.sampling import normal, predict
from tests.lessons import NOTEBOOKS, definitions
from tests.pipelines.tiny import randn, tiny_pipeline

LESSON = NOTEBOOKS / "05b_which_vectors.ipynb"


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def lesson(pipe):
    """The lesson's functions, on the tiny pipeline."""
    empty = pipe.encode_prompt("", "cpu", 1, False)[0]
    blank = empty.new_zeros(1, pipe.unet.config.in_channels, *[pipe.unet.config.sample_size] * 2)
    words = pipe.encode_prompt("a fox", "cpu", 1, False)[0]
    return definitions(
        LESSON, pipe=pipe, empty=empty, words=words, blank=blank, alpha_bar=pipe.scheduler.alphas_cumprod
    )


@pytest.fixture(scope="module")
def ids(pipe):
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    return pipe.tokenizer(["a fox left of", "an owl"], **options).input_ids


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(POCKET / "tokenizer")


# Attention without some tokens


@pytest.mark.parametrize("gone", [[], [0], [1, 4]])
def test_tokens_that_cannot_be_read_are_as_if_they_were_not_there(gone):
    q, k, v = randn(2, 6, 8), randn(2, 5, 8, seed=1), randn(2, 5, 8, seed=2)
    there = [place for place in range(5) if place not in gone]
    expected = F.scaled_dot_product_attention(q, k[:, there], v[:, there])
    torch.testing.assert_close(attend(q, k, v, gone), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_heads_by_a_function_of_your_own_are_the_u_net_s_and_leave_nothing_behind(pipe, ids):
    text, x = pipe.text_encoder(ids).last_hidden_state, randn(2, 4, 8, 8)
    theirs = predict(pipe, x, 500, text)
    with heads_by(pipe, lambda q, k, v: attend(q, k, v, [])):
        torch.testing.assert_close(predict(pipe, x, 500, text), theirs, rtol=1e-4, atol=1e-5)
    gone = list(range(6, text.shape[1]))
    with heads_by(pipe, lambda q, k, v: attend(q, k, v, gone)):
        masked = predict(pipe, x, 500, text)
    torch.testing.assert_close(masked, predict(pipe, x, 500, text[:, :6]), rtol=1e-4, atol=1e-5)
    assert torch.equal(predict(pipe, x, 500, text), theirs)


# The loop


@torch.no_grad()
def test_vectors_are_the_text_encoder_s(pipe, lesson, ids):
    expected = pipe.text_encoder(ids).last_hidden_state
    torch.testing.assert_close(lesson["encode"]("a fox left of", "an owl"), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_loop_by_hand_is_the_pipeline_s(pipe, lesson):
    other = tiny_pipeline()
    other.set_progress_bar_config(disable=True)
    other.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, timestep_spacing="leading")
    text, _ = pipe.encode_prompt("a fox", "cpu", 1, False)
    x = normal(2, 5, torch.zeros(1, pipe.unet.config.in_channels, *[pipe.unet.config.sample_size] * 2))
    options = {"num_inference_steps": 5, "guidance_scale": 4.0, "output_type": "latent", "latents": x}
    theirs = other(["a fox"] * 2, negative_prompt=[""] * 2, **options).images
    torch.testing.assert_close(lesson["draw"](text, x), theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_vectors_are_lent_at_their_positions_alone(pipe, lesson):
    other = pipe.encode_prompt("an owl", "cpu", 1, False)[0]
    every = list(range(other.shape[1]))
    none, whole = lesson["lent"]([[], every], other, 1)
    x = normal(1, 1, lesson["blank"])
    for picture, words in ((none, lesson["words"]), (whole, other)):
        (expected,) = decode(pipe, lesson["draw"](words, x))
        np.testing.assert_allclose(np.asarray(picture, dtype=float), np.asarray(expected, dtype=float), atol=1)
    assert np.abs(np.asarray(none, dtype=float) - np.asarray(whole, dtype=float)).max() > 1


# Measuring


@pytest.mark.parametrize("needed", [set(), {3}, {1, 4}, {0, 1, 2, 3, 4}])
def test_what_is_left_of_the_positions_is_what_is_needed(needed):
    positions = [4, 2, 0, 1, 3]
    assert set(shrink(positions, lambda chosen: needed <= set(chosen))) == needed
    assert positions == [4, 2, 0, 1, 3]


def test_the_tokens_of_each_kind_are_found(tokenizer):
    length = tokenizer.model_max_length
    lesson = definitions(LESSON, pipe=type("Pipe", (), {"tokenizer": tokenizer}), empty=torch.zeros(1, length, 4))
    sentence = "a red fox left of an orange car in the snow"
    pieces = ["start", *tokenizer.tokenize(sentence), "end"]

    found = lesson["positions_of"](sentence)
    said = {kind: [pieces[i].removesuffix("</w>") for i in found[kind]] for kind in found if kind != "padding"}
    assert said == {
        "left of a": ["left", "of", "an"],
        "other words": ["a", "red", "fox", "orange", "car", "in", "the", "snow"],
        "end": ["end"],
    }
    assert found["padding"] == list(range(len(pieces), length))


@pytest.mark.parametrize(
    ("layout", "words", "colours", "ground", "found"),
    [
        ("beside", ("fox", "car"), ("red", "blue"), "snow", ["thing 1", "thing 2", "ground"]),
        ("above", ("car", "fox"), ("blue", "red"), "white", ["thing 1", "thing 2"]),  # wherever they stand
        ("beside", ("fox", "car"), ("blue", "red"), "snow", ["ground"]),  # each in its colour
        ("beside", ("cat", "car"), ("red", "blue"), "white", ["thing 2"]),
        ("one", ("fox",), ("red",), "white", ["thing 1"]),
        ("", (), (), "", []),
    ],
)
def test_what_is_read_is_counted_part_by_part(lesson, layout, words, colours, ground, found):
    reading = Reading(layout, words, colours, "flat", ground)
    counted = lesson["tick"](reading, (("fox", "car"), ("red", "blue"), "snow"))
    assert [part for part, hit in counted.items() if hit] == found
