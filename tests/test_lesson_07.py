"""Lesson 07: its parts draw what the pipeline draws, and its article cells choose rightly.

The functions are those of the notebook, read from it, so that what a learner sees is what is tested.
"""

import re
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from helpers import exercises, plots, stations
from helpers.exercises import EXERCISES, lesson_07
from helpers.inputs import prompt_notes
from helpers.judge import NOTHING, read_pocket
from helpers.loading import ARTICLE_MODEL, load_pipeline
from tests.lessons import NOTEBOOKS, cell_with, constants, definitions, imports, solutions
from tests.pipelines.tiny import SIDE, tiny_pipeline

LESSON = NOTEBOOKS / "07_stable_diffusion_pipeline.ipynb"
GIVEN = ("token_ids", "text_vectors", "timesteps")
WRITTEN = ("start_noise", "guided_noise", "ddim_loop", "to_pixels")  # by the learner
STEPS = 4
PROMPT = "a mushroom on grass"


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    settings = constants(LESSON, "settings")["settings"]
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **settings)
    return pipe


@pytest.fixture(scope="module")
def lesson(pipe) -> dict:
    """The imports and functions of the lesson, with the course's own parts and a small model."""
    size = pipe.unet.config.sample_size
    shape = (pipe.unet.config.in_channels, size, size)
    space = definitions(LESSON, pipe=pipe)
    networks = {name: getattr(pipe, name) for name in ("tokenizer", "text_encoder", "unet", "vae")}
    space["given"] = SimpleNamespace(shape=shape, alpha_bar=pipe.scheduler.alphas_cumprod, **networks)
    given = {name: space[name] for name in GIVEN}
    space["parts"] = SimpleNamespace(**given, **{name: EXERCISES[f"07.{name}"].solution for name in WRITTEN})
    space["draw_with"] = EXERCISES["07.draw"].solution
    return space


def seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def apart(a, b) -> int:
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b)).max())


# --- by hand equals the library


def test_the_seven_parts_draw_the_pipelines_pictures(lesson, pipe):
    seeds = [3, 1]
    with torch.no_grad():
        pictures = lesson["draw_with"](lesson["parts"], lesson["given"], PROMPT, seeds, steps=STEPS, guidance=4.0)
    generators = [seeded(seed) for seed in seeds]
    theirs = pipe([PROMPT] * 2, num_inference_steps=STEPS, guidance_scale=4.0, generator=generators).images
    assert [apart(*pair) <= 1 for pair in zip(pictures, theirs, strict=True)] == [True, True]
    assert pictures[0].std() > 1, "a picture of one colour proves little"
    assert apart(*pictures) > 1


def test_in_a_batch_and_alone_a_seed_gives_the_same_picture_but_for_rounding(lesson, pipe):
    with torch.no_grad():
        batch = lesson["draw_with"](lesson["parts"], lesson["given"], PROMPT, [7, 3, 11, 0], steps=STEPS)
        alone = lesson["draw_with"](lesson["parts"], lesson["given"], PROMPT, [3], steps=STEPS)
    assert [apart(one, alone[0]) <= 1 for one in batch] == [False, True, False, False]


def test_with_short_padding_nothing_raises_and_the_picture_is_another(lesson, pipe):
    short = lesson["padded_short"](PROMPT)
    rows = [short.token_ids(pipe.tokenizer, text)[0].tolist() for text in ("", PROMPT)]
    assert rows[1] == pipe.tokenizer(PROMPT).input_ids
    assert len(rows[0]) == len(rows[1]) < pipe.tokenizer.model_max_length
    with torch.no_grad():
        right, bare = (
            lesson["draw_with"](one, lesson["given"], PROMPT, [0], steps=STEPS) for one in (lesson["parts"], short)
        )
    assert apart(bare, right) > 1


def test_short_padding_of_one_text_a_call_fails_and_of_both_keeps_the_vectors_that_are_left(lesson, pipe):
    alone = [pipe.tokenizer(text, padding=True, return_tensors="pt").input_ids for text in ("", PROMPT)]
    short = [lesson["padded_short"](PROMPT).token_ids(pipe.tokenizer, text) for text in ("", PROMPT)]
    full = [lesson["token_ids"](pipe.tokenizer, text) for text in ("", PROMPT)]
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
            lesson["text_vectors"](pipe.text_encoder, *alone)
        few, all_of_them = (lesson["text_vectors"](pipe.text_encoder, *rows) for rows in (short, full))
    torch.testing.assert_close(all_of_them[:, : few.shape[1]], few, rtol=1e-4, atol=1e-4)


def test_with_the_empty_prompts_padding_the_words_alone_change_and_after_their_first_vectors(lesson, pipe):
    ids = [lesson["token_ids"](pipe.tokenizer, text) for text in ("", PROMPT)]
    length, left = ids[0].shape[1], len(pipe.tokenizer(PROMPT).input_ids)
    with torch.no_grad():
        empty, words = lesson["text_vectors"](pipe.text_encoder, *ids)
        assert not torch.equal(words[left:], empty[left:])
        exchanged = lesson["with_empty_padding"](left).text_vectors(pipe.text_encoder, *ids)
        right, other, same = (
            lesson["draw_with"](one, lesson["given"], PROMPT, [0], steps=STEPS)
            for one in (lesson["parts"], lesson["with_empty_padding"](left), lesson["with_empty_padding"](length))
        )
    assert torch.equal(exchanged, torch.stack([empty, torch.cat([words[:left], empty[left:]])]))
    assert left == lesson["padded_short"](PROMPT).token_ids(pipe.tokenizer, PROMPT).shape[1]
    assert apart(other, right) > 1
    assert apart(same, right) <= 1


def test_the_learners_parts_are_told_from_the_courses(lesson):
    assert lesson_07.yours(lesson["parts"], lesson_07.draw) == "nothing yet"
    own = {"guided_noise": lambda *arguments: None, "to_pixels": lambda vae, x: None}
    parts = SimpleNamespace(**{**vars(lesson["parts"]), **own})
    assert lesson_07.yours(parts, lesson_07.draw) == "5, 7"
    assert lesson_07.yours(parts, lambda *arguments: None) == "5, 7, draw"
    assert lesson_07.yours(lesson["parts"], lambda *arguments: None) == "draw"


def test_parts_3_6_and_7_are_the_courses_until_the_end():
    given = cell_with(LESSON, "parts.text_vectors, parts.timesteps =")
    assert "for part in (lesson_07.start_noise, lesson_07.ddim_loop, lesson_07.to_pixels):" in given
    headings = [
        line
        for cell in nbformat.read(LESSON, as_version=4).cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("#")
    ]
    cut = headings.index("## For afterwards (34 minutes)")
    before, after = headings[:cut], headings[cut:]
    assert "## Summary" in before
    assert [line[:10] for line in before if line.startswith("### ")] == ["### Part 5", "### `draw`"]
    assert [line[:10] for line in after[1:5]] == ["### Part 3", "### Part 6", "### Part 7", "### A sche"]
    minutes = [int(found) for line in after[1:] for found in re.findall(r"\((\d+) minutes\)", line)]
    assert sum(minutes) == 34


# --- the assembly


def assembled(change):
    """An answer to 07.draw, written as in the lesson, one line of it changed."""
    code = solutions(LESSON)["07.draw"]
    old, new = change
    assert code.count(old) == 1
    space = {}
    exec(code.replace(old, new), space)
    return space["draw"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("given.tokenizer, text", "text, given.tokenizer"), "part 1 wants given.tokenizer first, and got: str"),
        (("given.text_encoder, *ids", "given.unet, *ids"), "part 2 wants given.text_encoder first, and got: _Unet"),
        (("given.text_encoder, *ids", "given.text_encoder, ids"), "text_vectors() missing 1 required positional"),
        (("seeds, given.shape", "seeds[0], given.shape"), "part 3 wants the list of all seeds first, and got: int"),
        (("seeds, given.shape", "seeds, (4, 16, 16)"), "part 3 wants given.shape second"),
        ((".to(vectors)", ""), "the noise is still as part 3 drew it"),
        (("given.unet, x, t, ", "given.unet, t, x, "), "part 5 wants latents second, and got: int"),
        (("vectors, guidance)", "guidance, vectors)"), "part 5 wants the vectors of part 2 fourth"),
        (("        return parts.guided", "        parts.guided"), "part 6 wants a tensor from predict"),
        (
            ("ddim_loop(predict, ", "ddim_loop(parts.guided_noise, "),
            "part 6 calls what it is handed with x and t alone",
        ),
        (("ddim_loop(predict, ", "ddim_loop(predict(noise, 1), "), "part 6 wants predict itself first"),
        (("parts.timesteps(steps)", "steps"), "part 6 wants the list of part 4 third, and got: int"),
        (("given.alpha_bar", "torch.linspace(1, 0, 1000)"), "part 6 wants given.alpha_bar fourth, and got: tensor"),
        (("given.vae, latents", "latents, given.vae"), "part 7 wants given.vae first, and got: tensor"),
    ],
)
def test_a_part_that_is_handed_something_else_says_what_it_wants(change, says):
    answer = assembled(change)
    answer.__globals__["torch"] = torch
    found = exercises.verdict("07.draw", answer)
    assert found.kind == "raised"
    assert says in found.text


def test_parts_may_be_called_by_keyword_and_a_right_answer_is_used():
    for change in [
        ("given.unet, x, t, vectors, guidance)", "unet=given.unet, x=x, t=t, vectors=vectors, guidance=guidance)"),
        (".to(vectors)", ".to(vectors.device, vectors.dtype)"),
        (
            "predict, noise, parts.timesteps(steps), given.alpha_bar",
            "predict, noise, timesteps=parts.timesteps(steps), alpha_bar=given.alpha_bar",
        ),
    ]:
        answer = assembled(change)
        assert exercises.or_reference("07.draw", answer) is answer
    assert exercises.or_reference("07.draw", lambda *handed: None) is lesson_07.draw


def test_the_four_changes_are_all_that_a_scheduler_without_the_config_has_otherwise(pipe):
    changes = constants(LESSON, "CHANGES")["CHANGES"]
    defaults = DDIMScheduler().config
    all_four = {key: defaults[key] for keys in changes.values() for key in keys}
    assert len(changes) == 4
    assert all(pipe.scheduler.config[key] != value for key, value in all_four.items())
    # Pocket's settings, whatever the small pipeline of the tests was made with
    pocket = load_pipeline("pocket", device="cpu").scheduler.config
    settings = constants(LESSON, "settings")["settings"]
    changed = DDIMScheduler.from_config(pocket, **(settings | all_four))
    told = {key: value for key, value in changed.config.items() if not key.startswith("_")}
    assert told == {key: defaults[key] for key in told}


def test_the_library_draws_several_seeds_in_one_batch_as_the_seven_parts_do(lesson, pipe):
    lesson["library"].__globals__["prompt"] = PROMPT
    theirs = np.stack(lesson["library"]([3, 1]))
    with torch.no_grad():
        mine = lesson["draw_with"](lesson["parts"], lesson["given"], PROMPT, [3, 1])
    assert [apart(*pair) <= 1 for pair in zip(mine, theirs, strict=True)] == [True, True]


def test_unrounded_and_then_rounded_a_picture_is_that_of_part_7(lesson, pipe):
    latents = torch.randn((2, 4, SIDE // 8, SIDE // 8), generator=seeded(0))
    with torch.no_grad():
        plain = lesson_07.unrounded(pipe.vae, latents)
        assert np.array_equal(plain.round().astype(np.uint8), lesson["parts"].to_pixels(pipe.vae, latents))
    assert (plain != plain.round()).any()


def test_until_an_answer_is_right_the_course_goes_on_with_its_own():
    own = EXERCISES["07.start_noise"].solution
    assert exercises.or_reference("07.start_noise", lambda seeds, shape: None) is own
    assert exercises.or_reference("07.start_noise", lambda seeds, shape: own(seeds[::-1], shape)) is own

    def right(seeds, shape):
        return torch.cat([own([seed], shape) for seed in seeds])

    assert exercises.or_reference("07.start_noise", right) is right
    with pytest.raises(ValueError, match="Unknown exercise"):
        exercises.or_reference("07.nothing", right)


def test_the_given_timesteps_are_the_librarys(lesson, pipe):
    for steps in (20, 15, 7):
        scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        scheduler.set_timesteps(steps)
        assert lesson["timesteps"](steps) == scheduler.timesteps.tolist()


def test_of_another_models_pictures_nothing_is_read(pipe, capsys):
    assert read_pocket(pipe, [Image.new("RGB", (SIDE, SIDE))] * 2) == [NOTHING] * 2
    assert capsys.readouterr().out == "Skipped: the judge reads Pocket's pictures only.\n"


@pytest.mark.parametrize("length", [8, 77])
def test_the_seven_parts_are_drawn_without_texts_that_touch(length):
    texts = [
        [("start", 1), *[("end", 2)] * (length - 1)],
        [("start", 1), ("mushroom", 77), *[("end", 2)] * (length - 2)],
    ]
    latent, picture = torch.randn(4, 8, 8, generator=seeded(0)), Image.new("RGB", (16, 16), "red")
    moments = [stations.Moment(t, latent, latent, t / 1000, picture) for t in (951, 751, 551, 151, 1)]
    figure = stations.seven_parts(
        texts,
        torch.randn(2, length, 12, generator=seeded(1)),
        latent,
        moments,
        list(range(951, 0, -50)),
        latent,
        1.1 * torch.ones(3, 16, 16),
        picture,
    )
    assert plots.faults(figure) == []
    shown = {text.get_text() for text in figure.texts}
    assert {"Tokens", "mushroom", f"end × {length - 1}", f"end × {length - 2}", "t = 951", "t = 1"} <= shown
    assert {"words", "padding", "cut off by the clamp: up to 13 of 255"} <= shown
    products = {f"{(t / 1000 * latent).std():.2f}; factor {t / 1000:.3f}" for t in (951, 751, 551, 151, 1)}
    assert {"starting noise", f"{latent.std():.2f}", *products} <= shown
    plots.plt.close(figure)


# --- the article's pictures


class Painter:
    """Stands for a pipeline: the article's model, which no test can load, or the lesson's."""

    def __init__(self):
        self.drawn = []

    def set_progress_bar_config(self, **options):
        pass

    def __call__(self, words, **options):
        self.drawn.append((words, options))
        return SimpleNamespace(images=[Image.new("RGB", (8, 8))])


def article(monkeypatch, tmp_path, *, cuda: bool, load) -> Painter:
    """Run the article's cell in an empty folder; what stood there for the lesson's pipeline."""
    own = Painter()
    namespace = {"pipe": own, "name": "Pocket Diffusion"}
    exec(imports(LESSON), namespace)
    namespace |= {"load_pipeline": load}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.chdir(tmp_path)
    exec(cell_with(LESSON, "load_pipeline(FINE_TUNE"), namespace)
    return own


def test_with_a_gpu_the_article_is_drawn_with_its_own_model(monkeypatch, tmp_path, capsys):
    asked, painter = [], Painter()

    def load(*names, **options):
        asked.append((names, options))
        return painter

    own = article(monkeypatch, tmp_path, cuda=True, load=load)
    assert asked == [((ARTICLE_MODEL,), {"dtype": torch.float16})]
    assert (len(painter.drawn), own.drawn) == (3, [])
    words = [words for words, _ in painter.drawn]
    assert len({text for text in words if "Alice in Wonderland" in text}) == 2
    assert len([text for text in words if "Cheshire cat" in text]) == 1
    assert all((options["height"], options["width"]) == (768, 768) for _, options in painter.drawn)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [f"picture_{i}.jpg" for i in range(3)]
    assert "Pocket" not in capsys.readouterr().out


def test_without_a_gpu_nothing_is_asked_of_the_internet(monkeypatch, tmp_path, capsys):
    def load(*names, **options):
        raise AssertionError("the internet was asked")

    own = article(monkeypatch, tmp_path, cuda=False, load=load)
    assert len(own.drawn) == 3
    assert not any("Alice" in words or "Cheshire" in words for words, _ in own.drawn)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [f"picture_{i}.jpg" for i in range(3)]
    assert "So Pocket Diffusion draws three prompts of Pocket's world here" in capsys.readouterr().out


def test_without_the_hub_it_says_so_and_draws_with_pocket(monkeypatch, tmp_path, capsys):
    def load(*names, **options):
        raise ConnectionError("the model hub could not be reached")

    own = article(monkeypatch, tmp_path, cuda=True, load=load)
    assert len(own.drawn) == 3
    said = capsys.readouterr().out
    assert f"{ARTICLE_MODEL} was not loaded: the model hub could not be reached" in said
    assert "So Pocket Diffusion draws" in said


def test_the_prompts_in_pockets_place_are_of_its_world(monkeypatch, tmp_path):
    drawn = article(monkeypatch, tmp_path, cuda=False, load=None).drawn
    pocket = load_pipeline("pocket", device="cpu")
    assert len(drawn) == 3
    assert [note for words, _ in drawn for note in prompt_notes(pocket, words)] == []


def test_the_text_names_the_articles_model_and_the_cell_the_librarys_line():
    texts = [cell.source for cell in nbformat.read(LESSON, as_version=4).cells if cell.cell_type == "markdown"]
    assert [text for text in texts if f"`{ARTICLE_MODEL}`" in text]
    assert f'from_pretrained("{ARTICLE_MODEL}", dtype=torch.float16)' in cell_with(LESSON, "load_pipeline(FINE_TUNE")
