"""Lesson 07: its parts draw what the pipeline draws, its suspects are wrong, its article cells choose rightly.

The functions are those of the notebook, read from it, so that what a learner sees is what is tested.
"""

from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from helpers import exercises, plots, stations
from helpers.exercises import EXERCISES
from helpers.exercises.lesson_07 import make_suspect
from helpers.inputs import prompt_notes
from helpers.judge import NOTHING, read_pocket
from helpers.loading import ARTICLE_MODEL, load_pipeline
from tests.lessons import NOTEBOOKS, cell_with, code_cells, constants, definitions
from tests.pipelines.tiny import SIDE, tiny_pipeline

LESSON = NOTEBOOKS / "07_stable_diffusion_pipeline.ipynb"
GIVEN = ("token_ids", "text_vectors", "timesteps")
WRITTEN = ("start_noise", "guided_noise", "ddim_loop", "to_pixels")  # by the learner
NUMBERS = ("token_ids", "text_vectors", "start_noise", "timesteps", "guided_noise", "ddim_loop", "to_pixels")
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
    space = definitions(LESSON, pipe=pipe, seed=0)
    given = {name: space[name] for name in GIVEN}
    space["part"] = SimpleNamespace(**given, **{name: EXERCISES[f"07.{name}"].solution for name in WRITTEN})
    return space


def seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def apart(a, b) -> int:
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b)).max())


# --- by hand equals the library


def test_the_seven_parts_draw_the_pipelines_pictures(lesson, pipe):
    seeds = [3, 1]
    with torch.no_grad():
        pictures = lesson["draw"](pipe, lesson["part"], PROMPT, seeds, steps=STEPS, guidance=4.0)
    generators = [seeded(seed) for seed in seeds]
    theirs = pipe([PROMPT] * 2, num_inference_steps=STEPS, guidance_scale=4.0, generator=generators).images
    assert [apart(*pair) <= 1 for pair in zip(pictures, theirs, strict=True)] == [True, True]
    assert pictures[0].std() > 1, "a picture of one colour proves little"
    assert apart(*pictures) > 1


def test_no_wrong_part_raises_and_each_is_noticed(lesson, pipe):
    faults = constants(LESSON, "faults", **lesson)["faults"]
    wrong_parts = {name: parts for name, (_, parts) in faults.items()}
    wrong_parts["padding cut"] = lesson["cut"](PROMPT)
    with torch.no_grad():
        right = lesson["draw"](pipe, lesson["part"], PROMPT, steps=STEPS)
        wrong = {name: lesson["draw"](pipe, parts, PROMPT, steps=STEPS) for name, parts in wrong_parts.items()}
    assert len(wrong) == 5  # as the lesson's summary counts
    assert {name for name, pictures in wrong.items() if np.array_equal(pictures, right)} == set()


def test_each_fault_is_in_the_part_whose_number_it_bears(lesson):
    numbers = {f"part {number}": name for number, name in enumerate(NUMBERS, start=1)}
    for label, (where, parts) in constants(LESSON, "faults", **lesson)["faults"].items():
        own = vars(lesson["part"])
        assert [name for name in own if getattr(parts, name) is not own[name]] == [numbers[where]], label


def test_without_the_offset_the_last_answer_changes_nothing(lesson):
    x, alpha_bar = torch.randn((1, 4, 4, 4), generator=seeded(0)), torch.linspace(0.999, 0.005, 1000)
    loop = lesson["part"].ddim_loop

    def ends(times, last):
        """The last latents, where the network answers `last` when it is asked for the last time."""
        return loop(lambda x, t: last if t == times[-1] else 0.5 * x, x, times, alpha_bar)

    for times, same in ((lesson["no_offset"](20), True), (lesson["timesteps"](20), False)):
        apart = (ends(times, torch.zeros_like(x)) - ends(times, torch.ones_like(x))).abs().max()
        assert (float(apart) < 1e-5) is same


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
    moments = [stations.Moment(t, latent, latent, t / 1000, picture) for t in (951, 751, 551, 351, 151, 1)]
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
    assert {f"{float((t / 1000 * latent).std()):.2f}" for t in (951, 751, 551, 351, 151, 1)} <= shown
    plots.plt.close(figure)


def test_two_pictures_stand_beside_the_count_of_what_differs():
    one = np.zeros((16, 16, 3), np.uint8)
    other = one.copy()
    other[3, 4] = 7
    for pair, texts in (((one, one), {"0", "equal bit for bit"}), ((one, other), {"3", "by 7 of 255 at most"})):
        figure = stations.side_by_side(*pair, ("mine", "theirs"))
        assert plots.faults(figure) == []
        assert {"mine", "theirs", "of 768 numbers differ", *texts} <= {text.get_text() for text in figure.texts}
        plots.plt.close(figure)


def test_folded_numbers_are_printed_where_nothing_can_be_folded(capsys):
    stations.folded("The numbers", ["a 1", "b 2"])
    assert capsys.readouterr().out == "The numbers\na 1\nb 2\n"


# --- the search for a wrong part


def test_each_suspect_has_one_wrong_part_and_the_usual_inputs_find_two(lesson, pipe):
    sound, search = lesson["part"], lesson["wrong_part"]
    suspects = {number: make_suspect(sound, number) for number in range(1, 6)}
    for one in suspects.values():
        assert sum(getattr(one, name) is not function for name, function in vars(sound).items()) == 1
    ids = [sound.token_ids(pipe.tokenizer, text) for text in ("", PROMPT)]
    with torch.no_grad():
        given = {
            **lesson,
            "prompt": PROMPT,
            "ids": ids,
            "vectors": sound.text_vectors(pipe.text_encoder, *ids),
            "shape": (4, SIDE // 2, SIDE // 2),
            "noise": sound.start_noise([0], (4, SIDE // 2, SIDE // 2)),
            "times": sound.timesteps(20),
            "alpha_bar": pipe.scheduler.alphas_cumprod,
            "latent": sound.start_noise([1], (4, SIDE // 2, SIDE // 2)),
        }
        inputs = constants(LESSON, "inputs", **given)["inputs"]
        # With the inputs that anybody would try, as the lesson prints.
        found = {number: search(sound, one, inputs) for number, one in suspects.items()}
        assert found == {1: "ddim_loop", 2: None, 3: "text_vectors", 4: None, 5: None}
        # And under "Which inputs it takes".
        unet, _, t, vectors, guidance = inputs["guided_noise"]
        inputs["timesteps"] = (15,)
        inputs["start_noise"] = ([3, 8], given["shape"])
        several = sound.start_noise([3, 8], given["shape"]).to(given["noise"])
        inputs["guided_noise"] = (unet, several, t, vectors, guidance)
        found = {number: search(sound, one, inputs) for number, one in suspects.items()}
    assert found == {1: "ddim_loop", 2: "timesteps", 3: "text_vectors", 4: "guided_noise", 5: "start_noise"}


def test_the_search_prints_what_it_found_and_how_many_got_away(lesson, pipe, capsys):
    sound = lesson["part"]
    ids = [sound.token_ids(pipe.tokenizer, text) for text in ("", PROMPT)]
    noise = sound.start_noise([0], (4, SIDE // 2, SIDE // 2))
    space = {**lesson, "prompt": PROMPT, "ids": ids, "noise": noise, "latent": noise, "shape": noise.shape[1:]}
    space |= {"vectors": sound.text_vectors(pipe.text_encoder, *ids), "times": sound.timesteps(20)}
    space |= {"alpha_bar": pipe.scheduler.alphas_cumprod}
    space["suspects"] = {number: make_suspect(sound, number) for number in range(1, 6)}
    with torch.no_grad():
        exec(cell_with(LESSON, "got away"), space)
    said = capsys.readouterr().out.splitlines()
    assert said[-6:] == [
        "suspect 1: ddim_loop",
        "suspect 2: None",
        "suspect 3: text_vectors",
        "suspect 4: None",
        "suspect 5: None",
        "3 got away",
    ]


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({}, None),
        ({"token_ids": lambda tokenizer, text: [1, 2]}, "token_ids"),  # of another shape
        ({"timesteps": lambda steps: [t - 1 for t in range(1, steps + 1)]}, "timesteps"),
        ({"start_noise": lambda: torch.full((4,), torch.nan)}, "start_noise"),
    ],
)
def test_the_search_names_a_part_that_answers_otherwise_and_forgives_another_order_of_a_sum(lesson, other, name):
    sound = SimpleNamespace(
        token_ids=lambda tokenizer, text: [1, 2, 3],
        start_noise=lambda: torch.full((4,), 0.1) * 3,
        timesteps=lambda steps: list(range(1, steps + 1)),
    )
    summed = {"start_noise": lambda: torch.full((4,), 0.1) + torch.full((4,), 0.1) + torch.full((4,), 0.1)}
    suspect = SimpleNamespace(**{**vars(sound), **summed, **other})
    inputs = {"token_ids": (None, ""), "start_noise": (), "timesteps": (3,)}
    assert lesson["wrong_part"](sound, suspect, inputs) == name


def test_the_stand_in_tells_of_a_wrong_timestep(lesson, pipe):
    sound, alpha_bar = lesson["part"], pipe.scheduler.alphas_cumprod

    def told_the_next(predict, x, times, alpha_bar):
        after = dict(zip(times, [*times[1:], 0], strict=True))
        return sound.ddim_loop(lambda x, t: predict(x, after[t]), x, times, alpha_bar)

    x = sound.start_noise([0], (4, 4, 4))
    given = {"prompt": PROMPT, "ids": [], "vectors": None, "shape": None, "latent": None}
    given |= {"noise": x, "times": sound.timesteps(20), "alpha_bar": alpha_bar}
    inputs = constants(LESSON, "inputs", **{**lesson, **given})["inputs"]
    inputs = {"ddim_loop": inputs["ddim_loop"]}
    assert lesson["wrong_part"](sound, lesson["changed"](ddim_loop=told_the_next), inputs) == "ddim_loop"


def test_what_is_known_accuses_each_suspect_of_its_fault_and_no_right_part(lesson, capsys):
    pocket = load_pipeline("pocket", device="cpu")
    size = pocket.unet.config.sample_size
    given = {**lesson, "pipe": pocket, "prompt": PROMPT, "shape": (4, size, size)}
    given |= {"noise": lesson["part"].start_noise([0], given["shape"]), "alpha_bar": pocket.scheduler.alphas_cumprod}
    given["suspects"] = {number: make_suspect(lesson["part"], number) for number in range(1, 6)}
    # The tests that the lesson begins with accuse one of them.
    exec(cell_with(LESSON, "def complaints"), given)
    said = [line.split(": ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert said == ["no complaint"] * 2 + ["timesteps: unequal distances"] + ["no complaint"] * 3
    # And under "One solution".
    more = constants(LESSON, "five", **given, faults=constants(LESSON, "faults", **given)["faults"])["five"]
    texts = [cell.source for cell in nbformat.read(LESSON, as_version=4).cells if cell.cell_type == "markdown"]
    (text,) = [text for text in texts if "<summary>One solution</summary>" in text]
    exec(text.split("```python\n")[1].split("\n```")[0], given)
    with torch.no_grad():
        said = {number: given["complaints"](parts) for number, parts in given["suspects"].items()}
        assert given["complaints"](lesson["part"]) == []
        said_of_more = {label: given["complaints"](parts) for label, parts in more.items()}
    assert {number: [words.split(":")[0] for words in found] for number, found in said.items()} == {
        1: ["ddim_loop"],
        2: ["timesteps"],
        3: ["text_vectors or guided_noise"],
        4: ["guided_noise"],
        5: ["start_noise"],
    }
    for number, found in said.items():
        assert f"\nsuspect {number}: {'; '.join(found)}\n" in text, "the lesson prints something else below"
    for label, found in said_of_more.items():
        assert f"\n{label}: {'; '.join(found) or 'no complaint'}\n" in text, "the lesson prints something else below"
    # And the count below them, with the lesson's first tests and with those of the solution.
    given["faults"] = constants(LESSON, "faults", **given)["faults"]
    first = lesson["complaints"]
    counts = []
    for tests in (first, given["complaints"]):
        capsys.readouterr()
        with torch.no_grad():
            exec(cell_with(LESSON, "caught ="), given | {"complaints": tests, "part": lesson["part"]})
        counts.append(capsys.readouterr().out.splitlines()[-1])
    assert counts[0].startswith("2 of 10 ") and counts[0].endswith(" 0")
    assert f"\n{counts[1]}\n" in text and counts[1].startswith("10 of 10 ")


def test_suspect_4_asks_for_one_picture_without_words_and_for_one_without_guidance(lesson, pipe):
    sound, suspect = lesson["part"], make_suspect(lesson["part"], 4)
    ids = [sound.token_ids(pipe.tokenizer, text) for text in ("", PROMPT)]
    x = sound.start_noise([3, 8], (4, SIDE // 2, SIDE // 2))
    with torch.no_grad():
        vectors = sound.text_vectors(pipe.text_encoder, *ids)
        said = suspect.guided_noise(pipe.unet, x, 501, vectors, 4.0)
        for number, guidance in ((0, 0.0), (1, 1.0)):  # without words; with them, without guidance
            own = sound.guided_noise(pipe.unet, x[number : number + 1], 501, vectors, guidance)
            assert torch.allclose(said[number : number + 1], own, atol=1e-5)


def test_the_two_lists_of_timesteps_under_the_suspects_are_theirs(lesson):
    suspect = make_suspect(lesson["part"], 2)
    assert suspect.timesteps(15)[:2] == [934, 867]
    assert lesson["part"].timesteps(15)[:2] == [925, 859]
    # As the second hint says.
    assert suspect.timesteps(20) == lesson["part"].timesteps(20)


@pytest.mark.parametrize("number", [0, 6])
def test_there_is_no_other_suspect(lesson, number):
    with pytest.raises(ValueError, match="choose a number from 1 to 5"):
        make_suspect(lesson["part"], number)


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
    """Run the two article cells in an empty folder; what stood there for the lesson's pipeline."""
    own = Painter()
    namespace = {"pipe": own, "name": "Pocket Diffusion"}
    exec("\n".join(source for source in code_cells(LESSON) if source.startswith(("import ", "from "))), namespace)
    namespace |= {"load_pipeline": load}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.chdir(tmp_path)
    exec(cell_with(LESSON, "load_pipeline(ARTICLE_MODEL"), namespace)
    exec(cell_with(LESSON, "article_pictures = []"), namespace)
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
    assert "from_pretrained(ARTICLE_MODEL, dtype=torch.float16)" in cell_with(LESSON, "load_pipeline(ARTICLE_MODEL")
