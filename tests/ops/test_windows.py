"""gather_windows, pool_windows and unpool_windows against the reference, in every place."""

import random
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, WINDOWS, image
from torch import Tensor

from zfcuda import ops
from zfcuda.ops import reference
from zfcuda.ops.windows import on_device, on_host

CHANNELS = [1, 3, 4, 8, 16, 17, 37]
WIDE = WINDOWS["16x16: more taps than a byte"][:4]
POOLS = {name: window[:4] for name, window in WINDOWS.items() if window[0][0] <= 5}
# Without a ceil_mode some are the same.
GEOMETRIES = {**{window: name for name, window in POOLS.items()}, WIDE: "16x16"}
# One of them for the tests that are not about geometry.
PADDED = POOLS["3/2 padded, the ResNet pool"]
# What each op takes last, for such tests.
REST = {
    "gather_windows": (0, 0.0, False),
    "pool_windows": (*map(list, PADDED), False),
    "unpool_windows": (*map(list, PADDED), False, False),
}
every_op = pytest.mark.parametrize("name", REST)


@dataclass(frozen=True)
class Scene:
    """Patches over images of maps of ``size``, and windows to look at."""

    patches: list[Tensor]
    windows: Tensor
    pixels: int  # that the windows take in out
    largest: int

    def on(self, device: str) -> "Scene":
        patches = [patch.to(device) for patch in self.patches]
        return replace(self, patches=patches, windows=self.windows.to(device))


def scene(
    seed: int,
    size: tuple[int, int],
    channels: int,
    dtype: torch.dtype = torch.float32,
    *,
    reach: tuple[int, int] | None = None,
    images: int = 2,
    count: int = 12,
) -> Scene:
    """Ragged windows within and around ``reach`` (default ``size``); patches around ``size``."""
    rng = random.Random(seed)
    patches = [random_pixels((pixels, channels), dtype, seed + pixels) for pixels in (90, 300)]
    rows, pixels, largest = [], 0, 0
    for _ in range(count):
        (y0, x0, h, w), (py, px, ph, pw) = _box(rng, reach or size, 9), _box(rng, size, 7)
        buffer = rng.choice([-1, 0, 1])
        pitch = pw + rng.choice([0, 0, 3])
        room = len(patches[buffer]) - (ph - 1) * pitch - pw
        rows.append(
            [
                *(rng.randrange(images), buffer, rng.randint(0, room), pitch),
                *(py, px, py + ph, px + pw),
                *(y0, x0, y0 + h, x0 + w, pixels),
            ]
        )
        pixels += h * w + rng.choice([0, 2])
        largest = max(largest, h * w)
    return Scene(patches, torch.tensor(rows), pixels, largest)


def _box(rng: random.Random, size: tuple[int, int], most: int) -> tuple[int, int, int, int]:
    h, w = rng.choice([(0, 3), (2, 0), (1, 1), *[(rng.randint(1, most), rng.randint(1, most))] * 5])
    return rng.randint(-3, size[0]), rng.randint(-3, size[1]), h, w


def random_pixels(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def base_of(size, channels, dtype=torch.float32, device="cpu") -> Tensor:
    return image(2, channels, size, dtype, device=device).permute(0, 2, 3, 1).contiguous()


def switches_of(size, channels, window, device="cpu") -> Tensor:
    """Switches that point anywhere, some nowhere."""
    taps = window[0][0] * window[0][1]
    dtype = torch.uint8 if taps <= 255 else torch.int32
    switches = torch.randint(0, taps, (2, *size, channels))
    switches[torch.rand(switches.shape) < 0.1] = 255 if dtype == torch.uint8 else -1
    return switches.to(dtype).to(device)


def data_of(name, size, channels, device) -> Tensor:
    """What an op looks at: switches for unpooling, maps for the others."""
    if name == "unpool_windows":
        return switches_of(size, channels, PADDED, device)
    return base_of(size, channels, device=device)


def assert_same(out: Tensor, expected: Tensor) -> None:
    """Bit for bit but for the sign of zero, NaN where NaN is."""
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out.nan_to_num(0.0), expected.nan_to_num(0.0))


def compare(place, name: str, data: Tensor | None, scene: Scene, channels: int, dtype, *rest):
    """Run op and reference on copies of one ``out``; what no window covers must stay."""
    found = scene.on(place.device)
    out = random_pixels((found.pixels, channels), dtype, 7).to(place.device)
    expected = out.clone()
    arguments = (found.patches, found.windows)
    getattr(reference, name)(data, *arguments, expected, found.largest, *rest)
    place.op(name)(data, *arguments, out, found.largest, *rest)
    assert_same(out, expected)


def some_channels(window, *flags: bool) -> list[int]:
    """What to try a window on: a third of CHANNELS, another for the next window and for other
    flags (one for the large window, on which the reference is slow)."""
    turn = list(GEOMETRIES).index(window) + sum(flags)
    return [5] if window is WIDE else CHANNELS[turn % 3 :: 3]


# --- equality -------------------------------------------------------------------------------------


@pytest.mark.parametrize("add", [False, True], ids=["copy", "add"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gather(place, dtype, add):
    for channels in CHANNELS:
        for size in ((7, 9), (1, 1), (14, 5)):
            found = scene(channels, size, channels, dtype)
            base = base_of(size, channels, dtype, place.device)
            for outside in (0.0, -1.5):
                compare(place, "gather_windows", base, found, channels, dtype, 0, outside, add)


@pytest.mark.parametrize("add", [False, True], ids=["copy", "add"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gather_into_a_slice_of_the_channels(place, dtype, add):
    for channels in CHANNELS:
        for channel, beyond in ((0, 1), (2, 0), (3, 5), (8, 8)):
            found = scene(channel, (7, 9), channels, dtype)
            base = base_of((7, 9), channels, dtype, place.device)
            total = channel + channels + beyond
            compare(place, "gather_windows", base, found, total, dtype, channel, 0.5, add)


@pytest.mark.parametrize("add", [False, True], ids=["copy", "add"])
def test_gather_without_a_base(place, add):
    for channels in CHANNELS:
        found = scene(channels, (7, 9), channels)
        dtype = torch.float32
        compare(place, "gather_windows", None, found, channels, dtype, 0, 0.0, add)
        compare(place, "gather_windows", None, found, channels + 3, dtype, 2, -torch.inf, add)


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("window", GEOMETRIES, ids=GEOMETRIES.get)
def test_pool(place, window, relu):
    for channels in some_channels(window, relu):
        for size in ((7, 9), (1, 1), (14, 5)):
            found = scene(channels, size, channels, reach=(size[0] // 2, size[1] // 2))
            base = base_of(size, channels, device=place.device)
            compare(place, "pool_windows", base, found, channels, torch.float32, *window, relu)


@pytest.mark.parametrize("overwrite", [False, True], ids=["sum", "overwrite"])
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("window", GEOMETRIES, ids=GEOMETRIES.get)
def test_unpool(place, window, relu, overwrite):
    for channels in some_channels(window, relu, overwrite):
        for size in ((5, 6), (1, 1)):
            reach = tuple(s * length for s, length in zip(window[1], size, strict=True))
            found = scene(channels, size, channels, reach=reach)
            switches = switches_of(size, channels, window, place.device)
            rest = (*window, relu, overwrite)
            compare(place, "unpool_windows", switches, found, channels, torch.float32, *rest)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pool_and_unpool_dtypes(place, dtype):
    for channels in CHANNELS:
        for window in (PADDED, POOLS["2/2 the VGG pool"], POOLS["dilated"]):
            found = scene(channels, (7, 9), channels, dtype)
            base = base_of((7, 9), channels, dtype, place.device)
            compare(place, "pool_windows", base, found, channels, dtype, *window, True)
            switches = switches_of((7, 9), channels, window, place.device)
            compare(place, "unpool_windows", switches, found, channels, dtype, *window, True, False)


@given(
    seed=st.integers(0, 10**6),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    channels=st.integers(1, 40),
    window=st.sampled_from(list(POOLS.values())),
    namespace=st.sampled_from(["zfcuda", "zfcuda_host"]),
)
def test_any_windows(seed, size, channels, window, namespace):
    found_ops = getattr(torch.ops, namespace)
    place = SimpleNamespace(device="cpu", op=lambda name: getattr(found_ops, name))
    found = scene(seed, size, channels)
    base, dtype = base_of(size, channels), torch.float32
    compare(place, "gather_windows", base, found, channels + 2, dtype, 1, 2.0, seed % 2 == 0)
    compare(place, "pool_windows", base, found, channels, dtype, *window, seed % 2 == 0)
    switches = switches_of(size, channels, window)
    compare(place, "unpool_windows", switches, found, channels, dtype, *window, False, False)


# --- the whole map is the plain op ----------------------------------------------------------------


def whole(size, count=2, patch=(0, 0, 0, 0), buffer=-1) -> Tensor:
    """A window of everything for each of ``count`` images."""
    h, w = size
    pitch = patch[3] - patch[1]
    rows = [[i, buffer, 0, pitch, *patch, 0, 0, h, w, i * h * w] for i in range(count)]
    return torch.tensor(rows)


def test_whole_maps_are_the_plain_ops(place):
    """Where nothing is changed, the ops on whole maps give the same."""
    x = image(2, 24, (19, 26), torch.float32, device=place.device)
    window = ([3, 3], [2, 2], [1, 1], [1, 1])
    y, switches = reference.max_pool2d(x, *window)
    base = x.permute(0, 2, 3, 1)
    out = torch.empty(2 * 19 * 26, 24, device=place.device)
    gathering = whole((19, 26)).to(place.device)
    place.op("gather_windows")(base, [], gathering, out, 19 * 26, 0, 0.0, False)
    assert torch.equal(out.view(2, 19, 26, 24), base)

    pooled = torch.empty(2 * 10 * 13, 24, device=place.device)
    pooling = whole((10, 13)).to(place.device)
    place.op("pool_windows")(base, [], pooling, pooled, 130, *window, False)
    assert torch.equal(pooled.view(2, 10, 13, 24), y.permute(0, 2, 3, 1))

    signal = torch.randn_like(pooled)
    unpooling = whole((19, 26), 1, (0, 0, 10, 13), 0).to(place.device)
    back = torch.empty(19 * 26, 24, device=place.device)
    place.op("unpool_windows")(
        switches.permute(0, 2, 3, 1), [signal], unpooling, back, 19 * 26, *window, True, False
    )
    maps = signal[:130].view(1, 10, 13, 24).permute(0, 3, 1, 2)
    expected = reference.max_unpool2d(maps, switches[:1], *window, (19, 26), True)
    assert torch.equal(back.view(1, 19, 26, 24), expected.permute(0, 2, 3, 1))


def test_a_changed_patch_is_as_changing_the_map(place):
    base = base_of((12, 15), 16, device=place.device)
    patch = torch.randn(4 * 5, 16, device=place.device)
    changed = base.clone()
    changed[1, 3:7, 8:13] = patch.view(4, 5, 16)
    rows = torch.tensor([[1, 0, 0, 5, 3, 8, 7, 13, 1, 2, 6, 8, 0]], device=place.device)
    plain = rows.clone()
    plain[:, 1] = -1
    ours, theirs = (torch.empty(30, 16, device=place.device) for _ in range(2))
    window = ([3, 3], [2, 2], [1, 1], [1, 1])
    place.op("pool_windows")(base, [patch], rows, ours, 30, *window, False)
    place.op("pool_windows")(changed, [], plain, theirs, 30, *window, False)
    assert torch.equal(ours, theirs)


# --- corners --------------------------------------------------------------------------------------


def test_nan_wins_a_pool_and_stays_in_its_pixel_otherwise(place):
    base = base_of((12, 15), 16, device=place.device)
    base[0, 4, 4, 3] = torch.nan
    base[1, 4, 4, 3] = torch.inf
    base[1, 4, 5, 3] = -torch.inf  # inf - inf must not be taken for a NaN
    found = scene(5, (12, 15), 16)
    window = torch.tensor([[0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 6, 7, found.pixels]])
    both = torch.cat([found.windows, window, window])
    both[-1, 0], both[-1, 12] = 1, found.pixels + 42
    found = Scene(found.patches, both, found.pixels + 84, max(found.largest, 42))
    for patch in found.patches:
        patch[::7, 2] = torch.nan
    compare(place, "pool_windows", base, found, 16, torch.float32, *PADDED, True)
    compare(place, "gather_windows", base, found, 16, torch.float32, 0, 0.0, True)
    switches = switches_of((12, 15), 16, PADDED, place.device)
    for overwrite in (False, True):
        rest = (*PADDED, True, overwrite)
        compare(place, "unpool_windows", switches, found, 16, torch.float32, *rest)


def test_overwriting_with_a_zero_from_off_the_patch(place):
    """Two windows send to one place; the later one lies off the patch and still wins."""
    window = ([3, 3], [2, 2], [0, 0], [1, 1])
    # Both point to column 2.
    switches = torch.tensor([[[[2], [0]]]], dtype=torch.uint8, device=place.device)
    rows = torch.tensor([[0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 3, 5, 0]], device=place.device)
    patch = torch.full((1, 1), 5.0, device=place.device)
    for overwrite, expected in ((False, 5.0), (True, 0.0)):
        out = torch.full((15, 1), 9.0, device=place.device)
        place.op("unpool_windows")(switches, [patch], rows, out, 15, *window, False, overwrite)
        assert out[2, 0] == expected and out.count_nonzero() == (expected != 0)


@every_op
def test_empty(place, name):
    call, data = place.op(name), data_of(name, (7, 9), 4, place.device)
    no_rows = torch.empty(0, 13, dtype=torch.int64, device=place.device)
    nothing = torch.empty(0, 4, device=place.device)
    wild = torch.full((3, 13), 2**62, device=place.device)  # only empty windows: nothing is read
    wild[:, 10] = -(2**62)
    for windows in (no_rows, wild):
        call(data, [], windows, nothing, 0, *REST[name])
    if name != "unpool_windows":
        windows, no_channels = whole((7, 9), 1), torch.empty(63, 0, device=place.device)
        call(data[..., :0], [], windows.to(place.device), no_channels, 63, *REST[name])


UNREAD = """
#include "core/windows.h"
int main() {
  // No buffer; an empty patch; an empty window: nobody looks at the patch's coordinates.
  constexpr int64_t least = INT64_MIN, most = INT64_MAX;
  const int64_t rows[3][13] = {{0, -1, 0, 5, least, least, 3, 3, 0, 0, 2, 2, 0},
                               {0, 0, 0, 5, least, least, least, 3, 0, 0, 2, 2, 0},
                               {0, 0, 0, most, least, least, most, most, 0, 0, 0, 2, 0}};
  for (const auto& row : rows) zfcuda::WindowRow::read(row).clipped(4, 4);
}
"""


def test_clipping_a_patch_that_is_not_read_does_not_overflow(tmp_path):
    """Undefined behaviour, whatever it does today."""
    csrc = Path(__file__).resolve().parents[2] / "csrc"
    if not shutil.which("g++") or not csrc.is_dir():
        pytest.skip("needs g++ and the sources")
    source, program = tmp_path / "main.cpp", tmp_path / "main"
    source.write_text(UNREAD)
    flags = ["-std=c++20", "-fsanitize=undefined", "-fno-sanitize-recover", f"-I{csrc}"]
    made = subprocess.run(["g++", *flags, source, "-o", program], capture_output=True, text=True)
    if "cannot find" in made.stderr:
        pytest.skip("g++ has no sanitizer")
    assert made.returncode == 0, made.stderr
    subprocess.run([program], check=True)


@every_op
def test_strides(place, name):
    """Maps and patches of any strides: here maps kept as [N,C,H,W]."""
    found = scene(3, (7, 9), 8)
    found = replace(found, patches=[patch.t().contiguous().t() for patch in found.patches])
    data = data_of(name, (7, 9), 8, place.device)
    data = data.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    compare(place, name, data, found, 8, torch.float32, *REST[name])


def test_many_chunks():
    """Chunks of several threads cover all rows once, whatever the windows' sizes."""
    base = base_of((60, 70), 40)
    sizes = [(1, 1), (60, 70), (2, 3), (1, 70), (60, 1), (30, 31), (0, 4), (59, 2)] * 5
    rows, pixels = [], 0
    for i, (h, w) in enumerate(sizes):
        rows.append([i % 2, -1, 0, 0, 0, 0, 0, 0, 0, 0, h, w, pixels])
        pixels += h * w
    windows = torch.tensor(rows)
    expected = torch.zeros(pixels, 40)
    reference.gather_windows(base, [], windows, expected, 4200, add=True)
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        out = torch.zeros(pixels, 40)
        ops.gather_windows(base, [], windows, out, 4200, add=True)
        assert torch.equal(out, expected)


# --- rows that would read or write out of bounds --------------------------------------------------

# Fits exactly: offset 3 + 2 * 4 + 4 = 15, 2 + 20 = 22.
GOOD = [1, 0, 3, 4, 2, 3, 5, 7, 1, 1, 5, 6, 2]
FAR = 2**30 + 1
WRONG = {
    "image too large": ({0: 2}, "column 0 image 2; expected 0 to 1"),
    "image negative": ({0: -1}, "column 0 image -1; expected 0 to 1"),
    "no such buffer": ({1: 1}, "column 1 buffer 1; expected -1 to 0"),
    "buffer below -1": ({1: -2}, "column 1 buffer -2; expected -1 to 0"),
    "offset too large": ({2: 4}, "column 2 offset 4: a patch of 3x4 pixels with pitch 4 .* of 15"),
    "offset negative": ({2: -1}, "column 2 offset -1"),
    "offset wild": ({2: 2**63 - 1}, "column 2 offset"),
    "pitch too large": ({3: 5}, "column 2 offset 3: .* with pitch 5"),
    "pitch negative": ({3: -1}, "column 3 pitch -1"),
    "pitch wild": ({3: 2**62}, "column 3 pitch"),
    "patch too tall": ({6: 6}, "column 2 offset 3: a patch of 4x4"),
    "patch too wide": ({7: 8}, "column 2 offset 3: a patch of 3x5"),
    "patch far away": ({4: -FAR}, rf"column 4 patch box \[-{FAR}, 3, 5, 7\]: .* within 2\^30"),
    "patch wild": ({6: 2**63 - 1}, "column 4 patch box"),
    "window too large": ({10: 6}, "column 8 a window of 5x5 pixels, more than largest = 20"),
    "window far away": ({8: FAR, 10: FAR + 4}, "column 8 window box"),
    "window wild": ({8: -(2**63), 10: 2**63 - 1}, "column 8 window box"),
    "out too large": ({12: 3}, "column 12 out offset 3: a window of 4x5 .* out's 22 pixels"),
    "out negative": ({12: -1}, "column 12 out offset -1"),
    "out wild": ({12: 2**63 - 1}, "column 12 out offset"),
}


@every_op
@pytest.mark.parametrize(("change", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_wrong_rows(place, name, change, sentence):
    """The CPU says which row and column, before it writes anything; CUDA leaves the row out."""
    row = list(GOOD)
    for column, value in change.items():
        row[column] = value
    good = [*GOOD[:12], 0]
    windows = torch.tensor([good, row], device=place.device)
    patch = torch.ones(15, 4, device=place.device)
    out = torch.full((22, 4), 9.0, device=place.device)
    call, data, rest = place.op(name), data_of(name, (5, 6), 4, place.device), REST[name]
    if place.name == "cpu":
        with pytest.raises(ValueError, match=f"{name}: row 1 of windows has in {sentence}"):
            call(data, [patch], windows, out, 20, *rest)
        assert out.eq(9).all()
        return
    call(data, [patch], windows, out, 20, *rest)
    expected = torch.full_like(out, 9.0)
    call(data, [patch], windows[:1], expected, 20, *rest)
    assert torch.equal(out, expected)


@every_op
def test_a_map_without_images_has_no_windows(place, name):
    """Its memory has no address, as that of a map that there is not."""
    windows = torch.tensor([GOOD], device=place.device)
    patch = torch.ones(15, 4, device=place.device)
    out = torch.full((22, 4), 9.0, device=place.device)
    call, data = place.op(name), data_of(name, (5, 6), 4, place.device)[:0].contiguous()
    if place.name == "cpu":
        with pytest.raises(ValueError, match="row 0 of windows has in column 0 image"):
            call(data, [patch], windows, out, 20, *REST[name])
    else:
        call(data, [patch], windows, out, 20, *REST[name])
    assert out.eq(9).all()


def test_the_row_that_the_wrong_ones_are_made_of_is_right(place):
    windows = torch.tensor([GOOD], device=place.device)
    patch = torch.ones(15, 4, device=place.device)
    out = torch.full((22, 4), 9.0, device=place.device)
    base = base_of((5, 6), 4, device=place.device)
    place.op("gather_windows")(base, [patch], windows, out, 20, *REST["gather_windows"])
    assert out[:2].eq(9).all() and not out[2:].eq(9).any()


# --- arguments ------------------------------------------------------------------------------------


def arguments(**changes):
    windows = torch.tensor([[0, 0, 0, 2, 1, 1, 3, 3, 0, 0, 2, 3, 0]])
    return {
        "base": torch.zeros(1, 4, 5, 8),
        "patches": [torch.ones(4, 8)],
        "windows": windows,
        "out": torch.zeros(6, 8),
        "largest": 6,
    } | changes


LIMITS = [
    ({"out": torch.zeros(6, 8, 1)}, ValueError, r"out must be \[pixels,C\], got shape \[6, 8, 1\]"),
    ({"out": torch.zeros(8, 6).t()}, ValueError, r"contiguous, got strides \[1, 6\]"),
    ({"out": torch.zeros(6, 8, dtype=torch.int32)}, TypeError, "got Int"),
    ({"out": None}, TypeError, "out must be float32, float64, float16 or bfloat16, got"),
    ({"windows": torch.zeros(2, 12, dtype=torch.int64)}, ValueError, r"\[Q,13\], got .*\[2, 12\]"),
    ({"windows": torch.zeros(2, 13)}, TypeError, "windows must be int64, got Float"),
    ({"largest": -1}, ValueError, "largest must not be negative, got -1"),
    ({"patches": [torch.ones(4, 7)]}, ValueError, r"\[pixels,8\], got shape \[4, 7\]"),
    ({"patches": [torch.ones(4, 8).double()]}, TypeError, "patches must have out's dtype Float"),
    ({"patches": [torch.ones(0, 8)] * 129}, ValueError, "at most 128 patch buffers, got 129"),
]


@pytest.mark.parametrize(("change", "error", "sentence"), LIMITS)
def test_bad_input(change, error, sentence):
    good = arguments(**change)
    with pytest.raises(error, match=f"gather_windows: .*{sentence}"):
        ops.gather_windows(**good)
    with pytest.raises(error, match=f"pool_windows: .*{sentence}"):
        ops.pool_windows(**good, kernel_size=3, stride=2)
    good["switches"] = good.pop("base").to(torch.uint8)
    with pytest.raises(error, match=f"unpool_windows: .*{sentence}"):
        ops.unpool_windows(**good, kernel_size=3, stride=2)


OF_ONE_OP = [
    ("gather", {"base": torch.zeros(4, 5, 8)}, ValueError, r"\[N,H,W,C\], got .*\[4, 5, 8\]"),
    ("gather", {"base": torch.zeros(1, 4, 5, 8).half()}, TypeError, "base must have out's dtype"),
    ("gather", {"base": None, "patches": []}, ValueError, "without a base there must be patches"),
    ("gather", {"channel": 1}, ValueError, "8 channels from 1 on do not fit out's 8"),
    ("gather", {"channel": -1}, ValueError, "8 channels from -1 on do not fit out's 8"),
    ("pool", {"out": torch.zeros(6, 9)}, ValueError, r"out must be .* got shape \[6, 9\]"),
    ("pool", {"padding": 2}, ValueError, "padding must be at most half the kernel"),
    ("unpool", {}, TypeError, "switches of a 2x2 window are Byte, got Float"),
]


@pytest.mark.parametrize(("op", "change", "error", "sentence"), OF_ONE_OP)
def test_bad_input_to_one_op(op, change, error, sentence):
    good = arguments(**change)
    if op != "gather":
        good["kernel_size"] = 2
    if op == "unpool":
        good["switches"] = good.pop("base")
    with pytest.raises(error, match=sentence):
        getattr(ops, f"{op}_windows")(**good)


def test_out_may_not_share_memory_with_what_is_read():
    pixels = torch.zeros(10, 8)
    with pytest.raises(ValueError, match="out must not share memory with patches"):
        ops.gather_windows(**arguments(patches=[pixels[:5]], out=pixels[4:]))
    ops.gather_windows(**arguments(patches=[pixels[:4]], out=pixels[4:]))


@pytest.mark.parametrize("what", ["base", "patches", "out"])
def test_derivative_says_so(what):
    good = arguments()
    for value in [good[what]] if what != "patches" else good[what]:
        value.requires_grad_()
    with pytest.raises(RuntimeError, match="gather_windows has no derivative"):
        ops.gather_windows(**good)
    if what != "out":
        with torch.no_grad():
            ops.gather_windows(**good)


@pytest.mark.parametrize("way", ["function", "op", "compiled"])
def test_autograd_notices_that_out_changed(way):
    weight, good = torch.ones(8, requires_grad=True), arguments()
    y = (weight * good["out"]).sum()
    if way == "op":
        torch.ops.zfcuda.gather_windows(*good.values(), 0, 0.0, False)
    elif way == "compiled":
        torch.compile(lambda: ops.gather_windows(**good), backend="eager")()
    else:
        ops.gather_windows(**good)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_inference_mode():
    with torch.inference_mode():
        good = arguments()
        ops.gather_windows(**good)
    with pytest.raises(RuntimeError, match="inference tensor"):
        ops.gather_windows(**good)


def test_opcheck():
    good = arguments()
    base, rest = good.pop("base"), tuple(good.values())
    found, window = torch.ops.zfcuda, tuple(map(list, PADDED))
    torch.library.opcheck(found.gather_windows.default, (base, *rest, 0, 0.0, True))
    torch.library.opcheck(found.gather_windows.default, (None, *rest, 0, 0.0, False))
    torch.library.opcheck(found.pool_windows.default, (base, *rest, *window, True))
    switches = base.to(torch.uint8)
    torch.library.opcheck(found.unpool_windows.default, (switches, *rest, *window, True, False))


def test_compiled():
    """Under torch.compile's tracing `out` is known to change."""
    good = arguments()

    def double(**arguments):
        ops.gather_windows(**arguments)
        return arguments["out"] * 2

    expected = double(**good)
    good["out"].zero_()
    assert torch.equal(torch.compile(double, backend="aot_eager")(**good), expected)


def test_tensors_on_the_host_are_not_copied():
    x = torch.randn(3)
    assert on_host([x])[0] is x
    assert on_device(x.numpy(), torch.device("cpu")).data_ptr() == x.data_ptr()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_not_waited_for():
    device = torch.device("cuda")
    array = torch.arange(1000).numpy()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        tensors = [on_device(array, device) + i for i in range(3)]
        found = on_host(tensors)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    for i, tensor in enumerate(found):
        assert torch.equal(tensor, torch.from_numpy(array) + i) and not tensor.is_pinned()
