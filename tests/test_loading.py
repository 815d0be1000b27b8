"""Loading: the right pipeline, in silence, or one sentence that says what would work. Hubs are in test_hub.py."""

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from helpers import hub, loading, model_folder
from helpers.checksums import CHECKSUMS, verify_checksums, write_checksums
from helpers.library_calls import memory_advice
from helpers.loading import ARTICLE_MODEL, KNOWN, POCKET, REVISIONS, ROOT, load_pipeline
from helpers.pictures import generate
from helpers.sampling import run as run_loop
from tests.pipelines.full_format import UNSAFE, make_unsafe, save_full
from tests.pipelines.tiny import tiny_pipeline

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
CURE = "git checkout -- models/pocket-diffusion"


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A tiny pipeline in float16 on disk, with checksums: what models/pocket-diffusion looks like."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().to(dtype=torch.float16).save_pretrained(folder)
    (folder / "README.md").write_text("# A card\n")
    write_checksums(folder)
    return folder


@pytest.fixture(scope="session")
def full(tmp_path_factory):
    """A folder in the full format of the hub, safety checker included."""
    return save_full(tmp_path_factory.mktemp("models") / "full")


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the tiny pipeline that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture
def unlisted(folder):
    """The same without checksums."""
    (folder / CHECKSUMS).unlink()
    return folder


@pytest.fixture
def pocket(folder, monkeypatch):
    """The same in the place of Pocket Diffusion, on a machine with no GPU."""
    for module in (loading, model_folder):
        monkeypatch.setattr(module, "POCKET", folder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.delenv("SDSS_MODEL", raising=False)
    return folder


@pytest.fixture
def gpu(pocket, monkeypatch):
    """The same machine with a CUDA GPU, which here is the CPU in disguise; gives what was moved where."""
    moves = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(StableDiffusionPipeline, "to", lambda pipe, device: moves.append(str(device)) or pipe)
    return moves


def refused(name, *parts, error=ValueError, **options):
    """Load and expect one sentence that holds every part."""
    with pytest.raises(error) as caught:
        load_pipeline(name, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for part in parts:
        assert str(part) in sentence
    return sentence


def hub_answers(monkeypatch, answer):
    """Let the hub answer with an exception, or with a folder as its download."""

    def fetch(name, files, *, revision, choices):
        assert revision in (REVISIONS.get(name), Path(str(answer)).name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(hub, "fetch", fetch)


# What loads


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_folder_loads_its_weights_in_the_dtype_asked_for(folder, dtype):
    pipe = load_pipeline(str(folder), device="cpu", dtype=dtype)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert {tensor.dtype for tensor in part.parameters()} == {dtype}
        assert not part.training
    expected = tiny_pipeline().unet.conv_in.weight.half().to(dtype)
    torch.testing.assert_close(pipe.unet.conv_in.weight, expected, rtol=0, atol=0)


def test_pocket_and_auto_without_a_gpu_load_the_shipped_folder_in_float32(pocket, capsys):
    for pipe in (load_pipeline(), load_pipeline("auto"), load_pipeline("pocket")):
        assert pipe.name_or_path == str(pocket)
        assert pipe.unet.dtype == pipe.text_encoder.dtype == torch.float32
        assert pipe.safety_checker is None
    assert capsys.readouterr().out == ""


def test_auto_on_a_gpu_loads_stable_diffusion_in_float16(gpu, saved, monkeypatch, capsys):
    hub_answers(monkeypatch, saved)
    pipe = load_pipeline()
    assert pipe.name_or_path == KNOWN["sd15"]
    assert pipe.unet.dtype == torch.float16
    assert gpu[-1] == "cuda"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("cause", [ConnectionError("no route"), PermissionError("log in"), MemoryError("full")])
def test_auto_on_a_gpu_without_stable_diffusion_says_so_in_one_line_and_takes_pocket(
    gpu, pocket, monkeypatch, capsys, cause
):
    hub_answers(monkeypatch, cause)
    assert load_pipeline().name_or_path == str(pocket)
    said = f"Stable Diffusion 1.5 could not be had, so this is Pocket Diffusion instead: {cause}\n"
    assert capsys.readouterr().out == said


def test_auto_on_the_cpu_of_a_machine_with_a_gpu_takes_pocket(gpu, pocket):
    assert load_pipeline(device="cpu").name_or_path == str(pocket)


def test_apples_gpu_computes_in_float32(pocket, monkeypatch):
    moves = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(StableDiffusionPipeline, "to", lambda pipe, device: moves.append(str(device)) or pipe)
    assert load_pipeline().unet.dtype == torch.float32
    assert moves[-1] == "mps"


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_variable_chooses_what_auto_is(gpu, pocket, saved, tmp_path, monkeypatch, capsys, device):
    other = shutil.copytree(saved, tmp_path / "other")
    hub_answers(monkeypatch, saved)
    for chosen, name in ((str(other), str(other)), ("pocket", str(pocket)), ("sd15", KNOWN["sd15"])):
        monkeypatch.setenv("SDSS_MODEL", chosen)
        assert load_pipeline("auto", device=device).name_or_path == name
        assert capsys.readouterr().out == f"SDSS_MODEL is set, so this is {chosen}.\n"
    assert load_pipeline("pocket", device=device).name_or_path == str(pocket)  # what is asked for by name stays
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("nothing", ["", "auto"])
def test_a_variable_that_chooses_nothing_is_none(pocket, monkeypatch, capsys, nothing):
    monkeypatch.setenv("SDSS_MODEL", nothing)
    assert load_pipeline("auto").name_or_path == str(pocket)
    assert capsys.readouterr().out == ""


def test_what_a_variable_chose_is_not_replaced_by_pocket(gpu, monkeypatch):
    monkeypatch.setenv("SDSS_MODEL", "sd15")
    hub_answers(monkeypatch, ConnectionError("no route"))
    refused("auto", "no route", error=ConnectionError)
    monkeypatch.setenv("SDSS_MODEL", "sd51")
    refused("auto", "Unknown model 'sd51'", "did you mean 'sd15'")


def test_loading_prints_nothing_and_warns_of_nothing(folder):
    code = f"from helpers.loading import load_pipeline; load_pipeline({str(folder)!r}, device='cpu')"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize("broken", [False, True])
def test_loading_leaves_the_libraries_as_talkative_as_before(unlisted, broken):
    def settings():
        libraries = (diffusers_logging, transformers_logging)
        levels = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
        return levels, are_progress_bars_disabled()

    before = settings()
    if broken:
        os.truncate(unlisted / UNET, 1000)
        refused(unlisted, "damaged")
    else:
        assert not load_pipeline(unlisted, device="cpu").progress_bar([1]).disable
    assert settings() == before


def test_quiet_silences_and_restores_even_when_the_body_fails():
    diffusers_logging.set_verbosity_info()
    diffusers_logging.disable_progress_bar()
    try:
        with pytest.raises(KeyError), loading.quiet():
            assert diffusers_logging.get_verbosity() == transformers_logging.get_verbosity() == diffusers_logging.ERROR
            assert not transformers_logging.is_progress_bar_enabled()
            assert not are_progress_bars_disabled()  # a download shows its progress
            raise KeyError
        assert diffusers_logging.get_verbosity() == diffusers_logging.INFO
        assert not diffusers_logging.is_progress_bar_enabled()
        assert transformers_logging.is_progress_bar_enabled()
    finally:
        diffusers_logging.set_verbosity_warning()
        diffusers_logging.enable_progress_bar()


@pytest.mark.parametrize("dtype", [torch.int8, "float16"])
def test_an_unknown_dtype_is_refused(pocket, dtype):
    refused("pocket", f"{dtype!r}", "torch.float32, torch.float16, torch.bfloat16", dtype=dtype)


# Names


@pytest.mark.parametrize("name, near", [("pockt", "pocket"), ("SD15", "sd15"), ("Auto", "auto")])
def test_an_unknown_name_gets_the_choices_and_the_nearest(name, near):
    refused(name, repr(name), f"did you mean {near!r}?", "'auto', 'pocket', 'sd15'", "'owner/name'", "a folder")


@pytest.mark.parametrize("name", ["zzzzz", "", None, "z" * 5000, "nul\0"])
def test_a_name_near_nothing_gets_the_choices_alone(name):
    assert "did you mean" not in refused(name, repr(str(name)), loading.CHOICES)


@pytest.mark.parametrize(
    "name", ["./gone", "/gone/for/good", "a/b/c", Path("gone/model"), "~nobody-of-this-name/x", "./" + "x" * 5000]
)
def test_a_folder_that_is_not_there_is_refused(name):
    refused(name, f"no folder {str(name)!r}", loading.CHOICES)


@pytest.mark.parametrize("name", ["x" * 100 + "/model", "some--odd/name"])
def test_a_name_that_no_hub_could_have_is_refused(name):
    refused(name, repr(name), "hub has no model", loading.CHOICES)


@pytest.mark.parametrize("where", ["notebooks", "."])
@pytest.mark.parametrize("how", ["name", "variable"])
def test_a_relative_path_is_a_folder_of_the_repository_and_no_hub_id(where, how, monkeypatch):
    """A lesson's kernel starts in notebooks/, and a stranger could publish a model of this name."""
    monkeypatch.chdir(ROOT / where)
    monkeypatch.setattr(hub, "fetch", lambda *_, **__: pytest.fail("the hub was asked"))
    name = "models/pocket-diffusion"
    if how == "variable":
        monkeypatch.setenv("SDSS_MODEL", name)
        name = "auto"
    pipe = load_pipeline(name, device="cpu")
    assert loading.is_pocket(pipe)


def test_a_relative_path_is_seen_from_here_first(folder, monkeypatch):
    here = folder.parent / "models" / "pocket-diffusion"
    shutil.copytree(folder, here)
    monkeypatch.chdir(folder.parent)
    pipe = load_pipeline("models/pocket-diffusion", device="cpu")
    assert Path(pipe.name_or_path).resolve() == here != POCKET


@pytest.mark.parametrize("name", ["some/model.safetensors", "model.ckpt"])
def test_a_single_file_is_refused_and_no_hub_asked(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "fetch", lambda *_, **__: pytest.fail("the hub was asked"))
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(b"nothing")
    refused(name, f"{name} is one file", loading.CHOICES)


def test_known_models_are_pinned_to_a_commit():
    assert set(REVISIONS) == {*KNOWN.values(), ARTICLE_MODEL}
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in REVISIONS.values())


# The safety checker


def test_the_safety_checker_is_on_and_said_unless_it_is_left_out(full, capsys):
    pipe = load_pipeline(full, device="cpu")
    assert pipe.safety_checker is not None and pipe.feature_extractor is not None
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    for part in (str(full), "safety checker", "it is on", "sexual content", "black", "safety_checker=False"):
        assert part in said
    assert load_pipeline(full, device="cpu", safety_checker=False).safety_checker is None
    assert capsys.readouterr().out == ""


def test_a_safety_checker_left_out_need_not_be_there(full, tmp_path):
    folder = Path(shutil.copytree(full, tmp_path / "model"))
    shutil.rmtree(folder / "safety_checker")
    refused(folder, folder / "safety_checker", ".safetensors")
    assert load_pipeline(folder, device="cpu", safety_checker=False).unet is not None


def test_a_picture_made_black_is_said(full, capsys):
    pipe = load_pipeline(full, device="cpu")
    capsys.readouterr()
    pipe.safety_checker.concept_embeds_weights.data.fill_(-2)  # below any cosine: it finds every picture
    pictures = generate(pipe, ["a fox", "an owl"], steps=1)
    assert [picture.getbbox() for picture in pictures] == [None, None]
    assert "picture 0, 1 (counted from 0)" in capsys.readouterr().out


# A full GPU


@pytest.mark.parametrize(
    "error, kind",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "the GPU is full"),
        (RuntimeError("MPS backend out of memory"), "the Mac's GPU is full"),
    ],
)
def test_a_full_gpu_becomes_advice(error, kind, full, monkeypatch):
    def fail(*args, **options):
        raise error

    pipe = tiny_pipeline()
    monkeypatch.setattr(pipe.unet, "forward", fail)
    for draw in (generate, run_loop):
        with pytest.raises(MemoryError, match="fewer pictures at a time, or smaller ones") as caught:
            draw(pipe, "a fox", steps=1)
        assert caught.value.__cause__ is error
        assert "\n" not in str(caught.value)
    moved = StableDiffusionPipeline.to
    monkeypatch.setattr(
        StableDiffusionPipeline, "to", lambda pipe, device: moved(pipe, device) if device == "cpu" else fail()
    )
    refused(full, kind, error=MemoryError, device="meta")


def test_other_errors_are_no_matter_of_memory():
    with pytest.raises(RuntimeError, match="shape"), memory_advice():
        raise RuntimeError("shape mismatch")


# Folders with checksums


@pytest.mark.parametrize("name", [UNET, "tokenizer/tokenizer.json", "model_index.json"])
def test_a_file_with_one_wrong_byte_is_named_with_its_cure(pocket, name):
    content = bytearray((pocket / name).read_bytes())
    content[len(content) // 2] ^= 1
    (pocket / name).write_bytes(content)
    refused("pocket", name, "damaged", CURE)


def test_a_missing_file_is_named_with_its_cure(pocket):
    (pocket / UNET).unlink()
    refused("pocket", UNET, "missing", CURE)
    shutil.rmtree(pocket)
    refused("pocket", pocket, "missing", CURE)


def test_other_folders_get_another_cure(folder):
    os.truncate(folder / UNET, 1000)
    assert "git checkout" not in refused(folder, UNET, "damaged", "download the folder again")


def test_an_empty_line_in_the_list_is_none_and_half_a_line_is_damage(folder):
    listing = folder / CHECKSUMS
    whole = listing.read_text()
    listing.write_text(whole.replace("\n", "\n\n") + "  \n")
    verify_checksums(folder)
    listing.write_text(whole[:-90])  # cut inside the last line
    refused(folder, CHECKSUMS, "damaged")


def test_checksums_cover_the_model_and_nothing_else(folder):
    (folder / ".DS_Store").write_text("noise")
    (folder / "README.md").write_text("# Another card\n")
    verify_checksums(folder)
    write_checksums(folder)
    listed = [line.split("  ")[1] for line in (folder / CHECKSUMS).read_text().splitlines()]
    everything = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert listed == sorted(listed)
    assert set(listed) == everything - {"README.md", ".DS_Store", CHECKSUMS}


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs the sha256sum command")
def test_the_sha256sum_command_agrees(folder):
    assert subprocess.run(["sha256sum", "-c", "--strict", "--quiet", CHECKSUMS], cwd=folder).returncode == 0


# Folders without


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("damage", ["cut", "another shape"])
def test_damaged_weights_are_refused(unlisted, part, damage):
    (path,) = (unlisted / part).glob("*.safetensors")
    if damage == "cut":
        os.truncate(path, 1000)
    else:
        tensors = load_file(path)
        name = next(name for name in tensors if name.endswith("bias"))
        save_file(tensors | {name: torch.zeros(99)}, path, metadata={"format": "pt"})
    refused(unlisted, unlisted, "damaged", "download the folder again")


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_weight_that_no_file_has_is_never_made_up(unlisted, part):
    (path,) = (unlisted / part).glob("*.safetensors")
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if name.endswith("bias")))
    save_file(tensors, path, metadata={"format": "pt"})
    refused(unlisted, unlisted, "damaged")


@pytest.mark.parametrize("part, needed", [("vae", "*.safetensors"), ("tokenizer", "*.json"), ("scheduler", "*.json")])
def test_a_missing_part_is_named(unlisted, part, needed):
    shutil.rmtree(unlisted / part)
    refused(unlisted, unlisted / part, needed)


@pytest.mark.parametrize("name", [UNET, TEXT])
def test_pickled_weights_are_refused(unlisted, name):
    torch.save({"weight": torch.zeros(1)}, (unlisted / name).with_suffix(".bin"))
    (unlisted / name).unlink()
    refused(unlisted, unlisted / Path(name).parent, "pickle", "*.safetensors")


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    torch.save({}, tmp_path / "model.ckpt")
    refused(tmp_path, tmp_path, "no model_index.json", loading.CHOICES)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "\N{SNOWMAN}"])
def test_an_unreadable_index_is_refused(unlisted, text):
    (unlisted / "model_index.json").write_text(text, encoding="utf-16")
    refused(unlisted, "model_index.json", "damaged")
    (unlisted / "model_index.json").write_text(text, encoding="utf-8")
    refused(unlisted, "model_index.json", "damaged")


def test_another_kind_of_pipeline_is_refused(unlisted, tmp_path):
    make_unsafe(unlisted, {"_class_name": "StableDiffusionXLPipeline"}, (), tmp_path)
    refused(unlisted, "StableDiffusionXLPipeline", "needs a StableDiffusionPipeline")


@pytest.mark.parametrize("unsafe", UNSAFE.values(), ids=list(UNSAFE))
def test_a_folder_that_names_code_is_refused_and_the_code_not_run(unlisted, unsafe, tmp_path, monkeypatch):
    ran, modules = tmp_path / "ran", tmp_path / "modules"
    modules.mkdir()
    (modules / "module_of_this_machine.py").write_text(f"open({str(ran)!r}, 'w')")
    monkeypatch.syspath_prepend(modules)
    make_unsafe(unlisted, *unsafe, ran=ran)
    sentence = refused(unlisted, unlisted)
    assert "never run" in sentence or "needs a StableDiffusionPipeline" in sentence
    assert not ran.exists()


def test_code_in_the_place_of_a_library_is_refused(unlisted, tmp_path):
    make_unsafe(unlisted, {}, ("unet/diffusers.py",), tmp_path / "ran")
    refused(unlisted, unlisted / "unet", "never run")
    assert not (tmp_path / "ran").exists()


def test_with_our_helpers_the_library_itself_runs_no_code_either(unlisted, tmp_path):
    """The second lock: asked to trust the code, it refuses."""
    make_unsafe(unlisted, {"unet": ["mine", "MyUNet"]}, ("unet/mine.py",), tmp_path / "ran")
    code = (
        "import helpers; from diffusers import DiffusionPipeline; "
        f"DiffusionPipeline.from_pretrained({str(unlisted)!r}, trust_remote_code=True)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "DIFFUSERS_DISABLE_REMOTE_CODE" in run.stderr.splitlines()[-1]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_an_error_of_the_disk_is_told_as_such(number, unlisted, monkeypatch):
    error = OSError(number, os.strerror(number), str(unlisted / UNET))

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", fail)
    refused(unlisted, os.strerror(number), unlisted / UNET, error=type(error))


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="Windows has other permissions")
@pytest.mark.parametrize("name", [UNET, TEXT, "tokenizer/tokenizer.json", "vae"])
def test_what_may_not_be_read_is_told_as_such(name, saved):
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as place:  # where others may look, unlike tmp_path
        folder = Path(shutil.copytree(saved, Path(place) / "model"))
        (folder / CHECKSUMS).unlink()
        for path in (Path(place), *folder.rglob("*")):
            path.chmod(0o755)
        (folder / name).chmod(0)
        try:
            if user == 0:
                os.seteuid(65534)  # nobody: root may read everything
            refused(folder, "Permission denied", folder / name, error=PermissionError)
        finally:
            os.seteuid(user)
            (folder / name).chmod(0o755)
