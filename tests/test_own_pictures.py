"""Training on your own pictures: from files of three kinds to a pipeline, and a sentence for what cannot be used."""

import json
from argparse import ArgumentParser

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline
from PIL import Image

from helpers.images import picture_file
from helpers.loading import load_pipeline
from helpers.pictures import generate
from training import own_pictures, prepare, train_unet, train_vae
from training.dataset import cached_latents, denoising_batch
from training.flags import filled
from training.own_pictures import METADATA, OwnPicture, load, pictures_key, read_flags
from training.text import build_tokenizer
from training.train_vae import build_vae
from training.unet import UNetConfig

TINY_VAE = ("--channels", 8, 8, 8, 16, "--batch-size", 2)
TINY_UNET = ("--channels", 16, 32, "--text-width", 16, "--text-layers", 1, "--batch-size", 4)


def run(program, *arguments):
    """A program of `training` in this process."""
    program.main([str(argument) for argument in arguments])


def caption(number):
    """The ninth is longer than the text encoder reads."""
    return f"Zwölf quaggas, number {number}" + " and so on" * 12 * (number == 9)


def originals(folder, count=own_pictures.FEWEST):
    """Wide pictures, green with a red and a blue end, each with a caption; the last two are a JPEG and a WebP."""
    folder.mkdir()
    for number in range(count):
        pixels = np.zeros((40, 80, 3), np.uint8)
        pixels[:, :20], pixels[:, 20:60, 1], pixels[:, 60:] = (255, 0, 0), 200 + number, (0, 0, 255)
        suffix, kind = {count - 1: (".jpg", "JPEG"), count - 2: (".WebP", "WEBP")}.get(number, (".png", "PNG"))
        (folder / f"test {number}{suffix}").write_bytes(picture_file(Image.fromarray(pixels), kind))
        (folder / f"test {number}.txt").write_text(caption(number).replace(" ", "\n  ") + "\n", encoding="utf-8")
    (folder / "._test 0.png").write_bytes(b"what macOS leaves on other disks")
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_prepared_folder_is_an_imagefolder_and_the_originals_stay(tmp_path):
    """A line of metadata.jsonl for every picture, its name in `file_name`, without what datasets takes for a split."""
    source, output = originals(tmp_path / "source"), tmp_path / "new" / "data"
    before = content(source)
    run(prepare, source, "--output", output)
    assert content(source) == before
    lines = (output / METADATA).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    names = [f"{number:05}.png" for number in range(10)]
    assert rows == [{"file_name": names[i], "text": caption(i)} for i in range(10)]
    assert sorted(path.name for path in output.iterdir()) == [*names, METADATA]
    for number, name in enumerate(names):
        with Image.open(output / name) as picture:
            assert (picture.format, picture.size, picture.mode) == ("PNG", (128, 128), "RGB")
            middle = np.asarray(picture, dtype=int)[8:-8, 8:-8]  # the red and the blue end are cut off
        assert np.abs(middle - (0, 200 + number, 0)).max() <= 12  # JPEG and WebP lose a little
    again = tmp_path / "again"
    run(prepare, output, "--output", again)  # from metadata.jsonl this time
    assert content(again) == content(output)


def test_nothing_is_written_over(tmp_path):
    source, output = originals(tmp_path / "source"), tmp_path / "data"
    output.mkdir()
    (output / "mine.txt").write_text("keep me")
    for arguments in ((source, "--output", output), (source, "--output", source), (output, "--example", 12)):
        before = content(source), content(output)
        with pytest.raises(SystemExit, match=r"is there already, and nothing is replaced: name a new folder$"):
            run(prepare, *arguments)
        assert (content(source), content(output)) == before


def no_caption(folder):
    (folder / "test 3.txt").unlink()


def listed(*lines):
    """Give a folder these lines of metadata.jsonl after ten good ones."""

    def spoil(folder):
        names = [path.name for path in folder.glob("test*") if path.suffix != ".txt"]
        good = [json.dumps({"file_name": name, "text": "a quagga"}) for name in sorted(names)]
        (folder / METADATA).write_text("\n".join([*good, *lines]), encoding="utf-8")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_caption, r"1 of the 10 pictures in .* no caption: write what 'test 3.png' shows into 'test 3.txt'"),
        (lambda folder: (folder / "test 3.txt").write_text(" \n"), r"The caption of 'test 3.png' is empty"),
        (lambda folder: (folder / "test 3.txt").write_bytes(b"caf\xe9"), r"test 3.txt is not text in UTF-8"),
        (lambda folder: (folder / "test 3.png").write_bytes(b"\x89PNG"), r"'test 3.png' cannot be read as a picture"),
        (lambda folder: (folder / "test 3.png").unlink(), r"holds 9 pictures with captions: .* at least 10"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], r"holds no pictures: put files ending in \.jpg"),
        (lambda folder: [path.unlink() for path in folder.iterdir()] and folder.rmdir(), r"There is no folder"),
        (listed("{"), r"Line 11 of .*metadata.jsonl is not of the form"),
        (listed('{"file_name": "test 1.png"}'), r"Line 11 of .*metadata.jsonl is not of the form"),
        (listed('{"file_name": "test 1.png", "text": "a"}'), r"that no other line names"),
        (listed('{"file_name": "../x.png", "text": "a"}'), r"Line 11 .* with a file of this folder"),
        (listed('{"file_name": "test 1.gif", "text": "a"}'), r"Line 11 .* 'test 1.gif', which is no JPEG, PNG or WebP"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_nothing_is_written(tmp_path, spoil, said):
    source, output = originals(tmp_path / "source"), tmp_path / "data"
    spoil(source)
    with pytest.raises(SystemExit, match=said) as refused:
        run(prepare, source, "--output", output)
    assert "\n" not in str(refused.value) and not output.exists()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "data"
    run(prepare, originals(folder.with_name("source")), "--output", folder)
    return folder


def test_trainers_take_prepared_folders_only(tmp_path, data):
    unprepared = originals(tmp_path / "source")
    with pytest.raises(SystemExit, match=r"holds no metadata\.jsonl: make such a folder with") as refused:
        run(train_vae, "--data", unprepared, "--folder", tmp_path / "run")
    assert "\n" not in str(refused.value)
    listed()(unprepared)
    with pytest.raises(SystemExit, match=r"'test 0\.png' has 80 x 40 pixels where 128 x 128 are needed"):
        run(train_unet, "--data", unprepared, "--folder", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_only_scenes_have_is_refused_with_own_pictures(tmp_path, data, capsys):
    with pytest.raises(SystemExit):
        run(train_unet, "--data", data, "--folder", tmp_path, "--place-weight", 0.015, "--grounding-weight", 1)
    said = "error: with --data there are no scenes, so leave out --place-weight, --grounding-weight"
    assert said in capsys.readouterr().err
    _, config, own = read_flags(ArgumentParser(), UNetConfig(), ["--data", str(data), "--place-weight", "0"])
    assert config.place_weight == config.grounding_weight == config.scenes == 0 and len(own) == 10


def test_every_word_of_the_captions_is_one_token_and_batches_hold_whole_captions(data):
    pictures = load(data)
    tokenizer = build_tokenizer([picture.text for picture in pictures])
    assert tokenizer.tokenize(pictures[7].text) == ["zwÃ¶lf</w>", "quaggas</w>", ",</w>", "number</w>", "7</w>"]
    assert len(tokenizer.tokenize("a pizza")) > 2  # of the grammar nothing is known
    config = filled(UNetConfig(), own_pictures.NONE)
    cached = {"latents": torch.zeros(len(pictures), 4, 16, 16)}
    batch = denoising_batch(0, pictures, cached, tokenizer, config)
    assert batch.keys() == {"latents", "noise", "timesteps", "input_ids"}
    told = set(tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True))
    whole = set(
        tokenizer.batch_decode(
            tokenizer([p.text for p in pictures], truncation=True).input_ids, skip_special_tokens=True
        )
    )
    assert len(told) > 5 and told <= whole | {""}


def test_a_pixel_or_a_word_makes_other_data_and_other_latents(tmp_path, data, capsys):
    pictures = load(data)
    torch.manual_seed(0)
    vae, accelerator = build_vae((8, 8, 8, 8)), Accelerator(cpu=True)
    cached_latents(tmp_path, vae, "one", pictures, accelerator)
    pixels = pictures[0].pixels.copy()
    pixels[5, 5] ^= 255
    first = picture_file(Image.fromarray(pixels))
    other = tmp_path / "other"
    run(prepare, data, "--output", other)
    assert pictures_key(load(other)) == pictures_key(pictures)
    cached_latents(tmp_path, vae, "one", load(other), accelerator)
    assert "encoding anew" not in capsys.readouterr().out
    (other / "00000.png").write_bytes(first)
    changed = load(other)
    reworded = [OwnPicture("a quagga", pictures[0].digest, pictures[0].pixels), *pictures[1:]]
    assert len({pictures_key(some) for some in (pictures, changed, reworded)}) == 3
    latents = cached_latents(tmp_path, vae, "one", changed, accelerator)["latents"]
    assert latents.shape == (10, 4, 16, 16) and "encoding anew" in capsys.readouterr().out


@pytest.mark.slow
def test_both_stages_end_in_a_pipeline_and_a_run_goes_on_with_the_same_data_only(tmp_path, data, capsys):
    run(train_vae, "--data", data, "--folder", tmp_path / "vae", "--steps", 2, *TINY_VAE)
    vae = ("--vae", tmp_path / "vae" / "vae")
    for folder, stops in (("parts", (2, None)), ("whole", (None,))):
        for stop in stops:
            stage = ("--folder", tmp_path / folder, "--steps", 3, *vae, *TINY_UNET)
            run(train_unet, "--data", data, *stage, *(("--stop-after", stop) if stop else ()))
    assert "Of 10 captions 1 have more than 30 tokens; the ends are never read: 'Zwölf" in capsys.readouterr().out
    pipes = [StableDiffusionPipeline.from_pretrained(tmp_path / folder / "pipeline") for folder in ("parts", "whole")]
    weights = [pipe.unet.state_dict() for pipe in pipes]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    lessons = load_pipeline(tmp_path / "parts" / "pipeline", device="cpu")  # as with SDSS_MODEL
    (picture,) = generate(lessons, "Zwölf quaggas", steps=2)
    assert picture.size == (128, 128) and np.asarray(picture).std() > 2
    assert "quaggas</w>" in pipes[0].tokenizer.get_vocab()

    record = json.loads((tmp_path / "parts" / "config.json").read_text(encoding="utf-8"))
    assert record["inputs"]["data"] == {"folder": data.as_posix(), "key": pictures_key(load(data))}
    assert record["settings"]["place_weight"] == record["settings"]["scenes"] == 0
    other = tmp_path / "other"
    run(prepare, data, "--output", other)
    (other / "00003.png").write_bytes((other / "00002.png").read_bytes())
    for program, folder, more in ((train_vae, "vae", TINY_VAE), (train_unet, "parts", (*vae, *TINY_UNET))):
        with pytest.raises(SystemExit, match=r"data [0-9a-f]{12} \(now [0-9a-f]{12}\)"):
            steps = 2 if program is train_vae else 3
            run(program, "--data", other, "--folder", tmp_path / folder, "--steps", steps, *more)
