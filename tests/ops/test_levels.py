"""Every instruction set gives the same bits (csrc/cpu/level.h): a laptop and a server agree."""

import os
import subprocess
import sys

import pytest
import torch
from strategies import LAYOUTS, image

from zfcuda import ops


def outputs():
    """Every vectorised path of the CPU kernels, on fixed inputs."""
    torch.manual_seed(1)
    found = []
    matrices = torch.tensor([[[0.8, -0.6, 7.0], [0.6, 0.8, -2.0]]], dtype=torch.float64)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        for layout in LAYOUTS.values():
            x = image(2, 37, (19, 70), dtype, layout)
            for window in ((3, 2, 1), (2, 2, 0), (3, 1, 1)):
                y, switches = ops.max_pool2d(x, *window, relu=True)
                back = ops.max_unpool2d(y, switches, *window, output_size=(19, 70), relu=True)
                found += [y, switches, back]
            found += [ops.local_response_norm(x, 5, 0.1), ops.local_response_norm(x, 4, 0.1, 0.5)]
            found.append(ops.warp_affine(x, matrices, 0.5))
            found.append(ops.warp_affine(x.masked_fill(x > 2, torch.nan), matrices).nan_to_num(7))
            found.append(ops.local_response_norm(x, 5, -1e-3, 0.75, 1e-3).nan_to_num(7))
            found += ops.spatial_max(x)
        found += windows_of(x.permute(0, 2, 3, 1), switches.permute(0, 2, 3, 1))
    return found


def windows_of(base, switches):
    """Windows of the second image of ``base``, and of the unpooled signal of 3x3/1 switches."""
    patch = base[0, :9, :8].reshape(72, -1).contiguous()
    windows = torch.tensor([[1, 0, 0, 8, 4, 5, 13, 13, -1, 2, 20, 21, 0]])
    found = [
        torch.zeros(21 * 19, patch.shape[1] + extra, dtype=base.dtype) for extra in (0, 3, 0, 0)
    ]
    ops.gather_windows(base, [patch], windows, found[0], 399, outside=0.3, add=True)
    ops.gather_windows(base, [patch], windows, found[1], 399, channel=2)
    ops.pool_windows(base, [patch], windows, found[2], 399, 3, 1, 1, relu=True)
    ops.unpool_windows(switches, [patch], windows, found[3], 399, 3, 1, 1)
    return found


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_levels_agree(level, tmp_path):
    script = (
        "import sys, torch, test_levels, zfcuda._C\n"
        "torch.save((zfcuda._C.simd_level(), test_levels.outputs()), sys.argv[1])"
    )
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    environment = os.environ | {"ZFCUDA_SIMD": level, "PYTHONPATH": path}
    file = tmp_path / "outputs.pt"
    command = [sys.executable, "-c", script, str(file)]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    name, theirs = torch.load(file, weights_only=True)
    assert "AVX-512" not in name and (level == "avx2" or name == "baseline")
    for ours, other in zip(outputs(), theirs, strict=True):
        assert torch.equal(ours, other)
