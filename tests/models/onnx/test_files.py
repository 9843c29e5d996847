"""zfcuda.models.onnx on files that are broken, hostile, or not for it: one sentence each."""

from __future__ import annotations

import builtins
import importlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from onnx_files import array, model, node, onnx, saved, zf

from zfcuda.models.onnx import load

_SCALED = [  # by the number of images
    node("Gather", ["n", "zero"], ["i"]),
    node("Cast", ["i"], ["f"], to=1),
    node("Mul", ["x", "f"], ["y"], name="bad"),
]
CONV = [node("Conv", ["x", "w"], ["y"], name="first")]


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


def test_an_invalid_graph(tmp_path):
    refused(tmp_path, model([node("Relu", ["nobody"], ["y"])]), "not a valid ONNX model")
    refused(tmp_path, model([node("Relu", ["x"], ["z"])]), "'y'|not a valid")


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
    nodes = [node("Conv", ["x", "w"], ["y"], name="first")]
    for weights in ({"e": np.zeros(0, np.float32)}, {"e": np.zeros((0, 4), np.int64)}):
        made = model(nodes, {"w": array(2, 4, 3, 3)} | weights)
        assert load(saved(tmp_path, made)).first.weight.shape == (2, 4, 3, 3)
    refused(
        tmp_path,
        model(CONV, {"w": np.zeros((0, 4, 3, 3), np.float32)}),
        r"is float32 \[0, 4, 3, 3\]",
    )


# --- small files that would take much memory ------------------------------------------------------


def test_weights_beside_the_file_are_not_taken_again_and_again(tmp_path):
    made = outside(tmp_path)
    for i in range(3):
        made.graph.initializer.add().CopyFrom(stored(made, "w"))
        made.graph.initializer[-1].name = f"w{i}"
    refused(
        tmp_path, made, r"weights 'w0': together .* 'weights.bin' claim more than its 296 bytes"
    )


def doubled(times: int, first: str, into: str) -> list[onnx.NodeProto]:
    names = [first, *(f"c{i}" for i in range(times - 1)), into]
    return [node("Concat", [a, a], [b], axis=0) for a, b in itertools.pairwise(names)]


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        (doubled(26, "one", "c"), {"one": np.ones(1, np.float32)}),
        (
            [
                *(node("ConstantOfShape", ["shape"], [f"c{i}"]) for i in range(20)),
                node("Sum", [f"c{i}" for i in range(20)], ["c"]),
            ],
            {"shape": [2**20]},
        ),
    ],
)
def test_constants_that_outgrow_their_file(tmp_path, nodes, weights):
    nodes = [*nodes, node("ReduceSum", ["c"], ["s"], keepdims=0), node("Add", ["x", "s"], ["y"])]
    refused(
        tmp_path, model(nodes, weights, opset=12), r"its constants, up to that of node '?.*take"
    )


def test_one_matrix_that_many_layers_transpose(tmp_path):
    """Each layer keeps its own, which the file holds once."""
    weight = array(1024, 1024)
    nodes = [
        node("MatMul", [f"v{i}" if i else "x", "w"], [f"v{i + 1}" if i < 39 else "y"])
        for i in range(40)
    ]
    refused(tmp_path, model(nodes, {"w": weight}, shape=(1, 1, 1, 1024)), "its constants, up to")


@pytest.mark.parametrize(
    ("nodes", "weights", "message"),
    [
        (
            [node("Conv", ["x", "w"], ["y"], pads=[0, 0, 2**20, 0], strides=[2**20, 1])],
            {"w": array(2, 400, 1, 1)},
            "its maps would have 1,048,585x8 pixels",
        ),
        ([node("LRN", ["x"], ["y"], size=2**30 + 1)], {}, "odd number of maps up to 16,384"),
    ],
)
def test_settings_that_take_much_memory(tmp_path, nodes, weights, message):
    refused(tmp_path, model(nodes, weights, shape=(1, 400, 9, 8)), message)


def test_filters_are_not_padded_beyond_their_own_size(tmp_path):
    nodes = [node("Conv", ["x", "w"], ["y"], name="first", pads=[0, 0, 300, 0])]
    network = load(saved(tmp_path, model(nodes, {"w": array(2, 4, 3, 3)})))
    assert [type(part).__name__ for part in network.first] == ["ZeroPad2d", "Conv2d"]


# --- models that are not for it -------------------------------------------------------------------


def test_operators_that_are_not_known_are_all_named(tmp_path):
    nodes = [
        node("Det", ["x"], ["d"], name="determinant"),
        node("NonZero", ["d"], ["n"], name="places"),
        node("Relu", ["n"], ["y"]),
    ]
    refused(
        tmp_path,
        model(nodes),
        r"not known here: 'Det' \(node 'determinant'\), 'NonZero' \(node 'places'\)",
    )


def test_operators_of_others_are_named_with_their_domain(tmp_path):
    made = model([node("Relu", ["x"], ["y"], domain="com.example", name="theirs")])
    made.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    refused(tmp_path, made, r"not known here: 'com\.example\.Relu' \(node 'theirs'\)")


def test_an_answer_that_is_no_function_of_the_image(tmp_path):
    constant = model([node("Neg", ["w"], ["y"])], {"w": array(1, 4)})
    refused(tmp_path, constant, "its output 'y' does not depend on the image")


def test_what_the_answer_does_not_need_may_be_anything(tmp_path):
    nodes = [node("Det", ["x"], ["d"]), node("Relu", ["x"], ["y"])]
    assert len([*load(saved(tmp_path, model(nodes))).children()]) == 1


def test_old_opsets_are_sent_to_the_converter(tmp_path):
    refused(tmp_path, model([node("Relu", ["x"], ["y"])], opset=6), "opset 6: expected 7 or later")


def test_opsets_of_the_future(tmp_path):
    refused(
        tmp_path,
        model([node("Relu", ["x"], ["y"])], opset=99),
        "opset 99; onnx .* knows them up to",
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4), r"its input 'x' is torch.float32 \[1, 4\]: expected images"),
        ((1, 0, 9, 8), "expected a number of channels"),
        ((1, "c", 9, 8), "expected a number of channels"),
        ((1, 4, 2**40, 8), "sizes below"),
    ],
)
def test_inputs_that_are_no_images(tmp_path, shape, message):
    refused(tmp_path, model([node("Relu", ["x"], ["y"])], shape=shape), message)


def test_several_inputs_or_outputs(tmp_path):
    made = model([node("Add", ["x", "z"], ["y"])])
    made.graph.input.append(onnx.helper.make_tensor_value_info("z", 1, [1, 4, 9, 8]))
    refused(tmp_path, made, "expected one input, it has 2: 'x', 'z'")
    made = model([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["z"])])
    made.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, [1, 4, 9, 8]))
    refused(tmp_path, made, "expected one output, it has 2: 'y', 'z'")


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("Reshape", ["x", "s"], ["y"], name="bad")], {"s": [-1, 36]}),
        ([node("Reshape", ["x", "s"], ["y"], name="bad")], {"s": [2, -1]}),
        ([node("Reshape", ["x", "s"], ["y"], name="bad")], {"s": [-1]}),
        ([node("Shape", ["x"], ["n"]), *_SCALED], {"zero": np.array(0)}),
        ([node("Transpose", ["x"], ["y"], name="bad", perm=[1, 0, 2, 3])], {}),
        ([node("Concat", ["x", "x"], ["y"], name="bad", axis=0)], {}),
        ([node("ReduceMean", ["x"], ["y"], name="bad")], {}),
        ([node("Flatten", ["x"], ["y"], name="bad", axis=2)], {}),
        ([node("Add", ["x", "b"], ["y"], name="bad")], {"b": array(3, 4, 9, 8)}),
    ],
    ids=lambda value: value[0].op_type if isinstance(value, list) else "",
)
def test_what_mixes_images_is_refused(tmp_path, nodes, weights):
    refused(tmp_path, model(nodes, weights), r"node 'bad' \(\w+\): ")


@pytest.mark.parametrize(
    ("nodes", "weights", "message"),
    [
        ([node("Conv", ["x", "w"], ["y"], name="a")], {"w": array(2, 3, 3, 3)}, "4 channels"),
        ([node("Conv", ["x", "w"], ["y"], name="a", pads=[-1] * 4)], {}, "pads is"),
        ([node("Conv", ["x", "w"], ["y"], name="a", pads=[2**40] * 4)], {}, "pads is"),
        ([node("Conv", ["x", "w"], ["y"], name="a", strides=[0, 1])], {}, "strides is"),
        ([node("Conv", ["x", "w"], ["y"], name="a", auto_pad="SOME")], {}, "auto_pad is 'SOME'"),
        ([node("Conv", ["x", "x"], ["y"], name="a")], {}, "must be a constant"),
        ([node("MaxPool", ["x"], ["y"], name="a", kernel_shape=[20, 2])], {}, "no window of 20x2"),
        ([node("LRN", ["x"], ["y"], name="a", size=4)], {}, "expected an odd number"),
        ([node("Gemm", ["x", "g"], ["y"], name="a", transA=1)], {}, "transA is 1"),
        ([node("Pad", ["x", "p"], ["y"], name="a")], {"p": [0, 0, 2**40, 0] * 2}, "pads are"),
        (
            [node("Pad", ["x", "p"], ["z"]), node("Abs", ["z"], ["y"])],
            {"p": [0, 0, 2**19, 2**19, 0, 0, 0, 0]},
            "numbers of one image",
        ),
    ],
)
def test_settings_that_cannot_be_are_named(tmp_path, nodes, weights, message):
    weights = {"w": array(2, 4, 3, 3), "g": array(8, 2)} | weights
    used = {name for n in nodes for name in n.input}
    weights = {name: value for name, value in weights.items() if name in used}
    refused(tmp_path, model(nodes, weights), message)


def test_names_from_a_file_are_shown_harmlessly(tmp_path):
    made = model([node("Det", ["x"], ["y"], name="\x1b[31mred\nline")])
    refused(tmp_path, made, r"\\x1b\[31mred\\nline")


# --- without the extra ----------------------------------------------------------------------------


def test_without_onnx_the_sentence_names_the_extra(monkeypatch):
    real = builtins.__import__

    def importing(name, *args, **kwargs):
        if name == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'", name="onnx")
        return real(name, *args, **kwargs)

    kept = {name: m for name, m in sys.modules.items() if name.startswith("zfcuda.models.onnx")}
    for name in kept:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'zfcuda\[onnx\]'"):
        importlib.import_module("zfcuda.models.onnx")


def test_zfcuda_does_not_import_onnx():
    code = "import sys, zfcuda; sys.exit('onnx' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
