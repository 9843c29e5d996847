"""Table 3: what is altered, what is trained, what a second call finds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zfcuda
from zfcuda.data import Pictures, Preprocessing, Split
from zfcuda.experiments import ablations
from zfcuda.experiments.ablations import TABLE_3, Variant, altered
from zfcuda.results.base import wilson
from zfcuda.results.training import AblationResult
from zfcuda.training import Recipe

SMALL = Preprocessing(size=16, resize=None, mean=(0.5,) * 3, std=(0.25,) * 3)
RECIPE = Recipe(epochs=2, batch=8)
VARIANTS = (Variant("as it is"), Variant("without b", ("b",)), Variant("a: 3", resize={"a": 3}))


def named(**layers):
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def chain(classes):
    return named(
        a=nn.Conv2d(3, 4, 3, padding=1), relu_a=nn.ReLU(), pool=nn.MaxPool2d(2),
        b=nn.Conv2d(4, 6, 3, padding=1, bias=False), relu_b=nn.ReLU(), flatten=nn.Flatten(),
        c=nn.Linear(6 * 64, 5), relu_c=nn.ReLU(), drop=nn.Dropout(), d=nn.Linear(5, classes),
    )  # fmt: skip


@pytest.fixture
def data():
    def part(count):
        labels = torch.arange(count) % 3
        images = torch.randint(100, (count, 3, 16, 16)) + 50 * labels.view(-1, 1, 1, 1)
        return Pictures(images.to(torch.uint8), labels, ("x", "y", "z"), SMALL)

    return Split(part(24), part(9), part(12), "noise")


def test_removed_layers_take_their_relu_along_and_others_fit():
    x = torch.randn(2, 3, 16, 16)
    net = chain(3)
    small = altered(net, Variant("", ("b", "c"), {"a": 7}), x)
    assert [name for name, _ in small.named_children()] == ["a", "relu_a", "pool", "flatten", "d"]
    assert small.a.weight.shape == (7, 3, 3, 3) and small.a.padding == (1, 1)
    assert small.d.weight.shape == (3, 7 * 64)
    assert small(x).shape == (2, 3)
    assert small.a.bias.eq(0).all() and small.a.weight.std() > 0.1
    same = altered(net, Variant(""), x)
    assert all(one is other for one, other in zip(same, net, strict=True))
    assert altered(net, Variant("", resize={"b": 2}), x).b.bias is None


def test_the_model_is_left_in_its_modes():
    net = chain(3)
    net.add_module("block", nn.Sequential(nn.Dropout(), nn.Identity()))
    net.add_module("e", nn.Linear(3, 3))
    net.train()
    net.block[0].eval()
    modes = [module.training for module in net.modules()]
    small = altered(net, Variant("", resize={"c": 4}), torch.randn(2, 3, 16, 16))
    assert [module.training for module in net.modules()] == modes
    assert small.training and small.c.training and small.block is net.block


def test_the_papers_variants_of_zfnet_small():
    x = torch.zeros(1, 3, 64, 64)
    networks = [altered(zfcuda.models.zfnet_small(fused=True), variant, x) for variant in TABLE_3]
    parameters = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert all(network(x).shape == (1, 10) for network in networks)
    assert parameters[1] < parameters[0] and parameters[4] < min(parameters[:4])
    assert "conv3" not in dict(networks[1].named_children())
    assert networks[7].conv4.weight.shape == (336, 168, 3, 3)
    assert len({variant.slug for variant in TABLE_3}) == len(TABLE_3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"remove": ("e",)}, "layer 'e' cannot be changed: expected some of .'a', 'b', 'c'."),
        ({"remove": ("d",)}, "layer 'd' cannot be changed"),  # its size is the number of classes
        ({"remove": ("pool",)}, "layer 'pool' cannot be changed"),
        ({"resize": {"a": 0}}, "either removed or resized to at least 1"),
        ({"remove": ("a",), "resize": {"a": 2}}, "cannot change a: expected each layer either"),
    ],
)
def test_changes_that_cannot_be_made(change, message):
    with pytest.raises(ValueError, match=message):
        altered(chain(3), Variant("", **change), torch.zeros(1, 3, 16, 16))


def test_layers_that_no_longer_fit():
    net = named(a=nn.Conv2d(3, 4, 3), b=nn.BatchNorm2d(4), c=nn.Flatten(), d=nn.Linear(4 * 196, 2))
    with pytest.raises(ValueError, match="after this change layer 'b' does not fit"):
        altered(net, Variant("", resize={"a": 5}), torch.zeros(1, 3, 16, 16))


def test_every_variant_is_trained_alike_and_found_again(data, tmp_path, monkeypatch):
    def run():
        return zfcuda.ablation(
            data, tmp_path, VARIANTS, RECIPE, seeds=(0, 5), network=chain, progress=False
        )

    result = run()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a=3-seed0", "a=3-seed5", "as-it-is-seed0", "as-it-is-seed5", "without-b-seed0",
        "without-b-seed5",
    ]  # fmt: skip
    assert result.variants == ("as it is", "without b", "a: 3")
    own = sum(p.numel() for p in chain(3).parameters())
    assert result.parameters.tolist() == [
        own,
        own - 4 * 6 * 9 - 2 * 64 * 5,
        own - (3 * 9 + 1) - 6 * 9,
    ]
    assert result.multiplications[0] == 4 * 27 * 256 + 6 * 36 * 64 + 6 * 64 * 5 + 5 * 3
    assert result.test_error.shape == (3, 2) and result.seeds.tolist() == [0, 5]
    assert result.pictures == (24, 9, 12) and result.recipe["epochs"] == 2
    half = (result.interval[:, 1] - result.interval[:, 0]) / 2
    assert half.tolist() == pytest.approx((result.test_error.std(1) / 2**0.5).tolist())
    assert "standard error over 2 seeds" in result.table()

    monkeypatch.setattr("zfcuda.training.loop._Run._epoch", None)  # nothing is trained again
    again = run()
    assert torch.equal(again.test_error, result.test_error)
    assert torch.equal(again.seconds, result.seconds)
    result.save(tmp_path / "ablation")
    assert AblationResult.load(tmp_path / "ablation").table() == result.table()


def test_a_longer_training_is_no_equal_budget(data, tmp_path, monkeypatch):
    def run(variants, epochs):
        recipe = Recipe(epochs=epochs, batch=8)
        return zfcuda.ablation(data, tmp_path, variants, recipe, network=chain, progress=False)

    run(VARIANTS[:1], 2)
    monkeypatch.setattr(ablations, "train", None)  # it is told before anything is trained
    with pytest.raises(ValueError, match=r"as-it-is-seed0' holds a training of 2 epochs, more th"):
        run(VARIANTS[::-1], 1)


def test_an_interrupted_ablation_goes_on(data, tmp_path, monkeypatch):
    train = ablations.train

    def stop_at_the_second(model, data, folder, *rest):
        if folder.name.startswith("without"):
            raise KeyboardInterrupt
        return train(model, data, folder, *rest)

    monkeypatch.setattr(ablations, "train", stop_at_the_second)
    arguments = (data, tmp_path / "a", VARIANTS[:2], RECIPE)
    with pytest.raises(KeyboardInterrupt):
        zfcuda.ablation(*arguments, network=chain, progress=False)
    monkeypatch.setattr(ablations, "train", train)
    epoch = tmp_path / "a" / "as-it-is-seed0" / "epoch-0001.safetensors"
    written = epoch.stat().st_mtime_ns
    result = zfcuda.ablation(*arguments, network=chain, progress=False)
    assert epoch.stat().st_mtime_ns == written
    straight = zfcuda.ablation(
        data, tmp_path / "b", VARIANTS[:2], RECIPE, network=chain, progress=False
    )
    assert torch.equal(result.test_error, straight.test_error)
    assert torch.equal(result.training_error, straight.training_error)


def test_weights_depend_on_the_seed_only(data, tmp_path):
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    results = [
        zfcuda.ablation(data, tmp_path / name, VARIANTS[2:], RECIPE, network=chain, progress=False)
        for name in "ab"
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(results[0].training_error, results[1].training_error)
    single = results[0]
    assert torch.equal(single.interval, wilson(single.test_error[:, 0], 12))
    assert "95% interval" in single.table()


def test_bad_arguments(data, tmp_path):
    def refused(message, variants=VARIANTS, recipe=RECIPE, **more):
        with pytest.raises(ValueError, match=message):
            zfcuda.ablation(data, tmp_path, variants, recipe, network=chain, **more)

    refused("expected at least one variant and one seed", variants=())
    refused("expected at least one variant and one seed", seeds=())
    refused("equal budgets are numbers of epochs", recipe=Recipe(minutes=1))
    refused("two variants make the same change, without-b",
            variants=(VARIANTS[1], Variant("again", ("b",))))  # fmt: skip
    # Found before anything is trained.
    refused("layer 'z' cannot be changed", variants=(VARIANTS[0], Variant("", ("z",))))
    assert not any(tmp_path.iterdir())
