"""Recording cross-attention: it changes no picture, tells the truth about the layers, and leaves nothing behind."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from helpers.attention import AttentionRecord, capture, find_word, mass_share, overlay, word_tokens
from tests.pipelines.tiny import TOKENS, WIDTH, randn, tiny_pipeline, tiny_tokenizer

PROMPT = "a fox left of an owl"


@pytest.fixture(scope="module")
def pipe():
    """The tiny pipeline, with cross-attention at two resolutions."""
    pipe = tiny_pipeline()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        pipe.unet = UNet2DConditionModel(
            sample_size=32,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            layers_per_block=1,
            attention_head_dim=2,
            cross_attention_dim=WIDTH,
            norm_num_groups=4,
        ).eval()
        for name, weight in pipe.unet.named_parameters():
            if "attn2.to_q" in name or "attn2.to_k" in name:
                weight.data.mul_(8)  # so that attention is far from even
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def text(pipe):
    """Embeddings (1, tokens, width) of no prompt, and of PROMPT."""
    cond, uncond = pipe.encode_prompt(PROMPT, "cpu", 1, True)
    return uncond, cond


def picture_of(pipe, steps=3, **options):
    return pipe(PROMPT, num_inference_steps=steps, generator=torch.Generator().manual_seed(0), **options).images[0]


def made_up(tokens=3, calls=2, keep_heads=False):
    """A record of two layers, 2 x 2 and 4 x 4, with probabilities drawn at random."""
    record = AttentionRecord({"big": (4, 4), "small": (2, 2)}, [9.0] * calls, keep_heads=keep_heads)
    heads = (2,) if keep_heads else ()
    for call in range(calls):
        shapes = {"big": (1, *heads, 16, tokens), "small": (1, *heads, 4, tokens)}
        record.calls.append({name: randn(*shape, seed=call).softmax(dim=-1) for name, shape in shapes.items()})
    return record


# Recording


def test_the_output_of_the_unet_is_the_same_to_the_bit(pipe, text):
    with torch.no_grad():
        expected = pipe.unet(randn(1, 4, 8, 8), 500, text[1]).sample
        with capture(pipe):
            assert torch.equal(pipe.unet(randn(1, 4, 8, 8), 500, text[1]).sample, expected)


def test_every_layer_and_step_is_there_and_every_row_is_a_distribution(pipe):
    with capture(pipe, keep_heads=True) as record:
        picture_of(pipe)
    layers = [name for name, _ in pipe.unet.named_modules() if name.endswith("attn2")]
    assert sorted(record.layers) == sorted(layers) and len(layers) == 7
    assert [name.split("_")[0] for name in record.layers] == ["down"] * 2 + ["mid"] + ["up"] * 4
    assert [pipe.unet.get_submodule(name).heads for name in layers] == [2] * 7
    assert record.timesteps == [float(t) for t in pipe.scheduler.timesteps] and len(record.timesteps) == 3
    assert set(record.layers.values()) == {(32, 32), (16, 16)}
    for call in record.calls:
        for name, (rows, columns) in record.layers.items():
            probabilities = call[name]
            assert probabilities.shape == (1, 2, rows * columns, TOKENS) and probabilities.dtype == torch.float32
            torch.testing.assert_close(probabilities.sum(-1), torch.ones_like(probabilities[..., 0]))  # 1.3e-6


@torch.no_grad()
def test_probabilities_by_hand_are_those_of_the_layer(pipe, text):
    seen = {}

    def hook(layer, args, kwargs, output):
        seen.update(hidden=args[0], text=kwargs["encoder_hidden_states"], output=output)

    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    layer = pipe.unet.get_submodule(name)
    handle = layer.register_forward_hook(hook, with_kwargs=True)
    with capture(pipe, keep_heads=True) as record:
        pipe.unet(randn(1, 4, 8, 8), 500, text[1])
    handle.remove()

    recorded, d = record.calls[0][name][0], 16 // 2  # (heads, 16, tokens); 16 channels in 2 heads
    outputs = []
    for head in range(2):
        rows = slice(head * d, (head + 1) * d)
        q = seen["hidden"][0] @ layer.to_q.weight[rows].T  # (16, d)
        k = seen["text"][0] @ layer.to_k.weight[rows].T  # (tokens, d)
        v = seen["text"][0] @ layer.to_v.weight[rows].T
        probabilities = torch.softmax(q @ k.T / d**0.5, dim=-1)
        torch.testing.assert_close(recorded[head], probabilities, atol=1e-6, rtol=1e-4)
        outputs.append(recorded[head] @ v)
    assert recorded.std(dim=-1).max() > 1e-3  # not merely even
    # What the layer gave is what the recorded probabilities give.
    by_hand = layer.to_out[0](torch.cat(outputs, dim=-1))
    torch.testing.assert_close(seen["output"][0], by_hand, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_of_a_guided_batch_the_conditional_half_is_kept(pipe, text):
    x_t = randn(2, 4, 8, 8)
    uncond, cond = (embeddings.expand(2, -1, -1) for embeddings in text)
    with capture(pipe) as unguided:
        pipe.unet(x_t, 500, cond)
    with capture(pipe) as guided:
        pipe.unet(torch.cat([x_t, x_t]), 500, torch.cat([uncond, cond]))
    with capture(pipe, guided=False) as everything:
        pipe.unet(torch.cat([x_t, x_t]), 500, torch.cat([uncond, cond]))
    name = next(iter(unguided.layers))
    assert guided.calls[0][name].shape[0] == unguided.calls[0][name].shape[0] == 2
    for picture in range(2):
        expected = unguided.maps(picture=picture)
        torch.testing.assert_close(guided.maps(picture=picture), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(everything.maps(picture=2 + picture), expected, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(everything.maps(picture=picture), expected, atol=1e-3)


def test_the_pipeline_without_guidance_is_recorded_too(pipe):
    with capture(pipe) as record:
        picture_of(pipe, steps=1, guidance_scale=1.0)
    assert {len(probabilities) for probabilities in record.calls[0].values()} == {1}


@torch.no_grad()
def test_sizes_that_do_not_halve_evenly(pipe, text):
    with capture(pipe) as record:
        pipe.unet(randn(1, 4, 5, 7), 500, text[1])
    assert set(record.layers.values()) == {(5, 7), (3, 4)}
    assert record.maps().shape == (5, 7, TOKENS)


@torch.no_grad()
def test_nothing_is_recorded_after_the_block_also_after_an_exception(pipe, text):
    layer = pipe.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
    with pytest.raises(RuntimeError, match="stop"), capture(pipe) as record:
        layer(randn(1, 4, 16), encoder_hidden_states=text[0])  # a layer by itself is no call of the U-Net
        pipe.unet(randn(1, 4, 8, 8), 500, text[1])
        raise RuntimeError("stop")
    pipe.unet(randn(1, 4, 8, 8), 400, text[1])
    assert record.timesteps == [500.0] and len(record.calls) == 1


@torch.no_grad()
def test_two_records_of_one_call_are_equal(pipe, text):
    with capture(pipe) as outer, capture(pipe) as inner:
        pipe.unet(randn(1, 4, 8, 8), 500, text[1])
    assert torch.equal(outer.maps(), inner.maps())


@torch.no_grad()
def test_a_call_that_does_not_fit_says_so(pipe, text):
    with pytest.raises(ValueError, match="pictures of one size and number"), capture(pipe) as record:
        pipe.unet(randn(1, 4, 8, 8), 500, text[1])
        pipe.unet(randn(1, 4, 8, 16), 400, text[1])
    assert len(record.calls) == len(record.timesteps) == 1  # the broken call is not half there
    with pytest.raises(ValueError, match="no U-Net with cross-attention"), capture(object()):
        pass


# Choosing maps


def test_what_is_not_chosen_is_averaged():
    record = made_up()
    big = torch.stack([call["big"][0] for call in record.calls])  # (steps, positions, tokens)
    torch.testing.assert_close(record.maps(layer="big"), big.mean(0).reshape(4, 4, 3))
    torch.testing.assert_close(record.maps(resolution=(4, 4), step=1), big[1].reshape(4, 4, 3))
    torch.testing.assert_close(record.maps(layer="big", step=-1, token=2), big[1, :, 2].reshape(4, 4))
    torch.testing.assert_close(record.maps(layer="big", token=[0, 2]), big.mean(0)[:, [0, 2]].sum(-1).reshape(4, 4))

    small = torch.stack([call["small"][0] for call in record.calls]).mean(0).reshape(2, 2, 3)
    enlarged = small.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
    both = record.maps()
    torch.testing.assert_close(both, (big.mean(0).reshape(4, 4, 3) + enlarged) / 2)
    torch.testing.assert_close(both.sum(-1), torch.ones(4, 4))


def test_one_head_where_heads_are_kept():
    record = made_up(keep_heads=True)
    per_head = torch.stack([call["small"][0] for call in record.calls]).mean(0)  # (heads, positions, tokens)
    torch.testing.assert_close(record.maps(layer="small", head=1), per_head[1].reshape(2, 2, 3))
    torch.testing.assert_close(record.maps(layer="small"), per_head.mean(0).reshape(2, 2, 3))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"layer": "mid"}, r"name 'mid' and .*: there are big \(4, 4\), small \(2, 2\)"),
        ({"resolution": (8, 8)}, r"resolution \(8, 8\): there are big \(4, 4\), small \(2, 2\)"),
        ({"step": 2}, "step is 2: choose a whole number from -2 to 1"),
        ({"step": []}, "No step was chosen"),
        ({"token": 3}, "token is 3: choose a whole number from 0 to 2"),
        ({"token": -1}, "token is -1: choose"),
        ({"token": []}, "No token was chosen"),
        ({"picture": 1}, "picture is 1: choose a whole number from 0 to 0"),
        ({"head": 0}, r"mean of the heads: use capture\(pipe, keep_heads=True\)"),
    ],
)
def test_a_choice_that_is_not_there_says_what_is(chosen, message):
    with pytest.raises(ValueError, match=message):
        made_up().maps(**chosen)


def test_an_empty_record_says_how_to_fill_it(pipe):
    with capture(pipe) as record:
        pass
    with pytest.raises(ValueError, match="draw a picture inside"):
        record.maps()


# Words


def test_words_hold_all_their_tokens():
    words = word_tokens(tiny_tokenizer(), "A fox's  café, red heart")  # in the tiny tokenizer each byte is a token
    assert words[0] == ("A", [1])  # 0 is the start token
    assert [text for text, _ in words] == ["A", "fox's", "café", ",", "red", "heart"]
    assert [index for _, tokens in words for index in tokens] == list(range(1, 1 + 1 + 5 + 5 + 1 + 3 + 5))


def test_finding_a_word():
    tokenizer = tiny_tokenizer()
    assert find_word(tokenizer, PROMPT, "fox") == [2, 3, 4]
    assert find_word(tokenizer, PROMPT, "Fox") == [2, 3, 4]
    assert find_word(tokenizer, "a red heart", "red heart") == list(range(2, 10))
    assert find_word(tokenizer, "a fox or a cat", "a") == [1, 7]  # both, and not the a of cat
    message = "'wolf' is not in the prompt .* choose one of 'a', 'fox', 'left', 'of', 'an', 'owl'"
    for missing in ("wolf", "ow", " "):
        with pytest.raises(ValueError, match=message.replace("wolf", missing)):
            find_word(tokenizer, PROMPT, missing)


def test_a_word_that_was_cut_off_says_so():
    prompt = "x" * (TOKENS - 2) + " owl"
    assert word_tokens(tiny_tokenizer(), prompt) == [("x" * (TOKENS - 2), list(range(1, TOKENS - 1)))]
    with pytest.raises(ValueError, match="'owl' lies beyond what the text encoder reads"):
        find_word(tiny_tokenizer(), prompt, "owl")


def test_the_map_of_a_word_is_the_sum_of_its_tokens(pipe):
    with capture(pipe) as record:
        picture_of(pipe, steps=2)
    fox = record.word(PROMPT, "fox", step=1, resolution=(16, 16))
    assert fox.shape == (16, 16)
    torch.testing.assert_close(fox, record.maps(step=1, resolution=(16, 16))[..., 2:5].sum(-1))


# Looking at maps


def test_share_of_a_known_map():
    known = torch.tensor([[1.0, 0.0, 2.0, 1.0], [0.0, 0.0, 4.0, 0.0]])
    assert mass_share(known, "left") == pytest.approx(1 / 8)
    assert mass_share(known, "right") == pytest.approx(7 / 8)
    assert mass_share(known, "top") == pytest.approx(4 / 8)
    assert mass_share(known[:1], "bottom") == pytest.approx(1 / 2)  # one row: half of it
    assert mass_share(known[:, :3], "left") == pytest.approx(1 / 7)  # the middle column holds nothing
    assert mass_share(known[:, 1:], "right") == pytest.approx((1 + 6 / 2) / 7)
    with pytest.raises(ValueError, match="Unknown region 'middle': choose one of left, right, top, bottom"):
        mass_share(known, "middle")
    with pytest.raises(ValueError, match=r"\(rows, columns\), not \(2, 4, 3\): choose a token"):
        mass_share(torch.ones(2, 4, 3), "left")
    for bad in (torch.zeros(2, 2), -known):
        with pytest.raises(ValueError, match="no negative values and some above 0"):
            mass_share(bad, "left")


def test_overlay_lights_what_the_map_marks():
    picture = Image.new("RGB", (32, 16), "grey")
    heat = overlay(picture, torch.tensor([[0.0, 0.5]]))
    pixels = np.asarray(heat).astype(int)
    assert heat.size == (32, 16) and heat.mode == "RGB"
    assert pixels[:, -1].sum() > pixels[:, 0].sum()
    assert np.ptp(np.asarray(overlay(picture, torch.tensor([[0.0, 0.5]]), strength=0))) == 0  # the picture alone
    # On one span, half the value is not the brightest colour.
    weaker = np.asarray(overlay(picture, torch.tensor([[0.0, 0.25]]), span=(0, 0.5))).astype(int)
    assert weaker[8, -1].sum() < pixels[8, -1].sum()
    assert np.array_equal(np.asarray(overlay(picture, torch.tensor([[0.0, 0.25]]))), np.asarray(heat))
    for options, message in (({"strength": 2}, "strength is 2"), ({"span": (1, 0)}, r"span is \(1, 0\)")):
        with pytest.raises(ValueError, match=message):
            overlay(picture, torch.ones(2, 2), **options)
