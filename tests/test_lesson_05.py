"""What lesson 05 does by hand, held to transformers and diffusers. The functions are taken from the notebook itself."""

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from matplotlib.colors import to_hex
from transformers import CLIPTokenizer

from helpers.exercises.lesson_05 import attend, clip_loss, compose
from helpers.judge import NOTHING, read_pocket
from helpers.loading import POCKET
from helpers.plots import faults
from helpers.sampling import guide, normal
from helpers.scenes import GROUNDS, WORDS
from helpers.token_chips import chips
from tests.lessons import NOTEBOOKS, definitions
from tests.pipelines.tiny import tiny_pipeline

LESSON = NOTEBOOKS / "05_text_conditioning.ipynb"
TEXTS = [
    *WORDS,
    *GROUNDS.values(),
    "pizzeria",
    "café",
    "🦊",
    "Schadenfreude",
    "mississippi",
    "a fox, LEFT of a pizza's box!",
]


def functions(**names):
    """The lesson's functions. Two names are needed for their defaults, and the tests give both arguments."""
    return definitions(LESSON, **{"GUIDANCE": None, "empty": None} | names)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def lesson(pipe):
    """The lesson's functions, on the tiny pipeline."""
    text_model = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
    return functions(pipe=pipe, encoder=text_model, STEPS=4, alpha_bar=pipe.scheduler.alphas_cumprod)


@pytest.fixture(scope="module")
def ids(pipe):
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    return pipe.tokenizer(["a fox left of", "an owl"], **options).input_ids


# The tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(POCKET / "tokenizer")


@pytest.fixture(scope="module")
def merges(tokenizer):
    return [tuple(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]


def test_replaying_all_merges_is_the_library_s_tokenizer(tokenizer, merges):
    lesson = functions(splitter=tokenizer.backend_tokenizer, merges=merges)
    assert [lesson["tokenize"](text) for text in TEXTS] == [tokenizer.tokenize(text) for text in TEXTS]


@pytest.mark.parametrize("text", ["", "a fox", "a fox on a blue background, flat style, " * 9])
def test_ids_with_start_end_and_padding_are_the_library_s(tokenizer, merges, text):
    lesson = functions(
        pipe=type("Pipe", (), {"tokenizer": tokenizer, "device": "cpu"}),
        splitter=tokenizer.backend_tokenizer,
        merges=merges,
        vocabulary=tokenizer.get_vocab(),
        start=tokenizer.bos_token_id,
        end=tokenizer.eos_token_id,
        padding=tokenizer.pad_token_id,
        length=tokenizer.model_max_length,
    )
    expected = tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(lesson["to_ids"](text), expected)


# The text encoder


@torch.no_grad()
def test_the_text_encoder_by_hand_is_transformers(pipe, lesson, ids):
    torch.testing.assert_close(lesson["encode"](ids), pipe.text_encoder(ids).last_hidden_state, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_vectors_of_earlier_tokens_do_not_depend_on_later_ones(lesson, ids):
    place = 5
    other = ids.clone()
    other[:, place] = (other[:, place] + 7) % 256
    before, after = lesson["encode"](ids), lesson["encode"](other)
    torch.testing.assert_close(before[:, :place], after[:, :place], rtol=1e-5, atol=1e-6)
    assert ((before[:, place:] - after[:, place:]).norm(dim=-1) > 1e-4).all()


# Attention


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_by_hand_is_torch_s(lesson, heads):
    q, k, v = noise(2, 6, 8), noise(2, 5, 8, seed=1), noise(2, 5, 8, seed=2)
    split = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    expected = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
    torch.testing.assert_close(lesson["attention_by_hand"](q, k, v, heads), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(attend(q, k, v, heads), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_cross_attention_layer_by_hand_is_the_unet_s(pipe, lesson, ids):
    name = next(name for name, _ in pipe.unet.named_modules() if name.endswith("attn2"))
    layer, seen = pipe.unet.get_submodule(name), {}

    def keep(layer, args, kwargs, output):
        seen.update(x=args[0], text=kwargs["encoder_hidden_states"], output=output)

    handle = layer.register_forward_hook(keep, with_kwargs=True)
    pipe.unet(noise(2, 4, 8, 8), 500, encoder_hidden_states=lesson["encode"](ids))
    handle.remove()
    q, k, v = layer.to_q(seen["x"]), layer.to_k(seen["text"]), layer.to_v(seen["text"])
    for by_hand in (attend, lesson["attention_by_hand"]):
        torch.testing.assert_close(layer.to_out[0](by_hand(q, k, v, layer.heads)), seen["output"], rtol=1e-4, atol=1e-5)


# Guidance


@pytest.fixture(scope="module")
def ddim(pipe):
    """The tiny pipeline with the sampler that the lesson's loop takes its steps with."""
    other = tiny_pipeline()
    other.set_progress_bar_config(disable=True)
    other.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, timestep_spacing="leading")
    return other


@torch.no_grad()
@pytest.mark.parametrize("negative", ["", "an owl"])
@pytest.mark.parametrize("scale", [3.0, 1.5])
def test_the_guided_loop_by_hand_is_the_pipeline_s(ddim, lesson, negative, scale):
    text, uncond = ddim.encode_prompt("a fox", "cpu", 1, True, negative_prompt=negative)
    x = normal(2, 5, torch.zeros(1, ddim.unet.config.in_channels, *[ddim.unet.config.sample_size] * 2))
    ours = lesson["draw"](text, x, scale, uncond)
    options = {"num_inference_steps": 4, "guidance_scale": scale, "output_type": "latent", "latents": x}
    theirs = ddim(["a fox"] * 2, negative_prompt=[negative] * 2, **options).images
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_scale_of_one_outside_an_interval_leaves_the_words_alone(pipe, lesson):
    text, uncond = pipe.encode_prompt("a fox", "cpu", 1, True, negative_prompt="")
    x = noise(1, 4, 8, 8)
    never = lesson["draw"](text, x, lambda t: 3.0 if t > 5000 else 1.0, uncond)
    torch.testing.assert_close(never, lesson["draw"](text, x, 1.0, uncond))
    sometimes = lesson["draw"](text, x, lambda t: 3.0 if 200 <= t <= 750 else 1.0, uncond)
    assert not torch.allclose(never, sometimes)


def test_rescaling_gives_v_the_deviation_that_it_has_without_guidance(lesson):
    x, eps_empty, eps_words = noise(2, 4, 8, 8), noise(2, 4, 8, 8, seed=1), noise(2, 4, 8, 8, seed=2)
    a = lesson["alpha_bar"][400]

    def deviation(eps):
        return ((eps - (1 - a).sqrt() * x) / a.sqrt()).std(dim=(1, 2, 3))

    plain = lesson["guide"](eps_empty, eps_words, 8.0)
    whole = lesson["rescaled"](eps_empty, eps_words, 8.0, x, 400, share=1.0)
    torch.testing.assert_close(deviation(whole), deviation(eps_words), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lesson["rescaled"](eps_empty, eps_words, 8.0, x, 400, share=0.0), plain)
    some = deviation(lesson["rescaled"](eps_empty, eps_words, 8.0, x, 400))
    torch.testing.assert_close(some, 0.7 * deviation(eps_words) + 0.3 * deviation(plain), rtol=1e-4, atol=1e-4)


def test_composing_one_prompt_is_guidance_and_two_can_be_a_negative_prompt():
    uncond, text, negative = noise(3, 2, 4, 6, 6)
    torch.testing.assert_close(compose(uncond, [text], [4.0]), guide(uncond, text, 4.0))
    torch.testing.assert_close(
        compose(uncond, [text, negative], [4.0, 1 - 4.0]), guide(negative, text, 4.0), rtol=1e-5, atol=1e-5
    )


# Measuring


def test_the_interval_of_a_share_is_wilson_s(lesson):
    low, high = lesson["wilson"](10, 12)
    # Both ends solve |p - share| = z sqrt(p (1 - p) / n), which defines the interval.
    for p in (low, high):
        assert abs(p - 10 / 12) == pytest.approx(1.96 * math.sqrt(p * (1 - p) / 12))
    assert lesson["wilson"](0, 12)[0] == 0 and lesson["wilson"](12, 12)[1] == 1


def test_variety_is_nothing_for_equal_rows_and_does_not_grow_with_their_length(lesson):
    x = noise(4, 3, 5)
    assert lesson["variety"](x[:1].expand(4, -1, -1)).max() < 1e-3
    torch.testing.assert_close(lesson["variety"](10 * x), lesson["variety"](x))
    torch.testing.assert_close(lesson["variety"](torch.eye(5)), torch.full((5,), math.sqrt(2)))


def test_sharpness_is_the_mean_step_between_neighbours(lesson):
    flat, stripes = np.full((8, 8, 3), 90, np.uint8), np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 100  # every step to the side is 100, every one down is 0
    assert lesson["sharpness"]([flat, stripes]).tolist() == [0, 50]


@pytest.mark.parametrize(
    ("seen", "called"),
    [
        (("red", "blue"), "as asked"),
        (("blue", "red"), "swapped"),
        (("red", "red"), "leaked"),
        (("blue", "blue"), "leaked"),
        (("green", "blue"), "other"),
        (("green", "green"), "other"),
        (("red",), "other"),
        ((), "other"),
    ],
)
def test_what_two_colours_are_called(lesson, seen, called):
    assert lesson["outcome"](seen, ("red", "blue")) == called


def test_the_tokens_taken_away_are_those_of_the_kind(tokenizer, merges):
    lesson = functions(
        pipe=type("Pipe", (), {"tokenizer": tokenizer}),
        splitter=tokenizer.backend_tokenizer,
        merges=merges,
        length=tokenizer.model_max_length,
    )
    sentence, wish = "a red fox left of a blue car in the snow", (("fox", "car"), ("red", "blue"), "snow")
    pieces = ["start", *tokenizer.tokenize(sentence), "end"]

    def taken(kind):
        return [pieces[place].removesuffix("</w>") for place in lesson["places_of"](kind, sentence, *wish)]

    assert taken("colours") == ["red", "blue"]
    assert taken("things") == ["fox", "car"]
    assert taken("ground") == ["in", "the", "snow"]
    assert taken("end") == ["end"]
    assert taken("all words") == sentence.split()
    assert lesson["places_of"]("padding", sentence, *wish) == list(range(len(pieces), tokenizer.model_max_length))


# Helpers that this lesson alone uses


def test_clip_s_loss_is_two_cross_entropies():
    pictures, texts = noise(5, 8), noise(5, 8, seed=1)
    scores = 7 * F.normalize(pictures, dim=1) @ F.normalize(texts, dim=1).T
    pairs = torch.arange(5)
    expected = (F.cross_entropy(scores, pairs) + F.cross_entropy(scores.T, pairs)) / 2
    torch.testing.assert_close(clip_loss(pictures, texts, 7), expected)
    assert clip_loss(pictures, pictures, 7) < clip_loss(pictures, pictures.flip(0), 7)


def test_a_picture_of_another_model_is_not_judged(pipe, capsys):
    assert read_pocket(pipe, ["anything", "of any kind"]) == [NOTHING, NOTHING]
    assert capsys.readouterr().out == "Skipped: the judge reads Pocket's pictures only.\n"


def test_chips_show_every_text_once_and_go_on_in_the_next_line():
    figure = chips([["start", "a", "fox", "end"]], numbers=[["7", "1", "2", "8"]], plain=["start", "end"])
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == ["start", "7", "a", "1", "fox", "2", "end", "8"]
    colours = [to_hex(box.get_facecolor()) for box in axis.patches]
    assert colours[0] == colours[3] != colours[1] == colours[2]
    assert not faults(figure)
    plt.close(figure)

    many = chips([["butterfly"] * 20], names=["a long row"])
    assert not faults(many)
    assert len({text.get_position()[1] for text in many.axes[0].texts}) > 1
    plt.close(many)


@pytest.mark.parametrize(
    ("arguments", "names"), [(([],), {}), (([["a"]],), {"names": ["1", "2"]}), (([["a"]],), {"numbers": [["1", "2"]]})]
)
def test_chips_that_do_not_fit_together_are_refused(arguments, names):
    with pytest.raises(ValueError, match=r"chip|names"):
        chips(*arguments, **names)
