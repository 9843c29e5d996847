"""benchmarks/gpu/experiments.py, expected.py: what is compared on a GPU, and the verdicts on it."""

import math
from dataclasses import asdict
from pathlib import Path

import expected
import experiments
import kernels
import networks
import occlusion
import pytest
import torch
from occlusion import Row

pytestmark = pytest.mark.tooling
PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


# --- peers and networks ---------------------------------------------------------------------------


def test_captums_way_is_captums():
    pytest.importorskip("captum")
    _, peers = networks.build("zfnet_small", torch.randn(2, 3, 64, 64))
    x = torch.randn(1, 3, 64, 64)
    theirs, ours = (way(peers, x, 8) for way in (occlusion.captum, occlusion.captums_way))
    assert theirs.count == ours.count == 16
    torch.testing.assert_close(ours.run(), theirs.run())


def test_networks_written_out():
    with torch.device("meta"):
        x = torch.empty(2, 3, 224, 224)
        for make, millions in ((networks.own_vgg16, 138.4), (networks.own_inception, 7.0)):
            model = make().eval()
            assert model(x).shape == (2, 1000)
            weights = sum(each.numel() for each in model.parameters()) / 1e6
            assert weights == pytest.approx(millions, rel=0.02)


def test_precision_is_put_back():
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [setting.allow_tf32 for setting in settings]
    for name in experiments.PRECISIONS:
        with experiments.precision(name) as dtype:
            assert dtype == (torch.bfloat16 if name == "bfloat16" else torch.float32)
            assert all(setting.allow_tf32 == (name == "tf32") for setting in settings)
    assert [setting.allow_tf32 for setting in settings] == before


# --- memory that nothing wrote to -----------------------------------------------------------------


class Copies:
    """Stands for a case: ours copies ``x``, all of it or not."""

    def __init__(self, whole: bool):
        self.x, self.whole = torch.randn(64, 64), whole

    def ours(self):
        out = torch.empty_like(self.x)
        out[: None if self.whole else 63].copy_(self.x[: None if self.whole else 63])
        return out

    def agree(self, found):
        assert torch.equal(found, self.x)


def test_what_is_not_written_is_noticed():
    """Even where the memory holds the result of an earlier call."""
    kernels.check_from_poison(Copies(whole=True))
    work = Copies(whole=False)
    for _ in range(20):
        work.x.clone()
    with pytest.raises(AssertionError):
        kernels.check_from_poison(work)
    assert not torch.are_deterministic_algorithms_enabled()


def test_poison_is_no_result():
    found = (torch.zeros(3), torch.zeros(3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    kernels.poison(found)
    assert found[0].isnan().all() and found[1].tolist() == [254] * 3 and (found[2] > 2**62).all()


def test_timed_results_are_checked():
    assert kernels.seconds_of_ours([Copies(whole=True), Copies(whole=True)], "cpu", 3) > 0
    with pytest.raises(AssertionError):
        kernels.seconds_of_ours([Copies(whole=True), Copies(whole=False)], "cpu", 3)


# --- verdicts -------------------------------------------------------------------------------------


def record(kernels=(), occluded=(), failed=(), **more) -> expected.Record:
    stages = {
        "kernels": {"rows": list(kernels), "failed": list(failed)},
        "occlusion": {"rows": list(occluded), "failed": []},
    }
    return expected.Record(stages | more)


def line_about(what: str) -> expected.Expectation:
    (found,) = (line for line in expected.expectations() if line.what.startswith(what))
    return found


def kernel(name: str, share: float, ratio: float = 9.0) -> dict:
    return {"name": name, "share": share, "ratio": ratio, "share_expected": 0.85}


LRN = ["local response norm, float32", "local response norm, float32, channels_last"]


@pytest.mark.parametrize(
    ("shares", "failed", "verdict"),
    [
        ([], [], "unmeasured"),
        ([0.9], [], "unmeasured in part"),
        ([0.9, 0.86], [], "met"),
        ([0.9, 0.84], [], "missed"),
        ([0.84], [], "missed"),
        ([0.9], [f"{LRN[1]}: tensors differ"], "missed"),
    ],
)
def test_a_share_of_the_bandwidth(shares, failed, verdict):
    rows = [kernel(name, share) for name, share in zip(LRN, shares, strict=False)]
    found, said = line_about("`local_response_norm`, float32").verdict(record(rows, failed=failed))
    assert found == verdict
    assert (said == "") == (verdict == "unmeasured")
    if not failed and shares:  # the number that decides is shown
        assert said == f"{min(shares):.0%} ({LRN[shares.index(min(shares))]})"


@pytest.mark.parametrize(
    ("share", "ratio", "verdict"),
    [(0.9, 1.01, "unmeasured in part"), (0.6, 1.01, "missed"), (0.6, 1.3, "unmeasured in part")],
)
def test_more_is_asked_of_slow_kernels_against_compile(share, ratio, verdict):
    rivals = {"rivals": {"rows": [kernel(LRN[0], share, ratio)], "failed": []}}
    assert line_about("every op against `torch.compile`").verdict(record(**rivals))[0] == verdict


def row_of(row: Row, name: str, **numbers: float) -> dict:
    usual = {"vs_captum": 8.1, "vs_dense": 5.0, "reached": 0.7}
    return asdict(row) | {"key": f"{row.key}, {name}"} | usual | numbers


@pytest.mark.parametrize(("name", "least"), [("float32", 8.0), ("tf32", 5.0), ("bfloat16", 5.0)])
def test_occlusion_in_every_precision(name, least):
    rows = [row_of(row, name, vs_captum=least) for row in experiments.HARD]
    against = [
        line
        for line in expected.expectations()
        if line.what.startswith(f"occlusion, {expected.CALLED[name]},")
    ]
    assert [line.verdict(record(occluded=rows))[0] for line in against] == ["met", "met"]
    rows[1] |= {"vs_captum": least - 0.1, "reached": 0.59}
    assert [line.verdict(record(occluded=rows))[0] for line in against] == ["missed"] * 2
    assert [line.verdict(record())[0] for line in against] == ["unmeasured"] * 2


def test_one_network_slower_than_dense_is_enough():
    full = experiments.Extent.full()
    rows, more = ([row_of(*each) for each in full.rows(what)] for what in ("occlusion", "networks"))
    assert len(rows) == 18
    never = line_about("no network slower than dense")
    networks = {"rows": more, "failed": []}
    assert never.verdict(record(occluded=rows))[0] == "unmeasured in part"
    assert never.verdict(record(occluded=rows, networks=networks))[0] == "met"
    rows[-1]["vs_dense"] = 0.99
    assert never.verdict(record(occluded=rows, networks=networks))[0] == "missed"


def test_the_furthest_from_what_is_expected_is_found():
    names = [case.name for case in kernels.all_cases()][:5]
    rows = [
        kernel(name, share) for name, share in zip(names, (0.9, 0.2, 0.5, 0.8, 0.3), strict=True)
    ]
    found = expected.furthest(record(kernels=rows))
    assert [row["name"] for row in found] == [names[1], names[4], names[2]]
    assert expected.furthest(record()) == []


@pytest.mark.parametrize(
    ("units", "seconds", "verdict"),
    [(12384, 4.0, "met"), (12384, 11.0, "missed"), (90, 1.0, "unmeasured")],
)
def test_all_projections_in_seconds(units, seconds, verdict):
    stage = {"rows": [], "failed": [], "projections": {"units": units, "seconds": seconds}}
    found, _ = line_about("all 12,384").verdict(expected.Record({"projections": stage}))
    assert found == verdict


def test_every_line_can_be_measured():
    """No line whose cases have another name, or other expectations, in the benchmarks."""
    for line in expected.expectations():
        found = line.found(expected.Record({}))
        assert found and all(math.isnan(value) for value in found.values()), line.what
    shares = [
        line
        for line in expected.expectations()
        if "bandwidth" in line.expected and "%" in line.show
    ]
    spoken_of = {name for line in shares for name in line.found(expected.Record({}))}
    assert spoken_of == {case.name for case in kernels.all_cases() if case.share}


def test_the_page_lists_every_line_as_unmeasured():
    """python benchmarks/gpu/expected.py; with a record, the record's table takes its place."""
    table = expected.table(expected.Record({}))
    assert len(table) > 20
    assert all("| unmeasured |" in each for each in table[2:-1]) and "not run" in table[-1]
    assert "\n".join(table) in PAGE.read_text()
