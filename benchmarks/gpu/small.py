"""Every op once, forward and backward, on small odd sizes: what the sanitizers and ncu look at."""

from __future__ import annotations

import sys

import torch

DONE = "every op ran"  # printed last


def main(scale: int, device: str) -> None:
    from zfcuda import ops

    generator = torch.Generator(device).manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(
                2, 5 * scale, 13 * scale, 11 * scale, generator=generator, device=device
            )
            x = x.to(dtype).contiguous(memory_format=layout).requires_grad_()
            for kernel, stride, padding in ((3, 2, 1), (2, 2, 0)):
                y, switches = ops.max_pool2d(x, kernel, stride, padding, relu=True)
                for overlap in ("sum", "overwrite"):
                    size = x.shape[-2:]
                    back = ops.max_unpool2d(
                        y,
                        switches,
                        kernel,
                        stride,
                        padding,
                        output_size=size,
                        relu=True,
                        overlap=overlap,
                    )
                    back.sum().backward(retain_graph=True)
                y.sum().backward()
            ops.spatial_max(x.detach())
            ops.local_response_norm(x, 5, 1e-4, 0.75, 2.0).sum().backward()
            boxes = torch.tensor([[0, 0, 5, 5], [-2, 3, 4, 99]], device=device)
            ops.occlude(x.detach(), boxes, 0.5)
            turn = torch.tensor([[[0.8, -0.6, 3.0], [0.6, 0.8, -2.0]]], device=device)
            ops.warp_affine(x, turn).sum().backward()
            _windows(x.detach(), device)
    if device == "cuda":
        torch.cuda.synchronize()
    print(DONE)


def _windows(x: torch.Tensor, device: str) -> None:
    from zfcuda import ops

    base = x.permute(0, 2, 3, 1).contiguous()
    channels = base.shape[3]
    patch = base.new_ones(9, channels)
    rows = [[0, 0, 0, 3, 2, 2, 5, 5, 1, 1, 6, 6, 0], [1, -1, 0, 0, 0, 0, 0, 0, -2, -2, 3, 3, 25]]
    windows = torch.tensor(rows, device=device)
    out = base.new_zeros(50, channels)
    ops.gather_windows(base, [patch], windows, out, 25)
    ops.pool_windows(base, [patch], windows, out, 25, 3, 2, relu=True)
    _, switches = ops.max_pool2d(x, 2)
    maps = switches.permute(0, 2, 3, 1).contiguous()
    ops.unpool_windows(maps, [patch], windows, out, 25, 2, relu=True)


if __name__ == "__main__":
    main(16 if "--large" in sys.argv else 1, "cuda" if torch.cuda.is_available() else "cpu")
