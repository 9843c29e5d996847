"""Results whose files are damaged or made up: one sentence whatever they say, and little memory."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from written import KINDS, WRITTEN

from zfcuda.results import OcclusionResult, Predictions

ODD = (
    *(None, True, 0, -1, 2**63, 10**300, 1.5, "", "x", "../x", [], [1], [[]], {}, {"a": 1}),
    *({"array": "x"}, {"float": "x"}, {"array": 1}, {"array": ["a"]}, ["a"] * 3, [None]),
    {"array": "logits", "dtype": "load", "shape": [1]},
    {"array": "logits", "dtype": "float32", "shape": [-1, 1.5]},
)


def written(name: str) -> tuple[dict[str, Any], bytes]:
    """The two files of a result of that kind."""
    with zipfile.ZipFile(WRITTEN) as archive:
        return json.loads(archive.read(f"results/{name}.json")), archive.read(f"results/{name}.npz")


def put(folder: Path, header: dict[str, Any], data: bytes) -> Path:
    """The two files of a result, which vouch for each other."""
    arrays = {**header["arrays"], "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "r.json").write_text(json.dumps({**header, "arrays": arrays}))
    (folder / "r.npz").write_bytes(data)
    return folder / "r"


def read_or_refused(kind: Any, path: Path) -> bool:
    """Whether it is refused, with one sentence that names the file."""
    try:
        repr(kind.load(path))
    except ValueError as error:
        assert str(path.parent) in str(error) and "\n" not in str(error)
        return True
    return False


def places(value: Any, own: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if own:
        yield own
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*own, key))


def altered(settings: Any, rng: random.Random) -> Any:
    settings = copy.deepcopy(settings)
    *way, last = rng.choice([*places(settings)])
    owner = settings
    for key in way:
        owner = owner[key]
    how = rng.randrange(4)
    if how == 0:
        del owner[last]
    elif how == 1 and isinstance(owner, dict):
        owner["added"] = rng.choice(ODD)
    else:
        owner[last] = rng.choice(ODD)
    return settings


def with_arrays(data: bytes, rng: random.Random) -> bytes:
    """The npz file with one array of another type, shape or length, or without it."""
    changes = (
        lambda a: a.astype(">f4"),
        lambda a: a.astype(object),
        lambda a: a[..., None],
        lambda a: a.reshape(-1)[:-1],
        lambda a: None,
    )
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    name = rng.choice([*arrays])
    changed = rng.choice(changes)(arrays.pop(name))
    if changed is not None:
        arrays[name] = changed
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize("name", KINDS)
def test_altered_files_are_read_or_refused_with_one_sentence(name, tmp_path):
    kind, (header, data), rng = KINDS[name], written(name), random.Random(name)
    assert not read_or_refused(kind, put(tmp_path, header, data))
    for _ in range(12):
        settings = altered(header["settings"], rng)
        read_or_refused(kind, put(tmp_path, {**header, "settings": settings}, data))
    for _ in range(4):
        assert read_or_refused(kind, put(tmp_path, header, with_arrays(data, rng)))
    for _ in range(4):
        assert read_or_refused(kind, put(tmp_path, header, data[: rng.randrange(len(data))]))


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[1]", "null", "[" * 200_000, '{"a":' * 200_000, '{"kind": NaN}', "\x00"),
        *("9" * 9999, b"\xff\xfe"),
    ],
)
def test_settings_that_are_none(tmp_path, text):
    Predictions(torch.zeros(1, 2)).save(tmp_path / "p")
    (tmp_path / "p.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"p\.json is not the settings file of a zfcuda result$"):
        Predictions.load(tmp_path / "p")


def test_folders_in_the_place_of_files(tmp_path):
    (tmp_path / "p.npz").mkdir()
    (tmp_path / "p.json").mkdir()
    with pytest.raises(ValueError, match=r"p\.json is no file"):
        Predictions.load(tmp_path / "p")


def test_fields_of_another_type_are_named(tmp_path):
    header, data = written("OcclusionResult")
    for name, value in {"seconds": "soon", "image_size": [64], "grid": [1.5, 2], "size": 3}.items():
        settings = {**header["settings"], name: value}
        with pytest.raises(ValueError, match="does not hold a OcclusionResult: "):
            OcclusionResult.load(put(tmp_path, {**header, "settings": settings}, data))


# --- small files that would take much memory ------------------------------------------------------


def predictions(shape: list[int]) -> dict[str, Any]:
    entry = {"array": "logits", "dtype": "float32", "shape": shape}
    return {"kind": "Predictions", "format": 1, "arrays": {}, "settings": {"logits": entry}}


def archive_of(content: bytes, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("logits.npy", content)
    return buffer.getvalue()


def npy(shape: tuple[int, ...], content: bytes) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue() + content


def test_an_array_that_is_shorter_than_it_says(tmp_path):
    shape = (10**6, 10**5)
    path = put(tmp_path, predictions([*shape]), archive_of(npy(shape, bytes(400))))
    with pytest.raises(ValueError, match=r"array 'logits' \[1000000, 100000\] is cut short"):
        Predictions.load(path)


def test_an_entry_that_claims_what_no_compression_gives(tmp_path):
    shape = (10**4, 10**5)
    data = archive_of(npy(shape, bytes(400)))
    length = len(npy(shape, bytes(400))).to_bytes(4, "little")
    claimed = data.replace(length, (4_000_000_128).to_bytes(4, "little"))
    path = put(tmp_path, predictions([*shape]), claimed)
    with pytest.raises(ValueError, match=r"its arrays claim more than its [\d,]+ bytes can hold"):
        Predictions.load(path)
    packed = archive_of(npy((2, 3), bytes(24)), zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match="its arrays claim more than"):
        Predictions.load(put(tmp_path, predictions([2, 3]), packed))


def test_what_nobody_asked_for_is_not_unpacked(tmp_path):
    """An array that the settings do not name, or name with another shape, costs nothing."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, logits=np.zeros((2, 3), np.float32), more=np.zeros(10**6))
    data = buffer.getvalue()
    assert Predictions.load(put(tmp_path, predictions([2, 3]), data)).logits.shape == (2, 3)
    header = predictions([2, 3])
    header["settings"]["logits"]["array"] = "more"
    with pytest.raises(ValueError, match=r"'more' should be float32 \[2, 3\], got float64"):
        Predictions.load(put(tmp_path, header, data))
