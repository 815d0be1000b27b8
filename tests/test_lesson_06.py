"""Lesson 06: its loop draws what the pipeline draws, its article cells choose rightly, its table tells the truth.

The functions are those of the notebook, read from it, so that what a learner sees is what is tested.
"""

import copy

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from PIL import Image

from helpers.inputs import prompt_notes
from helpers.loading import ARTICLE_MODEL, load_pipeline
from helpers.pictures import generate
from tests.lessons import NOTEBOOKS, cell_with, code_cells, constants, definitions
from tests.pipelines.tiny import SIDE, tiny_pipeline

LESSON = NOTEBOOKS / "06_stable_diffusion_pipeline.ipynb"
SAMPLERS = {
    "ddim": lambda config: DDIMScheduler.from_config(config),
    "pndm": lambda config: PNDMScheduler.from_config(config, skip_prk_steps=True),
    "euler": lambda config: EulerDiscreteScheduler.from_config(config),
}
STEPS = 4
PROMPT = "a mushroom on a blue background, flat style"


@pytest.fixture(scope="module")
def lesson() -> dict:
    """The imports, functions and classes of the lesson, as in the notebook, without anything else being run."""
    return definitions(LESSON, own=SIDE, STEPS=1, BATCH=2, pipe=None)  # what defaults of functions refer to


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def difference(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


# --- by hand equals the library


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_picture_by_hand_is_that_of_the_pipeline(lesson, pipe, monkeypatch, name):
    own = pipe.scheduler
    monkeypatch.setattr(pipe, "scheduler", SAMPLERS[name](own.config))
    expected = pipe(PROMPT, num_inference_steps=STEPS, guidance_scale=4.0, generator=seeded(3)).images[0]
    latents = lesson["by_hand"](pipe, PROMPT, SAMPLERS[name](own.config), steps=STEPS, guidance=4.0, seed=3)
    picture = lesson["paint"](pipe, latents)[0]
    assert picture.size == expected.size
    assert difference(picture, expected) <= 1
    assert np.asarray(picture).std() > 1, "a picture of one colour proves little"


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_loop_that_forgets_a_scale_would_be_noticed(lesson, pipe, monkeypatch, name):
    """The comparison above is worth something: Euler not scaled, DDIM with another seed, PNDM with other steps."""
    wrong = {"ddim": {"seed": 1}, "pndm": {"steps": STEPS + 1}, "euler": {}}[name]
    sampler = SAMPLERS[name](pipe.scheduler.config)
    if name == "euler":
        sampler = lesson["NotScaled"].from_config(pipe.scheduler.config)
    arguments = {"steps": STEPS, "seed": 0} | wrong
    right = lesson["by_hand"](pipe, PROMPT, SAMPLERS[name](pipe.scheduler.config), steps=STEPS, seed=0)
    latents = lesson["by_hand"](pipe, PROMPT, sampler, **arguments)
    assert difference(*(lesson["paint"](pipe, x)[0] for x in (right, latents))) > 1


@pytest.mark.parametrize("values", [(0, 255), (255, 0)])
def test_the_ruler_does_not_wrap_around(lesson, values):
    assert lesson["difference"](*(Image.new("L", (2, 2), value) for value in values)) == 255


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


def test_peak_bytes_counts_what_is_alive_at_once(lesson):
    with lesson["PeakBytes"]() as counter:
        a = torch.zeros(1000)  # 4 kB
        b = a.view(10, 100)[2:]  # a view holds nothing of its own
        a += 1  # in place
        c = torch.ones(2000)  # 8 kB
        del a, b
        c = c.sum()
    assert counter.most == 12_000
    assert counter.now == 4


def run_table(lesson, pipe, *, slowness: dict) -> list[tuple[str, str]]:
    """The table of the lesson on a CPU, with a small pipeline."""
    namespace = lesson | {"pipe": pipe, "prompt": "a", "name": "tiny", "own": SIDE, "slowness": slowness}
    for text in ("def measure(", "table = []", 'plain = row("plain")', "compile_too = on_cuda"):
        source = cell_with(LESSON, text).replace("STEPS, BATCH = 3, 4", "STEPS, BATCH = 1, 2")
        exec(source, namespace)
    return namespace["table"]


def test_the_table_measures_what_applies_and_says_what_does_not(lesson, pipe):
    before = {name: type(processor) for name, processor in pipe.unet.attn_processors.items()}
    strides = {name: p.stride() for name, p in pipe.unet.named_parameters()}
    picture = generate(pipe, "a", steps=1)[0]
    table = dict(run_table(lesson, pipe, slowness={torch.float32: 1.0, torch.float16: 40.0}))

    assert table["CPU offload"] == "needs CUDA"
    assert table["float16"] == "not drawn: it was 40 times slower above"
    assert table["bfloat16"] == "does not work on this cpu"
    assert "compil" in table["compile"]
    measured = ["plain", "attention slicing", "channels last", "VAE slicing", "plain, twice the side"]
    for label in [*measured, "VAE tiling, twice the side"]:
        assert table[label].endswith("of 255"), label
        assert float(table[label].split()[0]) > 0
        assert float(table[label].split()[2]) > 0
    assert table["plain"].endswith(" 0 of 255")

    assert {name: type(processor) for name, processor in pipe.unet.attn_processors.items()} == before
    assert {name: p.stride() for name, p in pipe.unet.named_parameters()} == strides
    assert not pipe.vae.use_slicing
    assert not pipe.vae.use_tiling
    assert difference(generate(pipe, "a", steps=1)[0], picture) == 0


def test_the_table_says_when_there_is_no_compiler(lesson, pipe):
    no_compiler = type("NoCompiler", (), {"which": staticmethod(lambda name: None)})
    made = {"shutil": no_compiler, "pipe": pipe, "on_cuda": False, "table": [], "name": "tiny"}
    namespace = lesson | made | {"STEPS": 1, "BATCH": 2}
    exec(cell_with(LESSON, "compile_too = on_cuda"), namespace)
    assert ("compile", "no compiler found") in namespace["table"]


def test_an_option_that_fails_is_a_line_of_its_own_and_is_switched_off(lesson, pipe):
    switched = []
    namespace = copy.copy(lesson)

    def fails():
        raise RuntimeError("not on this machine\nand more")

    exec(cell_with(LESSON, "table = []"), namespace)
    assert namespace["row"]("odd", fails, lambda: switched.append("off")) is None
    assert namespace["table"] == [("odd", "failed: not on this machine")]
    assert switched == ["off"]
