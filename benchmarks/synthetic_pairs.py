"""What synthetic_lesions_unet learns from: pairs made of single scans, as a picture.

    python -m benchmarks.synthetic_pairs --cohort FOLDER --work FOLDER --out PICTURE.png

The cohort is one of the simulator (``msseg simulate FOLDER preset=small``) or any other in the
challenge's layout with masks of all lesions. The two networks that erase and paint are fitted on
its training patients with the settings of ``--size``, unless the work folder has them already.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.files import atomic_write
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.method.staged import StagedMethod, frozen_network
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.run.assemble.system import build_cache, build_method, instantiate
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.sample.synthetic_pairs import Donors, Fate, PairSynthesis, Plan
from msseg_lightning.sample.visit import visits_of

COLOURS = {
    Fate.ERASED_FIRST: "#e4572e",
    Fate.ERASED_SECOND: "#3a86ff",
    Fate.ERASED_BOTH: "#9d4edd",
    Fate.KEPT: "#2a9d8f",
}
WORDS = {
    Fate.ERASED_FIRST: "erased at time 1: new",
    Fate.ERASED_SECOND: "erased at time 2: vanished",
    Fate.ERASED_BOTH: "erased at both",
    Fate.KEPT: "kept: old",
}
PAINT = "#ffbe0b"


def make_pairs(
    cohort: Path, work: Path, size: str, edge: int, count: int, seed: int
) -> tuple[list[Plan], NDArray[np.float32], NDArray[np.float32]]:
    """Plans, images (B, 2, X, Y, Z) and new lesions (B, 1, X, Y, Z)."""
    config = compose_config(
        [
            f"size={size}",
            f"read.root={cohort}",
            f"paths.cache={work}",
            "track=off",
            "data.workers=1",
            f"seed={seed}",
        ],
        "synthetic_lesions_unet",
    )
    part = json.loads((cohort / "split.json").read_text(encoding="utf-8"))["train"]
    pairs = [subject for subject in Msseg2(cohort).subjects() if subject.id in part]
    method = build_method(config)
    assert isinstance(method, StagedMethod)
    networks = {}
    for stage in method.stages:
        fitted = sorted(
            work.glob(f"stages/{stage.name}-*/stage.json"), key=lambda f: f.stat().st_mtime
        )
        if not fitted:
            left = stage.ensure(pairs, {})
            networks[stage.name] = left.network()
        else:  # whichever version of the program fitted it: this is a picture
            networks[stage.name] = frozen_network(stage.make, fitted[-1].parent / "model")
    recipe: dict[str, Any] = config["sample"]["loader"]["synthesis"]
    recipe["sampler"] |= {"size": [edge] * 3, "positive_ratio": 1.0}
    synthesis = instantiate(recipe)
    assert isinstance(synthesis, PairSynthesis)
    visits = visits_of(build_cache(config).prepare(pairs))
    donors = Donors(visits, synthesis.connectivity)
    plans = [
        synthesis.plan(visits, donors, keyed_generator(seed, "picture", index))
        for index in range(count)
    ]
    images, new = synthesis.render(plans, networks["inpaint"], networks["generate"])
    return plans, images, new


def draw(plans: list[Plan], images: NDArray[Any], new: NDArray[Any], out: Path) -> None:
    """One row per pair: where lesions go, both time points, their difference, the mask."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    titles = ("the scan and its lesions", "time 1", "time 2", "time 2 - time 1", "new lesions")
    figure, axes = plt.subplots(
        len(plans), 5, figsize=(11, 2.25 * len(plans) + 0.7), squeeze=False, layout="constrained"
    )
    for row, plan, pair, mask in zip(axes, plans, images, new, strict=True):
        # the axial plane in which most happens; painted lesions are few
        events = plan.erase.any(0) * 1.0 + 20 * plan.paint.any(0) + mask[0]
        plane = int(events.sum((0, 1)).argmax())

        def shown(volume: NDArray[Any], plane: int = plane) -> NDArray[Any]:
            return np.asarray(volume[:, :, plane].T)

        low, high = np.percentile(plan.copies[plan.copies != 0], [1, 99.8])
        for column, image in ((0, plan.copies[0]), (1, pair[0]), (2, pair[1]), (4, pair[1])):
            row[column].imshow(shown(image), cmap="gray", origin="lower", vmin=low, vmax=high)
        row[3].imshow(
            shown(pair[1] - pair[0]),
            cmap="RdBu_r",
            origin="lower",
            vmin=low - high,
            vmax=high - low,
        )
        for number, fate in enumerate(plan.fates, start=1):
            outline(row[0], shown(plan.lesions == number), COLOURS[fate])
        outline(row[0], shown(plan.paint.any(0)), PAINT)
        outline(row[4], shown(mask[0] > 0), COLOURS[Fate.ERASED_FIRST])
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    handles = [Line2D([], [], color=COLOURS[fate], label=WORDS[fate]) for fate in Fate]
    handles.append(Line2D([], [], color=PAINT, label="painted at time 1, time 2 or both"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    with atomic_write(out) as temporary:
        figure.savefig(temporary, dpi=130, format="png", metadata={"Software": None})
    plt.close(figure)


def outline(axis: Any, mask: NDArray[np.bool_], colour: str) -> None:
    """The border of a mask in this plane, where it has one."""
    if mask.any():
        axis.contour(mask.astype(float), levels=[0.5], colors=[colour], linewidths=1.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument(
        "--work", type=Path, required=True, help="cache of prepared scans, networks"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/images/synthetic_pairs.png"))
    parser.add_argument("--size", default="cpu", help="a size of the experiment")
    parser.add_argument("--edge", type=int, default=56, help="of the patches shown, in voxels")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    plans, images, new = make_pairs(
        given.cohort, given.work, given.size, given.edge, given.pairs, given.seed
    )
    draw(plans, images, new, given.out)


if __name__ == "__main__":
    main()
