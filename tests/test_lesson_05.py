"""Lesson 05: its loop draws what the pipeline draws, its article cells choose rightly, its table tells the truth.

The functions are those of the notebook, read from it, so that what a learner sees is what is tested.
"""

import ast
import copy

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from PIL import Image

from helpers.loading import ARTICLE_MODEL, load_pipeline
from helpers.pictures import generate
from tests.lessons import NOTEBOOKS, code_cells, definitions
from tests.pipelines.tiny import SIDE, tiny_pipeline

LESSON = NOTEBOOKS / "05_stable_diffusion_pipeline.ipynb"
SAMPLERS = {
    "ddim": lambda config: DDIMScheduler.from_config(config),
    "pndm": lambda config: PNDMScheduler.from_config(config, skip_prk_steps=True),
    "euler": lambda config: EulerDiscreteScheduler.from_config(config),
}
STEPS = 4
PROMPT = "a mushroom on a blue background, flat style"


def cell_with(text: str) -> str:
    """The one code cell of the lesson that holds a text."""
    (found,) = [source for source in code_cells(LESSON) if text in source]
    return found


@pytest.fixture(scope="module")
def lesson() -> dict:
    """The imports, functions and classes of the lesson, as in the notebook, without anything else being run."""
    return definitions(LESSON, own=SIDE, STEPS=1, BATCH=2, pipe=None)  # what defaults of functions refer to


@pytest.fixture(scope="module", params=["tiny", "pocket"])
def pipe(request):
    pipe = tiny_pipeline() if request.param == "tiny" else load_pipeline("pocket", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def tiny():
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
def test_a_loop_that_forgets_a_scale_would_be_noticed(lesson, tiny, monkeypatch, name):
    """The comparison above is worth something: Euler not scaled, DDIM with another seed, PNDM with other steps."""
    wrong = {"ddim": {"seed": 1}, "pndm": {"steps": STEPS + 1}, "euler": {}}[name]
    sampler = SAMPLERS[name](tiny.scheduler.config)
    if name == "euler":
        sampler = lesson["NotScaled"].from_config(tiny.scheduler.config)
    arguments = {"steps": STEPS, "seed": 0} | wrong
    right = lesson["by_hand"](tiny, PROMPT, SAMPLERS[name](tiny.scheduler.config), steps=STEPS, seed=0)
    latents = lesson["by_hand"](tiny, PROMPT, sampler, **arguments)
    assert difference(*(lesson["paint"](tiny, x)[0] for x in (right, latents))) > 1


@pytest.mark.parametrize("values", [(0, 255), (255, 0)])
def test_the_ruler_does_not_wrap_around(lesson, values):
    assert lesson["difference"](*(Image.new("L", (2, 2), value) for value in values)) == 255


def test_a_batch_gives_what_each_picture_gives_alone(pipe):
    prompts = ["a cat", "a rocket on a purple background", ""]
    options = {"num_inference_steps": STEPS, "guidance_scale": 4.0}
    together = pipe(prompts, generator=[seeded(i) for i in range(3)], **options).images
    for i, picture in enumerate(together):
        assert difference(picture, pipe(prompts[i], generator=seeded(i), **options).images[0]) <= 2


def test_one_generator_for_a_batch_gives_only_the_first_picture_its_seed():
    both = torch.randn((2, 4, 16, 16), generator=seeded(0))
    assert torch.equal(both[0], torch.randn((4, 16, 16), generator=seeded(0)))
    assert not torch.equal(both[1], torch.randn((4, 16, 16), generator=seeded(1)))


def test_half_precision_starts_from_the_same_noise():
    noise = torch.randn((1, 4, 16, 16), generator=seeded(0))
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(torch.randn((1, 4, 16, 16), generator=seeded(0), dtype=dtype), noise.to(dtype))


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
    exec(cell_with("load_pipeline(ARTICLE_MODEL"), namespace)
    exec(cell_with("article_pictures = []"), namespace)
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
    from helpers.inputs import prompt_notes

    pocket = load_pipeline("pocket", device="cpu")
    tree = ast.parse(cell_with("load_pipeline(ARTICLE_MODEL"))
    assigned = [
        node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "prompts"
    ]
    prompts = ast.literal_eval(assigned[0].value)
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


@torch.no_grad()
def test_vae_slicing_and_tiling_lower_the_peak_of_the_decoder(lesson, tiny):
    latents = torch.randn((4, 4, SIDE, SIDE), generator=seeded(0))  # twice the side
    peaks = {}
    for option in ("plain", "slicing", "tiling"):
        if option != "plain":
            getattr(tiny.vae, f"enable_{option}")()
        with lesson["PeakBytes"]() as counter:
            tiny.vae.decode(latents if option != "tiling" else latents[:1])
        peaks[option] = counter.most
        tiny.vae.disable_slicing()
        tiny.vae.disable_tiling()
    assert peaks["slicing"] < peaks["plain"] / 2
    assert peaks["tiling"] < peaks["slicing"]


def run_table(lesson, pipe, *, slowness: dict) -> list[tuple[str, str]]:
    """The table of the lesson on a CPU, with a small pipeline."""
    namespace = lesson | {"pipe": pipe, "prompt": "a", "name": "tiny", "own": SIDE, "slowness": slowness}
    for text in ("def measure(", "table = []", 'plain = row("plain")', "compile_too = on_cuda"):
        source = cell_with(text).replace("STEPS, BATCH = 3, 4", "STEPS, BATCH = 1, 2")
        exec(source, namespace)
    return namespace["table"]


def test_the_table_measures_what_applies_and_says_what_does_not(lesson, tiny):
    before = {name: type(processor) for name, processor in tiny.unet.attn_processors.items()}
    strides = {name: p.stride() for name, p in tiny.unet.named_parameters()}
    picture = generate(tiny, "a", steps=1)[0]
    table = dict(run_table(lesson, tiny, slowness={torch.float32: 1.0, torch.float16: 40.0}))

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

    assert {name: type(processor) for name, processor in tiny.unet.attn_processors.items()} == before
    assert {name: p.stride() for name, p in tiny.unet.named_parameters()} == strides
    assert not tiny.vae.use_slicing
    assert not tiny.vae.use_tiling
    assert difference(generate(tiny, "a", steps=1)[0], picture) == 0


def test_the_table_says_when_there_is_no_compiler(lesson, tiny, monkeypatch):
    monkeypatch.setitem(lesson, "shutil", type("NoCompiler", (), {"which": staticmethod(lambda name: None)}))
    table = dict(run_table(lesson, tiny, slowness={torch.float32: 1.0}))
    assert table["compile"] == "no compiler found"


def test_an_option_that_fails_is_a_line_of_its_own_and_is_switched_off(lesson, tiny):
    switched = []
    namespace = copy.copy(lesson)

    def fails():
        raise RuntimeError("not on this machine\nand more")

    exec(cell_with("table = []"), namespace)
    assert namespace["row"]("odd", fails, lambda: switched.append("off")) is None
    assert namespace["table"] == [("odd", "failed: not on this machine")]
    assert switched == ["off"]
