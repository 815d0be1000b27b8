"""What lesson 05 does by hand, held to transformers and diffusers. The functions are taken from the notebook itself."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPTokenizer

from helpers.exercises.lesson_05 import attend, compose, next_pair
from helpers.loading import POCKET
from helpers.sampling import guide
from helpers.scenes import BACKGROUNDS, WORDS
from tests.lessons import NOTEBOOKS, definitions
from tests.pipelines.tiny import tiny_pipeline

LESSON = NOTEBOOKS / "05_text_conditioning.ipynb"
TEXTS = [
    *WORDS,
    *BACKGROUNDS,
    "pizzeria",
    "café",
    "🦊",
    "Schadenfreude",
    "mississippi",
    "a fox, LEFT of a pizza's box!",
]


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
    return definitions(LESSON, pipe=pipe, encoder=text_model, FEW=3)


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
    lesson = definitions(LESSON, splitter=tokenizer.backend_tokenizer, merges=merges)
    assert [lesson["tokenize"](text) for text in TEXTS] == [tokenizer.tokenize(text) for text in TEXTS]


def test_joining_the_next_pair_until_there_is_none_is_too(tokenizer, merges):
    lesson = definitions(LESSON, splitter=tokenizer.backend_tokenizer)
    ranks = {pair: rank for rank, pair in enumerate(merges)}

    def spell(word):
        pieces = [*word[:-1], word[-1] + "</w>"]
        while pair := next_pair(pieces, ranks):
            place = next(i for i in range(len(pieces)) if tuple(pieces[i : i + 2]) == pair)
            pieces[place : place + 2] = ["".join(pair)]
        return pieces

    for text in TEXTS:
        assert [piece for word in lesson["to_bytes"](text) for piece in spell(word)] == tokenizer.tokenize(text)


@pytest.mark.parametrize("text", ["", "a fox", "a fox on a blue background, flat style, " * 9])
def test_ids_with_start_end_and_padding_are_the_library_s(tokenizer, merges, text):
    lesson = definitions(
        LESSON,
        pipe=type("Pipe", (), {"tokenizer": tokenizer, "device": "cpu"}),
        splitter=tokenizer.backend_tokenizer,
        merges=merges,
        vocabulary=tokenizer.get_vocab(),
        start=tokenizer.bos_token_id,
        end=tokenizer.eos_token_id,
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


@torch.no_grad()
@pytest.mark.parametrize("negative", ["", "an owl"])
def test_the_guided_loop_by_hand_is_the_pipeline_s(pipe, lesson, negative):
    text, uncond = pipe.encode_prompt("a fox", "cpu", 1, True, negative_prompt=negative)
    ours = lesson["draw"](text, uncond, 3.0, lesson["noise_at_start"]([5]))
    options = {"negative_prompt": negative, "num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent"}
    theirs = pipe("a fox", generator=torch.Generator().manual_seed(5), **options).images
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_prompt_that_changes_in_the_middle_begins_with_one_and_ends_with_the_other(pipe, lesson):
    fox, owl = (pipe.encode_prompt(prompt, "cpu", 1, False)[0] for prompt in ("a fox", "an owl"))
    uncond, x = pipe.encode_prompt("", "cpu", 1, False)[0], lesson["noise_at_start"]([5])
    switched = [lesson["draw"](lambda i, n=n: fox if i < n else owl, uncond, 3.0, x) for n in (0, 1, 3)]
    torch.testing.assert_close(switched[0], lesson["draw"](owl, uncond, 3.0, x))
    torch.testing.assert_close(switched[2], lesson["draw"](fox, uncond, 3.0, x))
    assert not torch.allclose(switched[1], switched[0]) and not torch.allclose(switched[1], switched[2])


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
    assert lesson["variety"](x[:1].expand(4, -1, -1)) == 0
    assert lesson["variety"](10 * x) == pytest.approx(lesson["variety"](x))
    assert lesson["variety"](torch.eye(5)) == pytest.approx(math.sqrt(2))
