"""Pages of studies, from what `docs/collect_results.py` put into `docs/results/NAME`; one that is missing says so.

On a page: `{study-table} NAME`, `{study-claims} NAME`, `{study-figures} NAME`, `{study-uses} NAME` and
`{study-run} NAME`; and in a sentence
``{measured}`NAME MODEL METRIC` ``, which is the mean over seeds, so that no number of ours is written by hand.
"""

import csv
import itertools
import json
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective, SphinxRole

from pyro_vae.experiments.report.uses import uses_of_study
from pyro_vae.metric_table import metric_named

RESULTS = Path(__file__).parents[1] / "results"
VERSIONS = ("python", "torch", "pyro", "numpy", "platform", "cores", "torch_threads", "device")


def read(env, name):
    """What `study.json` holds, and the rows of `results.csv` by model; two None where there are none."""
    folder = RESULTS / name
    for file in ("study.json", "results.csv"):
        env.note_dependency(str(folder / file))
    if not (folder / "study.json").is_file():
        return None, None
    with (folder / "results.csv").open(encoding="utf-8", newline="") as lines:
        rows = {
            row["model"]: {
                key: float(text) for key, text in row.items() if text and key != "model"
            }
            for row in csv.DictReader(lines)
        }
    return json.loads((folder / "study.json").read_text(encoding="utf-8")), rows


class OfAStudy(SphinxDirective):
    required_arguments = 1

    def run(self):
        name = self.arguments[0]
        study, rows = read(self.env, name)
        return self.absent(name) if study is None else self.rendered(study, rows)

    def absent(self, name):
        return []


class Table(OfAStudy):
    """Ours, the document's, and the difference; then what the columns are, and the notes."""

    def absent(self, name):
        text = f"Not yet run on the whole data set. The command is pyro-vae study {name} --out DIR."
        return [nodes.warning("", nodes.paragraph("", text))]

    def rendered(self, study, rows):
        columns = [
            name
            for name in study["columns"]
            if any(name in row or f"{name}_published" in row for row in rows.values())
        ]
        known = {name: metric_named(name) for name in columns}
        skipped = {
            entry["name"]: entry["error"]
            for entry in study["entries"]
            if entry["status"] == "skipped"
        }
        body = [
            [[model], *(_cell(row, name, known[name].digits) for name in columns)]
            for model, row in rows.items()
            if model not in skipped
        ]
        seeds = (
            "; sd is the standard deviation over seeds"
            if any("(sd " in cell[0] for row in body for cell in row)
            else ""
        )
        published = any(len(cell) > 1 for row in body for cell in row)
        text = f"Test images, one row per model{seeds}."
        if published:
            text += " Under ours the document's number, and ours minus it; where only the document's is there, the two"
            text += " are not comparable."
        meanings = [
            nodes.definition_list_item(
                "",
                nodes.term("", metric.heading),
                nodes.definition("", nodes.paragraph("", f"{metric.meaning} ({name})")),
            )
            for name, metric in known.items()
        ]
        notes = [
            *study["notes"],
            *(f"{model} was left out: its data set was not there." for model in skipped),
        ]
        return [
            nodes.paragraph("", f"After {study['document']}."),
            nodes.paragraph("", text),
            _table(
                [["model"], *([metric.heading] for metric in known.values())],
                body,
                numbers=True,
            ),
            nodes.raw("", "<details><summary>What the columns are</summary>", format="html"),
            nodes.definition_list("", *meanings),
            nodes.raw("", "</details>", format="html"),
            nodes.bullet_list(
                "", *(nodes.list_item("", nodes.paragraph("", note)) for note in notes)
            ),
        ]


class Claims(OfAStudy):
    """The claims of the document, and what the numbers say of each."""

    def rendered(self, study, rows):
        body = []
        for claim in study["claims"]:
            verdict = [claim["verdict"]]
            if claim["seeds"] > 1:
                verdict.append(f"in {claim['seeds_holding']} of {claim['seeds']} seeds")
            body.append([[claim["text"]], verdict, _evidence(claim)])
        return [_table([["claim"], ["here"], ["what decides"]], body)]


class Figures(OfAStudy):
    """Every figure, as large as the page allows, with a link to all of it."""

    def rendered(self, study, rows):
        return [
            self.figure(
                study, stored["file"], stored["title"], stored["caption"], stored["alt"]
            )
            for stored in study["figures"]
        ]

    def figure(self, study, file, title, caption="", alt=""):
        from PIL import Image

        path = RESULTS / study["name"] / file
        self.env.note_dependency(str(path))
        with Image.open(path) as image:
            width = image.width
        uri = f"/results/{study['name']}/{file}"
        picture = nodes.image("", uri=uri, alt=alt or title, width=f"{width}px")
        text = nodes.caption("", "", nodes.strong("", f"{title}. "), nodes.Text(caption))
        return nodes.figure("", picture, text, classes=["of-a-study"])


class Uses(Figures):
    """What commands measured of the models: of each command and model a table, and its pictures."""

    def rendered(self, study, rows):
        uses, shown = uses_of_study(RESULTS / study["name"]), []
        for title, group in itertools.groupby(uses["uses"], key=_of_which):
            of_title = [
                picture for picture in uses["pictures"] if picture[1].split(",")[0] == title
            ]
            shown += [nodes.rubric("", title), *_numbers(list(group))]
            shown += [self.figure(study, *picture) for picture in of_title]
        return shown


def _of_which(use):
    return f"{use['model']}: {use['command'].split()[0]}"


def _numbers(uses):
    """A row for each of the options with which a command ran; where it ran once, for what it measured."""
    if len(uses) > 1:
        cells = {
            (use["command"], row["quantity"]): row["text"]
            for use in uses
            for row in use["rows"]
        }
        return [_crossed("command", cells, _literal)]
    (use,) = uses
    quantities = [row["quantity"].partition(" of ") for row in use["rows"]]
    if all(of for _, of, _ in quantities):  # such as `auroc of elbo`
        cells = {
            (what, quantity): row["text"]
            for (quantity, _, what), row in zip(quantities, use["rows"], strict=True)
        }
    else:
        cells = {(row["quantity"], "value"): row["text"] for row in use["rows"]}
    return [_literal(use["command"]), _crossed("", cells, _plain)]


def _crossed(corner, cells, shown):
    """A table of texts by their row and column."""
    lefts, tops = (list(dict.fromkeys(keys)) for keys in zip(*cells, strict=True))
    body = [
        [nodes.entry("", shown(left)), *([cells.get((left, top), "")] for top in tops)]
        for left in lefts
    ]
    return _table([[corner], *([top.replace("_", " ")] for top in tops)], body, numbers=True)


def _literal(text):
    return nodes.paragraph("", "", nodes.literal("", text))


def _plain(text):
    return nodes.paragraph("", text)


class Run(OfAStudy):
    """Commands, versions, machine, and the seconds of each model."""

    def rendered(self, study, rows):
        versions = ", ".join(
            f"{name.replace('_', ' ')} {study['environment'][name]}"
            for name in VERSIONS
            if name in study["environment"]
        )
        body = [
            [
                [entry["name"]],
                [str(len(entry["seeds"]))],
                [f"{study['seconds']['training'][entry['name']]:.0f}"],
            ]
            for entry in study["entries"]
            if entry["name"] in study["seconds"]["training"]
        ]
        return [
            nodes.literal_block("", study["command"], language="console"),
            nodes.paragraph(
                "",
                f"{versions}. Training took {study['seconds']['total']:,.0f} seconds in all:",
            ),
            _table([["model"], ["seeds"], ["seconds, all seeds"]], body, numbers=True),
        ]


class Measured(SphinxRole):
    """``{measured}`NAME MODEL METRIC` ``; a metric may end in `_published`."""

    def run(self):
        name, model, metric = self.text.split()
        _, rows = read(self.env, name)
        if rows is None:
            return [nodes.Text("(not yet run)")], []
        row = rows[model]
        known = metric_named(metric.removesuffix("_published"))
        text = _number(row[metric], known.digits)
        if f"{metric}_sd" in row:
            text += f" (sd {_number(row[f'{metric}_sd'], known.digits)})"
        return [nodes.Text(text)], []


def _evidence(claim):
    """The means that decide: one metric of several models, or several metrics of one."""
    metrics = claim["metric"].split(" < ")
    known = [metric_named(name) for name in metrics]
    if len(known) == 1:
        known *= len(claim["rising"])
    values = [
        _number(mean, metric.digits)
        + (f" (sd {_number(sd, metric.digits)})" if sd is not None else "")
        for metric, mean, sd in zip(known, claim["means"], claim["sds"], strict=True)
    ]
    names = claim["rising"] if len(metrics) == 1 else [metric.label for metric in known]
    subject = known[0].label if len(metrics) == 1 else ", ".join(dict.fromkeys(claim["rising"]))
    means = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
    return [f"{subject}: {means}", claim["reason"]]


def _cell(row, name, digits):
    """Lines of a cell: ours, the document's, the difference."""
    lines = [_number(row[name], digits) if name in row else "\N{EN DASH}"]
    if f"{name}_sd" in row:
        lines[0] += f" (sd {_number(row[f'{name}_sd'], digits)})"
    if f"{name}_published" in row:
        lines.append(f"document {_number(row[f'{name}_published'], digits)}")
    if f"{name}_difference" in row:
        lines.append(f"difference {_number(row[f'{name}_difference'], digits, '+')}")
    return lines


def _number(value, digits, sign=""):
    return f"{value:{sign},.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _table(head, body, numbers=False):
    """A table that scrolls in its own box; the lines after the first of a cell are small."""
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
    group += nodes.thead("", _row(head))
    group += nodes.tbody("", *map(_row, body))
    kind = "numbers" if numbers else "words"
    return nodes.container(
        "", nodes.table("", group), classes=["wide-table", "of-a-study", kind]
    )


def _row(cells):
    cells = [
        cell if isinstance(cell, nodes.entry) else nodes.entry("", *_lines(cell))
        for cell in cells
    ]
    return nodes.row("", *cells)


def _lines(cell):
    return [
        nodes.paragraph("", line, classes=["small"] if number else [])
        for number, line in enumerate(cell)
    ]


def setup(app):
    for name, directive in {
        "table": Table,
        "claims": Claims,
        "figures": Figures,
        "run": Run,
        "uses": Uses,
    }.items():
        app.add_directive(f"study-{name}", directive)
    app.add_role("measured", Measured())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
