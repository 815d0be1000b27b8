"""What lesson 05 does by hand, held to transformers and diffusers. The functions are taken from the notebook itself."""

import base64
import io
import itertools
from collections import Counter

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from PIL import Image
from transformers import CLIPTokenizer

from helpers.exercises.lesson_05 import mixture
from helpers.images import as_picture
from helpers.judge import NOTHING, Reading, read_pocket
from helpers.loading import POCKET, load_pipeline
from helpers.plots import faults
from helpers.sampling import normal
from helpers.scenes import COLOURS, PLAIN, WORDS
from helpers.token_chips import chips, merging
from tests.lessons import NOTEBOOKS, cell_with, constants, definitions
from tests.pipelines.tiny import randn, tiny_pipeline

LESSON = NOTEBOOKS / "05_text_conditioning.ipynb"
WORDS_TO_CUT = [
    *dict.fromkeys(part for word in WORDS for part in word.split()),  # one order in every process
    "pizzeria",
    "café",
    "🦊",
    "Schadenfreude",
    "mississippi",
]


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
    alpha_bar, heads = pipe.scheduler.alphas_cumprod, pipe.text_encoder.config.num_attention_heads
    return definitions(LESSON, pipe=pipe, encoder=text_model, empty=empty, alpha_bar=alpha_bar, heads=heads)


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


@torch.no_grad()
def test_the_mask_hides_later_tokens_alone(lesson):
    mask = lesson["causal_mask"](4, torch.zeros(1))
    assert torch.equal(mask == 0, torch.ones(4, 4).tril().bool())
    assert (mask[mask != 0] == -torch.inf).all()


# Attention


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_by_hand_is_torch_s(lesson, heads):
    q, k, v = randn(2, 6, 8), randn(2, 5, 8, seed=1), randn(2, 5, 8, seed=2)
    split = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    expected = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
    torch.testing.assert_close(lesson["attention_by_hand"](q, k, v, heads), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_cross_attention_layer_by_hand_is_the_unet_s(pipe, lesson, ids):
    name = next(name for name, _ in pipe.unet.named_modules() if name.endswith("attn2"))
    layer, seen = pipe.unet.get_submodule(name), {}

    def keep(layer, args, kwargs, output):
        seen.update(x=args[0], text=kwargs["encoder_hidden_states"], output=output)

    handle = layer.register_forward_hook(keep, with_kwargs=True)
    pipe.unet(randn(2, 4, 8, 8), 500, encoder_hidden_states=lesson["encode"](ids))
    handle.remove()
    q, k, v = layer.to_q(seen["x"]), layer.to_k(seen["text"]), layer.to_v(seen["text"])
    by_hand = layer.to_out[0](lesson["attention_by_hand"](q, k, v, layer.heads))
    torch.testing.assert_close(by_hand, seen["output"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("place", "gone"), [(0, 0), (5, 4), (5, 2)])
def test_one_place_by_hand_is_a_row_of_attention_without_the_token(lesson, place, gone):
    q, k, v = randn(1, 6, 8), randn(1, 5, 8, seed=1), randn(1, 5, 8, seed=2)
    others = [token for token in range(5) if token != gone]
    expected = lesson["attention_by_hand"](q, k[:, others], v[:, others], 1)[0, place]
    torch.testing.assert_close(mixture(q[0, place], k[0], v[0], gone), expected)


# The loop


@torch.no_grad()
def test_the_loop_by_hand_is_the_pipeline_s(pipe, lesson):
    other = tiny_pipeline()
    other.set_progress_bar_config(disable=True)
    other.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, timestep_spacing="leading")
    text, _ = pipe.encode_prompt("a fox", "cpu", 1, False)
    x = normal(2, 5, torch.zeros(1, pipe.unet.config.in_channels, *[pipe.unet.config.sample_size] * 2))
    options = {"num_inference_steps": 8, "guidance_scale": 4.0, "output_type": "latent", "latents": x}
    theirs = other(["a fox"] * 2, negative_prompt=[""] * 2, **options).images
    torch.testing.assert_close(lesson["draw"](text, x, steps=8), theirs, rtol=1e-4, atol=1e-4)


# Measuring

WISH = definitions(LESSON)["Wish"]("fox", "car", "red", "blue", "green", "white", "black")


def test_the_table_s_prompts_have_their_parts_at_one_place(tokenizer, lesson):
    told = lesson["tell"]("orange", "owl", "blue", "rocket", "white")
    assert told == "an orange owl left of a blue rocket on a white background"
    of_the_lesson = cell_with(LESSON, 'prompt = "').rsplit('prompt = "', 1)[1].split('"')[0]
    assert lesson["tell"]("red", "fox", "blue", "car", "white") == of_the_lesson  # the first of the twelve
    for text in (told, lesson["tell"]("red", "fox", "yellow", "butterfly", "orange")):
        pieces = [piece.removesuffix("</w>") for piece in tokenizer.tokenize(text)]
        assert len(pieces) == 12 and pieces[3:5] == ["left", "of"] and pieces[-1] == "background"


@pytest.mark.parametrize(
    ("part", "of_two", "of_one"), [("left", "red", "red"), ("right", "blue", "?"), ("ground", "snow", "white")]
)
def test_what_the_judge_does_not_see_gets_a_question_mark(part, of_two, of_one):
    read = definitions(LESSON)["read"]
    assert read(NOTHING, part) == "?"
    assert read(Reading("beside", ("fox", "car"), ("red", "blue"), "flat", "snow"), part) == of_two
    assert read(Reading("one", ("fox",), ("red",), "flat", "white"), part) == of_one


def test_the_counts_of_a_part_stand_under_their_heads(capsys):
    colours = [("red", "green"), ("red", "green"), ("red", "blue"), ("green", "red")]
    grounds = ["black", "black", "white", "snow"]
    readings = [
        Reading("beside", ("fox", "car"), read, "flat", ground) for read, ground in zip(colours, grounds, strict=True)
    ]
    count = definitions(LESSON, wishes=[WISH] * len(readings))["count"]
    for part, numbers in (("left", ["3", "1", "0"]), ("right", ["1", "2", "1"]), ("ground", ["1", "2", "1"])):
        count({"mine": ([], readings)}, part)
        heads, line = capsys.readouterr().out.splitlines()
        assert line.split() == ["mine", *numbers]
        for head, number in zip(("its own", "the twin's", "another"), numbers, strict=True):
            end = heads.index(head) + len(head)
            assert line[:end].split()[-1] == number and line[end : end + 1] in ("", " ")


def test_prompts_are_compared_in_rows():
    lesson = definitions(LESSON, wishes=[WISH, WISH._replace(left="pink")])
    reading = Reading("beside", ("fox", "car"), ("red", "blue"), "flat", "white")
    pictures = torch.zeros(2, 8, 8, 3, dtype=torch.uint8).numpy()
    figure = lesson["compare"]({"own": (pictures, [reading] * 2), "other": (pictures, [NOTHING] * 2)}, "left", [2, 1])
    said = [text.get_text() for text in (*figure.texts, *(text for axis in figure.axes for text in axis.texts))]
    assert {"own", "other", "2: pink / green", "1: red / green", "red", "?"} <= set(said)
    plt.close(figure)


def test_all_prompts_stand_beside_each_other_and_no_heads_touch():
    wishes = constants(LESSON, "wishes", Wish=definitions(LESSON)["Wish"])["wishes"]
    reading = Reading("beside", ("fox", "car"), ("red", "blue"), "flat", "white")
    pictures = torch.zeros(len(wishes), 8, 8, 3, dtype=torch.uint8).numpy()
    drawn = {"twin's words": (pictures, [reading] * len(wishes)), "twin's padding": (pictures, [NOTHING] * len(wishes))}
    figure = definitions(LESSON, wishes=wishes)["compare_all"](drawn, "ground")
    said = [text.get_text() for text in figure.texts]
    assert {"white / black", "black / yellow", "twin's words"} <= set(said)
    assert said.count("white") == said.count("?") == len(wishes) and not faults(figure)
    plt.close(figure)


def test_the_twins_have_all_colours_and_no_ground_has_the_colour_of_a_thing():
    wishes = constants(LESSON, "wishes", Wish=definitions(LESSON)["Wish"])["wishes"]
    twins = Counter(wish.twin for wish in wishes)
    assert set(twins) == set(COLOURS) and max(twins.values()) == 2
    for wish in wishes:
        grounds = {wish.ground, wish.twin_ground}
        assert wish.left_thing != wish.right_thing and grounds < {*PLAIN} - {"orange"}
        assert len({wish.left, wish.right, wish.twin, *grounds}) == 5


@pytest.mark.parametrize("positions", [(1, 4), ()])
def test_vectors_are_exchanged_at_the_positions_alone(positions):
    own, twin = randn(2, 6, 3), randn(2, 6, 3, seed=1)
    lesson = definitions(LESSON, pipe=None, x_T=None)
    lesson |= {"vectors_of": lambda side=None: (twin if side else own).clone(), "draw": lambda vectors, x: vectors}
    lesson |= {"decode": lambda pipe, latents: latents, "read_pocket": lambda pipe, pictures: len(pictures)}
    mixed, readings = lesson["draw_with"](positions, "left")
    others = [i for i in range(6) if i not in positions]
    assert torch.equal(mixed[:, positions], twin[:, positions]) and torch.equal(mixed[:, others], own[:, others])
    assert readings == 2 and lesson["draw_with"](positions, "left")[0] is mixed


@pytest.mark.parametrize(
    ("twin", "text"),
    [
        (None, "a red fox left of a blue car on a white background"),
        ("left", "a green fox left of a blue car on a white background"),
        ("right", "a red fox left of a green car on a white background"),
        ("ground", "a red fox left of a blue car on a black background"),
    ],
)
def test_each_twin_differs_from_its_prompt_in_one_part(twin, text):
    lesson = definitions(LESSON, wishes=[WISH])
    lesson |= {"to_ids": lambda *texts: texts, "encode": lambda texts: texts}
    assert lesson["vectors_of"](twin) == (text,)


@torch.no_grad()
def test_the_picture_in_the_hunt_s_answer_has_the_twin_s_vector_at_7_or_10_alone():
    pipe = load_pipeline("pocket", device="cpu")
    empty, alpha_bar = pipe.encode_prompt("", "cpu", 1, False)[0], pipe.scheduler.alphas_cumprod
    lesson = {
        "pipe": pipe,
        "empty": empty,
        "alpha_bar": alpha_bar,
        "heads": pipe.text_encoder.config.num_attention_heads,
    }
    lesson["encoder"] = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
    lesson = definitions(LESSON, **lesson)
    wishes = constants(LESSON, "wishes", Wish=lesson["Wish"])["wishes"]
    noise = normal(len(wishes), 50, torch.zeros(1, pipe.unet.config.in_channels, *[pipe.unet.config.sample_size] * 2))
    shown_prompts = [1, 3, 4, 6]  # prompts 2, 4, 5 and 7
    lesson |= {"wishes": [wishes[i] for i in shown_prompts], "x_T": noise[shown_prompts]}
    rows = [lesson["draw_with"](positions, "right") for positions in ((), (7,), (10,))]
    turned = [
        [lesson["read"](one, "right") == wish.twin for one, wish in zip(readings, lesson["wishes"], strict=True)]
        for _, readings in rows
    ]
    # Of these four none, then the star and the fox, then the two apples.
    assert turned == [[False] * 4, [True, True, False, False], [False, False, True, True]]
    cells = nbformat.read(LESSON, 4).cells
    (found,) = (cell.attachments for cell in cells if "one-alone.jpg" in cell.get("attachments", {}))
    shown = Image.open(io.BytesIO(base64.b64decode(found["one-alone.jpg"]["image/jpeg"])))
    for row, (pictures, _) in enumerate(rows):
        for column, picture in enumerate(pictures):
            left, top = 124 + column * 200, 50 + row * 220
            tile = np.asarray(shown.crop((left, top, left + 192, top + 192)), float)
            drawn = np.asarray(Image.fromarray(as_picture(picture)).resize((192, 192)), float)
            assert np.abs(tile - drawn).mean() < 4


# Helpers that this lesson alone uses


def test_a_picture_of_another_model_is_not_judged(pipe, capsys):
    assert read_pocket(pipe, ["anything", "of any kind"]) == [NOTHING, NOTHING]
    assert capsys.readouterr().out == "Skipped: the judge reads Pocket's pictures only.\n"


def test_chips_show_every_text_once_and_go_on_in_the_next_line():
    figure = chips([["a", "fox"], ["an", "owl"]])
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == ["a", "fox", "an", "owl"]
    assert not faults(figure)
    plt.close(figure)

    many = chips([["butterfly"] * 20], names=["a long row"])
    assert not faults(many)
    assert len({text.get_position()[1] for text in many.axes[0].texts}) > 1
    plt.close(many)


@pytest.mark.parametrize(("arguments", "names"), [(([],), {}), (([["a"]],), {"names": ["1", "2"]})])
def test_chips_that_do_not_fit_together_are_refused(arguments, names):
    with pytest.raises(ValueError, match=r"chip|names"):
        chips(*arguments, **names)
