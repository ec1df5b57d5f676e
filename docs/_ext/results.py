"""Tables made from the committed results when the site is built, never by hand."""

import dataclasses
import json
import math
import operator
import statistics
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]


class Benchmark(SphinxDirective):
    """`{benchmark} mlp` or `{benchmark} conv`: the step's benchmark, from benchmarks/svi_step.json."""

    required_arguments = 1

    def run(self):
        rows = _read(self, "benchmarks/svi_step.json")[self.arguments[0]]
        of_pyro = rows[0]["ms_per_step_of_epochs"]
        lines = [
            "| step | ms | over Pyro | first epoch, s | loss after, nats |",
            "|---|---:|---:|---:|---:|",
        ]
        for row in rows:
            ratio = statistics.median(
                map(operator.truediv, row["ms_per_step_of_epochs"], of_pyro)
            )  # within a round
            lines.append(
                f"| {row['who']} | {row['ms_per_step']:.2f} | {ratio:.2f} "
                f"| {row['first_epoch_seconds']:.1f} | {row['loss_nats']:.2f} |"
            )
        return _table(self, lines)


class Runs(SphinxDirective):
    """`{runs}`: the runs of benchmarks/readme_numbers.json."""

    def run(self):
        results = _read(self, "benchmarks/readme_numbers.json")["results"]
        lines = ["| run | reconstruction | KL | ELBO | NLL |", "|---|---:|---:|---:|---:|"]
        for name, run in results.items():
            metrics = run.get("metrics", run)
            cells = [
                f"{metrics[key]:.2f} ± {metrics[error]:.2f}"
                if metrics.get(error) is not None
                else "-"
                for key, error in (
                    ("reconstruction_nats", "reconstruction_se"),
                    ("kl_per_sample", "kl_se"),
                    ("elbo_nats", "elbo_se"),
                    ("nll_nats", "nll_se"),
                )
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return _table(self, lines)


class Family(SphinxDirective):
    """`{family} ladder`: the measurement of a kind of model, from benchmarks/families/ladder.json."""

    required_arguments = 1

    def run(self):
        name = f"benchmarks/families/{self.arguments[0]}.json"
        if not (ROOT / name).is_file():
            return [nodes.paragraph("", "Not yet measured.")]
        results = _read(self, name)
        rows = [
            {key: value for key, value in row.items() if value is not None}
            for row in results["rows"]
        ]
        lines = [
            "| model | metric | here | published | images, K | epochs |",
            "|---|---|---:|---|---|---|",
        ]
        for last, row in zip([{}, *rows], rows, strict=False):
            cells = (
                "" if row["name"] == last.get("name") else row["name"],
                row["metric"],
                _measured(row),
                _published(row),
                _size(row),
                str(row.get("epochs", "")),
            )
            lines.append(f"| {' | '.join(cells)} |")
        budget = nodes.paragraph("", f"{results['budget'].rstrip('.')}.")
        return [*_table(self, lines), budget, *_made_by(results)]


class Rows(SphinxDirective):
    """`{rows} FILE COLUMN...`: columns of the rows of a file of results, numbers with their errors.

    `:where: dataset=mnist` leaves out all other rows.
    """

    required_arguments = 2
    final_argument_whitespace = True
    option_spec: ClassVar = {"where": str}

    def run(self):
        columns = self.arguments[1].split()
        results = _read_if_measured(self, self.arguments[0])
        if not results:
            return [nodes.paragraph("", "Not yet measured.")]
        rows = _chosen(results["rows"], self.options)
        numeric = {name for name in columns if any(_is_number(row.get(name)) for row in rows)}
        lines = [
            f"| {' | '.join(name.replace('_', ' ') for name in columns)} |",
            f"|{'|'.join('---:' if name in numeric else '---' for name in columns)}|",
            *(f"| {' | '.join(_of_row(row, name) for name in columns)} |" for row in rows),
        ]
        return [*_table(self, lines), *_made_by(results)]


class Crossed(SphinxDirective):
    """`{crossed} FILE VALUE DOWN ACROSS`: a value of the rows of a file of results, for each DOWN and each ACROSS.

    `:where:` as that of `{rows}`; `:no-errors:` leaves out what is known of them; `:no-command:` what made the file.
    """

    required_arguments = 4
    option_spec: ClassVar = {
        "where": str,
        "no-errors": directives.flag,
        "no-command": directives.flag,
    }

    def run(self):
        name, value, down, across = self.arguments
        results = _read_if_measured(self, name)
        if not results:
            return [nodes.paragraph("", "Not yet measured.")]
        rows = _chosen(results["rows"], self.options)
        shown = (
            (lambda row: _number(row[value], _error(row, value)))
            if "no-errors" in self.options
            else (lambda row: _of_row(row, value))
        )
        cells = {(row[down], row[across]): shown(row) for row in rows}
        lefts, tops = (list(dict.fromkeys(row[key] for row in rows)) for key in (down, across))
        lines = [
            f"| {down.replace('_', ' ')} | {' | '.join(tops)} |",
            f"|---|{'---:|' * len(tops)}",
            *(
                f"| {left} | {' | '.join(cells.get((left, top), '') for top in tops)} |"
                for left in lefts
            ),
        ]
        if "no-command" in self.options:
            return _table(self, lines)
        return [*_table(self, lines), *_made_by(results)]


class PyroPrograms(SphinxDirective):
    """`{pyro-programs}`: Pyro's examples and tutorials under CompiledSVI, from benchmarks/pyro_programs.json."""

    def run(self):
        results = _read_if_measured(self, "benchmarks/pyro_programs.json")
        if "programs" not in results:
            return [nodes.paragraph("", "Not yet measured.")]
        lines = [
            "| program | objective | SVIs, captured | steps | largest difference | time over SVI | why eagerly |",
            "|---|---|---|---:|---:|---:|---|",
        ]
        for row in results["programs"]:
            program = f"`{row['program']} {row['arguments']}`".replace(" `", "`")
            if "not_run" in row:
                lines.append(f"| {program} | | | | | | not run: {_cell(row['not_run'])} |")
                continue
            ratio = row["time_over_svi"]
            cells = (
                program,
                ", ".join(row["objectives"]),
                f"{row['svis']}, {row['captured']}",
                str(row["steps"]),
                "none to compare" if row["difference"] is None else f"{row['difference']:.0e}",
                "" if ratio is None else f"{ratio:.2f}",
                "; ".join(map(_cell, [*row["reasons"], *filter(None, [row.get("error")])])),
            )
            lines.append(f"| {' | '.join(cells)} |")
        return [*_table(self, lines), *_made_by(results)]


class PyroTests(SphinxDirective):
    """`{pyro-tests}`: Pyro's tests under CompiledSVI, from benchmarks/pyro_programs.json."""

    def run(self):
        lines = [
            "| tests | ended | pass with SVI | pass with CompiledSVI | SVIs, captured | steps "
            "| largest difference | not the same |",
            "|---|---|---:|---:|---|---:|---:|---|",
        ]
        results = _read_if_measured(self, "benchmarks/pyro_programs.json")
        if "tests" not in results:
            return [nodes.paragraph("", "Not yet measured.")]
        for row in results["tests"]:
            last_step = row.get("last_step")
            cells = (
                row["tests"],
                f"{row['stopped']} at {last_step}" if last_step else "",
                str(row["passed_with_svi"]),
                str(row["passed"]),
                f"{row['svis']}, {row['captured']}" if "svis" in row else "",
                str(row.get("steps", "")),
                f"{row['difference']:.0e}" if row.get("difference") is not None else "",
                "; ".join(f"`{test}`: {_cell(how)}" for test, how in row["differing"].items()),
            )
            lines.append(f"| {' | '.join(cells)} |")
        return _table(self, lines)


def _chosen(rows, options):
    """Rows with the values of `:where:`."""
    wanted = dict(pair.split("=") for pair in options.get("where", "").split())
    return [
        row for row in rows if all(str(row.get(key)) == value for key, value in wanted.items())
    ]


def _of_row(row, name):
    """A cell: a number with what is known of its error, or a word."""
    value = row.get(name)
    if not _is_number(value):
        return "" if value is None else _cell(str(value)).strip("`")
    error = _error(row, name)
    if row.get(f"{name}_interval"):
        low, high = (_number(end, error) for end in row[f"{name}_interval"])
        return f"{_number(value, error)} ({low} to {high})"
    errors = {"": f"{name}_se", " (sd)": f"{name}_sd"}
    return _number(value, error) + "".join(
        f" ± {_number(row[key], row[key])}{what}"
        for what, key in errors.items()
        if row.get(key) is not None
    )


def _error(row, name):
    """Half of the interval, the standard error or the standard deviation of a value; None where it has none."""
    low, high = row.get(f"{name}_interval") or (0, 0)
    return (high - low) / 2 or row.get(f"{name}_se") or row.get(f"{name}_sd")


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(text):
    """Plain text in a cell of a table."""
    return f"`{text.replace('`', chr(39)).replace('|', '/')}`" if text else ""


def _measured(row):
    """The value with its error, and what the error is of, where it is not that over the images."""
    if "value" not in row:
        return "-"
    text = _number(row["value"], row.get("error"))
    if "error" in row:
        text += f" ± {_number(row['error'], row['error'])}"
    of = row.get("error_is", "")
    return f"{text} ({of})" if of and not of.startswith("se over images") else text


def _published(row):
    if "published" not in row:
        return ""
    value = row["published"]
    text = _number(value) if isinstance(value, int | float) else str(value)
    source = row.get("published_source", "")
    link, _, rest = source.partition(",")
    return (
        f"[{text}]({link} '{rest.strip()}')"
        if link.startswith("http") and " " not in link
        else f"{text} ({source})"
    )


def _size(row):
    images = f"{row['n_images']:,}" if "n_images" in row else ""
    return f"{images}, {row['k']:,}" if "k" in row else images


def _number(value, error=None):
    """To the second digit of its error; without one, to four digits."""
    if error:
        return f"{value:,.{max(0, 1 - math.floor(math.log10(error)))}f}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.1f}"


class Metrics(SphinxDirective):
    """`{metrics}`: each metric and what it means, as `Metrics` itself says it."""

    def run(self):
        from pyro_vae.evaluation import Metrics

        lines = ["| name in `metrics.json` | in tables | meaning |", "|---|---|---|"]
        for field in dataclasses.fields(Metrics):
            if "label" in field.metadata:
                meaning = field.metadata["meaning"].replace("|", "\\|")
                lines.append(f"| `{field.name}` | {field.metadata['label']} | {meaning} |")
        return _table(self, lines)


class Environment(SphinxDirective):
    """`{environment} FILE`: what a file of results says of the machine that it comes from."""

    required_arguments = 1

    def run(self):
        return _machine(_read(self, self.arguments[0])["environment"])


def _machine(environment):
    text = ", ".join(
        f"{name} {value}"
        for name, value in environment.items()
        if name in ("torch", "pyro", "cores", "device")
    )
    return [nodes.paragraph("", f"Measured with {text}.")]


def _read(directive, name):
    path = ROOT / name
    directive.env.note_dependency(str(path))
    return json.loads(path.read_text(encoding="utf-8"))


def _read_if_measured(directive, name):
    return _read(directive, name) if (ROOT / name).is_file() else {}


def _made_by(results):
    """The command and the machine."""
    return [
        nodes.paragraph("", "", nodes.literal("", results["command"])),
        *_machine(results["environment"]),
    ]


def _table(directive, lines):
    place = nodes.container(classes=["wide-table"])
    directive.state.nested_parse(StringList(lines, "results"), 0, place)
    return [place]


def setup(app):
    app.add_directive("benchmark", Benchmark)
    app.add_directive("runs", Runs)
    app.add_directive("environment", Environment)
    app.add_directive("metrics", Metrics)
    app.add_directive("family", Family)
    app.add_directive("rows", Rows)
    app.add_directive("crossed", Crossed)
    app.add_directive("pyro-programs", PyroPrograms)
    app.add_directive("pyro-tests", PyroTests)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
