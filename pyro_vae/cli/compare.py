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
from pyro_vae.metric_table import METRICS

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
        str, typer.Option(help=f"{', '.join(_SHORT)}, or a metric of single images by its name in metrics.json")
    ] = "elbo",
    out: Annotated[
        Path | None,
        typer.Option(help="a .csv or .json file to write as well", show_default=False, parser=path, metavar="PATH"),
    ] = None,
) -> None:
    """Compare trained models with the first, image by image: differences with paired standard errors."""
    if len(runs) < 2:
        raise fail("runs", len(runs), "at least two run folders")
    if len({one.resolve() for one in runs}) < len(runs):
        raise fail("runs", ", ".join(map(str, runs)), "folders of which no two are the same")
    if out is not None and out.suffix not in (".csv", ".json"):
        raise fail("--out", str(out), "a file that ends in .csv or .json")
    seeds = {str(folder): _seeds(folder) for folder in runs}

    from pyro_vae import evaluation
    from pyro_vae.evaluation import Metrics
    from pyro_vae.experiments.run import read_per_image

    name = _SHORT.get(metric, metric)
    results: dict[str, list[Metrics]] = {}
    for folder, of_model in seeds.items():
        tables = [read_per_image(one) for one in of_model]
        for one, table in zip(of_model, tables, strict=True):
            if not table:  # as in runs that an earlier version evaluated
                raise fail("run", str(one), f"a run with values of single images; {_how_to_add(name)}")
        results[folder] = [Metrics(per_image=table) for table in tables]
    known = dict.fromkeys(key for of_model in results.values() for one in of_model for key in _names(one))
    if name not in (*_SHORT.values(), *known):
        one_of("--metric", metric, [*_SHORT, *known])
    for folder, of_model in seeds.items():
        for one, result in zip(of_model, results[folder], strict=True):
            if name not in _names(result):
                raise fail(f"--metric for {one}", metric, f"one of {', '.join(_names(result))}; {_how_to_add(name)}")
    found = evaluation.compare(results, name)
    if out is not None:
        _write(out, [one.to_dict() for one in found])
    label = METRICS[name].label if name in METRICS else name
    show_table(
        [_row(one, name) for one in found],
        f"{label}: difference from {found[0].first}",
        _caption(found, name),
        ("run", "difference", "verdict"),
    )


def _seeds(folder: Path) -> list[Path]:
    """The run, or those of several seeds."""
    if (folder / "spec.json").is_file():
        return [folder]
    runs = sorted(one.parent for one in folder.glob("seed-*/spec.json"))
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


def _row(one: Difference, name: str) -> tuple[str, str, str]:
    digits = (METRICS[name].digits if name in METRICS else 2) + 1
    better = METRICS[name].better if name in METRICS else ""
    verdict = "within noise"
    if one.beyond_noise:
        higher = one.difference > 0
        word = {"": "higher" if higher else "lower", "high": "better" if higher else "worse"}
        verdict = f"{word.get(better, 'worse' if higher else 'better')}, beyond noise"
    return one.second, f"{one.difference:+.{digits}f} ± {one.se:.{digits}f}", f"{verdict} (z = {one.z:.1f})"


def _caption(found: Sequence[Difference], name: str) -> str:
    of = f"mean difference over {found[0].n:,} common images ± standard error of {found[0].error_of}"
    if min(found[0].seeds) == 1:
        of += "; of these trainings: another seed may differ more"
    unit = "nats per image; " if name.endswith("_nats") or name == "kl_per_sample" else ""
    if name == "bits_per_dimension":
        unit = "upper bounds where pixels are dequantized; "
    return f"{unit}{of}. Beyond noise: more than {found[0].critical:.1f} standard errors"


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
    found: dict[str, Any] = {}
    for name, value in row.items():
        found |= dict(zip(pairs[name], value, strict=True)) if name in pairs else {name: value}
    return found
