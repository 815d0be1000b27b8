"""What a learner passes in: every value out of range gets a sentence, every good one passes."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline

from helpers import inputs, loading
from helpers.scenes import WORDS
from tests.pipelines.tiny import TOKENS, tiny_pipeline


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture
def pocket(monkeypatch, tmp_path):
    """A pipeline that counts as Pocket Diffusion because it was loaded from the folder that now stands for it."""
    monkeypatch.setattr(loading, "POCKET", tmp_path / "pocket")
    pipe = tiny_pipeline()
    pipe.register_to_config(_name_or_path=str(tmp_path / "pocket"))
    return pipe


def refused(check, *arguments, parts, **options):
    with pytest.raises(ValueError) as caught:
        check(*arguments, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for part in parts:
        assert part in sentence


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, 25.0, "25", None, True])
def test_steps_out_of_range(steps):
    refused(inputs.check_steps, steps, DDIMScheduler(), parts=[f"steps is {steps!r}", "1 to 1000"])


@pytest.mark.parametrize("steps", [1, 25, 1000, np.int64(50)])
def test_steps_in_range(steps):
    inputs.check_steps(steps, DDIMScheduler())


def test_the_most_steps_are_as_many_as_the_scheduler_can_take(pipe):
    """With Stable Diffusion's offset the last timestep would be 1000, one past the end."""
    refused(inputs.check_steps, 1000, pipe.scheduler, parts=["steps is 1000", "1 to 999"])
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    for steps in (1, 2, 3, 7, 500, 501, 998, 999):
        inputs.check_steps(steps, scheduler)
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps.max() < 1000
    scheduler.set_timesteps(1000)
    assert scheduler.timesteps.max() == 1000


def test_steps_follow_the_scheduler():
    inputs.check_steps(10, EulerDiscreteScheduler(num_train_timesteps=10))
    refused(inputs.check_steps, 11, EulerDiscreteScheduler(num_train_timesteps=10), parts=["11", "1 to 10"])


def test_pndm_needs_four_steps_for_its_runge_kutta_start():
    scheduler = PNDMScheduler()
    refused(inputs.check_steps, 3, scheduler, parts=["steps is 3", "4 to 1000"])
    with pytest.raises(ValueError, match="shape"):
        scheduler.set_timesteps(3)
    scheduler.set_timesteps(4)
    inputs.check_steps(4, scheduler)
    inputs.check_steps(1, PNDMScheduler(skip_prk_steps=True))


@pytest.mark.parametrize("scale", [-0.1, 50.5, math.nan, math.inf, "7", None, True])
def test_guidance_out_of_range(scale):
    refused(inputs.check_guidance, scale, parts=[f"guidance is {scale!r}", "0 to 50", "1 means off"])


@pytest.mark.parametrize("scale", [0, 1, 7.5, 50, np.float32(4)])
def test_guidance_in_range(scale):
    inputs.check_guidance(scale)


@pytest.mark.parametrize("scale", [0, 0.99, -1, 51, math.nan, "7"])
def test_a_pipelines_guidance_begins_at_one(scale):
    refused(inputs.check_pipeline_guidance, scale, parts=[f"guidance is {scale!r}", "choose"])
    inputs.check_pipeline_guidance(1)


@pytest.mark.parametrize("strength", [-0.01, 1.01, math.nan, "0.5", None])
def test_strength_out_of_range(strength):
    refused(inputs.check_strength, strength, parts=[f"strength is {strength!r}", "0 (keep", "1 (start"])


def test_strength_in_range():
    for strength in (0, 0.5, 1):
        inputs.check_strength(strength)
    inputs.check_strength(0.04, steps=25)


def test_strength_that_leaves_no_step():
    refused(inputs.check_strength, 0.03, steps=25, parts=["0.03 of 25 steps", "at least 0.04"])


def test_the_strength_that_is_advised_is_enough_for_every_number_of_steps():
    for steps in range(1, 1000):
        with pytest.raises(ValueError) as caught:
            inputs.check_strength(0.0, steps=steps)
        advised = float(str(caught.value).rpartition("at least ")[2])
        inputs.check_strength(advised, steps=steps)
        assert advised * steps < 2  # and not more than one step needs, but for the rounding


@pytest.mark.parametrize("side", [0, 32, 100, 2056, -64, 128.0, "128"])
def test_sizes_out_of_range(side, pipe):
    parts = [f"is {side!r}", "multiple of 8 from 64 to 2048"]
    refused(inputs.check_size, side, 128, pipe, parts=["height", *parts])
    refused(inputs.check_size, 128, side, pipe, parts=["width", *parts])


def test_sizes_in_range(pipe):
    for sides in ((None, None), (64, 2048), (128, None), (72, 136)):
        inputs.check_size(*sides, pipe)


def test_sizes_follow_the_vae():
    pipe = SimpleNamespace(vae_scale_factor=16)
    inputs.check_size(64, 80, pipe)
    refused(inputs.check_size, 72, 80, pipe, parts=["height is 72", "multiple of 16"])


@pytest.mark.parametrize("seed", [-1, 2**63, 0.5, "0", None])
def test_seeds_out_of_range(seed):
    refused(inputs.check_seed, seed, parts=[f"seed is {seed!r}", "0 to 2**63 - 1"])


def test_seeds_in_range():
    for seed in (0, 2**63 - 1, np.int64(5)):
        inputs.check_seed(seed)


@pytest.mark.parametrize("prompt", [None, 3, b"a fox", ["a fox"]])
def test_a_prompt_that_is_no_text(prompt, pipe):
    refused(inputs.prompt_notes, pipe, prompt, parts=[f"prompt is {prompt!r}", "'a fox on a blue background'"])


@pytest.mark.parametrize("prompts", [None, 3, [], {"a fox"}])
def test_prompts_that_are_no_texts(prompts):
    refused(inputs.check_prompts, prompts, parts=[f"prompt is {prompts!r}", "list"])


def test_one_prompt_of_a_list_that_is_no_text():
    refused(inputs.check_prompts, ["a fox", 3], parts=["in the list is 3"])


def test_prompts_become_a_list():
    assert inputs.check_prompts("a fox") == ["a fox"]
    assert inputs.check_prompts(("a fox", "")) == ["a fox", ""]


# Notes


def test_an_empty_prompt_gets_no_notes(pipe, pocket):
    assert inputs.prompt_notes(pipe, "") == inputs.prompt_notes(pocket, "") == []


def test_a_prompt_that_just_fits_is_not_cut(pipe):
    # Each letter is one token here, and two places are for start and end.
    assert inputs.prompt_notes(pipe, "x" * (TOKENS - 2)) == []
    letters = [chr(ord("a") + i % 26) for i in range(TOKENS)]
    assert inputs.cut_text(pipe.tokenizer, " ".join(letters[:-2])) == ""
    assert inputs.cut_text(pipe.tokenizer, " ".join(letters[:-1])) == letters[-2]
    assert inputs.cut_text(pipe.tokenizer, " ".join(letters)) == " ".join(letters[-2:])


def test_the_text_that_was_cut_is_named_from_the_start_of_a_word(pipe, caplog):
    prompt = "A Fox left of a Pizza, on a white Background, glossy style"
    kept, cut = prompt[: prompt.index("Background")], prompt[prompt.index("Background") :]
    letters = len(kept.replace(" ", ""))
    assert letters < TOKENS - 2 < letters + len("Background,")  # the limit lies inside the word
    assert inputs.cut_text(pipe.tokenizer, prompt) == cut
    (note,) = inputs.prompt_notes(pipe, prompt)
    assert repr(cut) in note and f"{TOKENS} tokens" in note
    assert "cut" in note
    assert not caplog.records


def test_what_is_kept_is_what_the_encoder_reads(pipe):
    prompt = "one two three four five six seven eight nine ten"
    cut = inputs.cut_text(pipe.tokenizer, prompt)
    read = pipe.tokenizer(prompt, truncation=True).input_ids
    whole = pipe.tokenizer(prompt.removesuffix(cut)).input_ids
    assert read[: len(whole) - 1] == whole[:-1]
    assert cut == "eight nine ten"


@pytest.mark.parametrize(
    "prompt, unknown, offered",
    [
        ("a foxx", "foxx", ["fox"]),
        ("a kat", "kat", ["cat"]),
        ("a hart", "hart", ["heart", "shark"]),
        ("an ice cream", "ice", ["icecream"]),
        ("a hot dog", "hot", ["hotdog"]),
        ("a palmtree", "palmtree", ["palm tree"]),
    ],
)
def test_a_new_word_is_named_with_the_nearest_known(pocket, prompt, unknown, offered):
    note = inputs.prompt_notes(pocket, prompt)[0]
    assert f"never seen {unknown!r}; the nearest it knows: " in note
    for word in offered:
        assert repr(word) in note


def test_new_words_near_nothing_share_one_note_with_three_examples(pocket):
    (note,) = inputs.prompt_notes(pocket, "an astronaut riding a horse")
    assert "'astronaut', 'riding'" in note and "horse" not in note
    examples = [word for word in WORDS if repr(word) in note]
    assert len(examples) == 3


def test_only_pocket_has_a_list_of_known_words(pipe):
    assert inputs.prompt_notes(pipe, "an astronaut") == []


def test_a_word_added_to_the_tokenizer_is_known(pocket):
    assert len(inputs.prompt_notes(pocket, "a <my-dragon> on")) == 2
    pocket.tokenizer.add_tokens(["<my-dragon>"])
    assert inputs.prompt_notes(pocket, "a <my-dragon> on") == []


def test_other_sizes_are_noted_for_pocket_alone(pipe, pocket):
    (note,) = inputs.size_notes(pocket, 192, None)
    assert "128 x 128" in note and "128 x 192" in note
    assert inputs.size_notes(pocket, None, None) == inputs.size_notes(pocket, 128, 128) == []
    assert inputs.size_notes(pipe, 192, 192) == []


# A whole run


def checked(pipe, prompt="a fox", **options):
    usual = {"steps": 25, "guidance": None, "seed": 0, "negative_prompt": None, "height": None, "width": None}
    return inputs.check_run(pipe, prompt, scheduler=pipe.scheduler, **usual | options)


def test_a_run_that_is_right_gets_its_prompts_its_guidance_and_no_notes(pipe, pocket):
    assert checked(pipe) == inputs.CheckedRun(["a fox"], 7.5, [])
    assert checked(pocket, ["a fox", "an owl"]) == inputs.CheckedRun(["a fox", "an owl"], 4.0, [])
    assert checked(pocket, guidance=2).guidance == 2.0


def test_the_notes_of_a_run_are_given_once_and_not_printed(pocket, capsys):
    notes = checked(pocket, ["a foxx", "a foxx"], negative_prompt="a kat", guidance=1, height=192).notes
    assert [note.partition(";")[0] for note in notes[:2]] == [
        "Pocket has never seen 'foxx'",
        "Pocket has never seen 'kat'",
    ]
    assert "expect odd shapes at 128 x 192" in notes[2]
    assert notes[3:] == ["The negative prompt has no effect with guidance 1 (off)"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompt": 3}, "prompt is 3"),
        ({"negative_prompt": 3}, "negative_prompt is 3"),
        ({"steps": 0}, "steps is 0"),
        ({"guidance": 51}, "guidance is 51"),
        ({"seed": -1}, "seed is -1"),
        ({"height": 100}, "height is 100"),
    ],
)
def test_a_run_that_is_wrong_is_refused(pipe, options, says):
    refused(checked, pipe, parts=[says], **options)


# Which one is Pocket


def test_a_pipeline_made_in_memory_is_not_pocket(pipe):
    assert not loading.is_pocket(pipe)


def test_pocket_is_known_by_its_folder(tmp_path, monkeypatch):
    for name in ("pocket", "other"):
        tiny_pipeline().save_pretrained(tmp_path / name)
    monkeypatch.setattr(loading, "POCKET", tmp_path / "pocket")
    monkeypatch.chdir(tmp_path)
    pocket = loading.load_pipeline("pocket", device="cpu")
    assert loading.is_pocket(pocket)
    assert loading.is_pocket(loading.load_pipeline("other/../pocket", device="cpu"))
    assert not loading.is_pocket(loading.load_pipeline("other", device="cpu"))
    rebuilt = StableDiffusionPipeline(**pocket.components, requires_safety_checker=False)
    assert rebuilt.name_or_path is None
    assert loading.is_pocket(rebuilt)
