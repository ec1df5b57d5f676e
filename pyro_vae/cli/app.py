"""The command line: parse, call, print. torch and pyro are imported where needed, so that help comes at once."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from pyro_vae import __version__
from pyro_vae._utils.checks import InputError, fail, one_of
from pyro_vae._utils.console import show, show_table, silence
from pyro_vae._utils.progress import say
from pyro_vae.cli.compare import compare
from pyro_vae.cli.options import DataRoot, Dataset, Device, Quiet, Run, Seed, path, spec_options, whole_number
from pyro_vae.spec import DATASETS, GROUPS, Spec, check_dataset, check_still_there, read_spec
from pyro_vae.training import distributed

if TYPE_CHECKING:
    from pyro_vae.data import Splits
    from pyro_vae.evaluation import Extractor, Metrics

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Variational autoencoders as Pyro programs: train, judge and show them.",
)
data_app = typer.Typer(no_args_is_help=True, help="Data sets: what there is, and fetching it.")
app.add_typer(data_app, name="data")
app.command()(compare)


def _version(wanted: bool) -> None:
    if wanted:
        show(f"pyro-vae {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder to make", parser=path, metavar="PATH")] = Path("demo"),
) -> None:
    """Train a VAE on the embedded 8x8 digits, judge it, and draw it; under a minute on two cores."""
    from pyro_vae.cli.demo import run_demo

    metrics, figures = run_demo(out)
    _show_metrics([metrics], "A VAE with 8 latent dimensions, on test images of 8x8 digits")
    show(f"Figures: {', '.join(map(str, figures))}")
    show(f"Next: pyro-vae sample {shlex.quote(str(out))} --n 100 --out samples.png")
    show("      pyro-vae data fetch mnist && pyro-vae train --dataset mnist --network conv --hidden 256 --out RUN")


@app.command()
@spec_options
def train(
    given: dict[str, str],
    out: Annotated[Path, typer.Option(help="run folder to make", parser=path, metavar="PATH")],
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="go on with the run in --out; its spec need not be repeated. Images that were moved: --dataset PATH",
        ),
    ] = False,
    data_root: DataRoot = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train one model into a run folder; the options below define it. torchrun makes several processes one training."""
    values = Spec.parse(given)
    if not resume:
        check_dataset(Spec(**values).dataset)  # checked before torch is imported
    with distributed.joined(device) as here:
        if resume:
            spec = Spec.from_dict(here.from_first(lambda: _resumed_spec(out, values).to_dict()))
        else:
            spec = Spec(**values)
        check_dataset(spec.dataset)

        from pyro_vae.evaluation import evaluate as evaluate_model
        from pyro_vae.experiments.figures.of_run import save_run_figures
        from pyro_vae.experiments.run import add_metrics, run

        model, history, images = run(spec, out, data_root=data_root, device=device, resume=resume, progress=not quiet)
    if here.rank > 0:
        return  # what remains is the first one's
    found: list[Metrics] = []

    def part(name: str) -> None:
        if name == "figures":
            save_run_figures(model, images.test, history, out / "figures")
            return
        measured = evaluate_model(
            model,
            images.test,
            metrics=[name],
            binarization=spec.binarization,
            dequantize=spec.dequantize,
            device=device,
            seed=spec.seed,
            progress=not quiet,
        )
        add_metrics(out, measured)
        found.append(measured)

    _each(("bounds", "codes", "figures"), part)
    if not quiet:
        _show_metrics(found, f"{out}, test images")


@app.command()
def study(
    name: Annotated[
        str | None, typer.Argument(help="name of a study, or a .py or .toml file of your own", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="study folder to make, or to go on with", show_default=False, parser=path, metavar="PATH"),
    ] = None,
    list_studies: Annotated[
        bool, typer.Option("--list", help="list the studies, and the time that each takes")
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(help="instead of the study's", parser=whole_number, metavar="INTEGER")
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="trainings of each model: mean and sd", parser=whole_number, metavar="INTEGER")
    ] = 1,
    only: Annotated[list[str] | None, typer.Option(help="train this model only; may be repeated")] = None,
    dataset: Annotated[str | None, typer.Option(help="instead of the study's", show_default=False)] = None,
    jobs: Annotated[
        int, typer.Option(help="models trained at the same time", parser=whole_number, metavar="INTEGER")
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            help="of each; by default the cores divided among the jobs. The same number gives the same bits",
            parser=whole_number,
            metavar="INTEGER",
            show_default=False,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="run on the Ray cluster at this address, or `local`; --out is then on shared storage"),
    ] = None,
    ray_gpus: Annotated[float, typer.Option(help="GPUs, or the fraction of one, for each model on Ray")] = 0.0,
    ray_retries: Annotated[
        int,
        typer.Option(help="new starts of a model whose Ray worker was lost", parser=whole_number, metavar="INTEGER"),
    ] = 3,
    data_root: DataRoot = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train and judge all models of a study; called again, it goes on where it was stopped."""
    from pyro_vae.experiments import study

    if list_studies:
        _list_studies()
        return
    if name is None:
        raise fail("study", None, f"one of {', '.join(study.NAMES)}, FILE.py or FILE.toml; --list tells what they are")
    dataset = dataset and os.path.expanduser(dataset)
    chosen = study.named(name).adapted(epochs=epochs, dataset=dataset)  # checked before torch is imported
    if out is None:
        raise fail("--out", None, "a folder for the study")
    for entry in chosen.entries:
        check_dataset(entry.spec.dataset)

    from pyro_vae.experiments.runner import run_study

    changes = {"epochs": epochs, "seeds": seeds if seeds > 1 else None, "dataset": dataset}
    given = [f"--{option}={value}" for option, value in changes.items() if value is not None]
    command = shlex.join(
        ["pyro-vae", "study", name, "--out", str(out), *given, *(f"--only={one}" for one in only or ())]
    )
    stored = run_study(
        chosen,
        out,
        seeds=seeds,
        only=only or (),
        data_root=data_root,
        device=device,
        jobs=jobs,
        threads=threads,
        ray=ray,
        ray_gpus=ray_gpus,
        ray_retries=ray_retries,
        command=command,
        progress=not quiet,
    )
    if not quiet:
        show((out / "results.md").read_text(encoding="utf-8"))
    for entry in stored["entries"]:
        if entry["status"] in ("failed", "skipped"):
            say(f"pyro-vae: {entry['name']} {entry['status']}: {entry['error']}")
    if any(entry["status"] == "failed" for entry in stored["entries"]):
        raise typer.Exit(1)


def _list_studies() -> None:
    from pyro_vae.experiments import study

    for name in study.NAMES:
        one = study.named(name)
        show(f"{name:12} {one.title}: {len(one.entries)} models; {one.cost}")


def _resumed_spec(out: Path, values: dict[str, Any]) -> Spec:
    stored = read_spec(out)
    if stored is None:
        raise fail("--out", str(out), "a run folder to resume, with a spec.json")
    if "dataset" not in values:
        check_still_there(stored)
    return Spec.from_dict(stored.to_dict() | values)


@app.command()
def evaluate(
    run: Run,
    metrics: Annotated[
        str, typer.Option(help="groups, with commas: bounds, codes, samples, and evidence (NLL), which takes long")
    ] = "bounds,codes,samples",
    k: Annotated[int, typer.Option(help="importance samples per image", parser=whole_number, metavar="INTEGER")] = 5000,
    evidence_images: Annotated[
        int | None,
        typer.Option(
            help="take so many test images, at random, for the evidence; all by default",
            parser=whole_number,
            metavar="INTEGER",
            show_default=False,
        ),
    ] = None,
    anneal: Annotated[
        int,
        typer.Option(
            help="so many of the images whose Pareto k is too high, at random, by annealed importance sampling, too",
            parser=whole_number,
            metavar="INTEGER",
        ),
    ] = 0,
    n: Annotated[
        int | None,
        typer.Option(
            help="images to generate for the scores of samples; as many as test images by default",
            parser=whole_number,
            metavar="INTEGER",
            show_default=False,
        ),
    ] = None,
    extractor: Annotated[
        str,
        typer.Option(
            help="whose features score the samples: classifier (of this data set: trained once, in a minute or "
            "more, then cached), inception-2015-12-05, inception-torchvision, or none, for no scores"
        ),
    ] = "classifier",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="file of Inception weights; else torch's hub cache", show_default=False, parser=path, metavar="PATH"
        ),
    ] = None,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Judge a trained model on the test images; each group of results is added to metrics.json as it comes."""
    chosen = [name.strip() for name in metrics.split(",") if name.strip()]
    for name in chosen or [metrics]:
        one_of("--metrics", name, GROUPS)
    one_of("--extractor", extractor, ("classifier", "inception-2015-12-05", "inception-torchvision", "none"))
    if k < 1:
        raise fail("--k", k, "a whole number of at least 1")
    if evidence_images is not None and evidence_images < 1:
        raise fail("--evidence-images", evidence_images, "a whole number of at least 1")
    if anneal < 0:
        raise fail("--anneal", anneal, "a whole number of at least 0")
    if n is not None and n < 10:
        raise fail("--n", n, "a whole number of at least 10, one image for each split of the score")
    if extractor == "none":
        chosen = [name for name in chosen if name != "samples"]
    if "evidence" not in chosen and (anneal or evidence_images is not None):
        option = "--anneal" if anneal else "--evidence-images"
        raise fail("--metrics", metrics, f"evidence among them, of which {option} is an option")
    if not chosen:
        raise fail("--metrics", metrics, "a group beside samples, which need an extractor")

    from pyro_vae.evaluation import evaluate as evaluate_model
    from pyro_vae.evaluation.samples import extractors
    from pyro_vae.experiments.run import add_metrics, check_data, open_run, read_metrics

    model, spec, images = open_run(run, data_root, dataset, progress=not quiet)
    if note := check_data(run, images):
        say(f"pyro-vae: note: {note}")
    read_metrics(run)  # a damaged file is noticed before the work, not after it
    judge: Extractor | None = None
    if weights is not None and extractor.startswith("inception"):  # a wrong file is bad input, whatever else there is
        judge = extractors.by_name(extractor, images, weights=weights, device=device)
    partial = run / "evidence.partial.safetensors"

    def part(name: str) -> None:
        nonlocal judge
        _check_group(name, spec, images, n)
        if name == "samples" and judge is None:
            judge = extractors.by_name(extractor, images, device=device, progress=not quiet)
        found = evaluate_model(
            model,
            images.test,
            metrics=[name],
            binarization=spec.binarization,
            dequantize=spec.dequantize,
            k=k,
            evidence_images=evidence_images,
            anneal=anneal,
            partial=partial,
            extractor=judge,
            num_generated=n,
            train=images.train,
            device=device,
            seed=seed,
            progress=not quiet,
        )
        add_metrics(run, found)
        if name == "evidence":
            partial.unlink(missing_ok=True)
        if not quiet:
            _show_metrics([found], f"{run}, {name} of {len(images.test):,} test images")

    _each(chosen, part)


def _check_group(name: str, spec: Spec, images: Splits, generated: int | None) -> None:
    """What a group of metrics asks of a run, before anything is trained or computed for it."""
    if spec.model == "autoencoder" and name in ("evidence", "samples"):
        raise fail("model", spec.model, "a model with a prior")
    if name == "codes" and len(images.test) < 2:
        raise fail("test images", len(images.test), "at least 2, whose codes differ or not")
    if name == "samples" and (generated or len(images.test)) < 10:
        raise fail("test images", len(images.test), "at least 10, or --n for the number of samples")


@app.command()
def sample(
    run: Run,
    n: Annotated[int, typer.Option(help="images to draw", parser=whole_number, metavar="INTEGER")] = 64,
    out: Annotated[Path, typer.Option(help="picture file to write", parser=path, metavar="PATH")] = Path("samples.png"),
    seed: Seed = 0,
) -> None:
    """Draw samples of a trained model into one picture."""
    if n < 1:
        raise fail("--n", n, "a whole number of at least 1")

    from pyro_vae import latent, plots
    from pyro_vae.experiments.run import open_model

    model = open_model(run)
    plots.save_figure(plots.image_grid(latent.prior_samples(model, n, seed=seed), f"Samples of {run.name}"), out)
    show(f"{n} samples: {out}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="study folder or run folder", parser=path, metavar="DIR")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="HTML file to write; report.html in the folder by default",
            show_default=False,
            parser=path,
            metavar="PATH",
        ),
    ] = None,
) -> None:
    """Write one self-contained HTML page about a study or a run."""
    from pyro_vae.experiments.report.page import report as write_report

    page = write_report(folder, out)
    show(f"{page}: {page.stat().st_size / 1e6:.1f} MB")


@data_app.command("list")
def data_list(data_root: DataRoot = None) -> None:
    """List the named data sets, and whether they are here."""
    from pyro_vae.data import load_data

    for name in DATASETS:
        try:
            train, test = load_data(name, data_root)
            show(f"{name:14} here: {len(train):,} training and {len(test):,} test images of shape {train.shape}")
        except InputError as error:
            show(f"{name:14} not here: {error}")


@data_app.command("fetch")
def data_fetch(name: Annotated[str, typer.Argument(help=", ".join(DATASETS))], data_root: DataRoot = None) -> None:
    """Download a named data set through torchvision, and check it."""
    one_of("name", name, DATASETS)

    from pyro_vae.data import load_data

    train, test = load_data(name, data_root, download=True)
    show(f"{name}: {len(train):,} training and {len(test):,} test images")


def _show_metrics(found: Sequence[Metrics], title: str) -> None:
    rows = [row for metrics in found for row in metrics.rows()]
    judges = [metrics.extractor for metrics in found if metrics.extractor is not None]
    show_table(rows, title, f"samples are judged by {judges[0]}" if judges else "")


def _each(names: Sequence[str], part: Callable[[str], None]) -> None:
    """Does each part, and then says in a line each which parts could not be done, and why.

    It is an error only where nothing could be done. A mistake of ours in one part is raised after all the others.
    """
    left_out: list[Exception] = []
    mistakes: list[Exception] = []
    for name in names:
        try:
            part(name)
        except (InputError, FloatingPointError) as error:
            left_out.append(type(error)(f"{name}: {error}"))
        except OSError:
            raise
        except Exception as error:
            mistakes.append(error)
    if len(left_out) == len(names):
        raise type(left_out[0])("; ".join(map(str, left_out)))
    for reason in left_out:
        say(f"pyro-vae: left out: {reason}")
    if mistakes:
        raise mistakes[0]


_STOPPED = {
    "train": "what was done is kept, and a training goes on with `pyro-vae train --resume --out RUN`",
    "study": "what was done is kept, and the same command goes on with it",
    "evaluate": "what was done is kept, and the same command goes on with it",
    "demo": "what was done is kept, and the same command goes on with it",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns 0 when done, 2 on bad input (one line on standard error), 1 on anything else."""
    main_thread = threading.current_thread() is threading.main_thread()  # signals are its alone
    before = signal.signal(signal.SIGTERM, _terminated) if main_thread else None
    try:
        with warnings.catch_warnings(), _without_plotting_backend():
            warnings.simplefilter(
                "default", UserWarning
            )  # notes are neither errors nor lost, whatever PYTHONWARNINGS says
            warnings.showwarning = _show_once(set())
            return _run(sys.argv[1:] if arguments is None else arguments)
    finally:
        if main_thread:
            signal.signal(signal.SIGTERM, before)


_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt


def _run(arguments: list[str]) -> int:
    try:
        code = app(arguments, standalone_mode=False) or 0
    except (InputError, TyperException) as error:
        text = error.format_message() if isinstance(error, TyperException) else str(error)
        return _report(text, 2) if text else 2  # without text: the help was asked for by no arguments
    except BrokenPipeError:  # the help, read by `head`
        silence()
        return 1
    except OSError as error:
        reason = f"{error.filename or 'file'}: {error.strerror or error}"
        return _report(f"{reason}; expected a place that can be read and written, with room", 2)
    except (FloatingPointError, distributed.PeerStoppedError) as error:
        return _report(str(error), 1)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        return _report(" ".join(str(error).split()) or "out of memory", 1)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    if code != _INTERRUPTED:
        return code
    return _report("; ".join(["stopped", *(text for name, text in _STOPPED.items() if name in arguments[:1])]), 1)


def _is_out_of_memory(error: Exception) -> bool:
    """On a GPU torch has a class for it, which need not be loaded; on the CPU there is only the text."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(text in str(error) for text in ("can't allocate memory", "Storage size calculation overflowed"))


def _report(text: str, code: int) -> int:
    if distributed.first_to_fail():  # of several processes, one speaks
        say(f"pyro-vae: {text}")
    return code


def _terminated(*_: Any) -> None:
    raise KeyboardInterrupt


@contextmanager
def _without_plotting_backend() -> Iterator[None]:
    """Figures are saved and never shown, so the backend that a notebook or a shell asks for need not be there."""
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def _show_once(shown: set[str]) -> Callable[..., None]:
    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in shown and distributed.peers().rank == 0:
            say(f"pyro-vae: note: {message}")
        shown.add(str(message))

    return note
