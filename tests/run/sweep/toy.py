"""A search whose trials take no time."""

from __future__ import annotations

import json
import time

from msseg_lightning.run.sweep.space import parse


def search(trials=6, folds=(0, 1), pruner="none", **changes):
    return parse(
        {
            "trials": trials,
            "folds": list(folds),
            "seed": 0,
            "sampler": "random",
            "pruner": pruner,
            "objective": [{"metric": "score", "direction": "maximize"}],
            "space": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
            "retrain": {"best": 2, "seeds": [1, 2]},
            **changes,
        }
    )


class Toy:
    """Scores a value; keeps a line per call on disk."""

    def __init__(self, log, pause=0.0):
        self.log, self.pause = log, pause

    def __call__(self, values, fold, seed, folder):
        time.sleep(self.pause)
        with self.log.open("a") as stream:
            stream.write(json.dumps([values["x"], fold, seed]) + "\n")
        return {"score": values["x"] + 0.01 * fold}
