"""Lesson 07: its parts draw what the pipeline draws, its article cells choose rightly, its table tells the truth.

The functions are those of the notebook, read from it, so that what a learner sees is what is tested.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from PIL import Image

from helpers import costs, exercises, plots, stations
from helpers.exercises import EXERCISES
from helpers.inputs import prompt_notes
from helpers.judge import NOTHING, read_pocket
from helpers.loading import ARTICLE_MODEL, load_pipeline
from helpers.pictures import generate
from tests.lessons import NOTEBOOKS, cell_with, code_cells, constants, definitions
from tests.pipelines.tiny import SIDE, tiny_pipeline

LESSON = NOTEBOOKS / "07_stable_diffusion_pipeline.ipynb"
PARTS = ("token_ids", "text_vectors", "start_noise", "timesteps", "guided_noise", "ddim_loop", "to_pixels")
SAMPLERS = {
    "ddim": lambda config: DDIMScheduler.from_config(config),
    "pndm": lambda config: PNDMScheduler.from_config(config, skip_prk_steps=True),
    "euler": lambda config: EulerDiscreteScheduler.from_config(config),
}
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
    """The imports and functions of the lesson, with the course's own seven parts and a small model."""
    side = pipe.unet.config.sample_size
    part = SimpleNamespace(**{name: EXERCISES[f"06.{name}"].solution for name in PARTS})
    shape = (pipe.unet.config.in_channels, side, side)
    return definitions(LESSON, pipe=pipe, part=part, shape=shape, alpha_bar=pipe.scheduler.alphas_cumprod)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def apart(a, b) -> int:
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b)).max())


# --- by hand equals the library


def test_the_seven_parts_draw_the_pipelines_pictures(lesson, pipe):
    seeds = [3, 1]
    pictures = lesson["draw"](lesson["part"], PROMPT, seeds, steps=STEPS, guidance=4.0)
    generators = [seeded(seed) for seed in seeds]
    theirs = pipe([PROMPT] * 2, num_inference_steps=STEPS, guidance_scale=4.0, generator=generators).images
    assert [apart(*pair) <= 1 for pair in zip(pictures, theirs, strict=True)] == [True, True]
    assert pictures[0].std() > 1, "a picture of one colour proves little"
    assert apart(*pictures) > 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_with_any_sampler_the_loop_draws_the_pipelines_picture(lesson, pipe, monkeypatch, name):
    own = pipe.scheduler
    monkeypatch.setattr(pipe, "scheduler", SAMPLERS[name](own.config))
    expected = pipe(PROMPT, num_inference_steps=STEPS, guidance_scale=4.0, generator=seeded(3)).images[0]
    with torch.no_grad():
        picture = lesson["sample"](SAMPLERS[name](own.config), PROMPT, [3], steps=STEPS)[0]
    assert apart(picture, expected) <= 1
    assert picture.std() > 1


def test_no_wrong_part_raises_and_each_is_noticed(lesson, pipe):
    given = {name: lesson[name] for name in ("pipe", "part", "changed", "uniform", "torch")}
    given |= {name: lesson[name] for name in ("not_clamped", "not_rounded", "from_words", "to_the_end", "unpadded")}
    faults = constants(LESSON, "loud", "quiet", **given)
    lesson["length"] = len(pipe.tokenizer(PROMPT).input_ids)
    right = lesson["draw"](lesson["part"], PROMPT, steps=STEPS)
    with torch.no_grad():
        wrong = {
            name: lesson["draw"](parts, PROMPT, steps=STEPS)
            for kind in ("loud", "quiet")
            for name, parts in faults[kind].items()
        }
    assert len(wrong) == 10
    assert {name for name, pictures in wrong.items() if np.array_equal(pictures, right)} == set()


def test_the_euler_loop_without_a_scheduler_draws_what_diffusers_draws(lesson, pipe):
    part, alpha_bar = lesson["part"], lesson["alpha_bar"]
    times = part.timesteps(STEPS)
    given = {name: lesson[name] for name in ("alpha_bar", "part", "pipe")} | {"times": times}
    space = constants(LESSON, "levels", "t_at", **given)
    vectors = part.text_vectors(pipe.text_encoder, *(part.token_ids(pipe.tokenizer, text) for text in ("", PROMPT)))
    latents = EXERCISES["07.euler_loop"].solution(
        lambda shown, sigma: part.guided_noise(pipe.unet, shown, space["t_at"][sigma], vectors, 4.0),
        part.start_noise([0], lesson["shape"]),
        [*space["levels"], 0.0],
    )
    with torch.no_grad():
        theirs = lesson["sample"](EulerDiscreteScheduler.from_config(pipe.scheduler.config), PROMPT, steps=STEPS)
    assert apart(part.to_pixels(pipe.vae, latents), theirs) <= 2
    assert alpha_bar[times[0]] < 0.5  # the run begins with more noise than picture


def test_until_an_answer_is_right_the_course_goes_on_with_its_own():
    own = EXERCISES["07.timesteps"].solution
    assert exercises.or_reference("07.timesteps", lambda steps: None) is own
    assert exercises.or_reference("07.timesteps", lambda steps: own(steps)[::-1]) is own

    def right(steps):
        return [1 + 1000 // steps * i for i in range(steps)][::-1]

    assert exercises.or_reference("07.timesteps", right) is right
    with pytest.raises(ValueError, match="Unknown exercise"):
        exercises.or_reference("07.nothing", right)


def test_of_another_models_pictures_nothing_is_read(pipe, capsys):
    assert read_pocket(pipe, [Image.new("RGB", (SIDE, SIDE))] * 2) == [NOTHING] * 2
    assert capsys.readouterr().out == "Skipped: the judge reads Pocket's pictures only.\n"


@pytest.mark.parametrize("length", [8, 77])
def test_the_stations_are_drawn_without_texts_that_touch(length):
    texts = [
        [("start", 1), *[("end", 2)] * (length - 1)],
        [("start", 1), ("mushroom", 77), *[("end", 2)] * (length - 2)],
    ]
    latent, picture = torch.randn(4, 8, 8, generator=seeded(0)), Image.new("RGB", (16, 16), "red")
    figure = stations.seven_stations(
        texts,
        torch.randn(2, length, 12, generator=seeded(1)),
        latent,
        [(t, latent, picture) for t in (951, 751, 551, 351, 151, 1)],
        list(range(951, 0, -50)),
        latent,
        picture,
    )
    assert plots.faults(figure) == []
    shown = {text.get_text() for text in figure.texts}
    assert {"Tokens", "mushroom", f"end × {length - 1}", f"end × {length - 2}", "t = 951", "t = 1"} <= shown
    plots.plt.close(figure)


# --- the article's pictures


class Painter:
    """Stands for the article's model, which no test can load."""

    def set_progress_bar_config(self, **options):
        pass


def article(monkeypatch, tmp_path, *, cuda: bool, load) -> tuple[dict, list[tuple]]:
    """Run the two article cells in an empty folder; the namespace, and what was to be drawn."""
    drawn = []

    def generate(painter, words, **options):
        drawn.append((painter, words, options))
        return [Image.new("RGB", (8, 8))]

    namespace = {"pipe": object(), "name": "Pocket Diffusion"}
    exec("\n".join(source for source in code_cells(LESSON) if source.startswith(("import ", "from "))), namespace)
    namespace |= {"load_pipeline": load, "generate": generate}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.chdir(tmp_path)
    exec(cell_with(LESSON, "load_pipeline(ARTICLE_MODEL"), namespace)
    exec(cell_with(LESSON, "article_pictures = []"), namespace)
    return namespace, drawn


def test_with_a_gpu_the_article_is_drawn_with_its_own_model(monkeypatch, tmp_path, capsys):
    asked, painter = [], Painter()

    def load(*names, **options):
        asked.append((names, options))
        return painter

    _, drawn = article(monkeypatch, tmp_path, cuda=True, load=load)
    assert asked == [((ARTICLE_MODEL,), {"dtype": torch.float16})]
    assert [one is painter for one, _, _ in drawn] == [True] * 3
    words = [words for _, words, _ in drawn]
    assert len({text for text in words if "Alice in Wonderland" in text}) == 2
    assert len([text for text in words if "Cheshire cat" in text]) == 1
    assert all((options["height"], options["width"]) == (768, 768) for _, _, options in drawn)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [f"picture_{i}.jpg" for i in range(3)]
    assert "Pocket" not in capsys.readouterr().out


def test_without_a_gpu_nothing_is_asked_of_the_network(monkeypatch, tmp_path, capsys):
    def load(*names, **options):
        raise AssertionError("the network was asked")

    namespace, drawn = article(monkeypatch, tmp_path, cuda=False, load=load)
    assert [one is namespace["pipe"] for one, _, _ in drawn] == [True] * 3
    assert not any("Alice" in words or "Cheshire" in words for _, words, _ in drawn)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [f"picture_{i}.jpg" for i in range(3)]
    assert "So Pocket Diffusion draws three prompts of Pocket's world here" in capsys.readouterr().out


def test_without_the_hub_it_says_so_and_draws_with_pocket(monkeypatch, tmp_path, capsys):
    def load(*names, **options):
        raise ConnectionError("the model hub could not be reached")

    namespace, drawn = article(monkeypatch, tmp_path, cuda=True, load=load)
    assert [one is namespace["pipe"] for one, _, _ in drawn] == [True] * 3
    said = capsys.readouterr().out
    assert "The article's model could not be had: the model hub could not be reached" in said
    assert "So Pocket Diffusion draws" in said


def test_the_prompts_in_pockets_place_are_of_its_world():
    pocket, prompts = load_pipeline("pocket", device="cpu"), constants(LESSON, "prompts")["prompts"]
    assert len(prompts) == 3
    assert [note for prompt in prompts for note in prompt_notes(pocket, prompt)] == []


# --- the table of options


def test_peak_bytes_counts_what_is_alive_at_once():
    with costs.PeakBytes() as counter:
        a = torch.zeros(1000)  # 4 kB
        b = a.view(10, 100)[2:]  # a view holds nothing of its own
        a += 1  # in place
        c = torch.ones(2000)  # 8 kB
        del a, b
        c = c.sum()
    assert counter.most == 12_000
    assert counter.now == 4


def test_the_table_measures_each_option_and_leaves_the_pipeline_as_it_was(pipe):
    before = {name: type(processor) for name, processor in pipe.unet.attn_processors.items()}
    strides = {name: p.stride() for name, p in pipe.unet.named_parameters()}
    picture = generate(pipe, "a", steps=1)[0]
    table = {cost.label: cost for cost in costs.compare(pipe, "a", steps=1, pictures=2)}

    assert list(table) == [
        "plain",
        "float16",
        "bfloat16",
        "attention slicing",
        "channels last",
        "VAE slicing",
        "plain, twice the side",
        "VAE tiling, twice the side",
    ]
    drawn = [cost for cost in table.values() if not cost.missing]
    assert {"plain", "attention slicing", "VAE slicing"} <= {cost.label for cost in drawn}
    assert all(cost.seconds > 0 and cost.megabytes > 0 and 0 <= cost.apart <= 255 for cost in drawn)
    assert table["plain"].apart == 0
    assert max(table[label].apart for label in ("attention slicing", "channels last", "VAE slicing")) <= 1
    assert str(table["plain"]).endswith(" 0 of 255")

    assert {name: type(processor) for name, processor in pipe.unet.attn_processors.items()} == before
    assert {name: p.stride() for name, p in pipe.unet.named_parameters()} == strides
    assert not pipe.vae.use_slicing
    assert not pipe.vae.use_tiling
    assert apart(generate(pipe, "a", steps=1)[0], picture) == 0


def test_a_dtype_that_takes_too_long_is_not_drawn_with(pipe, monkeypatch):
    monkeypatch.setattr(costs, "TOO_SLOW", 0)
    said = [cost.missing for cost in costs.compare(pipe, "a", steps=1, pictures=1) if "float16" in cost.label]
    assert all("times as long" in text or "does not work" in text for text in said)
    assert len(said) == 2


def test_an_option_that_fails_is_a_line_of_its_own_and_is_switched_off(pipe):
    switched = []

    def fails():
        raise RuntimeError("not on this machine\nand more")

    cost = costs._with("odd", fails, lambda: switched.append("off"), pipe, [], {})
    assert cost == costs.Cost("odd", "failed: not on this machine")
    assert str(cost).split(maxsplit=1) == ["odd", "failed: not on this machine"]
    assert switched == ["off"]
