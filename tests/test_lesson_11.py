"""Lesson 11: its loss is the library's, training moves what it may and nothing else, and what is fused is the same.

The functions are those of the notebook, read from it, so that what a learner sees is what is tested.
"""

import base64
import copy
import hashlib
import io
import re

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from helpers import plots, scenes
from helpers.checksums import verify_checksums
from helpers.exercises.lesson_11 import cut, merge, prior_loss, with_lora
from helpers.model_folder import POCKET
from helpers.scenes import GROUNDS, PLAIN, SIZE, SPRITES, STYLES, WORDS, draw, vary
from tests.lessons import NOTEBOOKS, constants, definitions
from tests.pipelines.tiny import randn, tiny_pipeline

LESSON = NOTEBOOKS / "11_fine_tuning.ipynb"
WORD, TOKEN = "flamingo", "<flamingo>"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
ATLAS = SPRITES.parent / "new-word" / f"{WORD}.webp"
TOP = (120, 46, 528, 182)  # of the picture of the scales: the flamingo at the first three
SPRITE = scenes.sprite  # as the course has it: the lesson puts another in its place


def new_sprites():
    with Image.open(ATLAS) as image:
        atlas = image.convert("RGBA")
    return {style: atlas.crop((i * SIZE, 0, (i + 1) * SIZE, SIZE)) for i, style in enumerate(STYLES)}


def taken(pipe, **changed):
    """The lesson's functions, with random latents in the place of the encoded pictures."""
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.requires_grad_(False)
    made = {
        "pipe": pipe,
        "alpha_bar": pipe.scheduler.alphas_cumprod,
        "WORD": WORD,
        "TOKEN": TOKEN,
        "TARGETS": TARGETS,
        "KEPT_STYLE": "twemoji",
        "KEPT_GROUNDS": ("green", "night"),
        "BATCH": 3,
        "EXAM": 6,
        "MOMENTS": 2,
        "DRAWING": 2,
        "GUIDANCE": 2.0,
        "STEPS": 6,
        "flamingos": new_sprites(),
        "layer_with_lora": with_lora,
        "save_file": save_file,
        "latents": randn(6, 4, 32, 32, seed=9),
        "captions": [f"a {WORD} on {ground}" for ground in ("grass", "ice", "sand", "soil", "mud", "rock")],
    }
    return definitions(LESSON, **{"scenes": scenes} | made | changed)


@pytest.fixture
def lesson(monkeypatch):
    monkeypatch.setattr(scenes, "sprite", scenes.sprite)  # put back after the test
    found = taken(tiny_pipeline())
    scenes.sprite = found["sprite"]
    return found


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


def test_the_world_draws_the_new_word_and_old_ones_as_ever(lesson):
    rng = np.random.default_rng(3)
    with pytest.raises(ValueError, match="Unknown word"):
        lesson["sprite"]("ostrich", "noto")
    assert np.array_equal(lesson["sprite"]("fox", "noto"), SPRITE("fox", "noto"))
    scene = vary(lesson["one"](WORD, "blue", "noto"), rng)
    assert scene.caption() == "a flamingo on a blue background, noto style"
    picture = np.asarray(draw(scene))
    assert picture.shape == (SIZE, SIZE, 3)
    assert tuple(picture[0, 0]) == PLAIN["blue"]
    assert (picture != PLAIN["blue"]).any(axis=2).mean() > 0.1


def test_what_is_kept_out_is_in_no_training_scene(lesson):
    names = ("KEPT_STYLE", "KEPT_GROUNDS", "SEEN_STYLES", "SEEN_GROUNDS", "rng", "taught")
    there = {"np": np, "vary": vary, "one": lesson["one"], "STYLES": STYLES, "GROUNDS": GROUNDS, "WORD": WORD}
    made = constants(LESSON, *names, **there)
    kept_out = {made["KEPT_STYLE"], *made["KEPT_GROUNDS"]}
    looks = {(scene.style, scene.ground) for scene in made["taught"]}
    assert not any(kept_out & set(look) for look in looks)
    assert len(kept_out) == 3 and len(looks) == (len(STYLES) - 1) * (len(GROUNDS) - 2)  # and all others are


def test_the_picture_at_the_top_is_cut_from_one_that_the_lesson_draws():
    cells = nbformat.read(LESSON, 4).cells
    (drawing,) = [cell for cell in cells if cell.cell_type == "code" and cell.source.startswith("SCALES =")]
    bundles = [output.get("data", {}) for output in drawing.outputs]
    drawn = [text for data in bundles for kind, text in data.items() if kind.startswith("image/")]
    if not drawn:
        pytest.skip("this version of the lesson was not run yet")
    name = re.search(r"\(\.\./images/new-word/([^)]+)\)", cells[0].source)[1]
    again = "cut the picture at the top from the one below that cell again, as images/new-word/README.md says"
    with Image.open(io.BytesIO(base64.b64decode(drawn[0]))) as whole, Image.open(ATLAS.parent / name) as top:
        part = whole.convert("RGB").crop(TOP).resize(top.size, Image.Resampling.NEAREST)
        assert np.array_equal(np.asarray(part), np.asarray(top.convert("RGB"))), again


# --- the prompts


def test_the_three_prompts_are_of_what_is_taught_and_of_what_is_kept_out(lesson):
    lesson |= constants(LESSON, "SHOWN", "KEPT_STYLE", "KEPT_GROUNDS")
    assert lesson["ask"](WORD) == [
        "a flamingo on a white background, glossy style",
        "a flamingo on a green background, noto style",
        "a flamingo on a white background, twemoji style",
    ]
    assert lesson["ask"](TOKEN)[0] == "a <flamingo> on a white background, glossy style"


# --- loss, batches and loop


@torch.no_grad()
def test_the_loss_is_the_librarys(lesson):
    pipe = lesson["pipe"]
    x0, captions, t, eps = lesson["batch"](3, lesson["latents"], lesson["captions"])
    embedded, _ = pipe.encode_prompt(captions, pipe.device, 1, False)
    x_t = pipe.scheduler.add_noise(x0, eps, t)
    expected = F.mse_loss(pipe.unet(x_t, t, embedded).sample, eps)
    assert_close(lesson["errors"](pipe.unet, x0, captions, t, eps).mean(), expected)


def test_a_batch_depends_on_its_step_and_says_what_it_shows(lesson):
    latents, captions = lesson["latents"], lesson["captions"]
    first, again, other = (lesson["batch"](step, latents, captions) for step in (5, 5, 6))
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    assert torch.equal(first[3], again[3])
    assert not torch.equal(first[3], other[3])
    for step in range(20):
        x0, told, *_ = lesson["batch"](step, latents, captions)
        assert all(torch.equal(x, latents[captions.index(text)]) for x, text in zip(x0, told, strict=True))


def test_training_lowers_the_loss_moves_only_the_adapters_and_repeats(lesson):
    pipe, question = lesson["pipe"], lesson["batch"](0, lesson["latents"], lesson["captions"])
    frozen = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    ends = []
    for _ in range(2):
        unet, loras = lesson["add_lora"](pipe.unet, 4)
        weights = [w for w in unet.parameters() if w.requires_grad]
        assert {id(w) for w in weights} == {id(w) for lora in loras.values() for w in (lora.a, lora.b)}
        loss = lambda step: lesson["errors"](unet, *question).mean()  # noqa: B023, E731
        before = loss(0).item()
        seen = lesson["train"](weights, 1e-2, 6, loss, lambda: loss(0).item())  # noqa: B023
        assert list(seen) == [3, 6]
        assert seen[6] < before
        ends.append([w.detach().clone() for w in weights])
        for name, lora in loras.items():
            assert torch.equal(lora.layer.weight, frozen[f"{name}.weight"])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert all(torch.equal(value, frozen[name]) for name, value in pipe.unet.state_dict().items())


# --- the vector


def test_the_vector_takes_the_place_of_its_row_and_no_other_gets_a_gradient(lesson):
    pipe = lesson["pipe"]
    pipe.tokenizer.add_tokens(TOKEN)
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
    table = pipe.text_encoder.get_input_embeddings().requires_grad_(False)
    new_id = pipe.tokenizer.convert_tokens_to_ids(TOKEN)
    vector = randn(table.embedding_dim).requires_grad_(True)
    lesson |= {"vector": vector, "new_id": new_id}

    hook = table.register_forward_hook(lesson["put_vector"])
    with_hook = lesson["text_of"]([f"a {TOKEN}", "a fox"])
    question = lesson["batch"](0, lesson["latents"], [text.replace(WORD, TOKEN) for text in lesson["captions"]])
    lesson["errors"](pipe.unet, *question).mean().backward()
    assert vector.grad.abs().max() > 0
    assert all(w.grad is None for part in (pipe.unet, pipe.text_encoder) for w in part.parameters())
    hook.remove()
    plain = lesson["text_of"]([f"a {TOKEN}", "a fox"])
    assert not torch.allclose(with_hook[0], plain[0])
    assert torch.equal(with_hook[1], plain[1])

    table.weight[new_id] = vector.detach()
    assert_close(lesson["text_of"]([f"a {TOKEN}", "a fox"]), with_hook)


# --- adapters


def test_the_shipped_files_are_whole_and_have_as_many_numbers_as_their_card_says():
    folder = POCKET.parent / "new-word"
    verify_checksums(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    for path in sorted(folder.glob("*.safetensors")):
        numbers = sum(value.numel() for value in load_file(path).values())
        assert re.search(rf"`{path.name}`[^|]*\| {numbers:,} \|", card), path.name
    assert len(list(folder.glob("*.safetensors"))) == 5


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_lora_by_hand_is_pefts_layer(lesson, rank, bias):
    layer = torch.nn.Linear(5, 7, bias=bias)
    lora = lesson["LoRA"](layer, rank, torch.Generator().manual_seed(0))
    x = randn(2, 3, 5, seed=3)
    assert torch.equal(lora(x), layer(x))  # before any training
    lora.b.copy_(randn(7, rank, seed=2))
    box = torch.nn.Sequential(copy.deepcopy(layer))
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=["0"]), box)
    box[0].lora_A["default"].weight.copy_(lora.a)
    box[0].lora_B["default"].weight.copy_(lora.b)
    assert_close(lora(x), box(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_adapters_begin_at_nothing_are_scaled_fused_and_read_by_the_library(lesson, tmp_path):
    pipe, paint = lesson["pipe"], lesson["paint"]
    prompts = ["a fox", "a cat", "a dog"]
    plain = paint(pipe.unet, prompts)
    unet, loras = lesson["add_lora"](pipe.unet, 2)
    assert len(loras) == sum(name.endswith(TARGETS) for name, _ in pipe.unet.named_modules())
    assert same(paint(unet, prompts), plain)

    for i, lora in enumerate(loras.values()):
        lora.b.copy_(0.3 * randn(*lora.b.shape, seed=i))
    changed = paint(unet, prompts)
    assert not same(changed, plain)
    assert most_apart(paint(lesson["fused"](pipe.unet, loras), prompts), changed) < 0.5
    assert same(paint(lesson["fused"](pipe.unet, loras, 0.0), prompts), plain)
    for lora in loras.values():
        lora.scale = 0.5
    assert most_apart(paint(lesson["fused"](pipe.unet, loras, 0.5), prompts), paint(unet, prompts)) < 0.5
    assert same(paint(pipe.unet, prompts), plain)  # the untouched one is untouched

    lesson["save_lora"](loras, tmp_path / "lora.safetensors")
    other = tiny_pipeline()
    other.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    other.fuse_lora()
    other.unload_lora_weights()
    for name, ours in lesson["fused"](pipe.unet, loras).named_parameters():
        assert_close(other.unet.get_parameter(name), ours, rtol=0, atol=1e-5)


def same(pictures, others):
    return all(np.array_equal(a, b) for a, b in zip(pictures, others, strict=True))


def most_apart(pictures, others):
    return max(plots.difference(a, b).values.mean() for a, b in zip(pictures, others, strict=True))


def test_pictures_are_drawn_in_parts_with_seeds_that_run_on(lesson):
    pipe, paint = lesson["pipe"], lesson["paint"]
    unet = pipe.unet
    pictures = paint(copy.deepcopy(unet), ["a fox"] * 10, seed=5)
    assert len(pictures) == 10
    assert pipe.unet is unet  # put back
    assert most_apart(pictures[9:], paint(unet, ["a fox"], seed=14)) < 1


# --- a LoRA cut to a lower rank


@torch.no_grad()
@pytest.mark.parametrize("rank", [1, 2])
def test_a_lora_is_cut_in_each_of_its_matrices_to_what_comes_closest(lesson, rank):
    unet = lesson["pipe"].unet
    _, loras = lesson["add_lora"](unet, 3)
    full, products = {}, {}
    for i, (name, lora) in enumerate(loras.items()):
        down, up = lora.a, randn(*lora.b.shape, seed=i)
        full |= {f"unet.{name}.lora.down.weight": down, f"unet.{name}.lora.up.weight": up}
        products[f"{name}.weight"] = up @ down
    lesson |= {"untouched": unet, "loras": loras, "full": full, "cut_to": cut}
    for name, weight in lesson["cut_lora"](rank).named_parameters():
        change = weight - unet.get_parameter(name)
        if name not in products:
            assert not change.any(), name
            continue
        assert torch.linalg.matrix_rank(change, rtol=1e-3) == min(rank, *change.shape), name
        left = torch.linalg.svdvals(products[name])[rank:].square().sum()
        assert_close((products[name] - change).square().sum(), left, rtol=1e-3, atol=1e-4)


# --- the exercises beyond their own cases


def test_merged_adapters_are_the_sum_of_all():
    weight, x = randn(4, 5), randn(3, 5, seed=1)
    adapters = [(randn(r, 5, seed=r), randn(4, r, seed=10 + r), 2.0 * r, 0.5) for r in (1, 2, 3)]
    a, b = merge(adapters)
    assert a.shape == (6, 5)
    assert b.shape == (4, 6)
    one_by_one = x @ weight.T + sum(scale * alpha / len(a) * (x @ a.T @ b.T) for a, b, alpha, scale in adapters)
    assert_close(x @ (weight + b @ a).T, one_by_one, rtol=1e-4, atol=1e-5)


def test_the_loss_with_a_prior_is_the_sum_of_two_means():
    predicted, eps = randn(4, 2, 3, 3), randn(4, 2, 3, 3, seed=1)
    expected = F.mse_loss(predicted[:2], eps[:2]) + 0.7 * F.mse_loss(predicted[2:], eps[2:])
    assert_close(prior_loss(predicted, eps, 0.7), expected)
