"""The index page: whatever names it is given, it stays a page whose links work."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from zfcuda.report import Entry, Section, write_index

EVIL = "<script>alert(1)</script> & \"quoted\" 'too' {{ 7*7 }}"


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.alternatives, self.text = set(), [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self.links += [attributes[key] for key in ("href", "src") if key in attributes]
        if tag == "img":
            self.alternatives.append(attributes.get("alt"))

    def handle_data(self, data):
        self.text.append(data.strip())


def test_names_are_escaped_and_links_lead_to_the_files(tmp_path):
    folder = tmp_path / "a folder #1 100%?"
    names = ['cat & "dog".png', "x#y?.npz", "ümläut <b>.json"]
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    entry = Entry(EVIL, folder / names[0], (folder / names[1], folder / names[2]), EVIL)
    sections = [Section(EVIL, [entry], EVIL), Section("bad.png", problem=EVIL)]
    path = write_index(tmp_path / "index.html", EVIL, sections, EVIL, {EVIL: EVIL})
    page = Page(path)
    assert "script" not in page.tags and "b" not in page.tags
    assert page.text.count(EVIL) == 11  # everything that was passed, the title twice
    assert page.alternatives == [f"{EVIL}, {EVIL}: {EVIL}"]
    files = [Path(unquote(link)) for link in page.links if not link.startswith("#")]
    assert {file.name for file in files} == set(names)
    assert all((tmp_path / file).is_file() for file in files)


def test_the_page_needs_no_network(tmp_path):
    path = write_index(
        tmp_path / "index.html", "t", [Section("s", [Entry("e", tmp_path / "a.png")])]
    )
    assert "//" not in path.read_text() and "<script" not in path.read_text()


def test_an_interrupted_page_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "index.html"
    path.write_text("old")

    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", stop)
    with pytest.raises(KeyboardInterrupt):
        write_index(path, "t", [])
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_without_jinja2(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ModuleNotFoundError, match=r"zfcuda\[demo\]"):
        write_index(tmp_path / "index.html", "t", [])
