"""Drawing and saving: checked before any work, the same on every call, nothing overwritten."""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import loading
from helpers.pictures import generate, save_pictures
from tests.pipelines.tiny import SIDE, TOKENS, tiny_pipeline


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pocket(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "POCKET", tmp_path / "pocket")
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.register_to_config(_name_or_path=str(tmp_path / "pocket"))
    return pipe


@pytest.fixture
def calls(monkeypatch):
    """What the pipeline was called with, instead of drawing."""
    from diffusers import StableDiffusionPipeline

    calls = []

    def call(self, prompt, **options):
        calls.append({"prompt": prompt, **options})
        return type("Output", (), {"images": []})

    monkeypatch.setattr(StableDiffusionPipeline, "__call__", call)
    return calls


def pixels(picture):
    return np.asarray(picture).astype(int)


# Drawing


def test_pictures_are_those_of_the_pipeline_with_the_same_seed(pipe):
    (picture,) = generate(pipe, "a fox", steps=3, seed=5)
    expected = pipe(
        "a fox", num_inference_steps=3, guidance_scale=7.5, generator=torch.Generator("cpu").manual_seed(5)
    ).images[0]
    assert picture.size == (SIDE, SIDE) and picture.mode == "RGB"
    assert np.array_equal(pixels(picture), pixels(expected))


def test_a_list_gets_one_seed_after_another(pipe):
    pictures = generate(pipe, ["a fox", "an owl", "a fox"], steps=2, seed=3)
    alone = [generate(pipe, text, steps=2, seed=3 + i)[0] for i, text in enumerate(["a fox", "an owl", "a fox"])]
    for picture, single in zip(pictures, alone, strict=True):
        assert abs(pixels(picture) - pixels(single)).max() <= 1  # a batch may round otherwise
    assert abs(pixels(pictures[0]) - pixels(pictures[2])).mean() > 5


def test_a_negative_prompt_counts_for_every_picture(pipe):
    plain = generate(pipe, ["a fox", "an owl"], steps=2)
    negative = generate(pipe, ["a fox", "an owl"], steps=2, negative_prompt="a house")
    assert all(abs(pixels(a) - pixels(b)).max() > 0 for a, b in zip(plain, negative, strict=True))


def test_a_size_is_obeyed(pipe):
    (picture,) = generate(pipe, "a fox", steps=1, height=64, width=128)
    assert picture.size == (128, 64)


@pytest.mark.parametrize("sides", [(32, 48), [32, 48]])
def test_a_model_whose_pictures_are_not_square_draws_its_own_size(sides):
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.register_to_config(
        sample_size=sides
    )  # rows and columns of its latents; a list, where it comes from a file
    assert generate(pipe, "a fox", steps=1)[0].size == (96, 64)
    assert generate(pipe, "a fox", steps=1, height=128)[0].size == (96, 128)


def test_guidance_is_milder_with_pocket(pipe, pocket, calls):
    generate(pipe, "a fox")
    generate(pocket, "a fox")
    generate(pocket, "a fox", guidance=2)
    assert [call["guidance_scale"] for call in calls] == [7.5, 4.0, 2.0]
    assert calls[0]["num_inference_steps"] == 25
    assert [generator.device.type for generator in calls[0]["generator"]] == ["cpu"]


@pytest.mark.parametrize(
    "options, parts",
    [
        ({"prompt": None}, ["prompt is None"]),
        ({"prompt": ["a fox", 1]}, ["in the list is 1"]),
        ({"negative_prompt": 3}, ["negative_prompt is 3"]),
        ({"steps": 0}, ["steps is 0", "1 to 999"]),
        ({"guidance": -1}, ["guidance is -1", "1 (off) to 50"]),
        ({"guidance": 0.5}, ["guidance is 0.5", "1 (off)", "1 to 50"]),
        ({"seed": -1}, ["seed is -1", "0 to"]),
        ({"height": 100}, ["height is 100", "multiple of 8"]),
        ({"width": 4096}, ["width is 4096", "64 to 2048"]),
    ],
    ids=str,
)
def test_bad_values_are_refused_before_any_work(pocket, calls, capsys, options, parts):
    with pytest.raises(ValueError) as caught:
        generate(pocket, **{"prompt": "a dragon", **options})
    for part in parts:
        assert part in str(caught.value)
    assert calls == []
    assert capsys.readouterr().out == ""


def test_each_note_is_printed_once(pocket, calls, capsys):
    generate(pocket, ["a foks", "a foks", "a kat"], negative_prompt="a foks", height=192)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    assert "'foks'" in said[0] and "'kat'" in said[1] and "128 x 192" in said[2]


def test_a_negative_prompt_without_guidance_is_noted(pipe, calls, capsys):
    generate(pipe, "a fox", guidance=1, negative_prompt="a house")
    assert capsys.readouterr().out == "The negative prompt has no effect with guidance 1 (off)\n"
    generate(pipe, "a fox", guidance=1)
    assert capsys.readouterr().out == ""


def test_a_cut_prompt_is_said_by_us_alone(pipe, capfd, caplog):
    generate(pipe, "x" * TOKENS, steps=1)
    said = capfd.readouterr()
    assert said.out.count("\n") == 1 and "cut" in said.out
    assert said.err == ""
    assert not caplog.records


# Saving


@pytest.fixture
def picture():
    colours = np.random.default_rng(0).integers(0, 256, size=(16, 24, 3), dtype=np.uint8)
    return Image.fromarray(colours)


def test_pictures_are_numbered_from_zero_in_a_new_folder(tmp_path, picture):
    folder = tmp_path / "a" / "b"
    paths = save_pictures([picture, picture], folder)
    assert paths == [folder / "picture_0.jpg", folder / "picture_1.jpg"]
    for path in paths:
        with Image.open(path) as saved:
            assert saved.format == "JPEG" and saved.size == (24, 16)


def test_the_default_folder_is_pictures_here(tmp_path, monkeypatch, picture):
    monkeypatch.chdir(tmp_path)
    save_pictures([picture])
    assert (tmp_path / "pictures" / "picture_0.jpg").is_file()


def test_nothing_is_ever_overwritten(tmp_path, picture):
    (tmp_path / "picture_1.jpg").write_bytes(b"mine")
    assert [path.name for path in save_pictures([picture] * 2, tmp_path)] == ["picture_0.jpg", "picture_2.jpg"]
    assert [path.name for path in save_pictures([picture], tmp_path)] == ["picture_3.jpg"]
    assert (tmp_path / "picture_1.jpg").read_bytes() == b"mine"


def test_many_at_once_do_not_collide(tmp_path, picture):
    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(lambda _: save_pictures([picture] * 5, tmp_path), range(8)))
    paths = [path for batch in batches for path in batch]
    assert len(set(paths)) == 40
    assert {path.name for path in tmp_path.iterdir()} == {f"picture_{i}.jpg" for i in range(40)}


@pytest.mark.parametrize("suffix, kind", [(".png", "PNG"), (".webp", "WEBP"), (".jpeg", "JPEG")])
def test_suffixes_choose_the_format(tmp_path, picture, suffix, kind):
    (path,) = save_pictures([picture], tmp_path, stem="fox", suffix=suffix)
    assert path.name == f"fox_0{suffix}"
    with Image.open(path) as saved:
        assert saved.format == kind
        if kind == "PNG":
            assert np.array_equal(pixels(saved), pixels(picture))


def test_jpeg_keeps_quality_95(tmp_path, picture):
    (path,) = save_pictures([picture], tmp_path)
    picture.save(tmp_path / "expected.jpg", quality=95)
    assert path.read_bytes() == (tmp_path / "expected.jpg").read_bytes()


def test_a_picture_with_transparency_can_be_a_jpeg(tmp_path, picture):
    (path,) = save_pictures([picture.convert("RGBA")], tmp_path)
    with Image.open(path) as saved:
        assert saved.mode == "RGB"


@pytest.mark.parametrize("suffix", [".gif", "jpg", "", ".JPG"])
def test_an_unknown_suffix_is_refused(tmp_path, picture, suffix):
    with pytest.raises(ValueError, match=r"choose one of \.jpg, \.jpeg, \.png, \.webp") as caught:
        save_pictures([picture], tmp_path / "new", suffix=suffix)
    assert repr(suffix) in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("stem", ["", "../fox", "a/b"])
def test_a_stem_that_leaves_the_folder_is_refused(tmp_path, picture, stem):
    with pytest.raises(ValueError, match="plain file name") as caught:
        save_pictures([picture], tmp_path / "new", stem=stem)
    assert repr(stem) in str(caught.value)


def test_what_is_no_list_of_pictures_is_refused(tmp_path, picture):
    with pytest.raises(ValueError, match=r"\[picture\]"):
        save_pictures(picture, tmp_path)
    with pytest.raises(ValueError, match="ndarray"):
        save_pictures([picture, np.zeros((2, 2))], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path, picture):
    (tmp_path / "pictures").write_text("notes")
    with pytest.raises(ValueError, match="is a file"):
        save_pictures([picture], tmp_path / "pictures")


def test_a_disk_that_takes_half_a_picture_keeps_none_of_it(tmp_path, picture):
    """A limit on the size of files stops a write half way, as a full disk does."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = save_pictures([picture.resize((4, 4))], tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(
            OSError, match=f"File too large: no picture can be saved in '{tmp_path}'; make room"
        ) as caught:
            save_pictures([picture], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == kept


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="Windows has other permissions")
def test_a_folder_that_may_not_be_written_to_is_said(picture):
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o555)
        try:
            if user == 0:
                os.seteuid(65534)  # nobody: root may write everywhere
            for folder in (place, f"{place}/new"):
                with pytest.raises(PermissionError, match=f"Permission denied: no picture can be saved in '{folder}'"):
                    save_pictures([picture], folder)
        finally:
            os.seteuid(user)
            os.chmod(place, 0o755)
