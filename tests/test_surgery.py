"""Reaching into a U-Net: what is cut, what passes, and that nothing stays behind."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from helpers import surgery
from tests.pipelines.tiny import WIDTH, randn, tiny_pipeline


@pytest.fixture(scope="module")
def unet():
    return tiny_pipeline().unet


@pytest.fixture(scope="module")
def inputs(unet):
    side = unet.config.sample_size
    return randn(1, 4, side, side), 400, randn(1, 5, WIDTH, seed=1)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def test_each_skip_matters_and_all_hooks_are_gone(unet, inputs):
    whole = unet(*inputs).sample
    for number in range(len(surgery.skip_shapes(unet, *inputs))):
        with surgery.cut(unet, number):
            assert not torch.allclose(unet(*inputs).sample, whole, atol=1e-6), number
    with pytest.raises(RuntimeError), surgery.cut(unet, 0), surgery.cut_below(unet):
        raise RuntimeError
    assert torch.equal(unet(*inputs).sample, whole)


def test_cutting_silences_the_first_skip_and_no_other(unet, inputs):
    """With the path from below silent too, only the skips of the last block reach the output."""
    last = len(surgery.skip_shapes(unet, *inputs)) - 1
    with surgery.cut_below(unet):
        alone = unet(*inputs).sample
        with surgery.cut(unet, last):  # taken by the first block, below
            assert torch.equal(unet(*inputs).sample, alone)
        with surgery.cut(unet, 0):
            assert not torch.allclose(unet(*inputs).sample, alone, atol=1e-6)


def test_a_skip_put_back_as_it_is_changes_nothing(unet, inputs):
    whole = unet(*inputs).sample
    with surgery.cut(unet, 0, 1, put=lambda skip: skip.clone()):
        assert torch.equal(unet(*inputs).sample, whole)


def test_what_comes_from_below_is_what_the_level_below_made(unet, inputs):
    whole = unet(*inputs).sample
    ((_, made),) = surgery.passing(unet, [unet.up_blocks[0].upsamplers[0]], *inputs)
    came = []

    def see(hidden):
        came.append(hidden)
        return hidden.clone()

    with surgery.cut_below(unet, 0, put=see):
        assert torch.equal(unet(*inputs).sample, whole)
    assert torch.equal(came[0], made)


def test_silencing_the_lowest_level_reaches_the_output_through_the_middle_alone(unet, inputs):
    whole = unet(*inputs).sample
    with surgery.cut_below(unet, 1):  # of two levels: what the middle block made
        lower = unet(*inputs).sample
    with surgery.cut_below(unet, 0):
        upper = unet(*inputs).sample
    assert not torch.allclose(lower, whole, atol=1e-6) and not torch.allclose(upper, lower, atol=1e-6)


def test_a_level_reads_the_words_that_are_put_in(unet, inputs):
    whole = unet(*inputs).sample
    *rest, words = inputs
    came = []

    def see(text):
        came.append(text)
        return text.clone()

    with surgery.cut_words(unet, 1, put=see):  # of this small U-Net the lower level alone reads the words
        assert torch.equal(unet(*inputs).sample, whole)
    assert len(came) == 1 and torch.equal(came[0], words)
    with surgery.cut_words(unet, 1):
        cut = unet(*inputs).sample
    assert not torch.allclose(cut, whole, atol=1e-6)
    assert not torch.allclose(cut, unet(*rest, 0 * words).sample, atol=1e-6)  # the way down still reads them
    with surgery.cut_words(unet, 0):
        assert torch.equal(unet(*inputs).sample, whole)
    assert torch.equal(unet(*inputs).sample, whole)


@pytest.mark.parametrize("act", [lambda unet: surgery.cut(unet, 4), lambda unet: surgery.cut(unet, -1)])
def test_a_skip_that_is_not_there_is_refused(unet, act):
    with pytest.raises(ValueError, match="choose whole numbers from 0 to 3"), act(unet):
        pass


@pytest.mark.parametrize("act", [surgery.cut_below, surgery.cut_words])
def test_a_level_that_is_not_there_is_refused(unet, act):
    with pytest.raises(ValueError, match="from 0 to 1"), act(unet, 2):
        pass


@pytest.mark.parametrize(
    ("widths", "layers", "channels"),
    [((8, 16), 1, [8, 8, 8, 16]), ((8, 8, 16, 16), 2, [8, 8, 8, 8, 8, 8, 8, 16, 16, 16, 16, 16])],
)
@pytest.mark.parametrize("attention", [False, True])
def test_the_shapes_are_those_of_the_skips_that_arrive(widths, layers, channels, attention):
    kind = "CrossAttn" * attention
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=widths,
            layers_per_block=layers,
            down_block_types=(f"{kind}DownBlock2D",) * len(widths),
            up_block_types=(f"{kind}UpBlock2D",) * len(widths),
            cross_attention_dim=WIDTH,
            attention_head_dim=2,
            norm_num_groups=4,
        )
    arrived = []

    def see(skip):
        arrived.append(tuple(skip.shape[1:]))
        return skip

    device = torch.device("meta")
    inputs = (
        torch.zeros(1, 4, 16, 16, device=device),
        torch.zeros(1, device=device),
        torch.zeros(1, 2, WIDTH, device=device),
    )
    shapes = surgery.skip_shapes(unet, *inputs)
    with surgery.cut(unet, *range(len(shapes)), put=see):
        unet(*inputs)
    assert sorted(arrived) == sorted(shapes)
    assert [shape[0] for shape in shapes] == channels


def test_self_attention_is_found_in_the_order_in_which_it_runs(unet, inputs):
    layers = surgery.self_attention(unet)
    assert list(layers) == ["level 1 down 1", "level 1 middle 1", "level 1 up 1", "level 1 up 2"]
    ((goes_in, comes_out),) = surgery.passing(unet, [layers["level 1 up 2"]], *inputs)
    assert goes_in.shape == comes_out.shape and comes_out.abs().max() > 0


def test_what_the_skips_carry_is_what_their_makers_hand_on(unet, inputs):
    carried = []

    def see(skip):
        carried.append(skip)
        return skip

    made = [output for _, output in surgery.passing(unet, surgery.skip_makers(unet), *inputs)]
    with surgery.cut(unet, *range(len(made)), put=see):
        unet(*inputs)
    assert len(carried) == len(made)
    for output in made:
        assert any(skip.shape == output.shape and torch.equal(skip, output) for skip in carried)


def test_a_place_that_is_alone_answers_with_its_own_value(unet, inputs):
    """Alone is attention in which all other places are forbidden, which the library can be asked for with a mask."""
    layer = surgery.self_attention(unet)["level 1 up 2"]
    ((goes_in, _),) = surgery.passing(unet, [layer], *inputs)
    places = goes_in.shape[1]
    itself = torch.eye(places, dtype=torch.bool)[None]
    whole = unet(*inputs).sample
    with surgery.alone(layer):
        ((_, answered),) = surgery.passing(unet, [layer], *inputs)
        assert not torch.allclose(unet(*inputs).sample, whole, atol=1e-6)
    forbidden = torch.zeros(itself.shape).masked_fill(~itself, -torch.inf)
    torch.testing.assert_close(layer(goes_in, attention_mask=forbidden), answered, rtol=0, atol=1e-5)
    assert torch.equal(unet(*inputs).sample, whole)


def test_what_is_held_repeats_its_first_answer_and_lets_no_change_pass(unet, inputs):
    whole = unet(*inputs).sample
    other = randn(*inputs[0].shape, seed=2), *inputs[1:]
    below, top = unet.up_blocks
    with surgery.held(below):
        assert torch.equal(unet(*inputs).sample, whole)
        partly = unet(*other).sample
    assert not torch.allclose(partly, whole, atol=1e-6)  # the skips of the top level are not held
    assert not torch.allclose(partly, unet(*other).sample, atol=1e-6)
    with surgery.held(top):
        unet(*inputs)
        assert torch.equal(unet(*other).sample, whole)
    assert torch.equal(unet(*inputs).sample, whole)
