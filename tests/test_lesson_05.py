"""What lesson 05 does by hand, held to transformers and diffusers. The functions are taken from the notebook itself."""

import itertools

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from matplotlib.colors import to_hex
from transformers import CLIPTokenizer

from helpers.attention import heads_by
from helpers.exercises.lesson_05 import attend, shrink
from helpers.judge import NOTHING, Reading, read_pocket
from helpers.loading import POCKET
from helpers.plots import faults
from helpers.sampling import normal, predict
from helpers.scenes import WORDS
from helpers.token_chips import chips, merging
from tests.lessons import NOTEBOOKS, definitions
from tests.pipelines.tiny import tiny_pipeline

LESSON = NOTEBOOKS / "05_text_conditioning.ipynb"
WORDS_TO_CUT = [
    *dict.fromkeys(part for word in WORDS for part in word.split()),  # one order in every process
    "pizzeria",
    "café",
    "🦊",
    "Schadenfreude",
    "mississippi",
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
    empty = pipe.encode_prompt("", "cpu", 1, False)[0]
    return definitions(LESSON, pipe=pipe, encoder=text_model, empty=empty, alpha_bar=pipe.scheduler.alphas_cumprod)


@pytest.fixture(scope="module")
def ids(pipe):
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    return pipe.tokenizer(["a fox left of", "an owl"], **options).input_ids


# The tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(POCKET / "tokenizer")


@pytest.mark.parametrize("word", WORDS_TO_CUT)
def test_merging_a_word_ends_with_the_library_s_tokens(tokenizer, word):
    rows = merging(tokenizer, word)
    assert rows[-1] == tokenizer.tokenize(word)
    assert all("".join(row) == "".join(rows[0]) and len(row) < len(above) for above, row in itertools.pairwise(rows))


@pytest.mark.parametrize("text", ["", "a fox"])
def test_merging_takes_one_word(tokenizer, text):
    with pytest.raises(ValueError, match="give one"):
        merging(tokenizer, text)


@pytest.mark.parametrize("text", ["", "a fox", "a fox on a blue background, flat style, " * 9])
def test_ids_are_start_tokens_end_and_padding(tokenizer, text):
    lesson = definitions(LESSON, pipe=type("Pipe", (), {"tokenizer": tokenizer, "device": "cpu"}))
    start, end, length = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.model_max_length
    words = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))[: length - 2]
    assert lesson["to_ids"](text).tolist() == [[start, *words, *[end] * (length - 1 - len(words))]]


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


@pytest.mark.parametrize("gone", [[], [0], [1, 4]])
def test_tokens_that_cannot_be_read_are_as_if_they_were_not_there(gone):
    q, k, v = noise(2, 6, 8), noise(2, 5, 8, seed=1), noise(2, 5, 8, seed=2)
    there = [place for place in range(5) if place not in gone]
    expected = F.scaled_dot_product_attention(q, k[:, there], v[:, there])
    torch.testing.assert_close(attend(q, k, v, gone), expected, rtol=1e-5, atol=1e-6)


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
    by_hand = layer.to_out[0](lesson["attention_by_hand"](q, k, v, layer.heads))
    torch.testing.assert_close(by_hand, seen["output"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_heads_by_a_function_of_your_own_are_the_u_net_s_and_leave_nothing_behind(pipe, lesson, ids):
    text, x = lesson["encode"](ids), noise(2, 4, 8, 8)
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
def test_the_loop_by_hand_is_the_pipeline_s(pipe, lesson):
    other = tiny_pipeline()
    other.set_progress_bar_config(disable=True)
    other.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, timestep_spacing="leading")
    text, _ = pipe.encode_prompt("a fox", "cpu", 1, False)
    x = normal(2, 5, torch.zeros(1, pipe.unet.config.in_channels, *[pipe.unet.config.sample_size] * 2))
    options = {"num_inference_steps": 10, "guidance_scale": 4.0, "output_type": "latent", "latents": x}
    theirs = other(["a fox"] * 2, negative_prompt=[""] * 2, **options).images
    torch.testing.assert_close(lesson["draw"](text, x), theirs, rtol=1e-4, atol=1e-4)


# Measuring


@pytest.mark.parametrize("needed", [set(), {3}, {1, 4}, {0, 1, 2, 3, 4}])
def test_what_is_left_of_the_positions_is_what_is_needed(needed):
    positions = [4, 2, 0, 1, 3]
    assert set(shrink(positions, lambda chosen: needed <= set(chosen))) == needed
    assert positions == [4, 2, 0, 1, 3]


def test_the_table_s_prompts_have_their_parts_at_one_place(tokenizer, lesson):
    told = lesson["tell"]("orange", "owl", "blue", "rocket", "white")
    assert told == "an orange owl left of a blue rocket on a white background"
    for text in (told, lesson["tell"]("red", "fox", "yellow", "butterfly", "orange")):
        pieces = [piece.removesuffix("</w>") for piece in tokenizer.tokenize(text)]
        assert len(pieces) == 12 and pieces[3:5] == ["left", "of"] and pieces[-1] == "background"


def test_the_tokens_taken_away_are_those_of_the_kind(tokenizer):
    length = tokenizer.model_max_length
    lesson = definitions(LESSON, pipe=type("Pipe", (), {"tokenizer": tokenizer}), empty=torch.zeros(1, length, 4))
    sentence, wish = "a red fox left of a blue car in the snow", (("fox", "car"), ("red", "blue"), "snow")
    pieces = ["start", *tokenizer.tokenize(sentence), "end"]

    def taken(kind):
        return [pieces[place].removesuffix("</w>") for place in lesson["positions_of"](kind, sentence, wish)]

    assert taken("own words") == ["fox", "car", "red", "blue"]
    assert taken("other words") == ["a", "left", "of", "a", "in", "the", "snow"]
    assert lesson["positions_of"]("padding", sentence, wish) == list(range(len(pieces), length))


BOTH = ["thing 1", "thing 1 in colour 1", "thing 2", "thing 2 in colour 2"]


@pytest.mark.parametrize(
    ("layout", "words", "colours", "ground", "found"),
    [
        ("beside", ("fox", "car"), ("red", "blue"), "snow", [*BOTH, "ground"]),
        ("above", ("car", "fox"), ("blue", "red"), "white", BOTH),  # wherever they stand
        ("beside", ("fox", "car"), ("blue", "red"), "snow", ["thing 1", "thing 2", "a colour leaks", "ground"]),
        ("beside", ("cat", "car"), ("blue", "red"), "white", ["thing 2", "a colour leaks"]),
        ("one", ("fox",), ("blue",), "white", ["thing 1", "a colour leaks"]),
        (
            "beside",
            ("car", "car"),
            ("red", "blue"),
            "white",
            ["thing 2", "thing 2 in colour 2", "thing 2 twice", "a colour leaks"],
        ),
        ("", (), (), "", []),
    ],
)
def test_what_is_read_is_counted_part_by_part(lesson, layout, words, colours, ground, found):
    reading = Reading(layout, words, colours, "flat", ground)
    counted = lesson["tick"](reading, (("fox", "car"), ("red", "blue"), "snow"))
    assert [part for part, hit in counted.items() if hit] == found


# Helpers that this lesson alone uses


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
