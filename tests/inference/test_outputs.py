"""Logits, or probabilities of the network's own: what is found, and what probabilities follow."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo import Model

import zfcuda
from zfcuda.data import Preprocessing
from zfcuda.results import InvarianceResult, Predictions
from zfcuda.results.base import of_target


def network(count, *last):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, count), *last,
    ).eval()  # fmt: skip


def ending(count, function):
    """A network whose forward ends in ``function``."""
    return Model(lambda m, x: function(m.body(x)), body=network(count))


def untraceable(y):
    y = torch.softmax(y, 1)
    return y if float(y.sum()) == float(y.sum()) else y + 1


X = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(1))


EVERY = {
    "occlusion": lambda net, **more: zfcuda.occlusion(net, X, size=8, stride=6, **more),
    "dense occlusion": lambda net, **more: zfcuda.occlusion(
        net, X, size=8, stride=6, method="dense", **more
    ),
    "rotation": lambda net, **more: zfcuda.rotation(net, X, [0, 90], **more),
    "predict": lambda net, **more: zfcuda.predict(net, X, **more),
    "background": lambda net, **more: zfcuda.background_effect(
        net, X[:1], torch.ones(20, 20), ["0"], **more
    ),
    "study": lambda net, **more: zfcuda.invariance_study(
        net, X, ["0"], transformations={"scale": [1.0, 1.2], "rotation": [5.0]}, **more
    ).experiments["rotation"],
}

LAST = {
    "nothing": (network(4), "logits"),
    "softmax": (network(4, nn.Softmax(1)), "probabilities"),
    "log-softmax": (network(4, nn.LogSoftmax(1)), "logits"),
    "sigmoids": (network(4, nn.Sigmoid()), "probabilities"),
    "one": (network(1), "logit"),
    "sigmoid": (network(1, nn.Sigmoid()), "probability"),
    "method": (ending(4, lambda y: y.softmax(-1).float().view(len(y), 4)), "probabilities"),
    "in place": (ending(1, lambda y: y.sigmoid_()), "probability"),
    "one of two": (ending(2, lambda y: F.softmax(y, 1)[:, 1:]), "probability"),
    "both": (ending(1, lambda y: torch.cat([y.sigmoid(), 1 - y.sigmoid()], 1)), "probabilities"),
    "unknown, one": (ending(1, lambda y: 1 / (1 + torch.exp(-y))), "logit"),
    "untraceable": (ending(4, untraceable), "probabilities"),
    "exp of log": (ending(4, lambda y: F.log_softmax(y, 1).exp()), "probabilities"),
    "scripted": (torch.jit.script(network(4, nn.Softmax(1))), "probabilities"),
}


@pytest.mark.filterwarnings("ignore:occlusion runs dense")
@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("experiment", ["predict", "occlusion", "rotation"])
def test_the_last_operation_tells(experiment, last):
    net, outputs = LAST[last]
    assert EVERY[experiment](net).outputs == outputs


@pytest.mark.parametrize("experiment", EVERY)
@pytest.mark.parametrize("last", ["softmax", "sigmoids", "one", "sigmoid"])
def test_probabilities_are_the_networks(experiment, last):
    net, outputs = LAST[last]
    found = EVERY[experiment](net)
    assert found.outputs == outputs
    right = found.logits.sigmoid() if outputs == "logit" else found.logits
    assert torch.equal(found.probabilities, right)
    said = EVERY[experiment](net, outputs="value")
    assert said.outputs == "value" and torch.equal(said.probabilities, found.logits)


@pytest.mark.parametrize("experiment", EVERY)
def test_what_the_user_says_is_checked(experiment):
    with pytest.raises(ValueError, match="got 'odds'"):
        EVERY[experiment](network(4), outputs="odds")
    with pytest.raises(ValueError, match="one output, this one has 4"):
        EVERY[experiment](network(4), outputs="logit")


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_attributions_stay_captums(score):
    """Of a network that ends in softmax: the drop of what it answers."""
    found = zfcuda.occlusion(network(4, nn.Softmax(1)), X, size=8, stride=6, score=score)
    with torch.no_grad():
        plain = zfcuda.occlusion(network(4), X, size=8, stride=6, score="probability")
    assert torch.allclose(found.to_attribution(), plain.to_attribution(), atol=1e-6)


def test_kept_classes_have_the_networks_probabilities():
    net = network(4, nn.Softmax(1))
    some = zfcuda.occlusion(net, X, size=8, stride=6, classes=[1])
    assert torch.equal(some.probabilities, some.logits)


def test_entropy_of_one_probability_and_of_values():
    logits = torch.tensor([[0.0], [40.0]])
    assert torch.allclose(
        zfcuda.Predictions(logits, "logit").entropy, torch.tensor([2.0, 1.0]).log(), atol=1e-6
    )
    independent = torch.tensor([[0.5, 0.5, 0.5]])
    expected = 3 * torch.tensor([2.0]).log()
    assert torch.allclose(zfcuda.Predictions(independent, "probabilities").entropy, expected)
    assert zfcuda.Predictions(logits, "value").entropy.isnan().all()


def test_results_keep_what_was_found_and_older_ones_are_of_logits(tmp_path):
    found = zfcuda.occlusion(network(1), X, size=8, stride=6)
    found.save(tmp_path / "a")
    assert zfcuda.OcclusionResult.load(tmp_path / "a").outputs == "logit"
    content = json.loads((tmp_path / "a.json").read_text())
    del content["settings"]["outputs"], content["settings_sha256"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert zfcuda.OcclusionResult.load(tmp_path / "a").outputs == "logits"


def test_a_single_probability_changes_the_answer_at_one_half():
    found = zfcuda.rotation(network(1), X, [0, 45, 90])
    moved = InvarianceResult(
        **{
            **vars(found),
            "logits": torch.tensor([[[-1.0], [1.0], [0.5]], [[2.0], [2.0], [-2.0]]]),
            "base_logits": torch.tensor([[1.0], [2.0]]),
        }
    )
    assert moved.unchanged.tolist() == [[False, True, True], [True, True, False]]


@pytest.mark.parametrize("last", ["one", "sigmoid", "softmax", "nothing"])
def test_uncertainty_follows_the_outputs(last):
    net, outputs = LAST[last]
    x, labels = torch.randn(12, 3, 20, 20), torch.arange(12) % 2
    dataset = torch.utils.data.TensorDataset(x, labels)
    examples = zfcuda.data.FromDataset(dataset, ("no", "yes"), Preprocessing(size=20))
    found = zfcuda.uncertainty_of(net, examples)
    assert found.outputs == outputs
    p = zfcuda.predict(net, x).probabilities.double()
    p = torch.cat([1 - p, p], 1) if p.shape[1] == 1 else p
    assert torch.allclose(found.probabilities, p, atol=1e-6)
    assert torch.equal(found.predicted, p.argmax(1))
    expected = -p[torch.arange(12), labels].log().mean()
    assert found.cross_entropy == pytest.approx(float(expected), rel=1e-5)
    assert found.confusion.sum() == 12 and found.entropy.isfinite().all()
    with pytest.raises(ValueError, match="no uncertainty"):
        zfcuda.uncertainty_of(net, examples, outputs="value")


@pytest.mark.parametrize("last", ["one", "sigmoid", "softmax", "sigmoids"])
def test_runs_over_data_sets_decide_once(last, tmp_path):
    net, outputs = LAST[last]
    summary = zfcuda.occlusion_over(net, X, tmp_path / "o", size=8, stride=6)
    assert summary.outputs == outputs
    alone = zfcuda.occlusion(net, X, size=8, stride=6)
    right = of_target(alone.base_probabilities, alone.target).double()
    assert torch.allclose(summary.probability, right, atol=1e-6)
    drops = right[:, None] - alone.target_probability
    assert torch.allclose(summary.largest, drops.amax(1), atol=1e-6)
    turned = zfcuda.invariance_over(
        net, X, tmp_path / "i", ["0"], transformations={"rotation": [0.0, 90.0]}
    )
    assert turned.outputs == outputs and torch.allclose(turned.base, right, atol=1e-6)
    assert float(turned.unchanged["rotation"][0]) == 1
    for folder, kind in (("o", zfcuda.OcclusionSummary), ("i", zfcuda.InvarianceSummary)):
        settings = json.loads((tmp_path / folder / "settings.json").read_text())["settings"]
        assert settings["outputs"] == outputs
        assert kind.load(tmp_path / folder / "summary").outputs == outputs


def test_a_run_says_nothing_of_logits_and_refuses_another_kind(tmp_path):
    net = network(4)
    zfcuda.occlusion_over(net, X, tmp_path, size=8, stride=6)
    assert "outputs" not in json.loads((tmp_path / "settings.json").read_text())["settings"]
    with pytest.raises(ValueError, match="outputs logits there, probabilities here"):
        zfcuda.occlusion_over(net, X, tmp_path, size=8, stride=6, outputs="probabilities")


def test_values_have_no_answer_that_could_change(tmp_path):
    summary = zfcuda.occlusion_over(network(1), X, tmp_path, size=8, stride=6, outputs="value")
    assert summary.changed.isnan().all() and summary.telling == 0
    net = network(1)
    with torch.no_grad():
        assert torch.allclose(summary.probability, net(X)[:, 0].double(), atol=1e-6)


def test_the_class_of_a_single_output():
    for names, expected in ((("cat", "dog"), "dog"), (("dog",), "dog")):
        top = Predictions(torch.ones(2, 1), "logit", names).top(5)
        assert top.names == ((expected,), (expected,)) and top.probabilities.shape == (2, 1)
    assert Predictions(torch.ones(2, 1), "logit").top().labels.tolist() == [[0], [0]]
    with pytest.raises(ValueError, match=r"3 class names for 1 outputs: .* or two for a single"):
        Predictions(torch.ones(2, 1), "logit", ("a", "b", "c"))
    with pytest.raises(ValueError, match="k must be between 1 and 3"):
        Predictions(torch.ones(2, 3)).top(5)
