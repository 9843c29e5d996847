"""What moved since 0.1 is still found under its old name, with a DeprecationWarning."""

import subprocess
import sys
from importlib import import_module

import pytest

import zfcuda

# Of each old module some names that it had.
NAMES = {
    "compat.onnx": ["OnnxNetwork", "load"],
    "datasets": ["Examples", "Split", "fashion_mnist", "garments", "read_idx", "split"],
    "datasets.fashion": ["ColouredFashion", "fashion_mnist"],
    "deconvnet": ["deconv", "project", "projections"],
    "feature_evolution": ["EvolutionResult", "evolution"],
    "filters": ["FilterResult", "aliased_share", "first_layer_filters"],
    "maxima": ["StoredActivations", "TopActivations", "record_activations", "top_activations"],
    "ops.pooling": ["max_pool2d", "switches_to_indices"],
    "predictions": ["predict"],
    "receptive": ["receptive_fields"],
    "reference": ["local_response_norm", "max_pool2d", "warp_affine"],
    "runs": ["InvarianceSummary", "OcclusionSummary", "invariance_over", "occlusion_over"],
    "sensitivity": ["occluder_grid", "occlusion", "plan"],
    "training.result": ["TrainingResult"],
}


@pytest.fixture(autouse=True)
def _fresh():
    """Each old module is found anew: its warning is the finder's."""
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if isinstance(sys.modules.get(name), zfcuda._Moved):
            parent, _, leaf = name.rpartition(".")
            vars(sys.modules.get(parent, zfcuda)).pop(leaf, None)
            del sys.modules[name]


@pytest.mark.parametrize("old", NAMES)
def test_old_modules_have_their_names(old):
    with pytest.warns(DeprecationWarning, match=rf"zfcuda\.{old} is zfcuda\."):
        module = import_module(f"zfcuda.{old}")
    for name in NAMES[old]:
        assert callable(getattr(module, name))
    assert not hasattr(module, "no_such_name")


@pytest.mark.parametrize("old", zfcuda._MOVED)
def test_every_place_is_there(old):
    for place in zfcuda._places(f"zfcuda.{old}"):
        import_module(place)


def test_a_figures_old_module_can_be_called_as_the_function_that_it_hides():
    with pytest.raises(TypeError, match=r"uncertainty\(\) missing .* 'result'"):
        zfcuda._Moved("zfcuda.figures.uncertainty")()


def test_as_an_attribute_and_by_from():
    with pytest.warns(DeprecationWarning):
        assert zfcuda.datasets.garments is zfcuda.data.garments
    from zfcuda.datasets import split

    assert split is zfcuda.data.split


@pytest.mark.parametrize(
    "code", ["zfcuda.datasets", "from zfcuda import datasets", "import zfcuda.datasets.folder"]
)
def test_whoever_uses_an_old_name_is_told(code):
    """The warning is of their line: of others' Python shows none."""
    with pytest.warns(DeprecationWarning) as told:
        exec(compile(code, "theirs.py", "exec"), {"zfcuda": zfcuda})
    assert {warning.filename for warning in told} == {"theirs.py"}


def test_nothing_of_ours_uses_an_old_name():
    code = (
        "import torch, zfcuda, zfcuda.cli.demo; [getattr(zfcuda, name) for name in zfcuda.__all__]"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error:zfcuda:DeprecationWarning", "-c", code],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["no_such_module", "no_such_package.module", "datasets_too"])
def test_what_never_was_is_not_found(name):
    with pytest.raises(ModuleNotFoundError):
        import_module(f"zfcuda.{name}")
    with pytest.raises(ModuleNotFoundError):
        import_module(f"no_such_zfcuda.{name}")
    assert not hasattr(zfcuda, name)
