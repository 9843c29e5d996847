"""What the command line writes, and how it ends when something is wrong."""

import errno
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

import zfcuda
from zfcuda import cli
from zfcuda.cli import terminal
from zfcuda.cli.command import stems
from zfcuda.cli.network import Network
from zfcuda.results import InvarianceResult, InvarianceStudy, OcclusionResult, Projections
from zfcuda.results.diagram import Diagram
from zfcuda.storage.terminal import progress

pytestmark = pytest.mark.usefixtures("tiny")
COMMANDS = {
    "deconv": (["--layer", "0"], Projections),
    "occlude": (["--layer", "3", "--size", "12", "--stride", "10x12"], OcclusionResult),
    "rotate": (["--layers", "0", "3", "--angles", "0:360:90"], InvarianceResult),
    "diagram": (["--layer", "2"], Diagram),
    "invariance": (["--layer", "0"], InvarianceStudy),
}


def run(*arguments):
    return cli.main([*map(str, arguments), "--quiet"])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_writes_a_picture_and_numbers_that_say_where_they_come_from(
    command, photo, tmp_path, capsys
):
    image, out, (arguments, kind) = photo(), tmp_path / "new" / "out", COMMANDS[command]
    arguments = ["--image", image, "--out", out, *arguments, "--device", "cpu", "--pdf"]
    assert run(command, "--model", "tiny", *arguments) == 0
    *written, found = capsys.readouterr().out.splitlines()
    assert str(out / f"photo-{command}.png") in written
    assert sorted(written) == sorted(str(path) for path in out.iterdir())
    assert kind.load(out / f"photo-{command}")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (out / f"photo-{command}.json").read_text()
    header = json.loads(text, parse_constant=refuse)
    entry, made = header["entry"], header["provenance"]
    assert entry["title"] and entry["text"] == found and "figure" in entry["figure"]
    assert all((out / name).is_file() for name in entry["files"])
    assert (made["command"], made["model"], made["device"]) == (command, "tiny", "cpu")
    assert made["weights_sha256"] == Network.load("tiny", "cpu").weights_digest
    assert command == "invariance" or made["settings"]["image"] == image  # or of several
    assert made["settings"]["layer"]
    assert not {"out", "quiet", "traceback", "run", "model", "pdf"} & made["settings"].keys()
    assert {"torch", "numpy"} <= made["versions"].keys() and made["seconds"] >= 0
    with Image.open(out / f"photo-{command}.png") as picture:
        picture.load()
    pdf = (out / f"photo-{command}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"CreationDate" not in pdf


def test_no_pdf_of_an_earlier_result_stays(photo, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["predict", "--model", "tiny", "--image", photo(), "--out", out]
    for more, suffixes in (["--pdf"], {".png", ".pdf"}), ([], {".png"}):
        assert run(*arguments, *more) == 0
        assert {path.suffix for path in out.iterdir()} == suffixes | {".npz", ".json"}
    removed = f"zfcuda: '{out / 'photo-predict.pdf'}' showed an earlier result and is removed"
    assert removed in capsys.readouterr().err


def test_a_full_disk_leaves_what_was_finished(photo, tmp_path, capsys, monkeypatch):
    def full(self, content):
        if self.suffix == ".png":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, content)

    out, write = tmp_path / "out", Path.write_bytes
    arguments = ["predict", "--model", "tiny", "--image", photo(), "--out", out]
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert run(*arguments) == 2
    picture = out / "photo-predict.png"
    error = f"zfcuda: [Errno 28] cannot write '{picture}' (No space left on device)\n"
    assert capsys.readouterr().err == error
    assert {path.name for path in out.iterdir()} == {"photo-predict.npz", "photo-predict.json"}


def test_settings_reach_the_experiments(photo, tmp_path):
    out = tmp_path / "out"
    arguments = ["--model", "tiny", "--image", photo(), "--out", out]
    assert run("occlude", *arguments, "--size", "8x10", "--stride", "12", "--target", "DOG",
               "--fill", "mean") == 0  # fmt: skip
    occlusion = OcclusionResult.load(out / "photo-occlude")
    assert (occlusion.size, occlusion.stride, occlusion.fill) == ((8, 10), (12, 12), 0.0)
    assert occlusion.target.tolist() == [1]
    assert run("rotate", *arguments, "--angles=-10,0,20.5", "--target", "4") == 0
    rotation = InvarianceResult.load(out / "photo-rotate")
    assert rotation.values.tolist() == [-10, 0, 20.5] and rotation.target.tolist() == [4]
    assert run("deconv", *arguments, "--layer", "3", "--channel", "2", "--position", "1,3") == 0
    projections = Projections.load(out / "photo-deconv")
    assert projections.units["3"].tolist() == [[2, 1, 3]]
    assert run("deconv", *arguments, "--layer", "3", "-k", "3") == 0
    assert len(Projections.load(out / "photo-deconv").columns) == 3


def test_diagram_draws_the_layer_of_the_first_pooling_or_the_chosen_one(photo, tmp_path):
    arguments = ["diagram", "--model", "tiny", "--image", photo(), "--out"]
    assert run(*arguments, tmp_path) == 0
    first = Diagram.load(tmp_path / "photo-diagram")
    assert first.layer == first.switch.name == "2"
    assert [step.name for step in first.steps] == ["0", "1", "2"]
    about = json.loads((tmp_path / "photo-diagram.json").read_text())
    assert about["entry"]["figure"] == "paper figure 1, talk figures 1, 2"
    assert run(*arguments, tmp_path / "chosen", "--layer", "4", "--depth", 1) == 0
    chosen = Diagram.load(tmp_path / "chosen" / "photo-diagram")
    assert [step.name for step in chosen.steps] == ["4"] and chosen.sources[0].name == "3"


@pytest.mark.parametrize(
    ("more", "layers", "targets"),
    [
        (["--target", "cat", "4", "--fill", "mean"], ("2", "5"), [0, 4]),
        (["--target", "DOG", "--layer", "0"], ("0",), [1, 1]),
    ],
)
def test_invariance_is_one_study_of_all_images(photo, tmp_path, capsys, more, layers, targets):
    images, out = [photo("cat.png"), photo("dogs.png")], tmp_path / "out"
    assert run("invariance", "--model", "tiny", "--image", *images, "--out", out, *more) == 0
    *written, _ = capsys.readouterr().out.splitlines()
    assert sorted(written) == sorted(map(str, out.iterdir())) and len(written) == 3
    study = InvarianceStudy.load(out / "cat-invariance")
    assert study.names == ("cat", "dogs") and study.layers == layers
    families = ["vertical translation", "horizontal translation", "scale", "rotation"]
    assert list(study.experiments) == families
    for experiment in study.experiments.values():
        assert experiment.target.tolist() == targets
        assert "--fill" not in more or experiment.fill == 0.0


def test_occlude_prints_its_plan(photo, tmp_path, capsys):
    arguments = ["occlude", "--model", "tiny", "--image", photo(), "--out", str(tmp_path / "out")]
    arguments += ["--size", "6", "--stride", "6", "--method", "cone"]
    assert run(*arguments, "--plan") == 0
    plan = capsys.readouterr().out
    assert "positions" in plan and "rectangle" in plan and "conv" in plan
    assert not (tmp_path / "out").exists()
    assert cli.main(arguments) == 0
    heading = capsys.readouterr().err
    assert "positions" in heading and "rectangle" not in heading
    assert OcclusionResult.load(tmp_path / "out" / "photo-occlude").method == "cone"


def test_inputs_of_one_name_do_not_overwrite_each_other(photo, tmp_path):
    out = tmp_path / "out"
    images = [photo("a/cat.png"), photo("b/cat.png"), photo("cat.bmp")]
    assert run("deconv", "--model", "tiny", "--image", *images, "--layer", "0", "--out", out) == 0
    assert len(list(out.glob("*.png"))) == 3


@pytest.mark.parametrize(
    "name",
    ["no \udcff character.png", "line\nbreak.png", "$\\frac$ <b>.png", "long" * 62 + ".png"],
    ids=["bytes", "newline", "formula", "long"],
)
def test_images_of_any_name(name, photo, tmp_path, capsys):
    out = tmp_path / "out"
    for command in ("predict", "invariance"):
        assert run(command, "--model", "tiny", "--image", photo(name), "--out", out) == 0
        files = [*out.glob(f"*-{command}.*")]
        assert {path.suffix for path in files} == {".npz", ".json", ".png"}
        assert f"-{command}.png" in capsys.readouterr().out
        assert "long" not in name or {path.stem for path in files} == {f"{'long' * 50}-{command}"}


def test_output_names_leave_room_for_what_is_appended():
    paths = ["x" * 251 + ".png", "x" * 250 + "y.png", "漢" * 80 + ".png", "short.png"]
    names = stems(paths, "background")
    assert len({*names}) == 4 and names[3] == "short-background"
    assert all(len(f"{name}-projection.json".encode()) < 255 for name in names)


def test_list_layers(capsys):
    assert run("deconv", "--model", "tiny", "--list-layers") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["3", "Conv2d", "1×6×13×13"] in lines and ["7", "Linear", "1×5"] in lines


def test_info(capsys):
    assert cli.main(["info"]) == 0
    assert zfcuda.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["occlude", "--help"], ["--version"]])
def test_help(arguments, capsys):
    assert cli.main(arguments) == 0
    assert "zfcuda" in capsys.readouterr().out


@pytest.mark.parametrize("command", [*COMMANDS, "demo"])
def test_a_folder_that_cannot_be_written_is_noticed_first(
    command, photo, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(zfcuda.models, "load", lambda spec: pytest.fail("computed before"))
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    model = ["--model", "tiny", "--image", photo(), "--layer", "0"] if command != "demo" else []
    assert run(command, *model, "--out", blocked / "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(blocked / "out") in error and "--out" in error


@pytest.fixture
def interruptible(request):
    """Whatever the parent has set: a shell's background jobs ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))


STOPS = pytest.mark.parametrize(
    ("stop", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)


@STOPS
@pytest.mark.usefixtures("interruptible")
def test_a_stopped_command_leaves_no_half_written_file(
    stop, status, photo, tmp_path, capsys, monkeypatch
):
    def stopped(self, file, **_):
        file.write(b"half of a picture")
        os.kill(os.getpid(), stop)

    monkeypatch.setattr("zfcuda.report.writing.FigureCanvasAgg.print_png", stopped)
    before = signal.getsignal(signal.SIGTERM)
    out = tmp_path / "out"
    arguments = COMMANDS["occlude"][0]
    image = photo()
    assert run("occlude", "--model", "tiny", "--image", image, "--out", out, *arguments) == status
    assert capsys.readouterr().err == "zfcuda: interrupted\n"
    assert {path.suffix for path in out.iterdir()} == {".npz", ".json"}
    assert OcclusionResult.load(out / "photo-occlude")
    assert signal.getsignal(signal.SIGTERM) is before


@STOPS
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("error", [ValueError("too many values to unpack"), AttributeError("x")])
def test_an_error_that_ctrl_c_became_is_an_interruption(stop, status, error, capsys):
    with terminal.guarded("zfcuda") as found:
        try:
            signal.raise_signal(stop)
        except KeyboardInterrupt:
            raise error from None
    assert found == [status]
    assert capsys.readouterr().err == "zfcuda: interrupted\n"
    with terminal.guarded("zfcuda") as found:
        raise ValueError("a wrong name")
    assert found == [2] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_that_is_ignored_or_anothers_stays_so(capsys):
    seen = []
    for handler in (signal.SIG_IGN, lambda *_: seen.append("another's")):
        signal.signal(signal.SIGINT, handler)
        with terminal.guarded("zfcuda") as found:
            signal.raise_signal(signal.SIGINT)
        assert found == [0] and signal.getsignal(signal.SIGINT) is handler
    assert seen == ["another's"] and capsys.readouterr().err == ""


def test_traceback_on_request(photo, tmp_path):
    with pytest.raises(ValueError, match="conv9"):
        run("deconv", "--model", "tiny", "--layer", "conv9", "--image", photo(),
            "--out", tmp_path / "out", "--traceback")  # fmt: skip


def test_a_warning_is_one_line(photo, tmp_path, capsys, monkeypatch):
    load = zfcuda.models.load

    def warning(spec):
        warnings.warn("random weights", stacklevel=1)
        return load(spec)

    monkeypatch.setattr(zfcuda.models, "load", warning)
    assert run("deconv", "--model", "tiny", "--layer", "0", "--image", photo(),
               "--out", tmp_path / "out") == 0  # fmt: skip
    assert capsys.readouterr().err == "zfcuda: random weights\n"


def test_as_a_module_into_a_closed_pipe():
    command = [sys.executable, "-m", "zfcuda", "info"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert process.returncode == 0 and errors == ""


NAMES = {"escape": "\x1b[31mred", "line": "a\nzfcuda: forged", "C1": "\x9b31m", "bidi": "\u202eb"}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_do_nothing_to_the_terminal(name, photo, tmp_path, capsys, monkeypatch):
    load = zfcuda.models.load
    escaped = name.encode("unicode_escape").decode()

    def named(spec):
        model = load(spec)
        model.add_module(name, torch.nn.Identity())
        warnings.warn(f"layer {name}", stacklevel=1)
        return model

    monkeypatch.setattr(zfcuda.models, "load", named)
    monkeypatch.setattr(zfcuda.models, "class_names", lambda *_: [name] * 5)
    image, out = photo(f"{name}.png"), tmp_path / "out"
    model = ["--model", "tiny", "--out", out]
    assert run("predict", *model, "--image", image) == 0
    assert cli.main(["layers", "--model", "tiny"]) == 0
    assert run("deconv", "--model", "tiny", "--list-layers") == 0
    assert run("deconv", *model, "--image", image, "--layer", f"no {name}") == 2
    assert run("predict", *model, "--image", f"no {name}") == 2
    assert run(f"no {name}") == 2
    printed = capsys.readouterr()
    text = printed.out + printed.err
    controls = {character for character in text if ord(character) < 32} | {*name} & {*"\x9b\u202e"}
    assert controls & {*text} == {"\n"}
    assert escaped in printed.out and f"layer {escaped}" in printed.err
    assert not any(line.startswith("zfcuda: forged") for line in text.splitlines())


def test_a_progress_bar_shows_names_as_text(capsys):
    with progress(["job"], desc="\x1b[31m\n") as bar:
        list(bar)
    printed = capsys.readouterr().err
    assert r"\x1b[31m\n" in printed and "\x1b[31m" not in printed


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), KeyboardInterrupt(signal.SIGTERM)])
def test_what_goes_on_says_so_when_it_is_interrupted(
    stop, picture_folder, tmp_path, capsys, monkeypatch
):
    def stopped(*_, **__):
        raise stop

    monkeypatch.setattr("zfcuda.training.train", stopped)
    folder = picture_folder({"a": 8, "b": 8})
    arguments = ["--data", folder, "--epochs", "1", "--out", tmp_path / "out", "--quiet"]
    assert cli.main(["train", *map(str, arguments)]) in (130, 143)
    said = "zfcuda: interrupted; the same command goes on where this one was\n"
    assert capsys.readouterr().err == said


def found(out):
    return sorted(path.stem for path in out.glob("*.json"))


def test_another_layer_image_or_model_lies_beside_the_first(photo, tmp_path, capsys, monkeypatch):
    out, images = tmp_path / "out", [photo("a/cat.png"), photo("bb/cat.png")]
    deconv = ["deconv", "--model", "tiny", "--out", out, "--image", images[0], "--layer"]
    assert run(*deconv, "0") == run(*deconv, "3") == run(*deconv, "3") == 0
    assert found(out) == ["cat-deconv", "cat-deconv-3"]
    Image.new("RGB", (40, 40)).save(images[1])
    for image in (*images, *images):
        assert run("occlude", "--model", "tiny", "--image", image, "--size", "9", "--layer", "0",
                   "--out", out) == 0  # fmt: skip
    assert [name for name in found(out) if "occlude" in name] == [
        "cat-occlude", "cat-occlude-bb", "cat-occlude-bb-projection", "cat-occlude-projection",
    ]  # fmt: skip
    (tmp_path / "changed" / "bb").mkdir(parents=True)
    other = tmp_path / "changed" / "bb" / "cat.png"
    Image.new("RGB", (40, 40), "red").save(other)
    for _ in range(2):
        assert run("occlude", "--model", "tiny", "--image", other, "--size", "9", "--layer", "0",
                   "--out", out) == 0  # fmt: skip
    assert "cat-occlude-bb-2" in found(out) and "cat-occlude-bb-3" not in found(out)
    load = zfcuda.models.load

    def trained_further(spec):
        model = load("tiny")
        torch.nn.init.zeros_(model[0].bias)
        return model

    monkeypatch.setattr(zfcuda.models, "load", trained_further)
    assert run(*deconv, "0") == 0 and run(*deconv[:2], "x/other", *deconv[3:], "0") == 0
    assert found(out)[:4] == ["cat-deconv", "cat-deconv-2", "cat-deconv-3", "cat-deconv-other"]
    assert capsys.readouterr().err == ""


def test_other_settings_replace_and_say_so(photo, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["deconv", "--model", "tiny", "--layer", "0", "--image", photo(), "--out", out]
    assert run(*arguments) == run(*arguments, "-k", "2") == 0
    said = f"zfcuda: '{out / 'photo-deconv'}' replaces what was made with k 1\n"
    assert capsys.readouterr().err == said
    (out / "photo-deconv.json").write_text("mine")
    assert run(*arguments) == 0
    assert capsys.readouterr().err == f"zfcuda: '{out / 'photo-deconv'}' replaces what lay there\n"
    assert found(out) == ["photo-deconv"]
