"""The map of the code shows every module that exists, and names files that exist."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
code_map = pytest.importorskip("code_map", reason="needs Sphinx")  # which the extra `docs` has

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *ROOT.glob("*.md"), *(ROOT / "pyro_vae").rglob("*.md")]


def test_every_module_says_what_it_is():
    assert [path for path, line in code_map.modules().items() if not line] == []


def test_the_list_has_every_module():
    items = code_map.items()
    listed = "\n".join(item.astext() for item in items)
    lines = code_map.modules()
    assert len(lines) == len(list((ROOT / "pyro_vae").rglob("*.py")))
    for path, line in lines.items():
        assert line.replace("`", "") in listed, path
    assert {item["ids"][0] for item in (item[0] for item in items)} == {
        code_map._anchor(code_map.room_of(path)) for path in lines
    }


def test_the_picture_has_every_room_and_each_import():
    of_room = code_map.imports()
    pairs = code_map.arrows(of_room)
    svg = code_map.picture(pairs)
    assert set(re.findall(r"<text [^>]*>(\w+)<", svg)) == set(of_room)
    users = {room: {user for source, user in pairs if source == room} for room in of_room}

    def above(room):
        return users[room].union(*(above(user) for user in users[room]))

    assert all(user in above(room) for user in of_room for room in of_room[user])


def test_imports_go_down_the_rows():
    pairs = code_map.arrows(code_map.imports())
    row = {room: index for index, rooms in enumerate(code_map.rows(pairs)) for room in rooms}
    assert all(row[source] < row[user] for source, user in pairs)


def test_a_chain_implies_the_direct_arrow():
    of_room = {"a": set(), "b": {"a"}, "c": {"a", "b"}}
    assert code_map.arrows(of_room) == [("a", "b"), ("b", "c")]


def test_imports_for_annotations_do_not_count(tmp_path):
    (tmp_path / "a.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pyro_vae.b\n")
    (tmp_path / "b.py").write_text("def late():\n    from pyro_vae import a\n")
    assert code_map.imports(tmp_path) == {"a": set(), "b": {"a"}}


def test_boxes_do_not_overlap():
    boxes = [
        [float(number) for number in box]
        for box in re.findall(
            r'<rect x="([\d.-]+)" y="([\d.]+)" width="([\d.]+)"', code_map.picture(code_map.arrows(code_map.imports()))
        )
    ]
    for x, y, width in boxes:
        assert not [other for other in boxes if other[1] == y and x < other[0] < x + width]


def _named_files() -> list[tuple[str, str]]:
    texts = [(page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8")) for page in PAGES]
    return [
        (page, name)
        for page, text in texts
        if page != "CHANGELOG.md"
        for name in re.findall(r"`((?:\w+/)*\w+\.py)`", text)
    ]


@pytest.mark.parametrize(("page", "name"), _named_files())
def test_a_file_that_a_page_names_exists(page, name):
    """Pyro's own examples apart, of which the README says where they are."""
    folders = [ROOT, ROOT / "pyro_vae", (ROOT / page).parent]
    assert any((folder / name).is_file() for folder in folders) or name.startswith("examples/vae")
