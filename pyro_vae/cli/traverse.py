"""`pyro-vae traverse`: test images moved along attribute directions of code space, and what changes along these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyro_vae._utils.checks import fail, one_of, positive, positive_integer, unknown_name
from pyro_vae._utils.console import show, show_table
from pyro_vae._utils.progress import say
from pyro_vae.cli.debias import active_dimensions
from pyro_vae.cli.options import DataRoot, Dataset, Device, Out, Quiet, Run, Seed, Trust, path, whole_number
from pyro_vae.cli.provenance import opened_run, provenance, run_name
from pyro_vae.cli.traverse_files import Direction, Moved, check_files, write_files

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vae.data import Images, Splits
    from pyro_vae.models import Model
    from pyro_vae.spec import Spec
    from pyro_vae.uses.attributes import Measure

    Classify = Callable[[Tensor], Tensor]  # images `(..., C, H, W)` to probabilities `(..., classes)`

LABEL = "label:"  # before the name of a class, which is then the attribute
LEARNED_FROM = 10_000  # training images, at most, from which directions are learned


Attribute = Annotated[
    list[str],
    typer.Option(
        help="intensity, thickness, slant, width, height, label:CLASS, or a name in --attributes; may be repeated",
        metavar="NAME",
    ),
]
AttributeFile = Annotated[
    Path | None,
    typer.Option(
        help="attributes of the pictures of a folder, in the format of CelebA's list_attr_celeba.txt",
        show_default=False,
        parser=path,
        metavar="FILE",
    ),
]
OrthogonalTo = Annotated[
    list[str] | None,
    typer.Option(
        help="an attribute whose linear prediction is to stay; may be repeated", show_default=False, metavar="NAME"
    ),
]
Method = Annotated[
    str, typer.Option(help="covariance (of labels, the difference of means), mean-difference, probe or regression")
]
Range = Annotated[
    float,
    typer.Option(
        "--range", help="largest amount, in standard deviations of codes along the direction", metavar="NUMBER"
    ),
]


def traverse(
    run: Run,
    attribute: Attribute,
    attributes: AttributeFile = None,
    orthogonal_to: OrthogonalTo = None,
    method: Method = "covariance",
    range_sd: Range = 1.0,
    steps: Annotated[int, typer.Option(help="amounts, an odd number", parser=whole_number, metavar="INTEGER")] = 7,
    n: Annotated[int, typer.Option(help="test images, drawn at random", parser=whole_number, metavar="INTEGER")] = 100,
    classify: Annotated[
        bool, typer.Option(help="say which class the images keep, by a classifier that is trained once and cached")
    ] = True,
    out: Out = None,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    seed: Seed = 0,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Move test images along the direction of an attribute: a table of each image, pictures, and what else changes."""
    held = orthogonal_to or []
    _check_options(method, range_sd, steps, n, attribute, held)

    from pyro_vae import latent
    from pyro_vae.latent.directions import even_amounts
    from pyro_vae.models import require_prior

    model, spec, images = opened_run(run, data_root, dataset, progress=not quiet, trust=trust)
    require_prior(model)
    (train, index), (test, test_index) = (
        _drawn(part, most, seed, spec) for part, most in zip(images, (LEARNED_FROM, n), strict=True)
    )
    of_file = _of_file(attributes, dataset or spec.dataset, index)
    classes = _classes([*attribute, *held], train)
    for option, names in (("--attribute", attribute), ("--orthogonal-to", held)):
        _check_names(option, names, classes, of_file)
    codes, starts = (latent.codes(model, part, device=device) for part in (train, test))
    active_dimensions(codes, run, "images hardly change, and rank correlations say nothing")
    values = of_file | _of_labels(train, classes) | _of_images(train, partial(_measured, classes={}, classify=None))
    directions = _directions(codes, values, attribute, held, method)
    check_files(directions)
    probabilities = _classifier(images, device, progress=not quiet) if classify else None
    measure = partial(_measured, classes=classes, classify=probabilities)
    usual = _of_images(train, measure)
    moved = [
        _moved(
            model,
            starts,
            direction,
            even_amounts(codes, direction.vector, range_sd, steps),
            measure,
            usual,
            probabilities,
            test.labels,
        )
        for direction in directions
    ]
    settings = {"run": str(run), "method": method, "range_sd": range_sd, "steps": steps, "n": len(test), "seed": seed}
    settings |= {"attribute": attribute, "orthogonal_to": held, "no_classify": not classify}
    settings["attributes"] = None if attributes is None else str(attributes)
    folder = out or run / "traverse"
    source = provenance(model, {"train": train, "test": test}, settings, device)
    write_files(folder, moved, range_sd, test, test_index.tolist(), run_name(run), source)
    if not quiet:
        caption = f"change from {-range_sd:g} to {range_sd:g} standard deviations of codes along the direction, in "
        caption += "standard deviations of the attribute, and its rank correlation with the amount"
        heads: tuple[str, ...] = ("direction", "class kept", "attribute: change, rank correlation")
        rows = [_row(each) for each in moved]
        if any(each.class_kept is not None for each in moved):
            caption += "; class kept: share of the unmoved images, and the smaller one of both ends"
        else:
            heads, rows = heads[::2], [row[::2] for row in rows]
        show_table(rows, f"Directions by {run}, {len(test):,} test images", caption, heads)
        show(f"Files: {folder}")


def _check_options(
    method: str, range_sd: float, steps: int, n: int, attributes: Sequence[str], held: Sequence[str]
) -> None:
    from pyro_vae.latent.directions import METHODS

    one_of("--method", method, METHODS)
    positive("--range", range_sd)
    positive_integer("--n", n)
    if steps < 3 or steps % 2 == 0:
        raise fail("--steps", steps, "an odd number of at least 3, so that the middle one is the image itself")
    if len(set(held)) == 1 and set(attributes) == set(held):
        raise fail("--orthogonal-to", held[0], "another attribute than the one that is to change")


def _drawn(images: Images, n: int, seed: int, spec: Spec) -> tuple[Images, Tensor]:
    """At most n images, drawn at random, as the model is to see them, and their positions."""
    import torch

    from pyro_vae.data import binarize

    index = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:n]
    # Grey levels are the means of drawn pixels; a threshold is none.
    return binarize(images.take(index), "threshold" if spec.binarization == "threshold" else "none"), index


def _classes(names: Sequence[str], images: Images) -> dict[str, int]:
    """The label of each class that is an attribute, by `label:CLASS`."""
    from pyro_vae.data.images import UNKNOWN, class_name

    chosen = [name for name in names if name.startswith(LABEL)]
    if chosen and images.labels is None:
        raise fail("--attribute", chosen[0], f"another attribute than a label, which {images.name} has not")
    labels = [] if images.labels is None else images.labels.unique().tolist()
    known = {f"{LABEL}{class_name(label, images.class_names)}": label for label in labels if label != UNKNOWN}
    for name in chosen:
        if name not in known:  # no name is suggested: label:12 is as near to label:1 as to label:2
            raise fail("--attribute", name, f"one of {', '.join(known)}")
    return {name: known[name] for name in chosen}


def _of_labels(images: Images, classes: Mapping[str, int]) -> dict[str, Tensor]:
    """Whether an image is of each class that is an attribute."""
    return {} if images.labels is None else {name: images.labels == label for name, label in classes.items()}


def _of_images(images: Images, measure: Measure) -> dict[str, Tensor]:
    """Attributes of images, measured some at a time, as floats take four times the memory of bytes, or eight."""
    import torch

    parts = [measure(images.take(rows).as_float()) for rows in torch.arange(len(images)).split(500)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _of_file(file: Path | None, dataset: str, index: Tensor) -> dict[str, Tensor]:
    """The attributes of the training images at these positions, of the file if there is one."""
    if file is None:
        return {}
    from pyro_vae.data.formats.attribute_file import attributes_of_folder
    from pyro_vae.uses.attributes import MEASURED

    train, _ = attributes_of_folder(file, dataset)
    for name in train:
        if name in MEASURED or name.startswith(LABEL):
            expected = f"names other than {', '.join(MEASURED)} and {LABEL}CLASS, which are there without a file"
            raise fail("--attributes", f"the attribute {name!r}", expected)
    return {name: values[index] for name, values in train.items()}


def _check_names(option: str, names: Sequence[str], classes: Mapping[str, int], of_file: Mapping[str, Tensor]) -> None:
    from pyro_vae.uses.attributes import MEASURED

    for name in names:
        if name not in (*MEASURED, *classes, *of_file):
            others = [] if of_file else ["or a name in the file that --attributes names"]
            raise unknown_name(option, name, [*MEASURED, f"{LABEL}CLASS", *of_file, *others])


def _classifier(images: Splits, device: str, *, progress: bool) -> Classify | None:
    """Probabilities of classes by the classifier of the data set; None, with a note, where it can have none."""
    from pyro_vae.evaluation.samples.classifier import in_domain_classifier, lacking_for_classifier
    from pyro_vae.uses.attributes import class_probabilities

    if lacking := lacking_for_classifier(images):
        say(f"pyro-vae: note: classes are left out, as with --no-classify: a classifier takes {lacking}")
        return None
    return partial(class_probabilities, in_domain_classifier(images, device=device, progress=progress), device=device)


def _measured(images: Tensor, classes: Mapping[str, int], classify: Classify | None) -> dict[str, Tensor]:
    """Attributes by moments, and the probability of each class that is an attribute."""
    from pyro_vae.uses.attributes import measured_attributes

    measured = measured_attributes(images)
    if classes and classify:
        probabilities = classify(images)
        measured |= {name: probabilities[:, label] for name, label in classes.items()}
    return measured


def _directions(
    codes: Tensor, values: Mapping[str, Tensor], attributes: Sequence[str], held: Sequence[str], method: str
) -> list[Direction]:
    """The direction of each attribute, and next to it, if some are to be held, that which is orthogonal to these."""
    import torch

    from pyro_vae.latent.directions import attribute_direction, orthogonalised

    def learned(name: str, how: str) -> Tensor:
        known = values[name].isfinite()  # a black image has no thickness
        if len(values[name][known].unique()) < 2:
            raise fail("--attribute", name, f"one that differs between the {len(known):,} training images")
        return attribute_direction(codes[known], values[name][known], how)

    directions = []
    for name in dict.fromkeys(attributes):
        vector = learned(name, method)
        directions.append(Direction(name, vector))
        others = tuple(other for other in dict.fromkeys(held) if other != name)
        if len(others) >= codes.shape[1]:
            raise fail("--orthogonal-to", ", ".join(others), f"fewer than the {codes.shape[1]} dimensions of the code")
        if others:
            # What is to stay are predictions, whose gradients are a probe and a regression.
            gradients = [
                learned(other, "regression" if values[other].is_floating_point() else "probe") for other in others
            ]
            directions.append(Direction(name, orthogonalised(vector, gradients, torch.cov(codes.double().T)), others))
    return directions


def _moved(
    model: Model,
    codes: Tensor,
    direction: Direction,
    amounts: Tensor,
    measure: Measure,
    usual: Mapping[str, Tensor],
    classify: Classify | None,
    labels: Tensor | None,
) -> Moved:
    """Codes along a direction; `usual` has the attributes of other images, `labels` the classes of those moved."""
    from pyro_vae.uses.attributes import class_kept, effects, measured_along
    from pyro_vae.uses.attributes import traverse as traverse_codes

    traversal = traverse_codes(model, codes, direction.vector, amounts)
    measured = measured_along(traversal, measure)
    predicted = None if classify is None else classify(traversal.images).argmax(-1)
    kept = None if predicted is None or labels is None else class_kept(labels, predicted)
    return Moved(direction, traversal, measured, effects(amounts, measured, usual), predicted, kept)


def _row(moved: Moved) -> tuple[str, ...]:
    """The name of a direction, the shares of images that keep their class, and all effects, the largest first."""
    ordered = sorted(moved.effects.items(), key=lambda item: -abs(item[1].change_sd))
    cells = [f"{name} {effect.change_sd:+.2f}, {effect.spearman:+.2f}" for name, effect in ordered]
    return moved.direction.name, moved.kept_text, "; ".join(cells)
