"""The pages of studies: what stands in their tables and under their figures."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "_ext"))
studies = pytest.importorskip("studies", reason="needs Sphinx")  # which the extra `docs` has
nodes = studies.nodes

USES = """model,command,options,quantity,value,se
mnist,denoise,--noise gaussian:0.2,psnr,20.5,0.25
mnist,denoise,--noise gaussian:0.2,ssim,0.75,0.125
mnist,inpaint,--mask top,rmse_of_mean,0.25,
"""


def test_a_command_stands_once_beside_its_numbers_and_figures_say_what_they_show(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    (folder / "uses" / "mnist-inpaint-mask-top").mkdir(parents=True)
    (folder / "uses.csv").write_text(USES)
    Image.new("L", (4, 4)).save(folder / "uses" / "mnist-inpaint-mask-top" / "top-importance.png")
    monkeypatch.setattr(studies, "RESULTS", tmp_path)
    page = studies.Uses.__new__(studies.Uses)
    env = SimpleNamespace(note_dependency=lambda path: None)
    page.state = SimpleNamespace(document=SimpleNamespace(settings=SimpleNamespace(env=env)))
    table, figure = page.rendered({"name": "mine"}, {})
    (body,) = table.findall(nodes.tbody)
    assert [[(cell.astext(), cell.get("morerows", 0)) for cell in row] for row in body] == [
        [("mnist", 1), ("denoise --noise gaussian:0.2", 1), ("psnr", 0), ("20.50 ± 0.25", 0)],
        [("ssim", 0), ("0.7500 ± 0.1250", 0)],
        [("mnist", 0), ("inpaint --mask top", 0), ("rmse_of_mean", 0), ("0.2500", 0)],
    ]
    (caption,) = figure.findall(nodes.caption)
    seen = "What is seen of test images, draws of what is hidden, the mean, and the whole images."
    assert caption.astext() == f"mnist: inpaint, top-importance. {seen}"
