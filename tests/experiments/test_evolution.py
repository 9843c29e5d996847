"""Evolution against top activations of each checkpoint by itself."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zfcuda.experiments.evolution import evolution
from zfcuda.experiments.maxima.finding import top_activations

LAYERS = ("1", "4")


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), nn.ReLU()
    ).double()  # fmt: skip


@pytest.fixture
def images():
    return torch.randn(11, 3, 14, 16, dtype=torch.float64)


@pytest.fixture
def states(model):
    """Three state dicts, none of them the model's."""
    found = {}
    for epoch in (1, 5, 9):
        for weight in model.parameters():
            nn.init.normal_(weight)
        found[str(epoch)] = copy.deepcopy(model.state_dict())
    for weight in model.parameters():
        nn.init.zeros_(weight)
    return found


def test_each_column_is_that_checkpoint(model, images, states):
    result = evolution(states, images, LAYERS, model, maps={"1": [0, 3], "4": 3})
    assert result.checkpoints == ("1", "5", "9") and result.layers == LAYERS
    for column, state in enumerate(states.values()):
        model.load_state_dict(state)
        channels = {layer: own.tolist() for layer, own in result.channels.items()}
        top = top_activations(model, images, LAYERS, 1, channels)
        for layer, own in result.channels.items():
            assert torch.equal(result.values[layer][column], top.values[layer][own, 0])
            assert torch.equal(result.images[layer][column], top.images[layer][own, 0])
            assert torch.equal(result.positions[layer][column], top.positions[layer][own, 0])
            for name in ("boxes", "projections", "patches"):
                seen = getattr(result, name)[layer][column]
                assert torch.equal(seen, getattr(top, name)[layer][:, 0])
    assert len({tuple(row.tolist()) for row in result.images["4"]}) > 1


def test_the_last_checkpoint_decides_which_maps(model, images, states):
    states["9"]["3.weight"][:2] = 0
    states["9"]["3.bias"][:2] = -1.0  # never active
    result = evolution(states, images, "4", model, maps=9)
    assert result.channels["4"].tolist() == [2, 3, 4]


def test_models_files_and_pairs(model, images, states, tmp_path):
    given = evolution(states, images, LAYERS, model, maps=2)
    models, files = [], []
    for epoch, state in states.items():
        own = copy.deepcopy(model)
        own.load_state_dict(state)
        models.append((epoch, own))
        path = tmp_path / f"{epoch}.safetensors"
        save_file(state, path)
        files.append((epoch, path if epoch != "5" else str(path)))
    for other in (
        evolution(models, images, LAYERS, maps=2),
        evolution(files, images, LAYERS, model, maps=2),
    ):
        for layer in LAYERS:
            assert torch.equal(other.projections[layer], given.projections[layer])


def test_the_model_is_left_as_it_was(model, images, states):
    model.train()
    evolution(states, images, LAYERS, model, maps=2)
    assert model.training and not any(weight.any() for weight in model.parameters())


def test_bad_checkpoints(model, images, states, tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        evolution([], images, LAYERS, model)
    with pytest.raises(TypeError, match="checkpoint '1' holds weights only"):
        evolution(states, images, LAYERS)
    states["9"]["3.weight"] = torch.zeros(6, 4, 3, 3)
    with pytest.raises(ValueError, match=r"checkpoint '9' does not fit.*3.weight"):
        evolution(states, images, LAYERS, model)
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
        evolution([("1", tmp_path / "gone.safetensors"), ("2", model)], images, LAYERS, model)
