"""The page: whatever names it is given, it stays a page whose links work."""

import base64
import io
import os
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image

from zfcuda.report import Entry, Section, write_index

EVIL = "<script>alert(1)</script> & \"quoted\" 'too' {{ 7*7 }}"


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.sources, self.alternatives = set(), [], [], []
        self.text, self.anchors, self.classes = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self.anchors += [attributes["id"]] if "id" in attributes else []
        self.classes += (attributes.get("class") or "").split()
        if "href" in attributes:
            self.links.append(attributes["href"])
        if tag == "img":
            self.sources.append(attributes["src"])
            self.alternatives.append(attributes.get("alt"))

    def handle_data(self, data):
        self.text.append(data.strip())

    def files(self):
        return [os.fsdecode(unquote_to_bytes(x)) for x in self.links if not x.startswith("#")]

    def thumbnails(self):
        prefix = "data:image/webp;base64,"
        assert all(source.startswith(prefix) for source in self.sources)
        contents = [base64.b64decode(source.removeprefix(prefix)) for source in self.sources]
        return [Image.open(io.BytesIO(content)) for content in contents]


def picture(path, width=60, height=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_names_are_escaped_and_links_lead_to_the_files(tmp_path):
    folder = tmp_path / "a folder #1 100%?"
    names = ['cat & "dog"\n.png', "x#y?.npz", "ümläut <b>.json", "a:b.pdf"]
    picture(folder / names[0])
    for name in names[1:]:
        (folder / name).touch()
    files = [folder / name for name in names]
    name = f"{EVIL}!"
    entry = Entry(name, files[0], (files[1], files[2]), EVIL, EVIL, files[3], {EVIL: EVIL}, EVIL)
    sections = [Section(EVIL, [entry], EVIL, tag=EVIL), Section("bad.png", problem=EVIL)]
    path = write_index(tmp_path / "index.html", EVIL, sections, EVIL, {EVIL: [EVIL]})
    page = Page(path)
    assert "script" not in page.tags and "b" not in page.tags
    # title twice and intro; navigation's title and tag; section's title, tag and text; card's text
    # and problem, its fact's name and value; the other section's problem; the page's own fact
    assert page.text.count(EVIL) == 3 + 2 + 3 + 4 + 1 + 2
    assert page.text.count(name) == 1 and page.alternatives == [f"{EVIL}, {name}: {EVIL}"]
    assert [tmp_path / file for file in page.files()] == [files[0], files[0], files[3], *files[1:3]]
    assert {link[1:] for link in page.links if link.startswith("#")} == set(page.anchors)


def test_bytes_that_are_no_characters(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    entry = Entry(name, picture(tmp_path / name))
    page = Page(write_index(tmp_path / "index.html", name, [Section(name, [entry])]))
    assert page.files() == [name, name] and "caf?.png" in page.text


def test_the_page_needs_no_network(tmp_path):
    entry = Entry("e", picture(tmp_path / "a.png"))
    path = write_index(tmp_path / "index.html", "t", [Section("s", [entry])])
    text = path.read_text()
    assert "://" not in text and "<script" not in text and "@import" not in text
    assert "url(" not in text


def test_thumbnails_are_small_and_lead_to_the_full_size(tmp_path):
    wide, square = (
        picture(tmp_path / "wide.png", 4000, 400),
        picture(tmp_path / "s.png", 1200, 1200),
    )
    few = [Entry("w", wide), Entry("s", square)]
    page = Page(write_index(tmp_path / "a.html", "t", [Section("s", few)]))
    assert [thumbnail.size for thumbnail in page.thumbnails()] == [(1680, 168), (960, 960)]
    assert "few" in page.classes and page.classes.count("wide") == 1
    many = [Entry("s", square)] * 9
    page = Page(write_index(tmp_path / "b.html", "t", [Section("s", many)]))
    assert {thumbnail.size for thumbnail in page.thumbnails()} == {(600, 600)}
    assert "many" in page.classes and page.files() == ["s.png"] * 18


def test_a_picture_that_cannot_be_read_stays_a_link(tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    entries = [Entry("bad", tmp_path / "bad.png"), Entry("gone", tmp_path / "gone.png")]
    page = Page(write_index(tmp_path / "index.html", "t", [Section("s", entries)]))
    assert page.sources == [] and "bad.png cannot be shown" in page.text
    assert page.files() == ["bad.png", "bad.png", "gone.png", "gone.png"]


def test_what_all_figures_of_a_section_say_is_said_once(tmp_path):
    entries = [Entry(name, picture(tmp_path / f"{name}.png"), text="so") for name in "ab"]
    page = Page(write_index(tmp_path / "index.html", "t", [Section("s", entries)]))
    assert page.text.count("so") == 1
    assert page.alternatives == ["s, a: so", "s, b: so"]


def test_sections_are_named_by_their_figures_and_an_empty_page_says_so(tmp_path):
    tags = ["talk figure 5, paper figure 7", "", "", "paper figure 1, talk figures 1, 2"]
    sections = [Section("é", tag=tag) for tag in tags]
    page = Page(write_index(tmp_path / "index.html", "t", sections))
    anchors = ["talk-figure-5-paper-figure-7", "section", "section-2"]
    assert page.anchors == [*anchors, "paper-figure-1-talk-figures-1-2"]
    assert "paper figure 1" in page.text and "talk figures 1, 2" in page.text
    page = Page(write_index(tmp_path / "index.html", "t", [], empty="Nothing yet."))
    assert "Nothing yet." in page.text and page.links == []


def test_an_interrupted_page_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "index.html"
    path.write_text("old")

    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", stop)
    with pytest.raises(KeyboardInterrupt):
        write_index(path, "t", [])
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_without_jinja2(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ModuleNotFoundError, match=r"zfcuda\[demo\]"):
        write_index(tmp_path / "index.html", "t", [])
