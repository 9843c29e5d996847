"""top9 --store and the page of what it stores."""

import os
import re
import subprocess
import sys

import pytest

from zfcuda import StoredActivations, cli
from zfcuda.cli.commands import top9
from zfcuda.report.maps_page import stored_folders, write_maps_page
from zfcuda.storage.files import read_json, write_json

pytestmark = pytest.mark.usefixtures("tiny")


def run(*arguments):
    return cli.main([*map(str, arguments), "--quiet", "--device", "cpu"])


@pytest.fixture
def photos(photo, tmp_path):
    """A folder with four pictures, one of them broken, and one in a folder of its own."""
    for name in ("a.png", "b.png", "c & <d>.jpg", "more/d.png"):
        photo(f"photos/{name}")
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG not really")
    return tmp_path / "photos"


@pytest.fixture
def store(photos, tmp_path):
    arguments = ["--model", "tiny", "--data", photos, "--layer", "1", "--layer", "4"]
    return ["top9", *arguments, "--maps", "3", "-k", "4", "--store", tmp_path / "run"]


def test_store(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(top9, "_LONG", 0.0)
    assert run(*store) == 0
    printed = capsys.readouterr()
    assert "images/s, processes: 1; the network alone" in printed.out
    assert re.search(r"4: 6 maps, 3 projected, 0\.\d\d MB each", printed.out)
    assert str(tmp_path / "run" / "index.csv") in printed.out
    assert "skipped" in printed.err and "broken.png" in printed.err
    stored = StoredActivations.open(tmp_path / "run")
    assert stored.count == 4 and stored.layers == ("1", "4") and stored.k == 4
    assert stored.manifest["about"]["provenance"]["model"] == "tiny"
    assert run(*store) == 0, "a complete run is opened"
    store[store.index("-k") + 1] = "5"
    assert run(*store) == 2
    assert "other settings: k 4 there, 5 here" in capsys.readouterr().err


def test_several_processes_need_a_store(photos, monkeypatch, capsys):
    monkeypatch.setattr("zfcuda.storage.ranks._by_environment", lambda: None)
    monkeypatch.setattr("zfcuda.cli.commands.top9.one_result", lambda *_: pytest.fail("ran"))

    class Two:
        world = 2

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    monkeypatch.setattr("zfcuda.storage.ranks.from_environment", lambda device: Two())
    assert run("top9", "--model", "tiny", "--data", photos, "--layer", "4") == 2
    assert "several processes need --store DIR" in capsys.readouterr().err


def test_page(store, tmp_path, capsys):
    assert run(*store) == 0
    capsys.readouterr()
    assert cli.main(["gallery", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    page = tmp_path / "run" / "maps.html"
    assert "6 maps" in printed and f"open {page}" in printed
    text = page.read_text()
    sheets = re.findall(r'<img src="([^"]+)" width="(\d+)" height="(\d+)" loading="lazy"', text)
    assert len(sheets) == 6 and all((tmp_path / "run" / name).is_file() for name, *_ in sheets)
    assert "c &amp; &lt;d&gt;.jpg" in text and "<d>" not in text
    assert text.count("<section") == 2 and 'data-map="' in text
    assert not re.search(r'(src|href)="(https?:)?//', text), "nothing is fetched from elsewhere"
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.webp")}
    write_maps_page(tmp_path / "run")
    assert made == {path: path.stat().st_mtime_ns for path in made}, "sheets are made once"


def test_what_is_no_manifest_has_no_page(tmp_path):
    for number, text in enumerate(("", "[]", "{", "[" * 100_000, '{"kind": 1}', "\0")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "manifest.json").write_text(text)
    assert stored_folders(tmp_path) == []


def test_runs_that_are_not_done_have_no_page(store, tmp_path):
    assert run(*store) == 0
    assert stored_folders(tmp_path) == [tmp_path / "run"]
    path = tmp_path / "run" / "manifest.json"
    write_json(path, read_json(path) | {"complete": False})
    assert stored_folders(tmp_path) == []
    with pytest.raises(ValueError, match="is not done"):
        write_maps_page(tmp_path / "run")
    path.write_text("{}")
    with pytest.raises(ValueError, match="expected 'strongest activations'"):
        write_maps_page(tmp_path / "run")


@pytest.mark.slow
def test_torchrun(photos, tmp_path):
    """The command under torchrun, with a network that comes with the package."""
    command = ["-m", "zfcuda", "top9", "--model", "zfnet_small", "--data", photos, "--maps", "2"]
    command += ["--batch", "1", "--device", "cpu", "--quiet", "--store"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    alone = [sys.executable, *map(str, command), str(tmp_path / "one")]
    subprocess.run(alone, check=True, env=environment)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2", *map(str, command), str(tmp_path / "two")]
    subprocess.run(torchrun, check=True, env=environment)
    for path in [*(tmp_path / "one").glob("layers/*"), tmp_path / "one" / "index.csv"]:
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert other.read_bytes() == path.read_bytes()
