"""Loading: the right pipeline, in silence, or one sentence that says what would work."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import constants, errors
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from helpers import hub, loading
from helpers.loading import (
    ARTICLE_MODEL,
    KNOWN,
    REVISIONS,
    ROOT,
    best_device,
    best_dtype,
    load_pipeline,
    memory_advice,
    verify_checksums,
)
from helpers.pictures import generate
from helpers.sampling import run as run_loop
from tests.pipelines.full_format import full_pipeline, save_full, save_single_file
from tests.pipelines.tiny import tiny_pipeline

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A tiny pipeline in float16 on disk, with checksums: what models/pocket-diffusion looks like."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().to(dtype=torch.float16).save_pretrained(folder)
    (folder / "README.md").write_text("# A card\n")
    loading.write_checksums(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the tiny pipeline that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture
def pocket(folder, monkeypatch):
    """The same copy in the place of Pocket Diffusion, on a machine with no GPU."""
    monkeypatch.setattr(loading, "POCKET", folder)
    monkeypatch.setattr(loading, "_devices", lambda: ["cpu"])
    monkeypatch.delenv("SDSS_MODEL", raising=False)
    return folder


@pytest.fixture
def gpu(pocket, monkeypatch):
    """The same machine with a CUDA GPU, which here is the CPU in disguise; gives what was moved where."""
    moves = []
    monkeypatch.setattr(loading, "_devices", lambda: ["cuda", "cpu"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(loading, "_free_memory", lambda device: None)
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

    def download(cls, name, **options):
        options.pop("local_files_only", None)  # the second try, from the cache
        assert options == {"use_safetensors": True, "revision": REVISIONS.get(name)}
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(StableDiffusionPipeline, "download", classmethod(download))


def http_error(kind, status):
    return kind(
        f"{status} from the hub\nsecond line", response=SimpleNamespace(status_code=status, headers={}, request=None)
    )


def wrapped(cause):
    """The way diffusers reports a failed call to the hub."""
    error = OSError("Cannot load model: not fully cached locally. Please check out the root cause in the stacktrace.")
    error.__cause__ = cause
    return error


# What loads


def test_a_folder_loads_in_the_dtype_asked_for_in_every_component(folder):
    for dtype in (torch.float32, torch.float16):
        pipe = load_pipeline(folder, device="cpu", dtype=dtype)
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            assert {tensor.dtype for tensor in part.parameters()} == {dtype}
            assert not part.training


def test_the_weights_are_those_that_were_saved(folder):
    pipe = load_pipeline(str(folder), device="cpu")
    expected = tiny_pipeline().unet.conv_in.weight.half().float()
    torch.testing.assert_close(pipe.unet.conv_in.weight, expected, rtol=0, atol=0)


def test_pocket_and_auto_without_a_gpu_load_the_shipped_folder_in_float32(pocket, capsys):
    for pipe in (load_pipeline(), load_pipeline("auto"), load_pipeline("pocket")):
        assert pipe.name_or_path == str(pocket)
        assert pipe.unet.dtype == pipe.text_encoder.dtype == torch.float32
        assert pipe.safety_checker is None
    assert capsys.readouterr().out == ""


def test_pocket_lies_in_this_repository():
    assert ROOT / "models" / "pocket-diffusion" == loading.POCKET
    assert (ROOT / "helpers" / "loading.py").is_file()


def test_auto_on_a_gpu_loads_stable_diffusion(gpu, saved, monkeypatch, capsys):
    hub_answers(monkeypatch, saved)
    pipe = load_pipeline()
    assert pipe.name_or_path == KNOWN["sd15"]
    assert pipe.unet.dtype == torch.float16
    assert gpu == ["cuda"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("cause", [ConnectionError("no route"), http_error(errors.GatedRepoError, 403)])
def test_auto_on_a_gpu_without_the_hub_says_so_in_one_line_and_takes_pocket(gpu, pocket, monkeypatch, capsys, cause):
    hub_answers(monkeypatch, wrapped(cause))
    pipe = load_pipeline()
    assert pipe.name_or_path == str(pocket)
    assert gpu == ["cuda"]
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "Stable Diffusion 1.5 could not be had" in said and "Pocket" in said and KNOWN["sd15"] in said


def test_auto_on_the_cpu_of_a_machine_with_a_gpu_takes_pocket(gpu, pocket):
    assert load_pipeline(device="cpu").name_or_path == str(pocket)


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
    hub_answers(monkeypatch, wrapped(ConnectionError("no route")))
    refused("auto", KNOWN["sd15"], "could not be reached", error=ConnectionError)
    monkeypatch.setenv("SDSS_MODEL", "sd51")
    refused("auto", "Unknown model 'sd51'", "did you mean 'sd15'")


@pytest.mark.parametrize("name", ["sd15", ARTICLE_MODEL])
def test_names_of_hub_models_are_asked_of_the_hub(name, saved, monkeypatch):
    hub_answers(monkeypatch, saved)
    assert load_pipeline(name, device="cpu").name_or_path == KNOWN.get(name, name)


def test_loading_prints_nothing_and_warns_of_nothing(folder):
    code = f"from helpers.loading import load_pipeline; load_pipeline({str(folder)!r}, device='cpu')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize("broken", [False, True])
def test_loading_leaves_the_libraries_as_talkative_as_before(folder, broken):
    def settings():
        libraries = (diffusers_logging, transformers_logging)
        levels = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
        return levels, are_progress_bars_disabled()

    before = settings()
    if broken:
        (folder / loading.CHECKSUMS).unlink()
        os.truncate(folder / UNET, 1000)
        refused(folder, "damaged")
    else:
        assert not load_pipeline(folder, device="cpu").progress_bar([1]).disable
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


# Device and dtype


@pytest.mark.parametrize("kinds, dtype", [(["cuda", "cpu"], torch.float16), (["mps", "cpu"], torch.float32)])
def test_best_device_and_dtype(monkeypatch, kinds, dtype):
    monkeypatch.setattr(loading, "_devices", lambda: kinds)
    assert best_device() == torch.device(kinds[0])
    assert best_dtype(best_device()) == dtype


def test_the_cpu_is_always_there():
    assert loading._devices()[-1] == "cpu"
    assert best_dtype("cpu") == torch.float32


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "meta", "gpu", 1.5])
def test_a_device_that_is_not_there_is_refused(pocket, device):
    refused("pocket", f"{str(device)!r} is not there", "'cpu'", device=device)


def test_a_second_gpu_that_is_not_there_is_refused(gpu):
    refused("pocket", "'cuda:1' is not there", "'cuda', 'cpu'", device="cuda:1")


@pytest.mark.parametrize("dtype", [torch.int8, "float16"])
def test_an_unknown_dtype_is_refused(pocket, dtype):
    refused("pocket", f"{dtype!r}", "torch.float32, torch.float16, torch.bfloat16", dtype=dtype)


# Names


@pytest.mark.parametrize("name, near", [("pockt", "pocket"), ("SD15", "sd15"), ("Auto", "auto")])
def test_an_unknown_name_gets_the_choices_and_the_nearest(name, near):
    refused(name, repr(name), f"did you mean {near!r}?", "'auto', 'pocket', 'sd15'", "'owner/name'", "a folder")


@pytest.mark.parametrize("name", ["zzzzz", "", None])
def test_a_name_near_nothing_gets_the_choices_alone(name):
    assert "did you mean" not in refused(name, repr(str(name)), loading.CHOICES)


@pytest.mark.parametrize("name", ["./gone", "/gone/for/good", "a/b/c", Path("gone/model")])
def test_a_folder_that_is_not_there_is_refused(name):
    refused(name, f"no folder or file {str(name)!r}", loading.CHOICES)


# A single file


@pytest.fixture(scope="session")
def full(tmp_path_factory):
    """A folder in the full format of the hub, safety checker included."""
    return save_full(tmp_path_factory.mktemp("models") / "full")


@pytest.fixture
def one_file(full, tmp_path, monkeypatch):
    """A tiny checkpoint in one file; its settings come from a folder in place of the hub's cache."""
    monkeypatch.setattr(loading, "_download_settings", lambda name, **options: str(full))
    return save_single_file(full_pipeline(), tmp_path / "one.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_single_file_holds_the_same_weights(one_file, capsys, dtype):
    pipe, expected = load_pipeline(one_file, device="cpu", dtype=dtype), tiny_pipeline().to(dtype=dtype)
    for part in ("unet", "vae", "text_encoder"):
        loaded = dict(getattr(pipe, part).named_parameters())
        for name, tensor in getattr(expected, part).named_parameters():
            torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)
    assert pipe.name_or_path == str(one_file) and pipe.safety_checker is None
    assert capsys.readouterr().out.count("no safety checker") == 1


@pytest.mark.parametrize(
    "start, part", [("model.", "U-Net"), ("first_stage_model.", "VAE"), ("cond_stage_model.", "text encoder")]
)
def test_a_file_without_one_of_the_parts_is_refused(one_file, start, part):
    tensors = {name: tensor for name, tensor in load_file(one_file).items() if not name.startswith(start)}
    save_file(tensors, one_file)
    refused(one_file, one_file, f"no {part}", "Stable Diffusion 1")


def test_the_file_of_one_component_is_refused(folder):
    refused(folder / UNET, UNET, "no U-Net and no VAE and no text encoder", "not a part")


def test_a_file_that_lost_a_weight_is_refused(one_file):
    tensors = load_file(one_file)
    for name in ("model.diffusion_model.out.2.bias", "cond_stage_model.transformer.text_model.final_layer_norm.bias"):
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, one_file)
        refused(one_file, one_file, "damaged")


def test_a_cut_file_is_refused(one_file):
    os.truncate(one_file, one_file.stat().st_size // 2)
    refused(one_file, one_file, "damaged")


@pytest.mark.parametrize("suffix, said", [(".ckpt", "pickle"), (".pt", "pickle"), (".zip", "no model")])
def test_other_files_are_refused_unread(tmp_path, suffix, said):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"nothing")
    refused(path, path, said)


def test_a_single_file_without_hub_or_cache_is_refused(one_file, monkeypatch):
    def nothing(name, **options):
        raise errors.LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(loading, "_download_settings", nothing)
    refused(one_file, "the settings for one.safetensors", "could not be reached", error=ConnectionError)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    refused("model.safetensors", "no folder or file 'model.safetensors'")
    refused("some/model.safetensors", "no folder or file")


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


@pytest.mark.parametrize("old_names", [True, False])
def test_a_safety_checker_that_lost_a_weight_is_refused(tmp_path, old_names):
    folder = save_full(tmp_path / "model", old_names=old_names)
    assert load_pipeline(folder, device="cpu").safety_checker is not None
    path = folder / "safety_checker" / "model.safetensors"
    tensors = load_file(path)
    for name in ("concept_embeds", next(name for name in tensors if name.endswith("mlp.fc1.weight"))):
        save_file({key: x for key, x in tensors.items() if key != name}, path, metadata={"format": "pt"})
        refused(folder, folder, "damaged", "safety_checker.")


def test_a_picture_made_black_is_said(full, capsys):
    pipe = load_pipeline(full, device="cpu")
    capsys.readouterr()
    pipe.safety_checker.concept_embeds_weights.data.fill_(-2)  # below any cosine: it finds every picture
    pictures = generate(pipe, ["a fox", "an owl"], steps=1)
    assert [picture.getbbox() for picture in pictures] == [None, None]
    assert "picture 0, 1 (counted from 0)" in capsys.readouterr().out


# Little memory


@pytest.mark.parametrize(
    "device, free, measures",
    [
        ("cuda", loading.ROOM + loading.GIB, "nothing"),
        ("cuda", loading.ROOM // 2, "slices"),
        ("cuda", loading.LEAST // 2, "offload"),
        ("mps", loading.LEAST // 2, "slices"),
    ],
)
def test_little_memory_is_noticed_and_said(device, free, measures, full, monkeypatch, capsys):
    model = load_pipeline(full, device="cpu", safety_checker=False)
    monkeypatch.setattr(loading, "_free_memory", lambda device: free)
    done = []
    offload = lambda pipe, device: done.append("offload")  # noqa: E731
    monkeypatch.setattr(StableDiffusionPipeline, "enable_model_cpu_offload", offload)
    monkeypatch.setattr(StableDiffusionPipeline, "to", lambda pipe, device: done.append("to") or pipe)
    pipe = loading._placed(model, torch.device(device))
    said = capsys.readouterr().out
    sliced = any("Sliced" in type(processor).__name__ for processor in pipe.unet.attn_processors.values())
    assert done == ["offload" if measures == "offload" else "to"]
    assert pipe.vae.use_slicing == sliced == (measures != "nothing")
    assert said.count("\n") == (measures != "nothing")
    if measures != "nothing":
        assert f"{free / loading.GIB:.1f} GB free, 0.0 GB of weights" in said and "slices" in said
    assert ("main memory" in said) == (measures == "offload")


def test_the_lessons_are_never_given_a_pipeline_whose_parts_wait_elsewhere(gpu, pocket, saved, monkeypatch, capsys):
    """Their loops put tensors on pipe.device and call layers inside a part: offloading would break both."""
    hub_answers(monkeypatch, saved)
    # The GPU is nearly full for the first model that asks, as Stable Diffusion would find it, and not for the second.
    free = iter([loading.LEAST // 2, None])
    monkeypatch.setattr(loading, "_free_memory", lambda device: next(free))
    monkeypatch.setattr(StableDiffusionPipeline, "enable_model_cpu_offload", lambda *_, **__: pytest.fail("offloaded"))
    assert load_pipeline("auto").name_or_path == str(pocket)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "this is Pocket Diffusion instead: The GPU has 0.2 GB free and this model needs 0.5 GB" in said
    monkeypatch.setattr(loading, "_free_memory", lambda device: loading.LEAST // 2)
    for chosen in ("", "sd15"):
        monkeypatch.setenv("SDSS_MODEL", chosen)
        refused("auto", "The GPU has 0.2 GB free", "shut down other notebooks", error=MemoryError)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), RuntimeError("MPS backend out of memory")],
)
def test_a_full_gpu_becomes_advice(error, full, monkeypatch):
    def fail(*args, **options):
        raise error

    pipe = tiny_pipeline()
    monkeypatch.setattr(pipe.unet, "forward", fail)
    for draw in (generate, run_loop):
        with pytest.raises(MemoryError, match="fewer pictures at a time, or smaller ones") as caught:
            draw(pipe, "a fox", steps=1)
        assert caught.value.__cause__ is error
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(StableDiffusionPipeline, "to", fail)
    refused(full, "memory", "full", error=MemoryError, device="cpu")


def test_other_errors_are_no_matter_of_memory():
    with pytest.raises(RuntimeError, match="shape"), memory_advice():
        raise RuntimeError("shape mismatch")


# Folders


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    refused(tmp_path, tmp_path, "no model_index.json", loading.CHOICES)


# Damage


@pytest.mark.parametrize("name", [UNET, TEXT, "tokenizer/tokenizer.json", "model_index.json"])
def test_a_file_with_one_wrong_byte_is_named_with_its_cure(pocket, name):
    content = bytearray((pocket / name).read_bytes())
    content[len(content) // 2] ^= 1
    (pocket / name).write_bytes(content)
    refused("pocket", name, "damaged", "git checkout -- models/pocket-diffusion")


@pytest.mark.parametrize("name", [UNET, "scheduler/scheduler_config.json"])
def test_a_missing_file_is_named_with_its_cure(pocket, name):
    (pocket / name).unlink()
    refused("pocket", name, "missing", "git checkout -- models/pocket-diffusion")


def test_pocket_gone_altogether_is_said_with_its_cure(pocket):
    shutil.rmtree(pocket)
    refused("pocket", pocket, "missing", "git checkout -- models/pocket-diffusion")


def test_other_folders_get_another_cure(folder):
    os.truncate(folder / UNET, 1000)
    assert "git checkout" not in refused(folder, UNET, "damaged", "download the folder again")


def test_checksums_cover_the_model_and_nothing_else(folder):
    (folder / ".DS_Store").write_text("noise")
    (folder / "README.md").write_text("# Another card\n")
    verify_checksums(folder)
    loading.write_checksums(folder)
    listed = [line.split("  ")[1] for line in (folder / loading.CHECKSUMS).read_text().splitlines()]
    everything = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert listed == sorted(listed)
    assert set(listed) == everything - {"README.md", ".DS_Store", loading.CHECKSUMS}
    assert load_pipeline(folder, device="cpu").unet is not None


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs the sha256sum command")
def test_the_sha256sum_command_agrees(folder):
    assert subprocess.run(["sha256sum", "-c", "--strict", "--quiet", loading.CHECKSUMS], cwd=folder).returncode == 0


# Folders without checksums


@pytest.fixture
def unlisted(folder):
    (folder / loading.CHECKSUMS).unlink()
    return folder


@pytest.mark.parametrize("name", [UNET, TEXT])
def test_cut_weights_are_refused_without_checksums_too(unlisted, name):
    os.truncate(unlisted / name, 1000)
    refused(unlisted, unlisted, "damaged", "download the folder again")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("reshaped", [False, True])
def test_a_weight_that_is_lost_or_has_another_shape_is_never_made_up(unlisted, part, reshaped):
    (path,) = (unlisted / part).glob("*.safetensors")
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("bias"))
    tensor = tensors.pop(name)
    if reshaped:
        tensors[name] = torch.cat([tensor, tensor])
    save_file(tensors, path, metadata={"format": "pt"})
    refused(unlisted, unlisted, "damaged", *([] if reshaped else [name]))


@pytest.mark.parametrize(
    "part, needed", [("vae", ".safetensors"), ("tokenizer", "tokenizer.json"), ("scheduler", "json")]
)
def test_a_missing_component_is_named(unlisted, part, needed):
    shutil.rmtree(unlisted / part)
    refused(unlisted, unlisted / part, needed)


@pytest.mark.parametrize("name", [UNET, TEXT])
def test_pickled_weights_are_refused(unlisted, name):
    pickle = (unlisted / name).with_suffix(".bin")
    torch.save({"weight": torch.zeros(1)}, pickle)
    (unlisted / name).unlink()
    refused(unlisted, pickle, "pickle", ".safetensors")


def test_a_folder_of_pickles_alone_is_refused(tmp_path):
    torch.save({}, tmp_path / "model.ckpt")
    refused(tmp_path, "model.ckpt", "pickle", ".safetensors")


def test_a_folder_with_code_is_refused_and_the_code_not_run(unlisted):
    (unlisted / "unet" / "my_unet.py").write_text(f"open({str(unlisted / 'ran')!r}, 'w')")
    index = json.loads((unlisted / "model_index.json").read_text())
    (unlisted / "model_index.json").write_text(json.dumps(index | {"unet": ["my_unet", "MyUNet"]}))
    refused(unlisted, "my_unet.py", "never run")
    assert not (unlisted / "ran").exists()


def test_another_kind_of_pipeline_is_refused(unlisted):
    index = json.loads((unlisted / "model_index.json").read_text())
    (unlisted / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLPipeline"}))
    refused(unlisted, "StableDiffusionXLPipeline", "needs a StableDiffusionPipeline")


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_an_unreadable_index_is_refused(unlisted, text):
    (unlisted / "model_index.json").write_text(text)
    refused(unlisted, "model_index.json", "damaged")


# The hub


@pytest.mark.parametrize("name", ["sd15", "some/model"])
def test_no_network_fails_and_names_what_works_offline(name, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    full = KNOWN.get(name, name)
    refused(
        name, repr(full), "hub could not be reached", "load_pipeline('pocket')", error=ConnectionError, device="cpu"
    )


@pytest.mark.parametrize(
    "cause",
    [
        ConnectionError("refused"),
        TimeoutError("slow"),
        errors.OfflineModeIsEnabled("offline"),
        errors.LocalEntryNotFoundError("not cached"),
        http_error(errors.HfHubHTTPError, 503),
        type("ReadTimeout", (Exception,), {"__module__": "httpx2"})("slow"),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_every_kind_of_network_failure_says_the_same(cause, monkeypatch):
    for answer in (cause, wrapped(cause)):
        hub_answers(monkeypatch, answer)
        refused("some/model", "'some/model'", "could not be reached", "load_pipeline('pocket')", error=ConnectionError)


@pytest.mark.parametrize(
    "cause", [http_error(errors.RepositoryNotFoundError, 404), http_error(errors.RepositoryNotFoundError, 401)]
)
def test_a_model_the_hub_does_not_have(cause, monkeypatch):
    hub_answers(monkeypatch, wrapped(cause))
    refused("some/modle", "'some/modle'", "hub has no model", loading.CHOICES)


def test_a_gated_model_says_where_to_accept_its_terms(monkeypatch):
    hub_answers(monkeypatch, wrapped(http_error(errors.GatedRepoError, 403)))
    refused("some/model", "https://huggingface.co/some/model", "hf auth login", "pocket", error=PermissionError)


def test_a_hub_model_that_is_no_pipeline(monkeypatch):
    hub_answers(monkeypatch, http_error(errors.RemoteEntryNotFoundError, 404))
    refused("some/model", "'some/model'", "no model_index.json", loading.CHOICES)


def test_a_hub_model_without_safetensors(monkeypatch):
    hub_answers(monkeypatch, OSError("Could not find the necessary `safetensors` weights in {'unet/model.bin'}"))
    refused("some/model", "'some/model'", ".safetensors")


def test_a_full_disk_says_where_room_is_needed(monkeypatch):
    hub_answers(monkeypatch, OSError(28, "No space left on device"))
    refused("some/model", "No space left on device", "'some/model'", constants.HF_HUB_CACHE, "HF_HOME", error=OSError)


def test_a_failure_that_is_no_matter_of_the_hub_is_not_disguised(monkeypatch):
    hub_answers(monkeypatch, OSError(30, "Read-only file system"))
    refused("some/model", "Read-only file system", error=OSError)


def test_known_models_are_pinned_to_a_commit():
    assert set(REVISIONS) == {*KNOWN.values(), ARTICLE_MODEL}
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in REVISIONS.values())


def test_a_right_download_is_hashed_once_and_a_changed_file_again(tmp_path, monkeypatch):
    snapshot, blobs = tmp_path / "snapshots" / "commit", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    blob = blobs / hashlib.sha256(b"right").hexdigest()
    blob.write_bytes(b"right")
    for name in ("one", "two"):  # two files of one content share it
        (snapshot / name).symlink_to(blob)
    hashed = []
    right_hash = hub.file_hash
    monkeypatch.setattr(hub, "file_hash", lambda path: hashed.append(path.name) or right_hash(path))
    hub.verify_download(snapshot)
    hub.verify_download(snapshot)
    assert set(hashed) == {blob.name} and len(hashed) <= 2
    blob.write_bytes(b"wrong")
    os.utime(blob, (0, 0))
    with pytest.raises(ConnectionError, match="one, two arrived damaged"):
        hub.verify_download(snapshot)
    assert not list(snapshot.iterdir()) and not list(blobs.iterdir())
