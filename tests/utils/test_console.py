"""What the command line prints: names are data, and any standard output will do."""

import io
import sys

import pytest

from pyro_vae._utils.console import printable, show, show_table

ROWS = [("MSE [b]per[/b] pixel", "0.1 ± 0.2", "of [red]x :smile:"), ("KL", "3", "[/]")]


class Pipe(io.TextIOWrapper):
    """Standard output of which nobody reads the rest."""

    def write(self, text):
        raise BrokenPipeError


def output(encoding):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


def test_no_name_is_markup(capsys):
    show_table(ROWS, "e[/b] a$b <i>", "by [link=x]c[/link]")
    printed = capsys.readouterr().out
    for text in ("e[/b] a$b <i>", "MSE [b]per[/b] pixel", "of [red]x :smile:", "[/]", "by [link=x]c[/link]"):
        assert text in printed


def test_the_names_of_rows_are_not_cut(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    rows = [("reconstruction", *["0.123 to 0.456"] * 6)]
    show_table(rows, "t", heads=("score", *["95 % interval"] * 6))
    assert "reconstruction" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_encoding_will_do(monkeypatch, encoding):
    stream = output(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    show_table(ROWS, "日本 \udcff", "é")
    show("± ” é 日本 \udcff")
    printed = stream.buffer.getvalue().decode(encoding)
    assert "0.1 +- 0.2" in printed if encoding == "ascii" else "0.1 ± 0.2" in printed
    assert ("日本" in printed) == (encoding == "utf-8")
    assert "\\udcff" in printed


def test_only_what_does_not_fit_is_spelled(monkeypatch):
    monkeypatch.setattr(sys, "stdout", output("latin-1"))
    assert printable("± é “x”…") == '± é "x"...'


def test_without_a_reader_nothing_is_printed(monkeypatch):
    closed = output("utf-8")
    closed.close()
    for stream in (None, Pipe(io.BytesIO()), closed):
        monkeypatch.setattr(sys, "stdout", stream)
        show("± text")
        show_table(ROWS, "title")


class Full(io.TextIOWrapper):
    """Standard output on a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def test_a_full_disk_of_standard_output_stops_no_work(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Full(io.BytesIO()))
    show("± text")
    show_table(ROWS, "title")
