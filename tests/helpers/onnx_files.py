"""ONNX files for the tests, and what onnxruntime answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402
from onnx.helper import make_node as node  # noqa: E402

from zfcuda.models.onnx import OnnxNetwork, load  # noqa: E402

__all__ = ["answers", "array", "check", "model", "node", "nodes", "onnx", "saved", "zf"]

FLOAT = onnx.TensorProto.FLOAT


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Any] | None = None,
    shape: Sequence[int | str] = (1, 4, 9, 8),
    opset: int = 13,
    output: str = "y",
    declared: bool = False,
    dtype: int = FLOAT,
) -> onnx.ModelProto:
    """A model from "x" to ``output``.

    Args:
        weights: NumPy arrays, or lists of integers.
        shape: of the input; strings are open lengths.
        declared: whether initialisers are inputs, too, as in files from before 2019.
    """
    stored = [
        numpy_helper.from_array(
            np.asarray(value, None if hasattr(value, "dtype") else np.int64), name
        )
        for name, value in (weights or {}).items()
    ]
    inputs = [helper.make_tensor_value_info("x", dtype, shape)]
    if declared:
        inputs += [helper.make_tensor_value_info(s.name, s.data_type, s.dims) for s in stored]
    outputs = [helper.make_tensor_value_info(output, dtype, None)]
    graph = helper.make_graph(nodes, "test", inputs, outputs, stored)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=3 if declared else 8)


def nodes(text: str) -> list[onnx.NodeProto]:
    """Of ONNX's textual syntax: ``[name] y = Operator<attribute = 3>(x, w)``."""
    return [*onnx.parser.parse_graph(f"test () => () {{ {text} }}").node]


def saved(folder: Path, made: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def answers(path: Path, x: Tensor) -> Tensor:
    """onnxruntime's, image by image: files may be made for one."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    found = [session.run(None, {name: image[None].numpy()})[0] for image in x]
    return torch.from_numpy(np.concatenate(found))


def check(folder: Path, made: onnx.ModelProto) -> OnnxNetwork:
    """Three images at once and one are answered as by onnxruntime; the network."""
    path = saved(folder, made)
    network = load(path, logits=False)
    x = torch.randn(3, *network.image_shape)
    wanted = answers(path, x)
    with torch.no_grad():
        for images in (slice(None), slice(1, 2)):
            torch.testing.assert_close(network(x[images]), wanted[images], rtol=1e-5, atol=2e-6)
    return network


def array(*shape: int) -> np.ndarray:
    """Weights that keep signals alive; always the same for a shape."""
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 4
    drawn = np.random.default_rng(shape).standard_normal(shape, np.float32)
    return drawn * np.float32((2 / fan_in) ** 0.5)


def zf(opset: int = 12) -> onnx.ModelProto:
    """A small relative of the model zoo's ``zfnet512-12.onnx``, as Caffe2's exporter wrote such
    files: nodes without names, values ``gpu_0/...``, more padding below than above, contrast
    normalisation, a Reshape for one image, dropout with a mask, a softmax at the end."""
    weights: dict[str, Any] = {"ratio": np.array(0.5, np.float32), "shape": [1, 12 * 3 * 3]}
    nodes = []

    def add(kind: str, name: str, *more: str, **attributes: Any) -> None:
        before = nodes[-1].output[0] if nodes else "x"
        outputs = [f"gpu_0/{name}"] + (["gpu_0/mask"] if kind == "Dropout" else [])
        nodes.append(node(kind, [before, *more], outputs, **attributes))

    def convolution(name: str, channels: int, maps: int, size: int, **attributes: Any) -> None:
        weights[f"{name}_w"], weights[f"{name}_b"] = array(maps, channels, size, size), array(maps)
        attributes |= {"kernel_shape": [size, size]}
        add("Conv", name, f"{name}_w", f"{name}_b", **attributes)
        add("Relu", f"{name}_relu")

    def norm_and_pool(name: str) -> None:
        add("LRN", f"norm{name}", size=3, alpha=0.5, beta=0.75, bias=1.0)
        add("MaxPool", f"pool{name}", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])

    def linear(name: str, inputs: int, outputs: int) -> None:
        weights[f"{name}_w"], weights[f"{name}_b"] = array(outputs, inputs), array(outputs)
        add("Gemm", name, f"{name}_w", f"{name}_b", transB=1)

    convolution("conv1", 3, 6, 7, strides=[2, 2], pads=[1, 1, 2, 2])
    norm_and_pool("1")
    convolution("conv2", 6, 8, 5, strides=[2, 2], pads=[0, 0, 1, 1])
    norm_and_pool("2")
    for name, channels, maps in (("conv3", 8, 10), ("conv4", 10, 10), ("conv5", 10, 12)):
        convolution(name, channels, maps, 3, pads=[1, 1, 1, 1])
    add("Reshape", "flat", "shape")
    linear("fc6", 108, 16)
    add("Relu", "fc6_relu")
    if opset >= 12:
        add("Dropout", "drop6", "ratio")
    else:
        add("Dropout", "drop6", ratio=0.5)
        del weights["ratio"]
    linear("fc8", 16, 10)
    add("Softmax", "softmax")
    return model(nodes, weights, (1, 3, 64, 64), opset, "gpu_0/softmax", declared=True)
