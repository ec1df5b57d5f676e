"""Numbered equations with numbers that stay: `{equation} 4.2 What it says` on a page, `` {ref}`eq-4.2` `` elsewhere.

The number is written by hand, so that comments in the code can cite it. `{equations}` lists them all.
"""

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class Equation(SphinxDirective):
    """One displayed equation: its number, what it says, and TeX."""

    has_content = True
    required_arguments = 1
    optional_arguments = 1
    final_argument_whitespace = True

    def run(self):
        number, text = self.arguments[0], " ".join(self.arguments[1:])
        known = self.env.equations_by_number = getattr(self.env, "equations_by_number", {})
        if number in known and known[number]["page"] != self.env.docname:
            raise self.error(f"equation {number} is on {known[number]['page']} already")
        if not text:
            raise self.error(f"equation {number} says nothing")
        known[number] = {"page": self.env.docname, "text": text}
        label = f"eq-{number}"
        tex = "\n".join(self.content)
        math = nodes.math_block(
            tex, rf"\begin{{equation*}}{tex}\tag{{{number}}}\end{{equation*}}", nowrap=True
        )
        math["no-wrap"] = True
        math["number"] = None
        box = nodes.container("", math, classes=["equation-box"], ids=[label.replace(".", "-")])
        self.set_source_info(math)
        domain = self.env.domains["std"]
        domain.note_hyperlink_target(
            label, self.env.docname, label.replace(".", "-"), f"({number})"
        )
        return [box]


class equation_list(nodes.General, nodes.Element):  # noqa: N801 (docutils' naming)
    """Stands for the table until all pages are read."""


class Equations(SphinxDirective):
    """The table of all equations."""

    def run(self):
        return [equation_list("")]


def _fill(app, doctree, docname):
    for place in list(doctree.findall(equation_list)):
        items = nodes.bullet_list(classes=["equation-list"])
        for number, equation in sorted(
            _known(app.env).items(), key=lambda item: [int(part) for part in item[0].split(".")]
        ):
            uri = (
                app.builder.get_relative_uri(docname, equation["page"])
                + f"#eq-{number.replace('.', '-')}"
            )
            link = nodes.reference("", f"({number})", internal=True, refuri=uri)
            items += nodes.list_item(
                "", nodes.paragraph("", "", link, nodes.Text(f" {equation['text']}"))
            )
        place.replace_self(items)


def _known(env):
    return getattr(env, "equations_by_number", {})


def _forget(app, env, docname):
    env.equations_by_number = {
        number: equation
        for number, equation in _known(env).items()
        if equation["page"] != docname
    }


def _merge(app, env, docnames, other):
    env.equations_by_number = {
        **_known(env),
        **{
            number: equation
            for number, equation in _known(other).items()
            if equation["page"] in docnames
        },
    }


def setup(app):
    app.add_directive("equation", Equation)
    app.add_directive("equations", Equations)
    app.add_node(equation_list)
    app.connect("doctree-resolved", _fill)
    app.connect("env-purge-doc", _forget)
    app.connect("env-merge-info", _merge)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
