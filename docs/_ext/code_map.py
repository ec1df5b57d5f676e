"""The map of the code, read from the code: `{code-picture}` draws the rooms, `{code-list}` lists their modules.

A room is a folder or a single file of the package. The arrows of the picture are the imports that no longer chain of
imports implies, and each room stands one row above the first that imports it. What is imported by its name alone,
as the parts of a `Spec` are, is not seen.
"""

import ast
import html
import itertools
import statistics
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pyro_vae"
ROW, BOX = 74, 38  # heights
GAP, LETTER = 16, 9.6  # widths


# --- the code ---


def modules(package=PACKAGE):
    """Each module by its path in the package, and the first line of its docstring."""
    lines = {}
    for path in sorted(package.rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines[path.relative_to(package).as_posix()] = docstring.partition("\n")[0]
    return lines


def room_of(path):
    """The folder or the file that a module's path begins with: `svi/cpu/adam.py` is in `svi`."""
    return path.split("/")[0].removesuffix(".py")


def imports(package=PACKAGE):
    """The rooms that each room imports when it runs; imports for annotations alone don't count."""
    of_room = {}
    for path in modules(package):
        visitor = _Imports()
        visitor.visit(ast.parse((package / path).read_text(encoding="utf-8")))
        rooms = {name.split(".")[1] for name in visitor.names if name.startswith("pyro_vae.")}
        of_room.setdefault(room_of(path), set()).update(rooms - {room_of(path)})
    own = {room for room in of_room if not room.startswith("__")}
    return {room: of_room[room] & own for room in own}


class _Imports(ast.NodeVisitor):
    def __init__(self):
        self.names = []

    def visit_If(self, node):
        if getattr(node.test, "id", "") != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_Import(self, node):
        self.names += [alias.name for alias in node.names]

    def visit_ImportFrom(self, node):
        whole = node.module == "pyro_vae"
        self.names += (
            [f"pyro_vae.{alias.name}" for alias in node.names] if whole else [node.module or ""]
        )


def arrows(of_room):
    """Pairs of an imported room and one that imports it, without those that a longer chain implies."""

    def implied(room, target):
        return any(target in reached(other) for other in of_room[room] - {target})

    def reached(room):
        return of_room[room].union(*(reached(other) for other in of_room[room]))

    return sorted(
        (target, room)
        for room in of_room
        for target in of_room[room]
        if not implied(room, target)
    )


def rows(pairs):
    """The rooms in rows, those that others stand on first; one that nothing imports right below those it imports."""
    rooms = sorted({room for pair in pairs for room in pair})
    users = {room: [user for source, user in pairs if source == room] for room in rooms}
    sources = {room: [source for source, user in pairs if user == room] for room in rooms}

    def depth(room):
        return max((depth(source) + 1 for source in sources[room]), default=0)

    def row(room):
        return min((row(user) - 1 for user in users[room]), default=depth(room))

    return [
        [room for room in rooms if row(room) == index]
        for index in range(max(map(row, rooms)) + 1)
    ]


# --- the picture ---
#
# A point of it is a room, or a pair (room, row) where the line from a room passes a row. Each line leaves the room that
# is imported and ends in all those that import it.


def picture(pairs):
    """An SVG in the colours of the page."""
    grid = rows(pairs)
    links = _links(grid, pairs)
    _order(grid, links)
    centre = _place(grid, links)
    top = {point: 4 + ROW * index for index, row in enumerate(grid) for point in row}
    width = max(x + _width(point) / 2 for point, x in centre.items()) + 4
    lines = [_line(centre, top, *link) for link in links]
    lines += [
        f'<path d="M{x:.0f} {top[point]}v{BOX}"/>'
        for point, x in centre.items()
        if _passes(point)
    ]
    boxes = [_box(room, centre[room], top[room]) for room in centre if not _passes(room)]
    users = {room: [user for source, user in pairs if source == room] for room, _ in pairs}
    text = "; ".join(f"{room} by {', '.join(users[room])}" for room in users)
    return (
        f'<figure class="map"><svg viewBox="0 0 {width:.0f} {ROW * (len(grid) - 1) + BOX + 8}" '
        f'style="max-width: {width:.0f}px" role="img" aria-label="Which room is imported by which: {text}">'
        '<defs><marker id="map-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
        f"{''.join(lines)}{''.join(boxes)}</svg></figure>"
    )


def _line(centre, top, start, end):
    """From the lower edge of one point to the upper edge of another, one row below."""
    x, y, to_x, to_y = centre[start], top[start] + BOX, centre[end], top[end]
    tip = "" if _passes(end) else ' marker-end="url(#map-tip)"'
    middle = (y + to_y) / 2
    return f'<path d="M{x:.0f} {y}C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} {to_y}"{tip}/>'


def _box(room, x, y):
    """A box with the name, which leads to the room's part of the list."""
    width = _width(room)
    return (
        f'<a href="#{_anchor(room)}"><rect x="{x - width / 2:.0f}" y="{y}" width="{width:.0f}" height="{BOX}" rx="6"/>'
        f'<text x="{x:.0f}" y="{y + 25}">{html.escape(room)}</text></a>'
    )


def _passes(point):
    return isinstance(point, tuple)


def _width(point):
    return 14.0 if _passes(point) else 24 + LETTER * len(point)


def _links(grid, pairs):
    """Pairs of points in neighbouring rows; a point is added to each row that a line passes."""
    index_of = {room: index for index, row in enumerate(grid) for room in row}
    links = []
    for room in index_of:
        below = sorted((index_of[user], user) for source, user in pairs if source == room)
        point = room
        for index in range(index_of[room] + 1, below[-1][0] + 1 if below else 0):
            links += [(point, user) for row, user in below if row == index]
            if index < below[-1][0]:
                links.append((point, (room, index)))
                point = (room, index)
                grid[index].append(point)
    return links


def _neighbours(links):
    beside = {}
    for start, end in links:
        beside.setdefault(end, []).append(start)
        beside.setdefault(start, []).append(end)
    return beside


def _order(grid, links):
    """Sorts each row by the mean position of its neighbours, down and up (Sugiyama et al. 1981)."""
    beside = _neighbours(links)
    down = list(zip(grid[1:], grid, strict=False))
    up = list(zip(grid[-2::-1], grid[::-1], strict=False))
    orders = []
    for _ in range(12):
        for sweep in (down, up):
            for row, other in sweep:
                position = {point: index / len(other) for index, point in enumerate(other)}
                own = {point: index / len(row) for index, point in enumerate(row)}
                near = {
                    point: [position[beyond] for beyond in beside[point] if beyond in position]
                    for point in row
                }
                row.sort(key=lambda point: statistics.fmean(near[point] or [own[point]]))
            orders.append([list(row) for row in grid])
    grid[:] = min(orders, key=lambda order: _crossings(order, links))


def _crossings(grid, links):
    """How many pairs of lines cross."""
    index_of = {point: index for row in grid for index, point in enumerate(row)}
    row_of = {point: number for number, row in enumerate(grid) for point in row}
    return sum(
        row_of[a] == row_of[c] and (index_of[a] - index_of[c]) * (index_of[b] - index_of[d]) < 0
        for (a, b), (c, d) in itertools.combinations(links, 2)
    )


def _place(grid, links):
    """The centre of each point: near its neighbours, in the order of its row, none upon another."""
    beside = _neighbours(links)
    centre = {point: 0.0 for row in grid for point in row}
    for _ in range(300):
        middle = statistics.fmean(centre.values())
        centre = {point: 0.97 * (x - middle) for point, x in centre.items()}  # else it wanders
        for row in grid:
            wanted = [_mean(point, beside[point], centre) for point in row]
            right = _pushed(row, wanted)
            left = [-x for x in _pushed(row[::-1], [-x for x in wanted[::-1]])[::-1]]
            centre.update(
                {point: (a + b) / 2 for point, a, b in zip(row, left, right, strict=True)}
            )
    leftmost = min(x - _width(point) / 2 for point, x in centre.items())
    return {point: x - leftmost + 4 for point, x in centre.items()}


def _mean(point, beside, centre):
    """The mean of the neighbours' centres; a line that passes several rows is held straight."""
    weights = [8 if _passes(point) and _passes(near) else 1 for near in beside]
    return 0.97 * statistics.fmean(
        [centre[near] for near in beside], weights
    )  # 0 is the middle


def _pushed(row, wanted):
    """The wanted centres, each moved to the right as far as the point before it asks."""
    pushed = [wanted[0]]
    for before, point, x in zip(row, row[1:], wanted[1:], strict=False):
        pushed.append(max(x, pushed[-1] + (_width(before) + _width(point)) / 2 + GAP))
    return pushed


# --- the page ---


class CodePicture(SphinxDirective):
    def run(self):
        self.env.note_reread()  # the code may have changed
        return [nodes.raw("", picture(arrows(imports())), format="html")]


class CodeList(SphinxDirective):
    """The modules of each room, and what each says of itself."""

    def run(self):
        self.env.note_reread()
        return [nodes.definition_list("", *items(), classes=["code-list"])]


def items():
    """An item for each room, those that others stand on first."""
    by_room = {}
    for path, line in modules().items():
        by_room.setdefault(room_of(path), {})[path] = line
    order = [room for row in rows(arrows(imports())) for room in row]
    order += sorted(by_room.keys() - set(order))
    return [_item(room, by_room[room]) for room in order]


def _item(room, lines):
    """A file with its line; or a folder with its own line, and its modules below."""
    own = f"{room}.py" if f"{room}.py" in lines else f"{room}/__init__.py"
    name = own.removesuffix("__init__.py")
    term = nodes.term("", "", nodes.literal("", name), ids=[_anchor(room)])
    definition = nodes.definition("", nodes.paragraph("", "", *_text(lines[own])))
    others = [
        nodes.list_item(
            "",
            nodes.paragraph(
                "", "", nodes.literal("", _within(path, name)), nodes.Text(" "), *_text(line)
            ),
        )
        for path, line in lines.items()
        if path != own
    ]
    if others:
        definition += nodes.bullet_list("", *others)
    return nodes.definition_list_item("", term, definition)


def _within(path, folder):
    """`svi/cpu/adam.py` in `svi/` is `cpu/adam.py`, and `svi/cpu/__init__.py` is `cpu/`."""
    return path.removeprefix(folder).removesuffix("__init__.py")


def _anchor(room):
    return f"room-{room.strip('_')}"


def _text(line):
    """Text with `code` in it."""
    return [
        nodes.literal("", part) if index % 2 else nodes.Text(part)
        for index, part in enumerate(line.split("`"))
        if part
    ]


def setup(app):
    app.add_directive("code-picture", CodePicture)
    app.add_directive("code-list", CodeList)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
