"""Tables of names that may be anything."""

import csv

import pytest

from zfcuda.storage.files import read_csv, text_table, write_csv


def test_names_in_a_table_are_no_formulas_and_come_back(tmp_path):
    names = ['a,"b".png', "no-utf8-\udcff.png", "=1+1.png", "@x", "+x", "-x", "'=x", "''-x", "'x"]
    path = tmp_path / "table.csv"
    write_csv(path, ("name", "-value"), [(name, value) for name in names for value in (-0.1, 2)])
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        head, *rows = csv.reader(file)
    assert head == ["name", "'-value"]
    assert not any(name.startswith(("=", "+", "-", "@")) for name, _ in rows)
    assert {float(value) for _, value in rows} == {-0.1, 2.0}  # numbers stay numbers
    assert [row["name"] for row in read_csv(path)][::2] == names
    assert {row["-value"] for row in read_csv(path)} == {"-0.1", "2"}


@pytest.mark.parametrize("control", ["\n", "\r", "\t", "\x1b", "\x7f", "\x9b", "\u2028", "\u202e"])
def test_control_characters_do_nothing_in_a_table(control, tmp_path):
    path = tmp_path / "table.csv"
    write_csv(path, ("name", f"a{control}"), [(f"{control}=1{control}[31m", 1)])
    table = text_table([[f"a{control}b"]], [f"c{control}"]) + text_table([{f"c{control}": control}])
    assert control not in path.read_bytes().decode().replace("\r\n", "")
    assert control not in table.replace("\n", "") and table.count("\n") == 4
    escape = control.encode("unicode_escape").decode()
    assert next(read_csv(path))["name"] == f"{escape}=1{escape}[31m"
