import json
import os

import pytest

from pyro_vae._utils import files
from pyro_vae._utils.checks import InputError


def test_writes_bytes_text_and_by_function(tmp_path):
    assert files.write(tmp_path / "a" / "b.bin", b"1").read_bytes() == b"1"
    assert files.write(tmp_path / "c.txt", "ä\n").read_bytes() == "ä\n".encode()
    assert files.write(tmp_path / "d.txt", lambda path: path.write_text("2")).read_text() == "2"
    assert json.loads(files.write_json(tmp_path / "e.json", {"x": [1]}).read_text()) == {"x": [1]}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = files.write(tmp_path / "a.txt", "old")

    def broken(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        files.write(path, broken)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_of_a_folder_that_is_no_utf8_is_written_with_question_marks(tmp_path):
    assert files.write(tmp_path / "a.txt", f"caf{os.fsdecode(bytes([0xE9]))}").read_bytes() == b"caf?"


def test_json_takes_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_the_name_of_a_folder_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="file: given '.*folder', expected the name of a file to write"):
        files.write(tmp_path / "folder", "text")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]
