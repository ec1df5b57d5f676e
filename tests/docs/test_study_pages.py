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
mnist,denoise,--noise blur:2,psnr,25.5,
mnist,inpaint,--mask top,rmse_of_mean,0.25,
mnist,outliers,--against digits,auroc of elbo,0.75,
mnist,outliers,--against digits,fpr_at_95 of elbo,0.25,
mnist,outliers,--against digits,auroc of codes,0.5,
"""
SEEN = "What is seen of test images, draws of what is hidden, the mean, and the whole images."


def test_a_command_stands_once_beside_its_numbers_and_figures_say_what_they_show(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    (folder / "uses" / "mnist-inpaint-mask-top").mkdir(parents=True)
    (folder / "uses.csv").write_text(USES)
    Image.new("L", (4, 4)).save(folder / "uses" / "mnist-inpaint-mask-top" / "top-importance.png")
    monkeypatch.setattr(studies, "RESULTS", tmp_path)
    page = studies.Uses.__new__(studies.Uses)
    env = SimpleNamespace(note_dependency=lambda path: None)
    page.state = SimpleNamespace(document=SimpleNamespace(settings=SimpleNamespace(env=env)))
    shown = page.rendered({"name": "mine"}, {})
    tables = [[[cell.astext() for cell in row] for row in part.findall(nodes.row)] for part in shown]
    assert [part.astext().splitlines()[-1] for part, table in zip(shown, tables, strict=True) if not table] == [
        "mnist: denoise",
        "mnist: inpaint",
        "inpaint --mask top",
        f"mnist: inpaint, top-importance. {SEEN}",
        "mnist: outliers",
        "outliers --against digits",
    ]
    assert list(filter(None, tables)) == [
        [
            ["command", "psnr", "ssim"],
            ["denoise --noise gaussian:0.2", "20.50 ± 0.25", "0.7500 ± 0.1250"],
            ["denoise --noise blur:2", "25.50", ""],
        ],
        [["", "value"], ["rmse_of_mean", "0.2500"]],
        [["", "auroc", "fpr at 95"], ["elbo", "0.7500", "0.2500"], ["codes", "0.5000", ""]],
    ]
