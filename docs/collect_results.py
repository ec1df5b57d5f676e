"""Copies what the pages of results show out of study folders: `python docs/collect_results.py STUDY_FOLDER...`.

Into `docs/results/NAME/` go the tables, the figures, and of each run its settings, numbers, losses and surroundings;
no weights, no checkpoints. A study that is not finished, and a text that names a place on this machine, are refused
before anything is copied. `--decide` instead of folders decides the claims of the studies that are here once more.
"""

import json
import re
import shutil
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
MAX_BYTES = 8_000_000  # of all studies together
OF_A_STUDY = ("study.json", "results.csv", "results.md")
OF_A_RUN = ("spec.json", "metrics.json", "environment.json", "history.csv")
# A path from the root of a machine: no word, dot or slash before it, so that 1/2, ../data and https:// are none.
ABSOLUTE = re.compile(r"""(?<![\w./~:)<-])(/(?!/)[\w.~-]+(/[\w.~-]+)*|[A-Za-z]:[\\/]\w)""")


def parts(folder):
    """The files to copy, relative to a study folder."""
    study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    unfinished = [
        entry["name"]
        for entry in study["entries"]
        if entry["status"] not in ("done", "skipped")
    ]
    if unfinished:
        sys.exit(f"{folder}: not finished: {', '.join(unfinished)}")
    wanted = [
        Path(name) for name in (*OF_A_STUDY, *(figure["file"] for figure in study["figures"]))
    ]
    if (folder / "uses.csv").is_file():
        wanted += [Path("uses.csv"), Path("uses.md")]
        wanted += [path.relative_to(folder) for path in sorted(folder.glob("uses/*/*.png"))]
    for entry in study["entries"]:
        wanted += [Path(run) / name for run in entry["runs"] for name in OF_A_RUN]
    for name in wanted:
        if not (folder / name).is_file():
            sys.exit(f"{folder / name}: given no file, expected one of a finished study")
        if name.suffix != ".png":
            for number, line in enumerate(
                (folder / name).read_text(encoding="utf-8").splitlines(), 1
            ):
                if path := ABSOLUTE.search(line):
                    sys.exit(
                        f"{folder / name}, line {number}: given the path {path[0]}, expected none of a machine"
                    )
    return study["name"], wanted


def collect(folders, results=RESULTS):
    """Copies the studies, each in place of what was there of it."""
    studies = [(folder, *parts(folder)) for folder in map(Path, folders)]
    for folder, name, wanted in studies:
        shutil.rmtree(results / name, ignore_errors=True)
        for file in wanted:
            (results / name / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, results / name / file)
        print(
            f"{results / name}: {len(wanted)} files, {sum((folder / file).stat().st_size for file in wanted):,} bytes"
        )
    total = sum(path.stat().st_size for path in results.rglob("*") if path.is_file())
    if total > MAX_BYTES:
        sys.exit(f"{results}: given {total:,} bytes, expected at most {MAX_BYTES:,}")


def decide(results=RESULTS):
    """Claims and differences of the studies that are here, once more from the numbers of their runs.

    Studies that were run before per-image values were stored are decided by seeds or by the standard errors of
    `metrics.json`, or not at all. Those decided by per-image values, which are not copied here, stay as they are.
    """
    from pyro_vae.experiments import claims, tables
    from pyro_vae.experiments.study import named
    from pyro_vae.experiments.study_folder import StudyRun, scores_of
    from pyro_vae.spec import read_spec

    for path in sorted(results.glob("*/study.json")):
        stored, definition = (
            json.loads(path.read_text(encoding="utf-8")),
            named(path.parent.name),
        )
        if any(
            "paired" in step["error_of"]
            for claim in stored["claims"]
            for step in claim["steps"]
            if step
        ):
            continue
        runs = {
            entry["name"]: [
                StudyRun(entry["name"], read_spec(path.parent / run), path.parent / run, ())
                for run in entry["runs"]
            ]
            for entry in stored["entries"]
            if entry["runs"]
        }
        scores = scores_of(runs)
        specs = {name: several[0].spec for name, several in runs.items()}
        differences = tables.differences(specs, stored["columns"], scores)
        stored["claims"] = claims.verdicts(definition.claims, scores)
        stored["differences"] = [difference.to_dict() for difference in differences]
        path.write_text(json.dumps(stored, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        page = path.with_name("results.md")
        table = page.read_text(encoding="utf-8").split("\nDifferences")[0]
        page.write_text(table + tables.differences_to_markdown(differences), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--decide"]:
        decide()
    else:
        collect(sys.argv[1:] or sys.exit(__doc__))
