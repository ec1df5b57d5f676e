"""The files of `pyro-vae traverse`: a table and a picture of each direction, and the effects of all."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae._utils import files
from pyro_vae._utils.checks import fail

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from pyro_vae.data import Images
    from pyro_vae.uses.attributes import Effect, Traversal

PICTURED = 6  # images, in the picture of a direction


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit vector `(d,)`, its attribute, and the attributes whose linear predictions it leaves as they are."""

    attribute: str
    vector: Tensor
    orthogonal_to: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.attribute}, orthogonal" if self.orthogonal_to else self.attribute

    @property
    def stem(self) -> str:
        """The name of its files, without a suffix."""
        return _stem(self.attribute, orthogonal=bool(self.orthogonal_to))


def _stem(attribute: str, *, orthogonal: bool) -> str:
    from pyro_vae.evaluation.samples.features import file_name

    return f"{file_name(attribute)}-orthogonal" if orthogonal else file_name(attribute)


@dataclass(frozen=True, eq=False)
class Moved:
    """Test images along a direction, and what was measured of the decoded images, `(N, steps)` each."""

    direction: Direction
    traversal: Traversal
    measured: Mapping[str, Tensor]
    effects: Mapping[str, Effect]
    predicted: Tensor | None  # classes
    class_kept: Tensor | None  # share of the images, at each step

    @property
    def kept_text(self) -> str:
        """The share of images that keep their class before they are moved, and the smaller one of both ends."""
        if self.class_kept is None:
            return ""
        unmoved, ends = self.class_kept[len(self.class_kept) // 2], min(self.class_kept[0], self.class_kept[-1])
        return f"{unmoved:.0%}, at the ends {ends:.0%}"


def check_files(directions: Sequence[Direction]) -> None:
    """That no file replaces another, also where capitals do not count in the names of files."""
    stems = {"effects"}
    for direction in directions:
        stem = direction.stem.casefold()
        if stem in stems:
            expected = f"a name whose files, such as {direction.stem}.csv, are its alone"
            raise fail("--attribute", direction.attribute, expected)
        stems.add(stem)


def write_files(
    folder: Path,
    moved: Sequence[Moved],
    range_sd: float,
    test: Images,
    position: Sequence[int],
    run: str,
    source: Mapping[str, Any],
) -> None:
    """All files, those of an earlier call removed; `position` is of each image in the test set, `source` provenance."""
    _remove_earlier(folder)
    for each in moved:
        files.write(_file(folder, each, "csv"), _csv(each, range_sd, test, position))
    _draw(folder, moved, range_sd, test, run)
    directions = {each.direction.name: _json(each) for each in moved}
    files.write_json(folder / "effects.json", {"directions": directions, "provenance": source})


def _remove_earlier(folder: Path) -> None:
    """Removes what `effects.json` is about, and itself last, so that no folder has files of two calls."""
    effects = folder / "effects.json"
    if not effects.is_file():
        return
    earlier = files.read_json(effects, "effects")
    try:
        directions = earlier["directions"].values()
        stems = [_stem(each["attribute"], orthogonal=bool(each["orthogonal_to"])) for each in directions]
    except (KeyError, TypeError, AttributeError) as error:
        raise fail(
            "--out", str(folder), "a folder whose effects.json pyro-vae traverse wrote, or without any"
        ) from error
    for stem in stems:
        for suffix in ("csv", "png"):
            (folder / f"{stem}.{suffix}").unlink(missing_ok=True)
    (folder / "effects.png").unlink(missing_ok=True)
    effects.unlink()


def _file(folder: Path, moved: Moved, suffix: str) -> Path:
    return folder / f"{moved.direction.stem}.{suffix}"


def _amounts_sd(moved: Moved, range_sd: float) -> list[float]:
    """The amounts of a traversal in standard deviations of the codes along the direction."""
    amounts = moved.traversal.amounts
    return (range_sd * amounts / amounts[-1]).tolist()


def _csv(moved: Moved, range_sd: float, test: Images, position: Sequence[int]) -> str:
    """A line for each image and step."""
    from pyro_vae.data.images import class_name

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    classes = [] if moved.predicted is None else ["predicted_class"]
    writer.writerow(["test_index", "class", "step", "amount_sd", *moved.measured, "log_prior_nats", *classes])
    for row, index in enumerate(position):
        label = "" if test.labels is None else class_name(int(test.labels[row]), test.class_names)
        for step, amount in enumerate(_amounts_sd(moved, range_sd)):
            numbers = [values[row, step].item() for values in (*moved.measured.values(), moved.traversal.log_prior)]
            cells = [f"{number:.6g}" for number in (amount, *numbers)]
            if moved.predicted is not None:
                cells.append(class_name(int(moved.predicted[row, step]), test.class_names))
            writer.writerow([index, label, step, *cells])
    return buffer.getvalue()


def _json(moved: Moved) -> dict[str, Any]:
    """What is known of a direction; lists are by step. A mean density of 0, as outside a uniform prior, is left out."""
    direction, traversal = moved.direction, moved.traversal
    stored: dict[str, Any] = {
        "attribute": direction.attribute,
        "orthogonal_to": direction.orthogonal_to,
        "vector": direction.vector.tolist(),
        "amounts": traversal.amounts.tolist(),
        "effects": {name: asdict(effect) for name, effect in moved.effects.items()},
    }
    log_prior = traversal.log_prior.mean(0)
    if bool(log_prior.isfinite().all()):
        stored["log_prior_nats"] = log_prior.tolist()
    return stored if moved.class_kept is None else stored | {"class_kept": moved.class_kept.tolist()}


def _draw(folder: Path, moved: Sequence[Moved], range_sd: float, test: Images, run: str) -> None:
    """A picture of some images along each direction, and the matrix of effects."""
    from pyro_vae import plots

    for each in moved:
        plots.save_figure(_picture(each, range_sd, run), _file(folder, each, "png"))
    rows = {}
    for each in moved:
        kept = each.kept_text and f"\nclass kept {each.kept_text}"
        rows[f"{each.direction.name}{kept}"] = each.effects
    title = f"{run}: effects of directions from {-range_sd:g} to {range_sd:g} sd, {len(test):,} test images"
    plots.save_figure(plots.effect_matrix(rows, title), folder / "effects.png")


def _picture(moved: Moved, range_sd: float, run: str) -> Figure:
    from pyro_vae import plots

    direction, traversal = moved.direction, moved.traversal
    shown = {name: values[:PICTURED] for name, values in moved.measured.items() if name == direction.attribute}
    shown["log p(z) in nats"] = traversal.log_prior[:PICTURED]
    held = f" orthogonal to {', '.join(direction.orthogonal_to)}" if direction.orthogonal_to else ""
    return plots.traversal(
        traversal.images[:PICTURED],
        _amounts_sd(moved, range_sd),
        shown,
        f"{run}: along {direction.attribute}{held}",
    )
