"""`zfcuda gallery`: finds every picture, believes no file, and orders them as the talk does."""

import json
import re

import pytest
from PIL import Image

from zfcuda import cli
from zfcuda.cli import command as frame
from zfcuda.report.gallery import collect, read_entry, write_gallery


def result(path, command="", tag="", title="Title", image=None, **header):
    """A picture with the files that `write` puts beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20)).save(path)
    settings = {"layer": ["a", "b"], "target": None} | ({"image": image} if image else {})
    header = {
        "entry": {"title": title, "text": "text", "figure": tag, "files": []},
        "provenance": {
            "command": command, "settings": settings, "model": "tiny", "weights_sha256": "ab12",
            "seed": 3, "versions": {"torch": "2"}, "seconds": 1.5,
        },
    } | header  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(header))
    for suffix in (".npz", ".pdf"):
        path.with_suffix(suffix).touch()
    return path


def test_the_talk_comes_first_then_the_paper_then_the_rest(tmp_path):
    result(tmp_path / "z" / "a.png", "rotate", "talk figure 6, paper figure 5")
    result(tmp_path / "b.png", "occlude", "paper figure 7, talk figure 5")
    result(tmp_path / "c.png", "correspond", "paper table 1")
    result(tmp_path / "d.png", "filters", "paper figure 6")
    result(tmp_path / "e.png", "diagram", "talk figures 1 and 2")
    result(tmp_path / "s.png", "uncertainty", "talk, supplement")
    result(tmp_path / "sub" / "f.png")
    result(tmp_path / "g.png", "mine")
    titles = [section.title for section in collect(tmp_path)]
    assert titles == [
        "The deconvnet", "Occlusion", "Rotation", "First-layer filters",
        "Correspondence between parts", "Uncertainty", "Other figures", "sub",
    ]  # fmt: skip


def test_figures_of_one_experiment_stand_together_in_the_images_order(tmp_path):
    for number in (10, 2, 1):
        image = f"photos/cat-{number}.png"
        result(tmp_path / f"cat-{number}" / "occlusion.png", "occlude", "x", image=image)
    (section,) = collect(tmp_path)
    assert [entry.title for entry in section.entries] == [
        f"cat-{number}.png: tiny, a, b" for number in (1, 2, 10)
    ]


def test_what_an_entry_knows(tmp_path):
    entry = read_entry(result(tmp_path / "a.png", "occlude", "talk figure 5"))
    assert (entry.title, entry.text, entry.tag, entry.problem) == (
        "Title", "text", "talk figure 5", "",
    )  # fmt: skip
    assert [path.name for path in entry.files] == ["a.png", "a.pdf", "a.npz", "a.json"]
    assert dict(entry.facts) == {
        "command": "occlude", "layer": ["a", "b"], "model": "tiny", "weights_sha256": "ab12",
        "seed": 3, "seconds": 1.5, "versions": "torch 2",
    }  # fmt: skip


DEEP = json.loads("[" * 400 + "]" * 400)
SETTINGS = [
    *(None, b"{half", b"[]", b"[" * 100_000, b"\xff"),  # none, and damaged ones
    {"entry": 3, "provenance": []},
    {"provenance": {"settings": [1]}},
    {"entry": {"files": ["a" * 5000, "\0", "\ud800"], "figure": "talk figure " + "9" * 5000}},
    {"provenance": {"settings": {"x": DEEP}}},
    {"provenance": {"model": DEEP, "image": "/"}},
]


@pytest.mark.parametrize("content", SETTINGS)
def test_settings_that_are_missing_damaged_or_made_up_stop_nothing(tmp_path, content):
    Image.new("RGB", (3, 2)).save(tmp_path / "mine.png")
    if content is not None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / "mine.json").write_bytes(data)
    entry = read_entry(tmp_path / "mine.png")
    assert entry.title == "mine"
    assert (tmp_path / "mine.json" in entry.numbers) == (content is not None)
    if content is None:
        assert "No numbers" in entry.problem and entry.files == (tmp_path / "mine.png",)
    assert write_gallery(tmp_path)[1] == 1


def test_files_elsewhere_are_not_linked(tmp_path):
    (tmp_path / "secret.txt").touch()
    names = ["../secret.txt", "/etc/passwd", "..", 3, "missing.npz", "more.npz"]
    picture = result(tmp_path / "in" / "a.png", entry={"files": names})
    (tmp_path / "in" / "more.npz").touch()
    names = {path.name for path in read_entry(picture).numbers}
    assert names == {"a.npz", "a.json", "more.npz"}


def test_the_command(tmp_path, capsys):
    result(tmp_path / "r" / "a.png", "occlude", "talk figure 5")
    Image.new("RGB", (3, 2)).save(tmp_path / "r" / ".hidden.png")
    assert cli.main(["gallery", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    assert out == f"1 figure\nopen {tmp_path / 'r' / 'gallery.html'}\n"
    page = (tmp_path / "r" / "gallery.html").read_text()
    assert "<details>" in page and "prefers-color-scheme: dark" in page and ".hidden" not in page
    elsewhere = tmp_path / "elsewhere" / "page.html"
    assert cli.main(["gallery", str(tmp_path / "r"), "--out", str(elsewhere), "--title", "T"]) == 0
    page = elsewhere.read_text()
    assert 'href="../r/a.png"' in page and "<h1>T</h1>" in page


def test_an_empty_folder(tmp_path, capsys):
    assert cli.main(["gallery", str(tmp_path)]) == 0
    assert "0 figures" in capsys.readouterr().out
    assert "no figure in this folder yet" in (tmp_path / "gallery.html").read_text()


@pytest.mark.parametrize("name", ["file", "missing"])
def test_no_folder(name, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["gallery", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "expected a folder of results" in error


def test_cards_name_the_model_its_layers_and_map(tmp_path):
    card = result(tmp_path / "cat.png", "occlude", image="/pictures/cat.jpg")
    header = json.loads(card.with_suffix(".json").read_text())
    for layers, channel, expected in (
        (None, None, "cat.jpg: mine.py:net"),
        ("conv3", 7, "cat.jpg: mine.py:net, conv3, map 7"),
        (["conv1", "conv2", "conv3", "fc6"], None, "cat.jpg: mine.py:net, conv1 to fc6"),
        ([["no"], {}], "no", "cat.jpg: mine.py:net, ['no'], {}"),
    ):
        header["provenance"]["model"] = "/home/me/mine.py:net"
        header["provenance"]["settings"] |= {"layer": layers, "channel": channel}
        card.with_suffix(".json").write_text(json.dumps(header))
        assert collect(tmp_path)[0].entries[0].title == expected


@pytest.mark.parametrize(("command", "expected"), [
    ("deconv", "photo.png: projections, zfnet_small, conv3, map 7"),
    ("occlude", r"photo.png: occlusion, zfnet_small, conv3, map \d+"),
    ("rotate", "photo.png: rotation, zfnet_small, conv3"),
    ("predict", "photo.png: prediction, zfnet_small"),
])  # fmt: skip
def test_figures_name_the_model_its_layer_and_map(tmp_path, monkeypatch, command, expected):
    figures, write = [], frame.write
    monkeypatch.setattr(
        frame, "write", lambda found, *a: (figures.append(found.figure), write(found, *a))[1]
    )
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photo.png")
    more = {
        "deconv": ["--layer", "conv3", "--channel", "7"],
        "occlude": ["--layer", "conv3", "--size", "32", "--stride", "32"],
        "rotate": ["--layer", "conv3", "--angles", "0,90"],
        "predict": [],
    }[command]
    place = ["--image", str(tmp_path / "photo.png"), "--out", str(tmp_path / "out"), "--quiet"]
    assert cli.main([command, "--model", "zfnet_small", *place, *more]) == 0
    assert re.fullmatch(expected, figures[0].get_suptitle().replace("\n", " "))
