"""Garments on coloured backgrounds: the composition, the split, and files that are wrong."""

import numpy as np
import pytest
import torch
from sets import NAMES, garments, idx_bytes

from zfcuda import data, models
from zfcuda.data import ColouredFashion, Preprocessing, fashion_mnist
from zfcuda.data.examples import generator

PRE = Preprocessing(size=64, resize=None, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.1))


@pytest.fixture
def examples():
    images, labels = garments(12)
    return ColouredFashion(torch.from_numpy(images), torch.from_numpy(labels).long(), NAMES, PRE, 3)


ALL = torch.arange(12)


def test_composition_is_the_formula(examples):
    rgb, opacity = examples.composite(ALL)
    colours = examples.colours(ALL)[:, :, None, None]
    # Outside the garment the picture is the colour, where it is opaque the garment's own grey.
    clear, opaque = (opacity == 0)[:, None], (opacity == 1)[:, None]
    assert clear.any() and opaque.any()
    assert torch.allclose(rgb, colours.expand_as(rgb).where(clear, rgb))
    grey = rgb[:, :1].expand_as(rgb)
    assert torch.allclose(rgb.where(opaque, grey), grey)
    # In between: g + (1 - min(1, 3 g)) * colour, g = opacity / 3.
    between = (opacity / 3)[:, None] + (1 - opacity)[:, None] * colours
    assert torch.allclose(rgb.where(~opaque, between), between, atol=1e-6)


def test_input_is_the_normalised_picture(examples):
    x, labels = examples.batch(ALL)
    rgb, _ = examples.composite(ALL)
    assert torch.allclose(x, examples.normalised(rgb), atol=1e-5)
    assert x.is_contiguous(memory_format=torch.channels_last) and x.dtype == torch.float32
    assert labels.tolist() == [0, 1, 2] * 4
    one, label = examples[4]
    assert torch.allclose(one, x[4], atol=1e-6) and label == 1


def test_channel_order():
    images, labels = (torch.from_numpy(a) for a in garments(12))
    rgb, bgr = (
        ColouredFashion(images, labels.long(), NAMES, pre).batch(ALL)[0]
        for pre in (
            Preprocessing(size=64, resize=None, mean=(0.1, 0.2, 0.3), channels="rgb"),
            Preprocessing(size=64, resize=None, mean=(0.1, 0.2, 0.3), channels="bgr"),
        )
    )
    std, mean = (torch.tensor(v).view(3, 1, 1) for v in (Preprocessing().std, (0.1, 0.2, 0.3)))
    assert torch.allclose((bgr * std + mean).flip(1), rgb * std + mean, atol=1e-5)


def test_scale_and_place_stay_in_the_picture(examples):
    _, opacity = examples.composite(ALL[2::3])  # those of which all is bright
    for one in opacity > 0.5:
        height, width = (int(one.any(axis).sum()) for axis in (1, 0))
        assert height == pytest.approx(width, abs=1)
        assert 0.8 * 48 - 2 <= height <= 1.2 * 48 + 2
    assert len({int((one > 0.5).sum()) for one in opacity}) > 1


def test_resizing_agrees_with_pytorchs(examples):
    """At scale 1 in the middle: torch's own bilinear interpolation to 48 pixels, on black."""
    from zfcuda.data.fashion import _placed

    grey = examples.images[:4].float() / 255
    placed = _placed(grey, torch.tensor([[0.5, 0.5, 0.5]]).expand(4, 3), 64)
    expected = torch.nn.functional.interpolate(
        grey[:, None], size=48, mode="bilinear", align_corners=False
    )[:, 0]
    # The outermost pixels differ: there we blend with the black around, torch repeats the edge.
    assert torch.allclose(placed[:, 9:-9, 9:-9], expected[:, 1:-1, 1:-1], atol=1e-5)
    assert (placed[:, :7] == 0).all() and (placed[:, :, -7:] == 0).all()


def test_unvaried_is_fixed_by_the_seed_and_varied_by_the_generator(examples):
    same = ColouredFashion(examples.images, examples.labels, NAMES, PRE, 3)
    other = ColouredFashion(examples.images, examples.labels, NAMES, PRE, 4)
    x = examples.batch(ALL)[0]
    assert torch.equal(x, same.batch(ALL)[0]) and not torch.equal(x, other.batch(ALL)[0])
    varied = [examples.batch(ALL, generator(0, k))[0] for k in (1, 1, 2)]
    assert torch.equal(varied[0], varied[1]) and not torch.equal(varied[0], varied[2])
    assert torch.equal(examples.batch(ALL[5:7])[0], x[5:7])  # whatever it is asked for with


def test_autocast_is_the_networks(examples):
    expected = examples.batch(ALL)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = examples.batch(ALL)[0]
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_about_half_are_mirrored(examples):
    which = torch.zeros(200, dtype=torch.int64)  # the left half is bright
    x, _ = examples.batch(which, generator(0))
    plain = ColouredFashion(examples.images, examples.labels, NAMES, PRE, coloured=False)
    x, _ = plain.batch(which, generator(0))
    bright = x[:, 0] > x[:, 0].mean()
    columns = torch.arange(64.0)
    centre = (bright.sum(1) * columns).sum(1) / bright.sum((1, 2))
    spread = [(bright[i].any(0)).nonzero() for i in range(200)]
    assert all(len(s) for s in spread) and centre.min() < 20 and centre.max() > 44


def test_plain_backgrounds_are_black(examples):
    plain = ColouredFashion(examples.images, examples.labels, NAMES, PRE, 3, coloured=False)
    rgb, opacity = plain.composite(ALL)
    assert (rgb[(opacity == 0)[:, None].expand_as(rgb)] == 0).all()
    assert torch.equal(opacity, examples.composite(ALL)[1])  # the same places


def test_split_of_a_folder(idx_folder):
    split = fashion_mnist(PRE, idx_folder(120, 12), seed=1)
    parts = split.training, split.validation, split.test
    assert [len(part) for part in parts] == [110, 10, 12]
    assert split.training.class_names == ("class 0", "class 1", "class 2")
    # Nothing is in two parts, and the seed decides which is where.
    pictures = [part.images.flatten(1).tolist() for part in parts[:2]]
    assert not {tuple(p) for p in pictures[0]} & {tuple(p) for p in pictures[1]}
    again, other = (fashion_mnist(PRE, idx_folder(120, 12), seed=s) for s in (1, 2))
    assert torch.equal(again.validation.images, split.validation.images)
    assert not torch.equal(other.validation.images, split.validation.images)
    assert split.kind == "IDX files, coloured backgrounds"


def test_sixty_thousand_give_five_thousand(monkeypatch, tmp_path):
    def pair(folder, part):
        count = 60_000 if part == "training" else 10_000
        return torch.zeros(count, 2, 2, dtype=torch.uint8), torch.arange(count) % 10

    monkeypatch.setattr("zfcuda.data.fashion.read_pair", pair)
    split = fashion_mnist(PRE, tmp_path)
    assert (len(split.training), len(split.validation), len(split.test)) == (55_000, 5_000, 10_000)


# --- what can be wrong ---------------------------------------------------------------------------


def test_missing_data_set_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("zfcuda.data.fashion.FOLDER", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="apt install dataset-fashion-mnist") as refused:
        data.split(PRE)
    for way in ("github.com/zalandoresearch/fashion-mnist", "torchvision.datasets.FashionMNIST",
                "--data DIR", "--data garments"):  # fmt: skip
        assert way in str(refused.value)


def test_where_torchvision_leaves_it(idx_folder, tmp_path):
    raw = tmp_path / "root" / "FashionMNIST" / "raw"
    raw.parent.mkdir(parents=True)
    idx_folder().rename(raw)
    assert data.idx_folder(tmp_path / "root") == data.idx_folder(raw) == raw
    assert len(data.split(PRE, tmp_path / "root").test) == 12
    assert data.idx_folder(tmp_path) is None


def test_the_pictures_that_come_with_zfcuda_in_three_parts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    split = data.split(models.preprocessing("zfnet_small"), "garments")
    parts = [getattr(split, part) for part in ("training", "validation", "test")]
    assert [part.labels.bincount().tolist() for part in parts] == [[6] * 10, [3] * 10, [3] * 10]
    numbers = torch.cat([part.indices for part in parts])
    assert sorted(numbers.tolist()) == [*range(120)]
    (tmp_path / "garments").mkdir()  # a folder of one's own goes before
    assert not data.are_samples("garments")
    with pytest.raises(ValueError, match="holds no class"):
        data.split(PRE, "garments")


@pytest.mark.parametrize(
    ("counts", "images", "match"),
    [
        ({}, garments(59)[0], r"\[59, 28, 28\] and .* \[60\] do not belong together"),
        ({}, np.zeros((60, 0, 28)), r"\[60, 0, 28\].* do not belong together"),
        ({"classes": 1}, None, "has a single class"),
        ({"training": 11}, None, "has 11 training pictures: expected at least 12"),
    ],
)
def test_files_that_are_no_data_set(idx_folder, counts, images, match):
    folder = idx_folder(**counts)
    if images is not None:
        (folder / "train-images-idx3-ubyte").write_bytes(idx_bytes(images))
    with pytest.raises(ValueError, match=match):
        data.split(PRE, folder)


def test_one_missing_file_is_named(idx_folder):
    folder = idx_folder()
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"no t10k-labels-idx1-ubyte \(or .*\.gz\)"):
        data.split(PRE, folder)


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (torch.zeros(2, 28, 28), torch.zeros(2).long(), r"uint8 \[N,h,w\], got torch.float32"),
        (torch.zeros(2, 28, 28).byte(), torch.zeros(3).long(), r"int64 \[2\], got .* \[3\]"),
        (torch.zeros(2, 28, 28).byte(), torch.tensor([0, 3]), "labels from 0 to 3: expected 0 to"),
    ],
)
def test_wrong_tensors(images, labels, match):
    with pytest.raises(ValueError, match=match):
        ColouredFashion(images, labels, NAMES, PRE)
