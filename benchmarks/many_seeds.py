"""Times an epoch of 8 seeds at once by `fit_many`, beside an epoch of a single seed by `fit`.

    python benchmarks/many_seeds.py --data-root DATA [--device cuda] [--seeds 8] [--epochs 4]

MLP 784-400-20, tanh, Bernoulli, batch 128, binarized MNIST. A row is the median over epochs, the first one left out,
with its capture and compilation. Prints a Markdown table and writes many_seeds.json, or many_seeds_cuda.json.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

from pyro_vae import Spec, build, fit, fit_many, load_data
from pyro_vae._utils import files
from pyro_vae._utils.device import choose_device
from pyro_vae._utils.environment import environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=4, help="at least 2; the first is not counted")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the JSON file")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    images = load_data("mnist", arguments.data_root).train.draw(arguments.images)
    spec = Spec(
        dataset="mnist",
        image_shape=images.shape,
        binarization="static",
        validation_fraction=0.0,
        epochs=arguments.epochs,
    )
    rows = []
    for backend in ("capture", "inductor") if device.type == "cpu" else ("capture", "cudagraph", "inductor"):
        history_alone = fit(
            build(spec),
            images,
            epochs=spec.epochs,
            binarization=spec.binarization,
            compile=backend,
            device=device,
            progress=False,
        )
        several = replace(spec, compile=backend)
        runs = fit_many(several, images, seeds=range(arguments.seeds), device=device, progress=False)
        alone, *of_seeds = (
            statistics.median(history.column("seconds")[1:]) for history in (history_alone, *(run[1] for run in runs))
        )
        in_turn = device.type == "cpu" and backend == "inductor"  # else the seconds of each are those of all
        together = sum(of_seeds) if in_turn else of_seeds[0]
        rows.append(
            {
                "backend": backend,
                "one_seed_epoch_seconds": alone,
                "all_seeds_epoch_seconds": together,
                "all_over_one": together / alone,
                "loss_of_seed_0_alone_nats": history_alone.column("train_loss_nats")[-1],
                "loss_of_seed_0_among_others_nats": runs[0][1].column("train_loss_nats")[-1],
            }
        )
    print(f"| backend | one seed, s per epoch | {arguments.seeds} seeds, s per epoch | ratio |\n|---|---|---|---|")
    for row in rows:
        seconds = f"{row['one_seed_epoch_seconds']:.2f} | {row['all_seeds_epoch_seconds']:.2f}"
        print(f"| {row['backend']} | {seconds} | {row['all_over_one']:.2f} |")
    results = {
        "environment": environment(arguments.device),
        "seeds": arguments.seeds,
        "epochs": arguments.epochs,
        "images": len(images),
        "rows": rows,
    }
    name = "many_seeds.json" if device.type == "cpu" else "many_seeds_cuda.json"
    files.write_json(arguments.out / name, results)


if __name__ == "__main__":
    main()
