"""First-layer filters: which are dead, and aliasing against the discrete Fourier transform."""

import numpy as np
import pytest
import torch
from torch import nn

from zfcuda.experiments.filters import aliased_share, compare_filters, first_layer_filters


def network(stride=2, kernel=5, **settings):
    return nn.Sequential(
        nn.Conv2d(3, 6, kernel, stride=stride, **settings), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()
    )  # fmt: skip


@pytest.fixture
def images():
    return torch.randn(9, 3, 20, 22)


def share_by_fft(weights, stride, size=4000):
    """Of one filter [h,w], on a fine grid of frequencies."""
    energy = np.abs(np.fft.fft2(weights, s=(size, size))) ** 2
    rows, columns = (np.abs(np.fft.fftfreq(size)) > 1 / (2 * step) for step in stride)
    return energy[rows[:, None] | columns].sum() / energy.sum()


@pytest.mark.parametrize("stride", [(2, 2), (4, 3), (1, 2)])
def test_aliasing_is_the_energy_above_nyquist(stride):
    filters = torch.randn(2, 3, 7, 5, dtype=torch.float64)
    shares = aliased_share(filters, stride)
    for own, share in zip(filters, shares, strict=True):
        energy = own.square().sum((1, 2)).numpy()
        each = [share_by_fft(channel.numpy(), stride, 1500) for channel in own]
        assert float(share) == pytest.approx(np.average(each, weights=energy), abs=3e-3)


def test_known_shares():
    assert aliased_share(torch.randn(4, 3, 7, 7), (1, 1)).abs().max() < 1e-6
    delta = torch.zeros(1, 1, 5, 5)
    delta[..., 2, 2] = 1  # white
    assert float(aliased_share(delta, (2, 2))) == pytest.approx(0.75)
    assert float(aliased_share(delta, (4, 4))) == pytest.approx(1 - 1 / 16)
    board = torch.tensor([[1.0, -1.0] * 8, [-1.0, 1.0] * 8] * 8)  # the highest frequency
    assert float(aliased_share(board[None, None], (2, 2))) > 0.95
    assert float(aliased_share(torch.ones(1, 1, 16, 16), (2, 2))) < 0.12
    assert aliased_share(torch.zeros(1, 3, 5, 5), (2, 2)).isnan().all()
    # Dilated taps lie further apart.
    spread = torch.zeros(1, 1, 5, 5)
    spread[..., ::2, ::2] = torch.arange(9.0).view(3, 3)
    close = torch.arange(9.0).view(1, 1, 3, 3)
    torch.testing.assert_close(aliased_share(close, (2, 3), (2, 2)), aliased_share(spread, (2, 3)))


def test_responses_alias_as_they_do(images):
    """Against the spectrum of the responses at every pixel, with the images wrapped round."""
    model = network(stride=4).double()
    images = images.double()
    result = first_layer_filters(model, images)
    height, width = images.shape[2:]
    rows, columns = (
        torch.hann_window(n + 2, periodic=False, dtype=torch.float64)[1:-1] for n in (height, width)
    )
    faded = (images - images.mean((2, 3), keepdim=True)) * rows[:, None] * columns
    wrapped = nn.functional.pad(faded, (0, 4, 0, 4), mode="circular")
    responses = nn.functional.conv2d(wrapped, model[0].weight.detach())
    power = torch.fft.fft2(responses).abs().square().mean(0)
    power[:, 0, 0] = 0
    outside = (torch.fft.fftfreq(height).abs() > 1 / 8)[:, None] | (
        torch.fft.fftfreq(width).abs() > 1 / 8
    )
    torch.testing.assert_close(
        result.response_aliasing, (power * outside).sum((1, 2)) / power.sum((1, 2))
    )


def test_weak_and_silent_filters_are_dead(images):
    model = network()
    with torch.no_grad():
        model[0].weight[2] *= 0.01
        model[0].bias[4] = -1e6
    result = first_layer_filters(model)
    assert result.weak.tolist() == [False, False, True, False, False, False]
    assert result.strongest is None and result.dead.sum() == 1 and result.count == 0
    result = first_layer_filters(model, images)
    assert result.silent.tolist() == [False, False, False, False, True, False]
    assert result.dead.sum() == 2 and result.count == 9
    torch.testing.assert_close(result.strongest, model[0](images).detach().amax((0, 2, 3)))
    torch.testing.assert_close(result.rms, model[0].weight.detach().square().mean((1, 2, 3)).sqrt())
    assert first_layer_filters(model, threshold=1.0).weak.sum() == 5


def test_images_with_nan_do_not_count(images):
    broken = images.clone()
    broken[3] = torch.nan
    model = network()
    kept = images[[0, 1, 2, *range(4, 9)]]
    a, b = first_layer_filters(model, broken), first_layer_filters(model, kept)
    torch.testing.assert_close(a.strongest, b.strongest)
    torch.testing.assert_close(a.response_aliasing, b.response_aliasing)


def test_a_broken_filter_hides_no_other():
    """The largest filter that is a number is what weak ones are compared with."""
    net = network()
    with torch.no_grad():
        net[0].weight[1] *= 1e-3
        net[0].weight[5] = 0
    whole = first_layer_filters(net)
    with torch.no_grad():
        net[0].weight[5] = torch.nan
    result = first_layer_filters(net)
    assert result.weak.tolist() == [False, True, False, False, False, False]
    assert result.aliasing_of_all == whole.aliasing_of_all > 0


def test_what_all_filters_have_together():
    model = network(stride=(2, 3))
    result = first_layer_filters(model)
    energy = result.filters.square().sum((1, 2, 3))
    assert result.aliasing_of_all == pytest.approx(
        float((result.aliasing * energy).sum() / energy.sum())
    )
    assert result.aliasing_of_noise == pytest.approx(5 / 6)


def test_groups_and_dilation(images):
    plain = nn.Conv2d(3, 6, 3, stride=2, dilation=2, groups=3).double()
    whole = nn.Conv2d(3, 6, 5, stride=2).double()
    with torch.no_grad():
        whole.weight.zero_()
        for group in range(3):
            own = slice(2 * group, 2 * group + 2)
            whole.weight[own, group, ::2, ::2] = plain.weight[own, 0]
    a, b = (first_layer_filters(nn.Sequential(layer), images.double()) for layer in (plain, whole))
    torch.testing.assert_close(a.aliasing, b.aliasing)
    torch.testing.assert_close(a.response_aliasing, b.response_aliasing)


def test_which_layer(images):
    model = nn.Sequential(nn.BatchNorm2d(3), network())
    assert first_layer_filters(model).layer == "1.0"
    assert first_layer_filters(model, layer="1.2").filters.shape == (4, 6, 3, 3)
    with pytest.raises(TypeError, match=r"'1\.1' must be a nn\.Conv2d, it is a ReLU"):
        first_layer_filters(model, layer="1.1")
    with pytest.raises(ValueError, match=r"no nn\.Conv2d"):
        first_layer_filters(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="threshold must be between 0 and 1, got 2"):
        first_layer_filters(model, threshold=2)
    with pytest.raises(ValueError, match="no images"):
        first_layer_filters(model, [])


def test_two_models_side_by_side(images):
    models = {"coarse": network(4, 7), "fine": network(2, 5)}
    result = compare_filters(models, images, maps=3)
    assert result.names == ("coarse", "fine")
    assert [own.stride for own in result.filters] == [(4, 4), (2, 2)]
    assert [top.layers for top in result.tops] == [("0", "2"), ("0", "2")]
    assert result.tops[0].k == 1 and result.tops[0].count == 9
    named = {"coarse": images, "fine": images[..., :18]}
    layers = {"coarse": ["1"], "fine": ["1", "3"]}
    other = compare_filters(models, named, layers, maps=2)
    assert [top.image_size for top in other.tops] == [(20, 22), (20, 18)]
    assert [top.layers for top in other.tops] == [("1",), ("1", "3")]
    with pytest.raises(ValueError, match="at least one"):
        compare_filters({}, images)
