"""What a notebook needs: pairs, a data module for a network of one's own, maps and scores.

``import msseg_lightning`` offers these functions; nothing here needs a file of settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from msseg_lightning.core.method import Method
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET, LongitudinalSubject
from msseg_lightning.evaluate.score import CaseScore, score_case
from msseg_lightning.infer.sliding_window import SlidingWindow
from msseg_lightning.method.network_method import Channels, NetworkMethod
from msseg_lightning.preprocess.cache import PreparedCache
from msseg_lightning.read.nifti import gate_options
from msseg_lightning.read.reader import read_subjects
from msseg_lightning.read.reference import has_new_lesions
from msseg_lightning.run.assemble.system import (
    build_cache,
    build_sampler,
    instantiate,
    monitor_scores,
    postprocess_rules,
)
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.predict.scores import score_options, score_prediction
from msseg_lightning.run.predict.trained import find_model, load_method
from msseg_lightning.sample.loader import PatchLoader
from msseg_lightning.split.split import Split
from msseg_lightning.train.datamodule import LongitudinalDataModule
from msseg_lightning.train.task import Task, WholeVolumeValidator
from msseg_lightning.train.training import Hardware, Training

IMAGES = (BASELINE, FOLLOWUP)


def load_pairs(
    layout: str, root: str | Path, settings: Sequence[str] = ()
) -> list[LongitudinalSubject]:
    """Pairs of scans of a data set, with their masks if there are any; no voxel is read.

    Args:
        layout: ``msseg2``, ``bids``, ``table``, ``open_ms`` ... as in ``read=LAYOUT``.
        root: folder of the data set.
        settings: of the reader, as ``read.registered=true``.
    """
    config = compose_config([f"read={layout}", f"read.root={root}", *settings])
    return read_subjects(instantiate(config["read"]))


def split_pairs(pairs: Sequence[LongitudinalSubject], fold: int = 0, folds: int = 5) -> Split:
    """Ids of pairs for training, validation and test; a patient is in one part only.

    Args:
        pairs: with references.
        fold: which, from 0.
        folds: how many.
    """
    from msseg_lightning.split.kfold import KFold

    config = compose_config(["read.root=."])
    options = gate_options(config["data"]["reading"])
    lesions = {pair.id: bool(has_new_lesions(pair, options)) for pair in pairs}
    return KFold(folds).split(pairs, fold, lesions)


class PairDataModule(LongitudinalDataModule):
    """Data module of :func:`data_module`, which also knows how to prepare and predict a pair.

    Args:
        patches: source of training batches.
        val: prepared pairs.
        epoch_steps: optimiser steps between two validations.
        cache: prepares pairs.
        infer: window rule of validation and prediction.
        rules: applied to the map on the native grid.
    """

    def __init__(
        self,
        patches: PatchLoader,
        val: Sequence[PreparedSubject],
        epoch_steps: int,
        cache: PreparedCache,
        infer: SlidingWindow,
        rules: Sequence[Any] = (),
    ) -> None:
        validator = WholeVolumeValidator(infer, infer.level, monitor_scores, IMAGES, TARGET)
        super().__init__(patches, val, epoch_steps, validator=validator)
        self.cache, self.infer, self.rules = cache, infer, tuple(rules)


def data_module(
    train: Sequence[LongitudinalSubject],
    val: Sequence[LongitudinalSubject] = (),
    patch_size: int | Sequence[int] = 64,
    batch_size: int = 2,
    epoch_steps: int = 250,
    preprocess: str = "brain_zscore",
    augment: str = "none",
    cache: str | Path = "cache",
    seed: int = 0,
    settings: Sequence[str] = (),
) -> PairDataModule:
    """Data module for any network from (B, 2, X, Y, Z) images to (B, 1, X, Y, Z) logits.

    Pairs are checked and prepared once and kept on disk. Half of the patches are centred on new
    lesions. Validation predicts whole pairs by overlapping windows of the patch size.

    Args:
        train: pairs with references.
        val: pairs with references that choose weights and settings.
        patch_size: in voxels of the prepared pairs, one number or three.
        batch_size: patches per step.
        epoch_steps: optimiser steps between two validations.
        preprocess: file of ``conf/preprocess``.
        augment: file of ``conf/augment``.
        cache: folder of prepared pairs.
        seed: of the patches.
        settings: further ones, as ``preprocess.steps.resample.spacing_mm=1.0``.
    """
    edges = [patch_size] * 3 if isinstance(patch_size, int) else [int(edge) for edge in patch_size]
    words = [f"preprocess={preprocess}", f"augment={augment}", "sample=ratio", "infer=sliding"]
    words += [f"sample.size={edges}", f"infer.size={edges}", f"paths.cache={cache}"]
    config = compose_config(["read.root=.", *words, "data.workers=1", *settings])
    prepare = build_cache(config)
    prepared = prepare.prepare([*train, *val])
    patches = PatchLoader(
        prepared[: len(train)],
        build_sampler(config),
        instantiate(config["augment"]),
        IMAGES,
        batch_size=batch_size,
        seed=seed,
    )
    infer, rules = instantiate(config["infer"]), postprocess_rules(config)
    return PairDataModule(patches, prepared[len(train) :], epoch_steps, prepare, infer, rules)


def predict(
    network: nn.Module | Task, pair: LongitudinalSubject, data: PairDataModule
) -> Prediction:
    """Mask and probabilities of a pair on the grid of its follow-up.

    Args:
        network: trained with ``data``, or the task that holds it.
        pair: needs no reference.
        data: prepares the pair as those of the training.
    """
    task = network if isinstance(network, Task) else Task(network, nn.Identity(), _no_optimizer)
    method = NetworkMethod(
        data.cache,
        Channels(IMAGES, TARGET),
        _no_patches,
        task,
        Training(steps=1, batch_size=1, validate_every=1),
        data.infer,
        monitor_scores,
        postprocess=data.rules,
        hardware=Hardware(accelerator="cpu" if _on_cpu(task) else "auto"),
    )
    return method.predict(pair)


def load_system(text: str | Path, settings: Sequence[str] = ()) -> Method:
    """A trained system: run folder, model folder, MLflow run id or name.

    Its ``predict(pair)`` returns a ``Prediction``. Members of an ensemble are read when they are
    used, so a zip file is opened with ``model_zip.opened_model`` for as long as that takes.
    """
    return load_method(find_model(str(text)), settings)[0]


def score(
    prediction: Prediction | NDArray[np.generic],
    reference: LongitudinalSubject | NDArray[np.generic],
    spacing_mm: tuple[float, float, float] | None = None,
) -> CaseScore:
    """The official scores of a mask and all its lesions.

    Args:
        prediction: of a pair, or a mask.
        reference: the pair, or its mask of new lesions.
        spacing_mm: of the voxels, for masks.
    """
    if isinstance(prediction, Prediction):
        if isinstance(reference, LongitudinalSubject):
            config = compose_config(["read.root=."])
            reading = gate_options(config["data"]["reading"])
            return score_prediction(prediction, reference, reading, score_options(config))
        return score_case(prediction.mask, reference, prediction.native.grid.spacing_mm)
    if isinstance(reference, LongitudinalSubject) or spacing_mm is None:
        raise ValueError("two masks are compared with spacing_mm=(x, y, z)")
    return score_case(prediction, reference, spacing_mm)


def _on_cpu(task: Task) -> bool:
    return all(parameter.device.type == "cpu" for parameter in task.parameters())


def _no_optimizer(groups: Any) -> Any:
    raise NotImplementedError("this task only predicts")


def _no_patches(subjects: Any) -> Any:
    raise NotImplementedError("this method only predicts")
