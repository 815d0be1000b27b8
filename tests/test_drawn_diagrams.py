"""The committed diagrams: files that need nothing else and fit their card, and whose numbers are the model's."""

import base64
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

from helpers import sampling
from helpers.loading import load_pipeline
from helpers.model_folder import POCKET, ROOT
from helpers.schedules import alpha_bar, betas
from tests.pipelines import sd15
from tools.diagrams import guidance, kit, one_step, self_attention, unet, why_average
from tools.diagrams.__main__ import NAMES

FILES = sorted(kit.FOLDER.glob("*.svg"))
LIMIT = 150_000  # bytes
SVG = "{http://www.w3.org/2000/svg}"


def config(part: str) -> dict:
    return json.loads((POCKET / part / "config.json").read_text(encoding="utf-8"))


def tree(name: str) -> ElementTree.Element:
    return ElementTree.parse(kit.FOLDER / f"{name}.svg").getroot()


def texts(name: str) -> list[str]:
    return ["".join(text.itertext()) for text in tree(name).iter(f"{SVG}text")]


def number(text: str | None) -> float:
    return float((text or "0").removesuffix("px"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def file(request) -> Path:
    return request.param


def test_every_script_has_its_drawing():
    assert {path.stem for path in FILES} == {*NAMES, "unet_sd15"}


def test_files_are_small_and_say_what_they_show(file):
    assert file.stat().st_size < LIMIT
    root = tree(file.stem)
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert 20 < len(title.text) < 160
    assert len(description.text) > len(title.text)


def test_files_need_nothing_else_and_run_nothing(file):
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"<(script|foreignObject|a|use|iframe)\b| on\w+=|@import|@font-face|javascript:", text)
    assert "prefers-color-scheme" not in text
    assert set(re.findall(r'href="([^,"]{,40})', text)) <= {
        f"data:image/{kind};base64" for kind in ("png", "jpeg", "webp")
    }
    assert all(address.startswith("#") for address in re.findall(r"url\(([^)]*)\)", text))
    assert re.findall(r"https?://[^\s\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"/(home|root|tmp|work|Users)/", text) and str(ROOT) not in text


def test_ids_classes_and_animations_carry_the_drawing_s_name(file):
    root, mark = tree(file.stem), f"{file.stem}-"
    for element in root.iter():
        names = [element.get("id"), *(element.get("class") or "").split()]
        assert all(name.startswith(mark) for name in names if name), element.attrib
    style = root.find(f"{SVG}style").text
    assert all(
        name.startswith(mark)
        for name in re.findall(r"\.([a-z_][\w-]*)|@keyframes ([\w-]+)", style)
        for name in name
        if name
    )
    assert "prefers-reduced-motion" in style or "animation" not in style


def test_everything_lies_on_the_card(file):
    """Text is measured in the widest of the fonts that it may be shown in."""
    root = tree(file.stem)
    assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
    width, height = number(root.get("width")), number(root.get("height"))
    assert width == kit.WIDTH
    for element in root.iter():
        if "transform" in element.attrib:
            continue
        x, y = number(element.get("x")), number(element.get("y"))
        if element.tag in (f"{SVG}rect", f"{SVG}image"):
            assert 0 <= x and x + number(element.get("width")) <= width, element.attrib
            assert 0 <= y and y + number(element.get("height")) <= height, element.attrib
        elif element.tag == f"{SVG}text":
            size = number(element.get("font-size"))
            long = kit.text_width("".join(element.itertext()), size, bold=element.get("font-weight") == "700")
            left = x - long * {"start": 0, "middle": 0.5, "end": 1}[element.get("text-anchor", "start")]
            assert 8 <= left and left + long <= width - 8 and size <= y <= height - 8, "".join(element.itertext())
            assert size >= kit.SMALL or len("".join(element.itertext())) <= 2


def test_forward_axis_crosses_where_the_schedule_does():
    settings = json.loads((POCKET / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    kind, steps = settings["beta_schedule"], settings["num_train_timesteps"]
    a = alpha_bar(betas(kind, steps, start=settings["beta_start"], end=settings["beta_end"]))
    crossing = int((a / (1 - a)).log().abs().argmin())
    written = texts("forward_axis")
    assert f"SNR = 1, t = {crossing}" in written
    for t in (50, 150, crossing, 600, steps - 1):
        assert f"x{t}" in written
        assert {f"{a[t] ** 0.5:.2f} x0", f"+ {(1 - a[t]) ** 0.5:.2f} ε"} <= set(written)


@pytest.mark.parametrize(("name", "settings"), [("unet", config("unet")), ("unet_sd15", sd15.UNET)])
def test_unets_have_the_sizes_of_their_configurations(name, settings):
    written = texts(name)
    levels = settings["block_out_channels"]
    for level in range(len(levels)):
        side = settings["sample_size"] >> level
        assert f"level {level}: {side} × {side} places" in written
    enters = [
        f"{before:,} → " if before != now else "" for before, now in zip(levels[:1] + levels, levels, strict=False)
    ]
    assert sorted(text for text in written if text.endswith("numbers each")) == sorted(
        f"{before}{channels:,} numbers each" for before, channels in zip(enters, levels, strict=True)
    )
    assert written.count("× 2") == len(levels) - 1
    skips = len(levels) * (settings["layers_per_block"] + 1)
    assert [text for text in written if text.isdigit()] == [str(skip) for skip in range(skips)]


def test_words_and_time_of_stable_diffusion_have_its_sizes():
    written = " ".join(texts("unet_sd15"))
    width = sd15.UNET["block_out_channels"][0]
    assert f"{width} sines and cosines" in written and f"into {4 * width:,} numbers" in written
    assert f"{sd15.TOKENS} vectors of {sd15.UNET['cross_attention_dim']} numbers" in written


def test_vae_has_the_factors_of_both_models():
    assert {f"{sign} {config('vae')['scaling_factor']:.4f}" for sign in "×÷"} <= set(texts("vae"))
    assert f"of SD 1.5: {AutoencoderKL().config.scaling_factor}" in texts("vae")


def test_pipeline_has_the_sizes_of_both_models():
    written, text = texts("pipeline"), config("text_encoder")
    assert f"{text['max_position_embeddings']} × {text['hidden_size']} numbers" in written
    assert f"3 × {config('vae')['sample_size']} × {config('vae')['sample_size']}" in written
    side = config("unet")["sample_size"]
    assert written.count(f"4 × {side} × {side}") == 2
    assert f"{sd15.TOKENS} × {sd15.TEXT['hidden_size']} at station 3," in written
    assert f"4 × {sd15.UNET['sample_size']} × {sd15.UNET['sample_size']} at 4 to 6," in written
    assert f"3 × {sd15.VAE['sample_size']} × {sd15.VAE['sample_size']} at 7" in written


def test_drawing_again_gives_the_committed_bytes(tmp_path):
    """The diagram of sizes alone, which no other CPU or library computes differently."""
    assert unet.draw_sd15().save(tmp_path).read_bytes() == (kit.FOLDER / "unet_sd15.svg").read_bytes()


def test_pictures_keep_every_pixel_unless_they_are_smooth():
    rng = np.random.default_rng(0)
    for colours in (3, 300):
        pixels = rng.integers(0, 256, (colours, 3), dtype=np.uint8)[rng.integers(0, colours, (20, 30))]
        data = kit.data_uri(pixels)
        read = Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB")
        assert np.array_equal(np.asarray(read), pixels)
    assert kit.data_uri(Image.new("RGB", (64, 64)), smooth=True).startswith(("data:image/jpeg", "data:image/webp"))


def test_symbols_become_italic_lowered_and_raised_and_text_returns_to_its_line():
    drawing = kit.Drawing("try", 40, "A title", "A description")
    drawing.text(0, 20, "so $x_{t-1}^2$ < **1**")
    written = ElementTree.fromstring(drawing.svg()).find(f".//{SVG}text")
    assert "".join(written.itertext()) == "so xt-12 < 1"
    shift, at = 0.0, {}
    for span in written:
        size = kit.LOWERED if span.get("font-size") else 1
        shift += number((span.get("dy") or "0").removesuffix("em")) * size
        at[span.text] = (round(shift, 1), span.get("class"), span.get("font-weight"))
    assert at["x"] == (0, "try-symbol", None)
    assert at["t"][:2] == (0.2, "try-symbol")
    assert at["2"][:2] == (-0.4, None)
    assert at["1"][0] == 0 and at["1"][2] == "700"


def test_new_numbers_are_counted_against_the_whole_models():
    written = texts("new_numbers")
    whole = sum(x.numel() for path in POCKET.glob("*/*.safetensors") for x in load_file(path).values())
    width = config("text_encoder")["hidden_size"]
    assert written.count(f"{whole:,}") == 3
    assert f"+{width}" in written and f"+{sd15.TEXT['hidden_size']}" in written
    assert f"{config('text_encoder')['vocab_size']} rows of {width} numbers, frozen" in written


def test_full_fine_tuning_is_counted_as_the_u_net():
    """None of its numbers is new, so it stands without a plus and with its share of the whole model."""
    written = texts("new_numbers")
    whole = sum(x.numel() for path in POCKET.glob("*/*.safetensors") for x in load_file(path).values())
    trained = sum(x.numel() for path in POCKET.glob("unet/*.safetensors") for x in load_file(path).values())
    assert f"{trained:,}" in written and f"+{trained:,}" not in written
    assert f"{100 * trained / whole:.0f} % of" in written
    assert f"and with the rest of the U-Net {trained:,}" in written


def test_guidance_is_told_as_it_was_measured():
    """One step of the run that the drawing shows: the two answers, their angle, and how far guidance turns them."""
    pipe = load_pipeline("pocket", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    run = sampling.denoise(pipe, guidance.PROMPT, guidance=guidance.DEFAULT, seed=guidance.SEED, steps=guidance.STEPS)
    step = next(step for step in run if step.t == guidance.T)
    empty, words = step.noise_uncond.flatten(), step.noise_text.flatten()
    written = texts("guidance")
    for s in (1, 4, 12):
        answer = empty + s * (words - empty)
        degrees = float(torch.rad2deg(torch.acos(torch.cosine_similarity(answer, empty, dim=0))))
        assert {f"turned {degrees:.1f}°", f"turned {degrees:.0f}°"} & set(written), (s, degrees)
    assert any(f"answers {empty.norm():.1f} and {words.norm():.1f} long" in text for text in written)


def test_one_step_has_the_shares_of_the_schedule():
    settings = json.loads((POCKET / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    bars = alpha_bar(betas(settings["beta_schedule"], start=settings["beta_start"], end=settings["beta_end"]))
    a, a_next = (float(bars[t]) for t in (one_step.T, one_step.T - 1000 // one_step.STEPS))
    variance = (1 - a_next) / (1 - a) * (1 - a / a_next)
    written = texts("one_step")
    assert {f"{a**0.5:.2f} x̂0", f"{(1 - a) ** 0.5:.2f} εθ"} <= set(written)
    step = f"x{one_step.T - 1000 // one_step.STEPS} = {a_next**0.5:.2f} x̂0 + "
    assert f"{step}{(1 - a_next) ** 0.5:.2f} εθ" in written
    assert f"{step}{(1 - a_next - variance) ** 0.5:.2f} εθ + {variance**0.5:.2f} z" in written
    bar = [float(text) for text in written if re.fullmatch(r"0\.\d{3}", text)]
    assert (
        len(bar) == 5 and sum(bar[:2]) == pytest.approx(1, abs=0.0011) and sum(bar[2:]) == pytest.approx(1, abs=0.0016)
    )


def test_likelihoods_are_those_of_bayes_rule():
    """Two truths and one number: the shares are the normal densities, one over their sum."""
    truths, x_t, a = torch.tensor([[1.0], [-2.0]]), torch.tensor([[0.3]]), 0.25
    densities = torch.distributions.Normal(a**0.5 * truths[:, 0], (1 - a) ** 0.5).log_prob(x_t[0]).exp()
    torch.testing.assert_close(why_average.weights(x_t, truths, a), densities / densities.sum())


def test_the_mean_is_a_blur_early_and_one_scene_late():
    shares = [int(text[:-1]) for text in texts("why_average") if re.fullmatch(r"\d+%", text)]
    assert sorted(shares)[0] < 20 and sorted(shares)[-1] == 100


def test_self_attention_has_the_shares_of_the_layer():
    """Computed anew; the ear's largest shares go to what is dark, and the listed ones with the rest make a whole."""
    mine = self_attention.measure()[3][self_attention.PLACES["ear"][0] * 16 + self_attention.PLACES["ear"][1]]
    written = texts("self_attention")
    listed = [float(mine[row * 16 + column]) for row, column in list(self_attention.PLACES.values())[1:]]
    shown = [text for text in written if re.fullmatch(r"(< )?\d+%", text)]
    assert shown == [*(f"{share:.0%}" if share > 0.005 else "< 1%" for share in listed), f"{1 - sum(listed):.0%}"]
    assert listed == sorted(listed, reverse=True) and f"all other {256 - len(listed)} places" in written
    assert min(listed[:4]) > 0.05 > max(listed[4:])
