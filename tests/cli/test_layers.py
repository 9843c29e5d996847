"""`zfcuda layers`: the table, its reasons, and the same as JSON."""

import json

import pytest

from zfcuda import cli

pytestmark = pytest.mark.usefixtures("tiny")


def test_the_table_has_shapes_fields_and_reasons(capsys):
    assert cli.main(["layers", "--model", "tiny"]) == 0
    out = capsys.readouterr().out
    rows = {words[0]: words[1:] for line in out.splitlines() if (words := line.split())}
    assert rows["0"] == ["Conv2d", "4×32×32", "3", "1", "0.5"]
    assert rows["2"] == ["MaxPool2d", "4×15×15", "5", "2", "1.5"]
    assert rows["3"] == ["Conv2d", "6×13×13", "9", "2", "3.5"]
    assert rows["7"] == ["Linear", "5", "–", "–", "–"]
    assert out.rstrip().splitlines()[-1] == "6, 7: sees the whole image, from '6' on"


def test_the_same_as_json(capsys):
    assert cli.main(["layers", "--model", "tiny", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["model"] == "tiny" and content["input"] == [3, 32, 32]
    assert len(content["weights_sha256"]) == 64
    by_name = {layer["name"]: layer for layer in content["layers"]}
    assert list(by_name) == ["0", "1", "2", "3", "4", "5", "6", "7"]
    assert by_name["3"]["shape"] == [6, 13, 13] and by_name["3"]["reason"] is None
    assert by_name["3"]["receptive_field"] == {
        "size": [9, 9], "stride": [2, 2], "start": [-1, -1], "centre": [3.5, 3.5],
    }  # fmt: skip
    assert by_name["7"]["receptive_field"] is None and "whole image" in by_name["7"]["reason"]
