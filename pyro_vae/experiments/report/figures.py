"""The curves and figures of a report, as data URLs. Imports no torch."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_vae._utils import checks

_IMAGE_BYTES = 9_000_000  # of the page, in base64

# Okabe and Ito's palette, safe for colour-blind readers, with its pale colours darkened; repeated with other dashes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#56B4E9", "#8C6D00", "#000000", "#999999")
_DASHES = ("none", "6 3", "2 2", "8 2 2 2")


def curves(lines: Sequence[tuple[str, str, Sequence[Mapping[str, float]]]]) -> dict[str, Any]:
    """Loss, reconstruction and KL over the epochs, an SVG each, with a common legend.

    Each line has a name, its split (`train` or `validation`), and its history.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from pyro_vae._utils.figure_style import default_style

    styles = [
        (_COLOURS[index % len(_COLOURS)], _DASHES[index // len(_COLOURS) % len(_DASHES)]) for index in range(len(lines))
    ]
    drawn: set[str] = set()
    panels = []
    with default_style():
        for part, label in (("loss", "Loss"), ("reconstruction", "Reconstruction"), ("kl", "KL")):
            figure = Figure(figsize=(4.6, 3.2), layout="constrained")
            axes = figure.add_subplot()
            for (name, split, history), (colour, dashes) in zip(lines, styles, strict=True):
                points = [
                    (row["epoch"], row[column])
                    for row in history
                    if "epoch" in row and (column := f"{split}_{part}_nats") in row
                ]
                if points:
                    pattern = "-" if dashes == "none" else (0, tuple(map(float, dashes.split())))
                    marker = "o" if len(points) < 3 else None
                    axes.plot(*zip(*points, strict=True), color=colour, linestyle=pattern, linewidth=1.8, marker=marker)
                    drawn.add(name)
            if not axes.lines:
                continue
            axes.set_xlabel("epoch")
            axes.set_ylabel("nats per image")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.3)
            buffer = io.BytesIO()
            FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
            panels.append({"title": label, "source": _data_url("svg+xml", buffer.getvalue())})
    legend = [
        {"name": name, "colour": colour, "dashes": dashes}
        for (name, _, _), (colour, dashes) in zip(lines, styles, strict=True)
        if name in drawn
    ]
    return {"panels": panels, "legend": legend}


def figures(folder: Path, listed: Sequence[tuple[str, str, str, str]]) -> dict[str, Any]:
    """The pictures as data URLs, shrunk until the page is small enough, and the names of those that can't be read."""
    pictures: list[dict[str, Any]] = []
    missing: list[str] = []
    for file, title, caption, alt in listed:
        path = inside(folder, file, "figure")
        try:
            content = path.read_bytes()
            kind, size = _picture(content)
        except (OSError, ValueError):
            missing.append(file)
            continue
        pictures.append(
            {"title": title, "caption": caption, "alt": alt or title, "content": content, "kind": kind, "size": size}
        )
    side = 1600.0
    while sum(len(picture["content"]) for picture in pictures) * 4 / 3 > _IMAGE_BYTES and side > 50:
        for picture in pictures:
            picture |= _shrunk(picture, round(side))
        side *= 0.7
    for picture in pictures:
        picture["source"] = _data_url(picture["kind"], picture.pop("content"))
    return {"figures": pictures, "missing_figures": missing}


def _picture(content: bytes) -> tuple[str, tuple[int, int]]:
    """Kind and size of an image file; ValueError if browsers can't show it."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as image:
            image.verify()
            return str(image.format).lower(), image.size
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


def _shrunk(picture: Mapping[str, Any], side: int) -> dict[str, Any]:
    """The picture at most `side` pixels wide and high, as WebP; unchanged if that is smaller."""
    from PIL import Image

    with Image.open(io.BytesIO(picture["content"])) as image:
        smaller = image.convert("RGBA" if image.mode in ("LA", "P", "PA", "RGBA") else "RGB")
    smaller.thumbnail((side, side))
    buffer = io.BytesIO()
    smaller.save(buffer, "WEBP", quality=85)
    if buffer.tell() >= len(picture["content"]):
        return dict(picture)
    return {"content": buffer.getvalue(), "kind": "webp", "size": smaller.size}


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def inside(folder: Path, name: object, argument: str) -> Path:
    """A path inside the folder: a page must not show a file from elsewhere."""
    path = (folder / str(name)).resolve()
    if not isinstance(name, str) or not path.is_relative_to(folder.resolve()):
        raise checks.fail(argument, name, "a path inside the folder")
    return path
