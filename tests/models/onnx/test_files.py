"""zfcuda.models.onnx on files that are broken, hostile, or not for it: one sentence each."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from onnx_files import array, model, node, nodes, onnx, saved, zf

from zfcuda.models.onnx import load

CONV = nodes("[first] y = Conv(x, w)")


def stored(made: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in made.graph.initializer if tensor.name == name)


def refused(tmp_path, made: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(saved(tmp_path, made))
    said = str(caught.value)
    assert said.startswith("ONNX file '") and "model.onnx'" in said and "\n" not in said


# --- no model, or half of one ---------------------------------------------------------------------


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ONNX file '.*nothing\.onnx' does not exist"):
        load(tmp_path / "nothing.onnx")


@pytest.mark.parametrize("content", [b"", b"not an ONNX model", b"\x00" * 100, b"\x89PNG\r\n" * 9])
def test_another_file(tmp_path, content):
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"ONNX file '.*other\.onnx': .*ONNX model"):
        load(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(tmp_path, share):
    whole = zf().SerializeToString()
    path = tmp_path / "half.onnx"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"^ONNX file '.*half\.onnx': "):
        load(path)


def test_flipped_bytes_end_in_an_answer_or_in_one_sentence(tmp_path):
    whole = bytearray(model(CONV, {"w": array(2, 4, 3, 3)}).SerializeToString())
    path = tmp_path / "flipped.onnx"
    for place in range(0, len(whole), 3):
        broken = bytearray(whole)
        broken[place] ^= 0x55 if place % 2 else 0xD5  # the latter makes names that are no UTF-8
        path.write_bytes(broken)
        try:
            load(path)
        except ValueError as error:
            assert str(error).startswith("ONNX file '") and "\n" not in str(error)


def test_a_file_larger_than_a_protobuf(tmp_path):
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse: takes no room
    with pytest.raises(ValueError, match=r"2,147,483,648 bytes; an ONNX model has at most"):
        load(path)


# --- weights that are not what they claim ---------------------------------------------------------


@pytest.mark.parametrize("dims", [[2**40, 4, 3, 3], [3, 4, 3, 3], [2, 4, 3], [2**62, 2**62, 4]])
def test_weights_that_claim_more_than_there_is(tmp_path, dims):
    made = model(CONV, {"w": array(2, 4, 3, 3)})
    stored(made, "w").dims[:] = dims
    refused(tmp_path, made, r"weights 'w' \[.*\] need [\d,]+ bytes, but there are 288")


def test_weights_of_no_shape_or_kind(tmp_path):
    made = model(CONV, {"w": array(2, 4, 3, 3)})
    stored(made, "w").dims[:] = [-2, -4, 3, 3]
    refused(tmp_path, made, "weights 'w' have no proper shape")
    made = model(CONV, {"w": np.array(["a"])})
    refused(tmp_path, made, r"weights 'w' are of type STRING \(8\)")
    made = model(CONV, {"w": array(2, 4, 3, 3)})
    stored(made, "w").data_type = 12345
    refused(tmp_path, made, r"weights 'w' are of type \? \(12345\)")


def test_weights_listed_one_by_one(tmp_path):
    weight = array(2, 4, 3, 3)
    made = model(CONV, {"w": weight})
    listed = onnx.helper.make_tensor("w", 1, weight.shape, weight.reshape(-1).tolist())
    stored(made, "w").CopyFrom(listed)
    assert torch.equal(load(saved(tmp_path, made)).first.weight, torch.from_numpy(weight))
    del stored(made, "w").float_data[-1]
    refused(tmp_path, made, r"weights 'w' \[2, 4, 3, 3\] need 72 numbers, but there are 71")


def outside(folder, **place: object) -> onnx.ModelProto:
    """A model whose filters lie in a file beside it."""
    made = model(CONV, {"w": array(2, 4, 3, 3)})
    tensor = stored(made, "w")
    (folder / "weights.bin").write_bytes(bytes(8) + tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in ({"location": "weights.bin", "offset": 8} | place).items():
        tensor.external_data.add(key=key, value=str(value))
    return made


def test_weights_beside_the_file(tmp_path):
    network = load(saved(tmp_path, outside(tmp_path, length=288)))
    assert torch.equal(network.first.weight, torch.from_numpy(array(2, 4, 3, 3)))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"location": "../weights.bin"}, "expected a file in the folder of the model"),
        ({"location": "/etc/passwd"}, "expected a file in the folder of the model"),
        ({"location": "link"}, "expected a file in the folder of the model"),
        ({"location": ""}, "expected a file in the folder of the model"),
        ({"location": "missing.bin"}, "'missing.bin', which does not exist"),
        ({"offset": 9}, r"need 288 bytes, but bytes 9 to 297 of 'weights.bin' \(296 bytes\)"),
        ({"offset": -1}, "need 288 bytes"),
        ({"length": 100}, "need 288 bytes"),
        ({"length": 2**60}, "need 288 bytes"),
        ({"offset": "x"}, "at no proper place of 'weights.bin'"),
    ],
)
def test_weights_elsewhere_are_refused(tmp_path, place, message):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(296))
    (folder / "link").symlink_to(tmp_path / "weights.bin")
    refused(folder, outside(folder, **place), message)


def test_weights_without_numbers(tmp_path):
    """As a Resize has for what it does not use; they are nothing, and no error of torch's."""
    for weights in ({"e": np.zeros(0, np.float32)}, {"e": np.zeros((0, 4), np.int64)}):
        made = model(CONV, {"w": array(2, 4, 3, 3)} | weights)
        assert load(saved(tmp_path, made)).first.weight.shape == (2, 4, 3, 3)
    made = model(CONV, {"w": np.zeros((0, 4, 3, 3), np.float32)})
    refused(tmp_path, made, r"is float32 \[0, 4, 3, 3\]")


# --- small files that would take much memory ------------------------------------------------------


def test_weights_beside_the_file_are_not_taken_again_and_again(tmp_path):
    made = outside(tmp_path)
    for i in range(3):
        made.graph.initializer.add().CopyFrom(stored(made, "w"))
        made.graph.initializer[-1].name = f"w{i}"
    refused(tmp_path, made, "weights 'w0': together .* 'weights.bin' claim more than its 296 bytes")


def test_filters_are_not_padded_beyond_their_own_size(tmp_path):
    made = nodes("[first] y = Conv<pads = [0, 0, 300, 0]>(x, w)")
    network = load(saved(tmp_path, model(made, {"w": array(2, 4, 3, 3)})))
    assert [type(part).__name__ for part in network.first] == ["ZeroPad2d", "Conv2d"]


# --- models that are not for it -------------------------------------------------------------------


def test_operators_of_others_are_named_with_their_domain(tmp_path):
    made = model([node("Relu", ["x"], ["y"], domain="com.example", name="theirs")])
    made.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    refused(tmp_path, made, r"not known here: 'com\.example\.Relu' \(node 'theirs'\)")


def test_what_the_answer_does_not_need_may_be_anything(tmp_path):
    made = model(nodes("d = Det(x) y = Relu(x)"))
    assert len([*load(saved(tmp_path, made)).children()]) == 1


def test_several_inputs_or_outputs(tmp_path):
    made = model([node("Add", ["x", "z"], ["y"])])
    made.graph.input.append(onnx.helper.make_tensor_value_info("z", 1, [1, 4, 9, 8]))
    refused(tmp_path, made, "expected one input, it has 2: 'x', 'z'")
    made = model([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["z"])])
    made.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, [1, 4, 9, 8]))
    refused(tmp_path, made, "expected one output, it has 2: 'y', 'z'")


def test_names_from_a_file_are_shown_harmlessly(tmp_path):
    made = model([node("Det", ["x"], ["y"], name="\x1b[31mred\nline")])
    refused(tmp_path, made, r"\\x1b\[31mred\\nline")


OTHERS = r"node 'bad' \(\w+\): "  # images are mixed
GROWN = "its constants, up to that of node '?.*take"
DOUBLED = " ".join(f"c{i + 1} = Concat<axis = 0>(c{i}, c{i})" for i in range(26))
SHAPED = " ".join(f"c{i} = ConstantOfShape(shape)" for i in range(20))
SUMMED = f"c = Sum({', '.join(f'c{i}' for i in range(20))})"
# One matrix, of which each layer keeps its own.
TRANSPOSED = " ".join(f"v{i + 1} = MatMul({f'v{i}' if i else 'x'}, m)" for i in range(39))
MATRIX = {"weights": {"m": array(1024, 1024)}, "shape": (1, 1, 1, 1024)}

# The nodes, what else their model has, and what is said of it.
REFUSED = [
    ("y = Relu(nobody)", {}, "not a valid ONNX model"),
    ("z = Relu(x)", {}, "'y'|not a valid"),
    (
        "[determinant] d = Det(x) [places] n = NonZero(d) y = Relu(n)",
        {},
        r"not known here: 'Det' \(node 'determinant'\), 'NonZero' \(node 'places'\)",
    ),
    ("y = Neg(w)", {}, "its output 'y' does not depend on the image"),
    ("y = Relu(x)", {"opset": 6}, "opset 6: expected 7 or later"),
    ("y = Relu(x)", {"opset": 99}, "opset 99; onnx .* knows them up to"),
    ("y = Relu(x)", {"shape": (1, 4)}, r"'x' is torch.float32 \[1, 4\]: expected images"),
    ("y = Relu(x)", {"shape": (1, 0, 9, 8)}, "expected a number of channels"),
    ("y = Relu(x)", {"shape": (1, "c", 9, 8)}, "expected a number of channels"),
    ("y = Relu(x)", {"shape": (1, 4, 2**40, 8)}, "sizes below"),
    ("[bad] y = Reshape(x, s)", {"weights": {"s": [-1, 36]}}, OTHERS),
    ("[bad] y = Reshape(x, s)", {"weights": {"s": [2, -1]}}, OTHERS),
    ("[bad] y = Reshape(x, s)", {"weights": {"s": [-1]}}, OTHERS),
    ("n = Shape(x) i = Gather(n, zero) f = Cast<to = 1>(i) [bad] y = Mul(x, f)", {}, OTHERS),
    ("[bad] y = Transpose<perm = [1, 0, 2, 3]>(x)", {}, OTHERS),
    ("[bad] y = Concat<axis = 0>(x, x)", {}, OTHERS),
    ("[bad] y = ReduceMean(x)", {}, OTHERS),
    ("[bad] y = Flatten<axis = 2>(x)", {}, OTHERS),
    ("[bad] y = Add(x, b)", {"weights": {"b": array(3, 4, 9, 8)}}, OTHERS),
    ("y = Conv(x, w)", {"weights": {"w": array(2, 3, 3, 3)}}, "4 channels"),
    ("y = Conv<pads = [-1, -1, -1, -1]>(x, w)", {}, "pads is"),
    (f"y = Conv<pads = {[2**40] * 4}>(x, w)", {}, "pads is"),
    ("y = Conv<strides = [0, 1]>(x, w)", {}, "strides is"),
    ('y = Conv<auto_pad = "SOME">(x, w)', {}, "auto_pad is 'SOME'"),
    ("y = Conv(x, x)", {}, "must be a constant"),
    ("y = MaxPool<kernel_shape = [20, 2]>(x)", {}, "no window of 20x2"),
    ("y = LRN<size = 4>(x)", {}, "expected an odd number"),
    ("y = Gemm<transA = 1>(x, g)", {}, "transA is 1"),
    ("y = Pad(x, p)", {"weights": {"p": [0, 0, 2**40, 0] * 2}}, "pads are"),
    (
        "z = Pad(x, p) y = Abs(z)",
        {"weights": {"p": [0, 0, 2**19, 2**19, 0, 0, 0, 0]}},
        "numbers of one image",
    ),
    # Small files that would take much memory.
    (
        f"{DOUBLED} s = ReduceSum<keepdims = 0>(c26) y = Add(x, s)",
        {"weights": {"c0": np.ones(1, np.float32)}, "opset": 12},
        GROWN,
    ),
    (
        f"{SHAPED} {SUMMED} s = ReduceSum<keepdims = 0>(c) y = Add(x, s)",
        {"weights": {"shape": [2**20]}, "opset": 12},
        GROWN,
    ),
    (f"{TRANSPOSED} y = MatMul(v39, m)", MATRIX, "its constants, up to"),
    (
        f"y = Conv<pads = [0, 0, {2**20}, 0], strides = [{2**20}, 1]>(x, w)",
        {"weights": {"w": array(2, 400, 1, 1)}, "shape": (1, 400, 9, 8)},
        "its maps would have 1,048,585x8 pixels",
    ),
    (f"y = LRN<size = {2**30 + 1}>(x)", {}, "odd number of maps up to 16,384"),
]


@pytest.mark.parametrize(
    ("text", "settings", "message"), REFUSED, ids=[message for *_, message in REFUSED]
)
def test_models_that_are_refused(tmp_path, text, settings, message):
    made = nodes(text)
    weights = {"w": array(2, 4, 3, 3), "g": array(8, 2), "zero": np.array(0)}
    weights |= settings.get("weights", {})
    used = {name for n in made for name in n.input}
    weights = {name: value for name, value in weights.items() if name in used}
    refused(tmp_path, model(made, **{**settings, "weights": weights}), message)


# --- without the extra ----------------------------------------------------------------------------


def test_without_onnx_the_sentence_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("zfcuda.models.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "zfcuda\[onnx\]"'):
        importlib.import_module("zfcuda.models.onnx")


def test_zfcuda_does_not_import_onnx():
    code = "import sys, zfcuda; sys.exit('onnx' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
