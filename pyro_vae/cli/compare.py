"""`pyro-vae compare`: paired differences of runs that were evaluated on the same images."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyro_vae._utils import files
from pyro_vae._utils.checks import fail, one_of
from pyro_vae._utils.console import show_table
from pyro_vae.cli.options import path
from pyro_vae.metric_table import metric_named

if TYPE_CHECKING:
    from pyro_vae.evaluation import Difference, Metrics

_SHORT = {
    "elbo": "elbo_nats",
    "nll": "nll_nats",
    "bits": "bits_per_dimension",
    "mse": "mse_per_pixel",
    "kl": "kl_per_sample",
}


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="run folders, or folders with seed-0, seed-1, ... of one model", parser=path, metavar="RUN RUN ..."
        ),
    ],
    metric: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(_SHORT)}, or a metric with per-image values, by its name in metrics.json "
            "(default: elbo; mse where a model has no ELBO)",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="a .csv or .json file to write as well", show_default=False, parser=path, metavar="PATH"),
    ] = None,
) -> None:
    """Compare trained models with the first, image by image: differences with paired standard errors."""
    if len(runs) < 2:
        raise fail("runs", len(runs), "at least two run folders")
    if len({folder.resolve() for folder in runs}) < len(runs):
        raise fail("runs", ", ".join(map(str, runs)), "folders of which no two are the same")
    if out is not None and out.suffix not in (".csv", ".json"):
        raise fail("--out", str(out), "a file that ends in .csv or .json")
    seeds = {str(folder): _seeds(folder) for folder in runs}

    from pyro_vae import evaluation

    results = {model: [_stored(run, metric) for run in of_model] for model, of_model in seeds.items()}
    metric = metric or _default_metric([result for of_model in results.values() for result in of_model])
    name = _SHORT.get(metric, metric)
    known = dict.fromkeys(key for of_model in results.values() for result in of_model for key in _names(result))
    if name not in (*_SHORT.values(), *known):
        one_of("--metric", metric, [*_SHORT, *known])
    for model, of_model in seeds.items():
        for run, result in zip(of_model, results[model], strict=True):
            if name not in _names(result):
                raise fail(f"--metric for {run}", metric, f"one of {', '.join(_names(result))}; {_how_to_add(name)}")
    differences = evaluation.compare(results, name)
    if out is not None:
        _write(out, [difference.to_dict() for difference in differences])
    label = metric_named(name).label
    show_table(
        [_row(difference, name) for difference in differences],
        f"{label}: difference from {differences[0].first}",
        _caption(differences, name),
        ("run", "difference", "verdict"),
    )


def _stored(run: Path, metric: str | None) -> Metrics:
    """The per-image values of a run."""
    from pyro_vae.evaluation import Metrics
    from pyro_vae.experiments.run import read_per_image

    per_image = read_per_image(run)
    if not per_image:  # as in runs that an earlier version evaluated
        advice = _how_to_add(_SHORT.get(metric or "elbo", metric or "elbo"))
        raise fail("run", str(run), f"a run with per-image values; {advice}")
    return Metrics(per_image=per_image)


def _default_metric(results: Sequence[Metrics]) -> str:
    """The ELBO; the squared error where a model has none, such as an autoencoder."""
    common = set.intersection(*(set(_names(result)) for result in results))
    return "mse" if _SHORT["elbo"] not in common and _SHORT["mse"] in common else "elbo"


def _seeds(folder: Path) -> list[Path]:
    """The folder itself, if it is a run; else its runs of several seeds."""
    if (folder / "spec.json").is_file():
        return [folder]
    runs = sorted(file.parent for file in folder.glob("seed-*/spec.json"))
    if not runs:
        raise fail(
            "run", str(folder), "a run folder with a spec.json, or a folder with seed-0, seed-1, ..., as in STUDY/runs"
        )
    return runs


def _how_to_add(name: str) -> str:
    group = "evidence" if name in ("nll_nats", "bits_per_dimension") else "bounds"
    where = {
        "bits_per_dimension": " where log p(x) is a probability",
        "nll_nats": " of a VAE",
        "elbo_nats": " of a VAE",
    }
    return f"`pyro-vae evaluate RUN --metrics {group}` adds it{where.get(name, '')}"


def _names(result: Metrics) -> list[str]:
    return [name for table in result.per_image.values() for name in table.values]


def _row(difference: Difference, name: str) -> tuple[str, str, str]:
    digits = metric_named(name).digits + 1
    verdict = "within noise"
    if difference.beyond_noise:
        side, better = "higher" if difference.difference > 0 else "lower", metric_named(name).direction
        verdict = f"{side if better == 'neither' else 'better' if side == better else 'worse'}, beyond noise"
    value = f"{difference.difference:+.{digits}f} ± {difference.se:.{digits}f}"
    return difference.second, value, f"{verdict} (z = {difference.z:.1f})"


def _caption(differences: Sequence[Difference], name: str) -> str:
    first = differences[0]
    of = f"mean difference over {first.n:,} common images ± standard error of {first.error_of}"
    if min(first.seeds) == 1:
        of += "; of these trainings: another seed may differ more"
    unit = "nats per image; " if name.endswith("_nats") or name == "kl_per_sample" else ""
    if name == "bits_per_dimension":
        unit = "upper bounds where pixels are dequantized; "
    return f"{unit}{of}. Beyond noise: more than {first.critical:.1f} standard errors"


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    if out.suffix == ".json":
        files.write_json(out, rows)
        return
    buffer = io.StringIO()
    flat = [_flat(row) for row in rows]
    writer = csv.DictWriter(buffer, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    files.write(out, buffer.getvalue())


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """One value per column: those of a pair have a column each."""
    pairs = {"interval": ("interval_low", "interval_high"), "seeds": ("seeds_first", "seeds_second")}
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat |= dict(zip(pairs[name], value, strict=True)) if name in pairs else {name: value}
    return flat
