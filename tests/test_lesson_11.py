"""Lesson 11: its loss is the library's, training moves what it may and nothing else, and what is saved comes back.

The functions are those of the notebook, read from it, so that what a learner sees is what is tested.
"""

import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from helpers import scenes
from helpers.exercises.lesson_11 import adapted, lora_size, merge, prior_loss
from helpers.scenes import BACKGROUNDS, SIZE, SPRITES, STYLES, WORDS, place_scene
from tests.lessons import NOTEBOOKS, constants, definitions
from tests.pipelines.tiny import tiny_pipeline

LESSON = NOTEBOOKS / "11_fine_tuning.ipynb"
WORD, TOKEN = "flamingo", "<flamingo>"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
ATLAS = SPRITES.parent / "new-word" / f"{WORD}.webp"


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def new_sprites():
    with Image.open(ATLAS) as image:
        atlas = image.convert("RGBA")
    return {style: atlas.crop((i * SIZE, 0, (i + 1) * SIZE, SIZE)) for i, style in enumerate(STYLES)}


def taken(pipe, **changed):
    """The lesson's functions, with random latents in the place of the encoded pictures."""
    rng = np.random.default_rng(0)
    made = {
        "pipe": pipe,
        "device": pipe.device,
        "alpha_bar": pipe.scheduler.alphas_cumprod,
        "WORD": WORD,
        "TOKEN": TOKEN,
        "TARGETS": TARGETS,
        "NAMES": (*WORDS, WORD),
        "KEPT_OUT_STYLE": "twemoji",
        "KEPT_OUT_BACKGROUNDS": ("green", "purple"),
        "SEEN_STYLES": list(STYLES[:3]),
        "BATCH": 3,
        "MOMENTS": 2,
        "DRAWING": 2,
        "GUIDANCE": 2.0,
        "new_sprites": new_sprites(),
        "scenes": [place_scene((WORD,), style, "white", None, rng) for style in STYLES[:3] for _ in range(2)],
        "latents": normal(6, 4, 32, 32, seed=9),
    }
    found = definitions(LESSON, **(made | changed))
    pipe.set_progress_bar_config(disable=True)
    return found


@pytest.fixture
def lesson():
    return taken(tiny_pipeline())


# --- the new word


def test_the_new_sprites_are_those_of_the_hash_and_of_no_known_word():
    with Image.open(ATLAS) as image:
        pixels = np.asarray(image.convert("RGBA"))
    assert pixels.shape == (SIZE, len(STYLES) * SIZE, 4)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == ATLAS.with_suffix(".sha256").read_text().strip()
    assert WORD not in WORDS
    for tile in new_sprites().values():
        alpha = np.asarray(tile)[..., 3]
        assert alpha.max() == 255
        assert alpha[0, 0] == 0


def test_old_scenes_are_drawn_as_ever_and_new_ones_with_the_new_sprite(lesson):
    rng = np.random.default_rng(3)
    old = place_scene(("fox",), "noto", "blue", None, rng)
    assert np.array_equal(lesson["draw_any"](old), scenes.draw(old))
    new = np.asarray(lesson["draw_any"](place_scene((WORD,), "noto", "blue", None, rng)))
    assert new.shape == (SIZE, SIZE, 3)
    assert tuple(new[0, 0]) == BACKGROUNDS["blue"]
    assert (new != BACKGROUNDS["blue"]).any(axis=2).mean() > 0.1


def test_the_judge_of_125_words_reads_real_pictures(lesson):
    # Few words at two backgrounds, as the lesson makes its centres; a stand-in for the ceiling that it prints.
    names = ("fox", "pizza", "bird", "key", WORD)
    lesson["NAMES"] = names
    real = lesson["real_pictures"](0, ("white", "blue"))
    assert [len(pictures) for pictures in real] == [2 * len(STYLES)] * len(names)
    lesson["centres"] = torch.cat([lesson["centres_of"](pictures) for pictures in real])
    for name, pictures in zip(names, lesson["real_pictures"](1, ("yellow",)), strict=True):
        assert lesson["read_words"](pictures).count(name) >= 3
        others = [lesson["middle_distance"](pictures, [other] * len(pictures)) for other in names if other != name]
        assert lesson["middle_distance"](pictures, [name] * len(pictures)) < min(others)


def test_the_report_counts_what_was_seen_and_what_was_kept_out(lesson):
    # 16 pictures in the order of `ask`: two backgrounds seen, two kept out, of each four styles.
    hits = [True] * 4 + [True, False, False, True] + [False, False, True, False] + [False] * 3 + [True]
    lesson["read_words"] = lambda pictures: [WORD if hit else "fox" for hit in pictures]
    lesson["middle_distance"] = lambda pictures, names: 2.25
    report = lesson["report"](hits)
    assert report == "4 of 6 seen, 1 of 6 on a new background, 3 of 4 in the new style; middle distance 2.2"
    prompts = lesson["ask"](WORD)
    assert len(prompts) == len(hits)
    assert prompts[0] == "a flamingo on a white background, flat style"
    assert prompts[-1] == "a flamingo on a purple background, twemoji style"
    assert lesson["ask"](TOKEN, ["pink"])[1] == "a <flamingo> on a pink background, glossy style"


# --- loss, batches and loop


@torch.no_grad()
def test_the_loss_is_the_librarys(lesson):
    pipe = lesson["pipe"]
    x0, captions, t, eps = lesson["batch"](3, WORD)
    embedded, _ = pipe.encode_prompt(captions, pipe.device, 1, False)
    x_t = pipe.scheduler.add_noise(x0, eps, t)
    expected = F.mse_loss(pipe.unet(x_t, t, embedded).sample, eps)
    assert_close(lesson["errors"](pipe, x0, captions, t, eps).mean(), expected)


def test_a_batch_depends_on_its_step_and_names_what_its_scene_shows(lesson):
    first, again, other = (lesson["batch"](step, TOKEN) for step in (5, 5, 6))
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    assert torch.equal(first[3], again[3])
    assert not torch.equal(first[3], other[3])
    captions = [text for step in range(100) for text in lesson["batch"](step, TOKEN)[1]]
    assert all(text.startswith("a <flamingo>") for text in captions)
    assert not any("twemoji" in text for text in captions)
    for phrase in ("background", "style"):
        assert 0.7 < np.mean([phrase in text for text in captions]) < 0.9


def test_training_lowers_the_loss_moves_only_the_adapters_and_repeats(lesson):
    pipe = lesson["pipe"]
    frozen = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    text = lesson["fingerprint"](pipe.text_encoder.parameters())
    runs = []
    for _ in range(2):
        weights = lesson["add_lora"](pipe, 4)
        seen = []

        def same_batch(step):
            return lesson["errors"](pipe, *lesson["batch"](0, WORD)).mean()

        losses = lesson["train"](pipe, weights, 1e-2, 6, same_batch, lambda step, losses: seen.append(step))  # noqa: B023
        runs.append((losses, lesson["fingerprint"](weights)))
        assert seen == [3, 6]
        assert losses[-1] < losses[0]
        pipe.unload_lora_weights()
    assert runs[0] == runs[1]
    assert lesson["fingerprint"](pipe.text_encoder.parameters()) == text
    assert all(torch.equal(value, frozen[name]) for name, value in pipe.unet.state_dict().items())


# --- the vector


def test_the_vector_takes_the_place_of_its_row_and_no_other_gets_a_gradient(lesson):
    pipe = lesson["pipe"]
    pipe.tokenizer.add_tokens(TOKEN)
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
    pipe.text_encoder.requires_grad_(False)
    pipe.unet.requires_grad_(False)
    table = pipe.text_encoder.get_input_embeddings()
    new_id = pipe.tokenizer.convert_tokens_to_ids(TOKEN)
    vector = normal(table.embedding_dim).requires_grad_(True)
    lesson |= {"vector": vector, "new_id": new_id, "table": table}

    hook = table.register_forward_hook(lesson["put_vector"])
    with_hook = lesson["text_of"](pipe, [f"a {TOKEN}", "a fox"])
    before = lesson["fingerprint"](lesson["all_but_new"]())
    (gradient,) = torch.autograd.grad(lesson["errors"](pipe, *lesson["batch"](0, TOKEN)).mean(), [vector])
    assert gradient.abs().max() > 0
    hook.remove()
    plain = lesson["text_of"](pipe, [f"a {TOKEN}", "a fox"])
    assert not torch.allclose(with_hook[0], plain[0])
    assert torch.equal(with_hook[1], plain[1])

    with torch.no_grad():
        table.weight[new_id] = vector
    assert_close(lesson["text_of"](pipe, [f"a {TOKEN}", "a fox"]), with_hook)
    assert lesson["fingerprint"](lesson["all_but_new"]()) == before
    with torch.no_grad():
        table.weight[0, 0] += 1e-6
    assert lesson["fingerprint"](lesson["all_but_new"]()) != before


# --- adapters


@pytest.mark.parametrize(("rank", "alpha"), [(1, 1), (3, 6), (8, 2)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_lora_by_hand_is_pefts_layer(lesson, rank, alpha, bias):
    box = torch.nn.Sequential(torch.nn.Linear(5, 7, bias=bias))
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"]), box)
    a, b, x = normal(rank, 5, seed=1), normal(7, rank, seed=2), normal(2, 3, 5, seed=3)
    box[0].lora_A["default"].weight.copy_(a)
    box[0].lora_B["default"].weight.copy_(b)
    frozen = box[0].base_layer
    by_hand = lesson["lora_linear"](x, frozen.weight, frozen.bias, a, b, alpha)
    assert_close(by_hand, box(x), rtol=1e-4, atol=1e-4)
    if not bias:
        assert_close(adapted(x, frozen.weight, a, b, alpha, 1.0), box(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_adapters_begin_at_nothing_are_saved_loaded_scaled_and_fused(lesson, tmp_path):
    pipe, paint, same = lesson["pipe"], lesson["paint"], lesson["same"]
    prompts = ["a fox", "a cat", "a dog"]
    plain = paint(pipe, prompts)
    weights = lesson["add_lora"](pipe, 2)
    assert all(value.dtype == torch.float32 for value in weights)
    assert same(paint(pipe, prompts), plain)

    for i, value in enumerate(weights):
        value.add_(0.3 * normal(*value.shape, seed=i))
    changed = paint(pipe, prompts)
    assert max(lesson["differences"](changed, plain)) > 0
    assert lesson["save_lora"](pipe, tmp_path) == (tmp_path / "pytorch_lora_weights.safetensors").stat().st_size
    assert len(load_file(tmp_path / "pytorch_lora_weights.safetensors")) == len(weights)

    pipe.unload_lora_weights()
    assert same(paint(pipe, prompts), plain)
    pipe.load_lora_weights(tmp_path, adapter_name="new")
    assert max(lesson["differences"](paint(pipe, prompts), changed)) < 0.5
    pipe.set_adapters("new", 0.0)
    assert same(paint(pipe, prompts), plain)
    pipe.set_adapters("new", 1.0)
    pipe.fuse_lora()
    assert max(lesson["differences"](paint(pipe, prompts), changed)) < 0.5
    pipe.unfuse_lora()
    assert max(lesson["differences"](paint(pipe, prompts), changed)) < 0.5


def test_the_size_is_that_of_the_trained_numbers(lesson):
    pipe = lesson["pipe"]
    layers = [m for n, m in pipe.unet.named_modules() if isinstance(m, torch.nn.Linear) and n.endswith(tuple(TARGETS))]
    shapes = [tuple(layer.weight.shape) for layer in layers]
    for rank in (1, 4):
        weights = lesson["add_lora"](pipe, rank)
        assert sum(value.numel() for value in weights) == lora_size(shapes, rank)
        assert len(weights) == 2 * len(layers)
        pipe.unload_lora_weights()


def test_pictures_are_drawn_in_parts_with_seeds_that_run_on(lesson):
    pipe = lesson["pipe"]
    pictures = lesson["paint"](pipe, ["a fox"] * 10, seed=5)
    assert len(pictures) == 10
    assert max(lesson["differences"](pictures[9:], lesson["paint"](pipe, ["a fox"], seed=14))) < 1
    assert lesson["differences"](pictures[:1], pictures[:1]) == [0.0]


# --- the exercises beyond their own cases


def test_merged_adapters_are_the_librarys_weighted_sum():
    weight, x = normal(4, 5), normal(3, 5, seed=1)
    adapters = [(normal(r, 5, seed=r), normal(4, r, seed=10 + r), 2.0 * r, 0.5) for r in (1, 2, 3)]
    a, b = merge(adapters)
    assert a.shape == (6, 5)
    assert b.shape == (4, 6)
    one_by_one = x @ weight.T + sum(adapted(x, weight, *one) - x @ weight.T for one in adapters)
    assert_close(x @ (weight + b @ a).T, one_by_one, rtol=1e-4, atol=1e-5)


def test_the_loss_with_a_prior_is_the_sum_of_two_means():
    predicted, eps = normal(4, 2, 3, 3), normal(4, 2, 3, 3, seed=1)
    expected = F.mse_loss(predicted[:2], eps[:2]) + 0.7 * F.mse_loss(predicted[2:], eps[2:])
    assert_close(prior_loss(predicted, eps, 0.7), expected)


def test_the_kept_out_style_and_backgrounds_are_in_no_training_scene():
    names = ("KEPT_OUT_STYLE", "KEPT_OUT_BACKGROUNDS", "SEEN_STYLES", "SEEN_BACKGROUNDS", "rng", "scenes")
    there = {"np": np, "place_scene": place_scene, "STYLES": STYLES, "BACKGROUNDS": BACKGROUNDS, "WORD": WORD}
    made = constants(LESSON, *names, **there)
    kept_out = {made["KEPT_OUT_STYLE"], *made["KEPT_OUT_BACKGROUNDS"]}
    looks = {(scene.style, scene.background) for scene in made["scenes"]}
    assert not any(kept_out & set(look) for look in looks)
    assert len(kept_out) == 3 and len(looks) == (len(STYLES) - 1) * (len(BACKGROUNDS) - 2)  # and all others are
