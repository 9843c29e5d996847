"""What is wrong is said in one line, whatever the command: exit 2, and nothing is written."""

import re

import numpy as np
import pytest
from PIL import Image

from zfcuda import cli

CUT = "background --layer 2 --image photo.png"
ERRORS = [
    ("", "required"),
    ("explain", "explain"),
    ("ocllude", "did you mean occlude?"),
    ("deconv --colour red", "--colour"),
    ("deconv --image photo.png", "--layer"),
    ("deconv --layer 0", "--image"),
    ("deconv --layer 0 --image nowhere.png", "nowhere.png"),
    ("deconv --layer conv9 --image photo.png", "conv9"),
    ("deconv --layer 0 --channel 4 --image photo.png", "4"),
    ("deconv --layer 0 --position 0,99 --image photo.png", "99"),
    ("deconv --layer 0 --position top --image photo.png", "top"),
    ("deconv --layer 0 -k 0 --image photo.png", "0"),
    ("rotate --image notes.png", "notes.png"),
    ("rotate --image truncated.png", "truncated.png"),
    ("rotate --image photo.png --model zfnte", "zfnte"),
    ("rotate --target 5 --image photo.png", "5"),
    ("rotate --target dogg --image photo.png", "did you mean 'dog'"),
    ("rotate --angles 0:360 --image photo.png", "0:360"),
    ("rotate --angles -45:45:15", "by =: --angles=-45:45:15"),
    ("rotate --image -1.png --k", "by =: --image=-1.png"),
    ("rotate --angles 0:360:0 --image photo.png", "0:360:0"),
    ("rotate --angles nan --image photo.png", "nan"),
    ("rotate --device tpu --image photo.png", "tpu"),
    ("rotate --device cuda:99 --image photo.png", "cuda:99"),
    ("occlude --size 0 --image photo.png", "0"),
    ("occlude --size 33 --image photo.png", "33"),
    ("occlude --size 5x --image photo.png", "5x"),
    ("occlude --size 8 --stride -1 --image photo.png", "-1"),
    ("occlude --size 8 --fill gery --image photo.png", "gery"),
    ("occlude --data nowhere", "'nowhere' does not exist"),
    ("occlude --data empty", "holds no image"),
    ("occlude --data photos --image photo.png", "takes --image or --data, not both"),
    ("occlude --data photos --limit 0", "--limit 0: expected at least 1"),
    ("occlude --data photos --workers -1", "--workers -1: expected 0 or more"),
    ("occlude --data photos --target catt", "did you mean 'cat'?"),
    ("occlude --data photos/cat --target true", "nothing says what the images show"),
    ("occlude --data garments --limit 3 --target true", "the network has no class"),
    ("invariance", "invariance needs --image FILE"),
    ("invariance --image photo.png --target 1 2 3", "--target names 3 classes: expected 1"),
    ("invariance --image photo.png --target catt", "did you mean 'cat'?"),
    ("invariance --data photos --image photo.png", "not both"),
    ("invariance --data photos --target 1 2", "--target names 2 classes"),
    ("diagram", "diagram needs --image FILE"),
    ("diagram --image photo.png --layer nope", "no layer 'nope'"),
    ("diagram --image photo.png --depth 0", "depth must be at least 1, got 0"),
    ("background --layer 2", "background needs --image FILE"),
    (f"{CUT} --mask small.png", "has 7×9 pixels, "),
    (f"{CUT} --mask black.png", "the mask leaves nothing"),
    (f"{CUT} photo.png --mask small.png", "--mask is that of one image, 2 are given"),
    (f"{CUT} --mask small.png --box 1,2,3,4", "not allowed with argument"),
    (f"{CUT} --box 1,2,3", "expected LEFT,TOP,RIGHT,BOTTOM"),
    (f"{CUT} --box 0,0,90,10", "within the 48×40 picture"),
    (f"{CUT} --mask photo.png --colour reddish", "--colour 'reddish': expected a colour"),
    ("top9 --data photos", "top9 needs --layer NAME"),
    ("top9 --data nowhere --layer 4", "'nowhere' does not exist"),
    ("top9 --data empty --layer 4", "holds no image"),
    ("top9 --data photos --layer 4 --limit 0", "--limit 0: expected at least 1"),
    ("top9 --data photos --layer 4 --maps some", "expected N, all or channels"),
    ("top9 --data photos --layer 4 --maps 99,", "channels between 0 and 5"),
    ("top9 --data photos --layer 4 --layer conv9", "no layer 'conv9'"),
    ("top9 --data photos --layer 4 -k 0", "k must be a positive int"),
    ("evolve --data photos", "evolve needs --layer NAME"),
    ("evolve --data photos --layer 4", "needs --checkpoints"),
    ("evolve --data photos --layer 4 --checkpoints .", "holds no epoch-NNNN.safetensors"),
    ("filters --data photos --against tiny", "it is the network of --model"),
    ("filters --data photos --against tiny --train", "leave --against"),
    ("correspond --faces 1", "expected 2 to 100"),
    ("correspond --faces 101", "expected 2 to 100"),
    ("correspond --places 0", "expected at least 1"),
    ("correspond --fill gray7000", "expected a colour"),
    ("correspond --parts no.csv", "no.csv"),
    ("uncertainty --data garments", "(10 of the data's 10"),
    ("ablate --data garments --variant conv3", "expected LAYER=WIDTH"),
    ("ablate --data garments --variant conv3=-1", "expected LAYER=WIDTH"),
    ("ablate --data garments --variant conv9=4", "layer 'conv9' cannot be changed"),
    ("ablate --data garments --seeds 0", "--seeds 0: expected at least 1"),
    ("train --data garments --epochs 0", "epochs 0: expected at least 1"),
    ("train --data garments --rate -1", "rate -1.0: expected a positive number"),
    ("train --data garments --threads 0", "threads 0: expected at least 1"),
    ("train --data none", "none' does not exist: expected a folder with one folder per class"),
]


@pytest.fixture
def files(photo, picture_folder, tmp_path, monkeypatch):
    """The working folder, with the files that the table names."""
    whole = photo("photo.png")
    picture_folder({"cat": 3, "dog": 2}, "photos")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.png").write_text("no picture")
    with open(whole, "rb") as file:
        (tmp_path / "truncated.png").write_bytes(file.read()[:200])
    Image.new("L", (7, 9), 255).save("small.png")
    Image.fromarray(np.zeros((40, 48), dtype=np.uint8)).save("black.png")
    return tmp_path


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("command", "message"), ERRORS)
def test_an_error_is_one_line_and_exit_2(command, message, files, capsys):
    arguments = [*command.split(), "--out", "out", "--quiet"] if command else []
    if command and not re.search("--model|^train|^ablate", command):
        arguments += ["--model", "tiny"]
    assert cli.main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert output.err.startswith("zfcuda") and message in output.err
    assert not (files / "out").exists()
