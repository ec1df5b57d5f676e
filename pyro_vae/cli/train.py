"""`pyro-vae train`: one `Spec` into one run folder, with metrics and figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyro_vae._utils.checks import fail
from pyro_vae.cli.evaluate import show_metrics, try_each
from pyro_vae.cli.options import DataRoot, Device, Quiet, Trust, path, spec_options
from pyro_vae.part_classes import check_trusted
from pyro_vae.spec import PARTS, Spec, check_dataset, check_still_there, read_spec
from pyro_vae.training import distributed

if TYPE_CHECKING:
    from pyro_vae.evaluation import Metrics


@spec_options
def train(
    texts: dict[str, str],
    out: Annotated[Path, typer.Option(help="run folder to make", parser=path, metavar="PATH")],
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="resume the run in --out from its last checkpoint; its spec need not be repeated. "
            "If the images were moved: --dataset PATH",
        ),
    ] = False,
    trust: Trust = False,
    data_root: DataRoot = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train one model into a run folder; the options below define it. torchrun makes several processes one training.

    Options of a part have a dot: --posterior planar --posterior.layers 8. `pyro-vae parts` lists them.
    """
    if not resume:
        check_dataset(Spec(**Spec.parse(texts)).dataset)  # checked before torch is imported
    with distributed.joined(device) as here:
        if resume:
            spec = Spec.from_dict(here.from_first(lambda: _resumed_spec(out, texts, trust).to_dict()))
        else:
            spec = Spec(**Spec.parse(texts))
        check_dataset(spec.dataset)

        from pyro_vae.evaluation import evaluate
        from pyro_vae.experiments.figures.of_run import save_run_figures
        from pyro_vae.experiments.run import add_metrics, run

        model, history, images = run(
            spec, out, data_root=data_root, device=device, resume=resume, progress=not quiet, trust=trust
        )
    if here.rank > 0:
        return  # the first process does the rest
    results: list[Metrics] = []

    def add(name: str) -> None:
        if name == "figures":
            save_run_figures(model, images.test, history, out / "figures")
            return
        metrics = evaluate(
            model,
            images.test,
            metrics=[name],
            binarization=spec.binarization,
            dequantize=spec.dequantize,
            device=device,
            seed=spec.seed,
            progress=not quiet,
        )
        add_metrics(out, metrics)
        results.append(metrics)

    try_each(("bounds", "codes", "figures"), add)
    if not quiet and results:
        show_metrics(results, f"{out}, test images")


def _resumed_spec(out: Path, texts: dict[str, str], trust: bool) -> Spec:
    stored = read_spec(out)
    if stored is None:
        raise fail("--out", str(out), "a run folder to resume, with a spec.json")
    if "dataset" not in texts:
        check_still_there(stored)
    spec = Spec.from_dict(stored.to_dict() | Spec.parse(texts, stored))
    check_trusted(spec.to_dict(), out, trust or {name: texts[name] for name in PARTS if name in texts})
    return spec
