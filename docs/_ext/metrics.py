"""`{metric-table}`: every number of `metrics.json`, from the table that the command line and the report use."""

from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from studies import _table

from pyro_vae import metric_table


class MetricTable(SphinxDirective):
    def run(self):
        self.env.note_dependency(metric_table.__file__)
        rows = metric_table.METRICS | metric_table.ERRORS | metric_table.DETAILS
        body = [
            [[metric.label], [name], [metric.unit], [metric.direction], [metric.meaning]]
            for name, metric in rows.items()
        ]
        head = [["metric"], ["name"], ["unit"], ["better"], ["meaning"]]
        return [nodes.paragraph("", f"{len(body)} numbers."), _table(head, body)]


def setup(app):
    app.add_directive("metric-table", MetricTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
