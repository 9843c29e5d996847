"""The folder script: skips what is done, redoes what has changed, counts what failed."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import zfcuda.models
from zfcuda.cli import batch, command
from zfcuda.cli.commands import deconv, occlude, predict, rotate
from zfcuda.report import Entry
from zfcuda.storage.files import read_json, write_json

SOME = ["--experiments", "predict", "deconv", "occlude", "rotate"]


@pytest.fixture
def run(tiny, script, tmp_path, capsys):
    """Run the script on tmp_path/photos; returns its status, standard output and error."""
    folder_figures = script("folder_figures")

    def call(*arguments):
        settings = ["--model", "tiny", "--layer", "0", "--size", "16", "--stride", "16"]
        settings += ["--angles", "0,90", "--out", str(tmp_path / "out"), "--quiet"]
        status = folder_figures.main([str(tmp_path / "photos"), *settings, *arguments])
        output = capsys.readouterr()
        return status, output.out, output.err

    return call


@pytest.fixture
def quick(monkeypatch):
    """Experiments that write empty files: enough to see which are done again."""

    def write(_finding, stem, _provenance):
        files = [stem.with_name(stem.name + suffix) for suffix in (".png", ".npz", ".json")]
        stem.parent.mkdir(parents=True, exist_ok=True)
        for file in files:
            file.write_bytes(b"")
        return Entry("title", files[0], tuple(files[1:]))

    monkeypatch.setattr(command, "write", write)
    nothing = command.Finding("title", "", None, None, "")
    for module in (deconv, occlude, predict, rotate):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, name, lambda *_arguments, **_settings: nothing)


@pytest.fixture
def written(monkeypatch, tmp_path):
    """The file of jobs that write their command; "other" is killed when it has done so."""

    def call(command, folder, pdf=False):
        folder.mkdir(exist_ok=True)
        (folder / "numbers").write_text(command)
        if command == "other":
            raise KeyboardInterrupt
        if pdf:
            (folder / "picture.pdf").write_text("%PDF")

    monkeypatch.setattr(batch.cli, "call", call)
    return tmp_path / "job" / "numbers"


def do(written, command, **settings):
    """Whether the job was done, and not skipped."""
    found = batch.run([batch.Job(written.parent, command, settings)], "", quiet=True)
    assert found.done + found.skipped == 1
    return found.done == 1


def test_what_a_kill_left_is_not_taken_for_the_settings_before(written):
    """The files of other settings were there already, but not their record."""
    assert do(written, "one") and not do(written, "one")
    with pytest.raises(KeyboardInterrupt):
        do(written, "other")
    assert do(written, "one") and written.read_text() == "one"


def test_a_file_that_was_damaged_is_made_again(written):
    assert do(written, "one")
    written.write_text("7")
    assert do(written, "one") and not do(written, "one") and written.read_text() == "one"
    record = written.with_name("done.json")
    record.write_text(record.read_text().replace("numbers", "mumbers"))
    assert do(written, "one")
    assert do(written, "one", pdf=True) and not do(written, "one", pdf=True)


def test_a_job_is_recorded_as_the_command_line_that_does_the_same(tmp_path):
    settings = {"layer": ["0", "3"], "angles": "-5,5", "pdf": True, "train": True, "k": 4}
    job = batch.Job(tmp_path, "rotate", {"image": ["a", "b"]} | settings)
    assert " ".join(job.words()) == (
        "rotate --pdf --image a b --layer 0 --layer 3 --angles=-5,5 --train -k 4"
    )


def test_folders_that_a_job_reads(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    job = batch.Job(tmp_path / "job", "probe", reads=(folder,))
    (folder / "a \udcff.png").write_bytes(b"1")  # a name that is no UTF-8
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    before = job.digest("")
    assert job.digest("") == before
    (folder / "b.png").write_bytes(b"1")
    assert job.digest("") != before


@pytest.fixture
def photos(photo):
    return [photo("photos/one.png"), photo("photos/two & a half.png")]


def test_every_experiment_is_made_and_then_skipped(run, photo, tmp_path):
    path = photo("photos/two & a half.png")
    with Image.open(path) as picture:
        picture.load()
    picture.putalpha(Image.new("L", picture.size, 0))
    picture.paste((200, 30, 30, 255), (10, 10, 30, 30))  # an object that can be cut out
    picture.save(path)
    status, out, _ = run("--layer", "3")
    assert status == 0 and "6 done, 0 skipped, 0 failed" in out
    assert out.count("\n") == 2
    folder = tmp_path / "out" / "two & a half.png"
    experiments = {"predict", "deconv", "background", "occlude", "rotate", "invariance"}
    assert {path.parent.name for path in folder.glob("*/*.png")} == experiments
    assert not {path.name for path in folder.rglob(".*")}
    page = (tmp_path / "out" / "index.html").read_text()
    for experiment in experiments:
        link = f"two%20%26%20a%20half.png/{experiment}/two%20%26%20a%20half-{experiment}.png"
        assert f'href="{link}"' in page
    assert "two &amp; a half.png" in page
    status, out, _ = run("--layer", "3")
    assert status == 0 and "0 done, 6 skipped, 0 failed" in out
    assert (tmp_path / "out" / "index.html").read_text() == page


def test_what_changed_is_done_again(run, quick, photos, photo, tmp_path, monkeypatch):
    run(*SOME)
    assert "4 done, 4 skipped" in run(*SOME, "--fill", "black")[1]  # two depend on it
    assert "0 done, 8 skipped" in run(*SOME, "--fill", "black")[1]
    Path(photos[0]).write_bytes(Path(photo("another.png")).read_bytes())
    assert "4 done, 4 skipped" in run(*SOME, "--fill", "black")[1]
    (tmp_path / "out" / "one.png" / "occlude" / "one-occlude.npz").unlink()
    assert "1 done, 7 skipped" in run(*SOME, "--fill", "black")[1]
    (tmp_path / "out" / "one.png" / "occlude" / "done.json").write_text("{half a rec")
    assert "1 done, 7 skipped" in run(*SOME, "--fill", "black")[1]

    load = zfcuda.models.load

    def retrained(spec):
        model = load(spec)
        with torch.no_grad():
            model[0].bias += 1
        return model

    monkeypatch.setattr(zfcuda.models, "load", retrained)
    assert "8 done, 0 skipped" in run(*SOME, "--fill", "black")[1]


def test_what_other_settings_left_is_taken_away(run, quick, photos, tmp_path):
    run(*SOME)
    folder = tmp_path / "out" / "one.png" / "occlude"
    record = folder / "done.json"
    (folder / "old.png").touch()
    content = read_json(record)
    write_json(record, content | {"files": ["old.png", "../x", *content["files"]]})
    (folder.parent / "x").touch()
    (folder / "mine.txt").touch()
    run(*SOME, "--fill", "black")
    assert not (folder / "old.png").exists()
    assert (folder.parent / "x").exists() and (folder / "mine.txt").exists()


def test_a_bad_image_stops_nothing(run, quick, photos, tmp_path):
    (tmp_path / "photos" / "bad.jpg").write_text("no picture")
    status, out, _ = run(*SOME)
    assert status == 1 and "8 done, 0 skipped, 4 failed" in out
    lines = [line for line in out.splitlines() if line.startswith("failed: bad.jpg: ")]
    assert len(lines) == 4
    assert "bad.jpg" in (tmp_path / "out" / "index.html").read_text()
    assert "0 done, 8 skipped, 4 failed" in run(*SOME)[1]


def test_an_experiment_that_fails_stops_no_other(run, quick, photos, monkeypatch):
    def fail(*_arguments, **_settings):
        raise RuntimeError("no memory")

    monkeypatch.setattr(occlude, "occlude", fail)
    status, out, _ = run(*SOME)
    assert status == 1 and "6 done, 0 skipped, 2 failed" in out
    assert "failed: one.png: occlude: no memory" in out


def test_an_interrupted_run_is_taken_up_again(run, quick, photos, monkeypatch):
    turn = rotate.rotate
    calls = []

    def stop_at_the_second(*arguments, **settings):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return turn(*arguments, **settings)

    monkeypatch.setattr(rotate, "rotate", stop_at_the_second)
    status, _, error = run(*SOME)
    assert status == 130 and error.endswith(
        "interrupted; the same command goes on where this one was\n"
    )
    assert "1 done, 7 skipped, 0 failed" in run(*SOME)[1]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [(["--layer", "nope"], "nope"), (["--fill", "gery"], "gery"), (["--experiments", "x"], "x")],
)
def test_wrong_settings_end_before_the_first_image(run, photos, tmp_path, arguments, names):
    status, out, error = run(*arguments)
    assert status == 2 and out == "" and error.count("\n") == 1 and names in error
    assert not (tmp_path / "out" / "one.png").exists()


def test_a_folder_without_images(run, tmp_path):
    (tmp_path / "photos").mkdir()
    status, _, error = run()
    assert status == 2 and "no images" in error
