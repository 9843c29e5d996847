"""Top activations against a whole pass at once, and their projections against the deconvnet's."""

import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from zoo import Model, output_of

import zfcuda
from zfcuda.data import Pictures, Preprocessing
from zfcuda.data.images import ImageFiles, source_of
from zfcuda.experiments.maxima.finding import top_activations
from zfcuda.experiments.maxima.top import Top

LAYER = "tail"


@pytest.fixture
def images():
    return torch.randn(23, 3, 16, 18, dtype=torch.float64)


@pytest.fixture
def small():
    """Two layers; the first one's maps are those of an image's channels, rectified."""
    first = nn.Conv2d(3, 3, 1, bias=False)
    nn.init.zeros_(first.weight)
    with torch.no_grad():
        first.weight[range(3), range(3)] = 1.0
    return nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.ReLU()).double()


def expected(maps, k):
    """Values, images and positions [C,k] by sorting everything."""
    rows = []
    for channel in range(maps.shape[1]):
        best = []
        for image, one in enumerate(maps[:, channel].detach()):
            place = int(one.argmax())
            best.append((-float(one.max()), image, *divmod(place, one.shape[1])))
        rows.append(sorted(best)[:k])
    table = torch.tensor(rows, dtype=torch.float64)
    return -table[..., 0], table[..., 1].long(), table[..., 2:].long()


def test_as_sorting_everything(net, images):
    result = top_activations(net, images, LAYER, k=5, maps=2, batch=7)
    values, numbers, positions = expected(output_of(net, images, LAYER), 5)
    torch.testing.assert_close(result.values[LAYER], values)
    assert torch.equal(result.images[LAYER], numbers)
    assert torch.equal(result.positions[LAYER], positions)
    assert result.count == 23 and result.k == 5 and result.undefined == {LAYER: 0}
    assert result.difference[LAYER] < 1e-12


def test_looking_at_what_is_new_changes_nothing():
    """As on a GPU, where all maps and images are sorted."""
    asked, unasked = (Top.none(torch.zeros(7, 11), 3, (4, 4)) for _ in range(2))
    for first in range(0, 70, 7):
        values = torch.randint(6, (7, 11)).float()  # many are equal
        places = torch.randint(16, (7, 11))
        asked.offer(values, places, first)
        unasked._merge(slice(None), values.T, torch.arange(first, first + 7), places.T)
    for name, tensor in asked.tensors().items():
        assert torch.equal(tensor, unasked.tensors()[name]), name


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_order_of_memory_does_not_matter(small, images, layout):
    images[3, 1, 2, 2] = torch.nan
    plain = top_activations(small, images, "1", k=5, maps=0)
    result = top_activations(
        small.to(memory_format=layout), images.contiguous(memory_format=layout), "1", k=5, maps=0
    )
    assert torch.equal(result.values["1"], plain.values["1"])
    assert torch.equal(result.positions["1"], plain.positions["1"])
    assert result.undefined == {"1": 1}


def test_a_cpus_images_go_through_in_the_faster_layout(images):
    given = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    model[1].register_forward_pre_hook(lambda module, args: given.append(args[0].clone()))
    result = top_activations(model, images.float(), "1", k=4, maps=1)
    by_pixels = [x.is_contiguous(memory_format=torch.channels_last) for x in given]
    assert by_pixels.index(True) and not any(by_pixels[: by_pixels.index(True)])  # once as given
    assert max(len(x) for x, found in zip(given, by_pixels, strict=True) if found) == len(images)
    values, numbers, positions = expected(output_of(model, images.float(), "1"), 4)
    torch.testing.assert_close(result.values["1"], values.float())
    assert torch.equal(result.images["1"], numbers)
    assert torch.equal(result.positions["1"], positions)


@pytest.mark.parametrize("refuses", ["view", "assertion", ""], ids=str)
def test_a_model_that_looks_at_memory_gets_it_as_given(images, refuses):
    """Takes maps in contiguous memory only, and another one's memory for other values."""

    def forward(m, x):
        x = m.conv(x)
        if refuses == "view":
            x.view(-1)
        elif refuses == "assertion":
            assert x.is_contiguous()
        elif not x.is_contiguous():
            x = x + 1
        return m.relu(x)

    model, images = Model(forward, conv=nn.Conv2d(3, 4, 3), relu=nn.ReLU()), images.float()
    result = top_activations(model, images, "relu", k=4, maps=0)
    values, numbers, _ = expected(output_of(model, images, "relu"), 4)
    torch.testing.assert_close(result.values["relu"], values.float())
    assert torch.equal(result.images["relu"], numbers)


def test_equal_values_are_ordered_by_image_and_then_by_place(small):
    images = torch.randint(0, 3, (40, 3, 8, 8)).double()
    for batch in (1, 9, 64):
        result = top_activations(small, images, "1", k=9, maps=0, batch=batch)
        values, numbers, positions = expected(output_of(small, images, "1"), 9)
        assert torch.equal(result.values["1"], values)
        assert torch.equal(result.images["1"], numbers)
        assert torch.equal(result.positions["1"], positions)


def test_projections_are_the_deconvnets(net, images):
    result = top_activations(net, images, LAYER, k=3, maps=[1, 4])
    assert result.channels[LAYER].tolist() == [1, 4]
    for row, channel in enumerate([1, 4]):
        for rank in range(3):
            number = int(result.images[LAYER][channel, rank])
            position = tuple(result.positions[LAYER][channel, rank].tolist())
            one = images[number : number + 1]
            whole = zfcuda.deconv(net, one, LAYER, channel=channel, position=position)[0]
            y0, x0, y1, x1 = result.boxes[LAYER][row, rank].tolist()
            window = whole[:, y0:y1, x0:x1]
            scale = whole.norm().clamp_min(1e-300)
            assert (result.projections[LAYER][row, rank] - window).norm() < 1e-9 * scale
            whole[:, y0:y1, x0:x1] = 0
            assert not whole.any(), "the window holds all that the unit saw"
            assert torch.equal(result.patches[LAYER][row, rank], one[0, :, y0:y1, x0:x1])


def test_windows_are_receptive_fields_of_one_size(small):
    images = torch.zeros(4, 3, 12, 12, dtype=torch.float64)
    images[0, 0, 0, 0] = images[1, 0, 11, 11] = images[2, 0, 5, 6] = 1.0
    small[3].weight.data.fill_(1.0)
    small[3].bias.data.zero_()
    result = top_activations(small, images, ["1", "4"], k=3, maps=[0])
    # A pixel; then 3x3 of the pools, which are 2x2.
    assert result.boxes["1"][0].tolist() == [[0, 0, 1, 1], [11, 11, 12, 12], [5, 6, 6, 7]]
    assert result.boxes["4"][0].tolist() == [[0, 0, 6, 6], [6, 6, 12, 12], [0, 2, 6, 8]]
    assert result.patches["4"][0, 2].sum() == 1


def test_several_layers_in_one_pass(small, images):
    sizes = []
    small[3].register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    together = top_activations(small, images, ["1", "4"], k=4, maps=2, batch=23)
    assert sizes.count(23) == 1
    for layer in ("1", "4"):
        alone = top_activations(small, images, layer, k=4, maps=2)
        assert torch.equal(together.values[layer], alone.values[layer])
        assert torch.equal(together.projections[layer], alone.projections[layer])


def test_a_map_with_nan_is_left_out_for_that_image(small):
    images = torch.rand(6, 3, 8, 8, dtype=torch.float64)
    images[2, 1, 3, 3] = torch.nan
    images[4, 0] = images[4, 1] = torch.nan
    result = top_activations(small, images, ["1", "4"], k=6, maps=0)
    assert [sorted(row.tolist()) for row in result.images["1"]] == [
        [-1, -1, 0, 1, 3, 5],  # the first layer mixes the channels: 0 * NaN is NaN
        [-1, -1, 0, 1, 3, 5],
        [-1, -1, 0, 1, 3, 5],
    ]
    assert result.undefined == {"1": 2, "4": 2}
    assert not result.values["1"].isnan().any()


def test_fewer_images_than_k(small):
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    result = top_activations(small, images, ["1", "4"], k=4, maps="all")
    assert result.images["1"].tolist()[0][2:] == [-1, -1]
    assert result.values["1"][:, 2:].eq(-torch.inf).all()
    assert not result.projections["1"][:, 2:].any() and not result.patches["1"][:, 2:].any()


def labelled(images):
    return TensorDataset(images, torch.arange(len(images)) % 3)


class Batches:
    """Goes through its batches as often as asked."""

    def __init__(self, images, size):
        self.images, self.size = images, size

    def __iter__(self):
        return iter(self.images.split(self.size))


def without_first(items):
    """A collate function that leaves images out."""
    kept = [image for image, _ in items if image[0, 0, 0] != 7]
    return torch.stack(kept)


@pytest.mark.parametrize("kind", ["dataset", "workers", "loader", "own sampler", "list", "batches"])
def test_every_kind_of_source_gives_the_same(small, images, kind):
    whole = top_activations(small, images, ["1", "4"], k=3, maps=2)
    source = {
        "dataset": labelled(images),
        "workers": labelled(images),
        "loader": DataLoader(labelled(images), 5),
        "own sampler": DataLoader(
            TensorDataset(images), batch_sampler=[[*range(9)], [*range(9, 23)]]
        ),
        "list": [*images.split(4)],
        "batches": Batches(images, 6),
    }[kind]
    result = top_activations(
        small, source, ["1", "4"], k=3, maps=2, workers=2 if kind == "workers" else 0
    )
    assert result.count == 23
    for layer in ("1", "4"):
        assert torch.equal(result.images[layer], whole.images[layer])
        assert torch.equal(result.patches[layer], whole.patches[layer])
        torch.testing.assert_close(result.projections[layer], whole.projections[layer])


def test_numbers_count_what_comes_out_of_a_loader(small, images):
    images[3, 0, 0, 0] = 7
    loader = DataLoader(labelled(images), 5, collate_fn=without_first)
    result = top_activations(small, loader, "4", k=3, maps=2)
    whole = top_activations(small, images[[*range(3), *range(4, 23)]], "4", k=3, maps=2)
    assert result.count == 22 and torch.equal(result.images["4"], whole.images["4"])
    assert torch.equal(result.patches["4"], whole.patches["4"])


def test_our_data_sets(small):
    pictures = torch.randint(0, 256, (12, 3, 12, 12)).byte()
    labels = torch.arange(12) % 2
    examples = Pictures(pictures, labels, ("a", "b"), Preprocessing(size=10, resize=None))
    inputs = torch.stack([examples[i][0] for i in range(12)])
    model = small.float()
    a, b = (top_activations(model, x, "4", k=3, maps=2) for x in (examples, inputs))
    assert torch.equal(a.images["4"], b.images["4"])
    assert torch.equal(a.patches["4"], b.patches["4"])


def test_files_that_cannot_be_read_are_left_out(small, tmp_path):
    preprocessing = Preprocessing(size=10, resize=None)
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for i, path in enumerate(paths):
        pixels = np.random.default_rng(i).integers(0, 255, (14, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    paths[2].write_bytes(paths[2].read_bytes()[:60])
    files = ImageFiles(paths, preprocessing, batch=3)
    result = top_activations(small.float(), files, "4", k=3, maps=2)
    assert result.count == 6 and len(files.skipped) == 1 and "2.png" in files.skipped[0]
    read = [*paths[:2], *paths[3:]]
    inputs = torch.cat([preprocessing.to_input(Image.open(path)) for path in read])
    whole = top_activations(small, inputs, "4", k=3, maps=2)
    assert torch.equal(result.patches["4"], whole.patches["4"])


def test_torchs_random_state_is_left_alone(small, images, tmp_path):
    path = tmp_path / "one.png"
    Image.new("RGB", (10, 10)).save(path)
    before = torch.get_rng_state()
    top_activations(small, TensorDataset(images), "4", k=2, maps=2)
    top_activations(
        small.float(), ImageFiles([path], Preprocessing(size=10, resize=None)), "4", k=1
    )
    assert torch.equal(torch.get_rng_state(), before)


class Jittered(TensorDataset):
    def __getitem__(self, index):
        return torch.rand(3, 16, 18, dtype=torch.float64)


def test_images_that_change_are_noticed(small, images):
    with pytest.warns(UserWarning, match="changed at random") as caught:
        result = top_activations(small, Jittered(images), "4", k=3, maps=2)
    assert caught[0].filename == __file__
    assert result.difference["4"] > 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        top_activations(small, Jittered(images), "4", k=3, maps=2, tolerance=10.0)


def test_images_are_not_kept(small):
    """What is held does not grow with the number of images."""
    alive, most = weakref.WeakSet(), 0

    class Counted:
        def __iter__(self):
            nonlocal most
            for seed in range(20):
                generator = torch.Generator().manual_seed(seed)
                batch = torch.rand(4, 3, 12, 12, dtype=torch.float64, generator=generator)
                alive.add(batch)
                gc.collect()
                most = max(most, len(alive))
                yield batch

    gc.freeze()  # what is there already need not be gone through for every batch
    try:
        assert top_activations(small, Counted(), ["1", "4"], k=9, maps=0).count == 80
    finally:
        gc.unfreeze()
    assert most <= 3


def test_which_maps(small, images):
    def channels(maps):
        return top_activations(small, images, "4", k=1, maps=maps).channels["4"].tolist()

    small[3].weight.data[1] = 0
    small[3].bias.data.zero_()
    assert channels("all") == [0, 1, 2, 3]
    assert channels(99) == [0, 2, 3]  # map 1 never responds
    assert channels(1) == [2]
    assert channels(0) == []
    assert channels([3, 1, 3]) == [1, 3]
    assert channels({"4": 2}) == [0, 3]
    small[3].weight.data.zero_()
    assert channels(99) == [0, 1, 2, 3]


ANY = TensorDataset(torch.zeros(9, 3, 16, 18).double())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layers": "9"}, ValueError, "no layer '9'"),
        ({"layers": []}, ValueError, "at least one layer"),
        ({"k": 0}, ValueError, "k must be a positive int, got 0"),
        ({"maps": [4]}, ValueError, "channels between 0 and 3"),
        ({"maps": -1}, ValueError, "channels between 0 and 3"),
        ({"maps": "some"}, ValueError, "'some'"),
        ({"maps": {"1": 3}}, ValueError, "but not '4'"),
        ({"images": []}, ValueError, "no images"),
        ({"images": [torch.ones(1, 3, 9, s).double() for s in (9, 8)]}, ValueError, "alike"),
        ({"images": torch.ones(2, 3, 9, 9)}, TypeError, "float32"),
        ({"images": iter([torch.zeros(2, 3, 9, 9).double()])}, TypeError, "only once"),
        ({"images": DataLoader(ANY, 5, shuffle=True)}, ValueError, "shuffle=False"),
        (
            {"images": DataLoader(ANY, batch_sampler=BatchSampler(RandomSampler(ANY), 5, False))},
            *(ValueError, "shuffle=False"),
        ),
        ({"images": 3}, TypeError, "images must be"),
        ({"images": [torch.zeros(3, 16, 18).double()]}, TypeError, r"batches \[n,C,H,W\]"),
    ],
)
def test_bad_arguments(small, images, arguments, error, message):
    with pytest.raises(error, match=message):
        top_activations(small, **{"images": images, "layers": "4", **arguments})


def test_a_model_that_cannot_be_followed(images):
    class Stubborn(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if float(x.detach().sum()) > -1e9 else x

    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).double()
    a = top_activations(Stubborn(*plain), images, "2", k=3, maps=2)
    b = top_activations(plain, images, "2", k=3, maps=2)
    assert a.projections["2"].shape[-2:] == (16, 18) and b.projections["2"].shape[-2:] == (5, 5)
    assert torch.equal(a.images["2"], b.images["2"])
    for row in range(2):
        for rank in range(3):
            y0, x0, y1, x1 = b.boxes["2"][row, rank].tolist()
            inside = a.projections["2"][row, rank][:, y0:y1, x0:x1]
            torch.testing.assert_close(inside, b.projections["2"][row, rank])


def test_vectors_see_all_of_the_image(net, images):
    result = top_activations(net, images, "classes", k=2, maps=1)
    assert result.values["classes"].shape == (6, 2)
    assert result.projections["classes"].shape == (1, 2, 3, 16, 18)


def test_a_source_is_taken_as_it_is(images):
    source = source_of(images)
    assert source_of(source) is source
