"""One part of a system at its paper's own size, in a process of its own.

    python -m benchmarks.studies.paper_size_parts TASK.json

``benchmarks.studies.paper_size`` writes the task, watches time and memory and keeps the answer. The
parts are the product's own objects with the settings of the experiment: ``prepare`` builds the
entries of the cache, ``step`` runs ``NetworkMethod.fit`` for an optimiser step, ``predict`` runs
``predict``. Networks are untrained; what an earlier stage would hand down comes from an untrained
network too, and for a training step an image that a stage makes is left at 0.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.studies.paper_size import OUT_OF_MEMORY, end_with_parent
from msseg_lightning.core.files import write_json
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.infer.slices import SliceWise
from msseg_lightning.infer.sliding_window import UNSEEN_LOGIT
from msseg_lightning.method.derived_image import FittedNetwork
from msseg_lightning.method.network_method import NetworkMethod
from msseg_lightning.method.staged import FittedStage, StagedMethod
from msseg_lightning.run.assemble.system import (
    build_cache,
    build_has_lesions,
    build_method,
    stage_config,
)
from msseg_lightning.run.config.compose import Config, compose_config
from msseg_lightning.run.config.keys import inherited_settings

LAST = ""
"""Name of the stage that predicts."""

KEY = uuid.uuid4().hex[:12]
"""Names the untrained networks of this process, and the images that they make."""


@dataclasses.dataclass(frozen=True)
class Network:
    """One network of a system, as often as the paper trains it.

    Args:
        member: of an ensemble, or the system.
        stage: before the last one; ``LAST`` is the one that predicts.
        count: how many of it are trained.
        config: of this network alone.
    """

    member: str
    stage: str
    count: int
    config: Config

    @property
    def name(self) -> str:
        """Name of the part."""
        return f"{self.member}.{self.stage}" if self.stage else self.member

    @property
    def has_step(self) -> bool:
        """Whether it is trained by gradients."""
        return self.config.get("network") is not None


def members(config: Config) -> dict[str, tuple[Config, int]]:
    """Different systems of an ensemble, or the one system, and how often each is fitted."""
    ensemble = config.get("ensemble")
    if not ensemble:
        return {config["name"]: (config, 1)}
    configs = ensemble.get("configs") or {config["name"]: config}
    every = [name for name in configs for _ in range(ensemble["folds"])]
    counts = Counter(ensemble.get("of_fold") or every)
    seeds = ensemble.get("seeds") or 1
    shared = inherited_settings(config)
    return {
        name: ({**member, **shared, "ensemble": None}, counts[name] * seeds)
        for name, member in configs.items()
    }


def networks(config: Config) -> list[Network]:
    """All different networks of a system, in the order in which they are fitted."""
    found = []
    shared = (config.get("ensemble") or {}).get("share_stages")  # fitted once for all members
    for name, (member, count) in members(config).items():
        for stage in member.get("stages") or {}:
            own, times = stage_config(member, stage), 1 if shared else count
            found.append(Network(name, stage, times * (own.get("out_of_fold") or 1), own))
        found.append(Network(name, LAST, count, member))
    return found


@functools.cache
def composed(system: str, *words: str) -> Config:
    """Configuration of a system at its paper's size; not to be changed."""
    return compose_config(["size=paper", *(words or ("read.root=unknown",))], system)


def untrained(make: Callable[[], NetworkMethod]) -> nn.Module:
    """The network of a stage that was not fitted, frozen."""
    return make().task.network.requires_grad_(False).eval()


def methods(config: Config, maps: Callable[[Any], Any] = lambda rule: rule) -> dict[str, Any]:
    """Unfitted method of every stage of one system, by name; the last one is ``LAST``.

    Args:
        config: of a system that is no ensemble.
        maps: changes the rule by which a stage makes an image of a pair.
    """
    whole = build_method(config)
    if not isinstance(whole, StagedMethod):
        return {LAST: whole}
    made: dict[str, Any] = {}
    given: dict[str, FittedStage] = {}
    for stage in whole.stages:
        make = functools.partial(stage.make, {name: given[name] for name in stage.uses})
        made[stage.name] = make()
        source = FittedNetwork(functools.partial(untrained, make), KEY, Path(stage.name), None)
        rule = None if stage.maps is None else maps(stage.maps)
        given[stage.name] = FittedStage(stage.name, KEY, (source,), rule)
    made[LAST] = whole.make(given)
    return made


def parameters(method: Any) -> int | None:
    """Number of weights of a network; None of a method without one."""
    if not isinstance(method, NetworkMethod):
        return None
    return sum(weight.numel() for weight in method.task.network.parameters())


class Clock:
    """Seconds that work takes: of the processor, or of the wall with a GPU."""

    def __init__(self, gpu: bool) -> None:
        self.gpu = gpu

    def __call__(self) -> float:
        """Seconds since some moment."""
        if not self.gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


class StepTimes(L.Callback):
    """Seconds of every optimiser step, its patches included; ends training when it has enough.

    Args:
        clock: see there.
        enough_s: no further step after so many seconds.
    """

    def __init__(self, clock: Clock, enough_s: float) -> None:
        self.clock, self.enough_s = clock, enough_s
        self.seconds: list[float] = []
        self._began = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        """An epoch is one step here, and its batches are drawn from now on."""
        self._began = self.clock()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Note a step that is complete."""
        if trainer.global_step > len(self.seconds):
            self.seconds.append(self.clock() - self._began)
            if sum(self.seconds) > self.enough_s:
                trainer.should_stop = True


class EnoughSeenError(Exception):
    """Enough windows were seen to tell how long all of them take."""


class PartOfWindows:
    """A window rule that ends early where all windows would take too long.

    The answer is then 0 everywhere; ``whole_s`` tells what all windows would have taken.

    Args:
        rule: the system's own.
        clock: see there.
        most_s: up to which all windows are run.
        part_s: seconds of windows that are run at least before that is judged.
    """

    def __init__(self, rule: Any, clock: Clock, most_s: float, part_s: float) -> None:
        self.rule, self.clock, self.most_s, self.part_s = rule, clock, most_s, part_s
        self.level, self.maps = rule.level, getattr(rule, "maps", 1)
        # of flips and passes all windows are counted together, of planes each plane's
        self.rounds = rule.maps if isinstance(rule, SliceWise) else 1
        self.spent_s = self.whole_s = 0.0
        self.share = 1.0

    def __call__(self, network: nn.Module, images: Tensor, inside: Tensor | None = None) -> Tensor:
        """The map, see the class."""
        answer = self._run(self.rule, network, images, inside)
        return self._empty(images) if answer is None else answer

    def with_spread(
        self, network: nn.Module, images: Tensor, inside: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The map and the spread, see the class."""
        answer = self._run(self.rule.with_spread, network, images, inside)
        return (self._empty(images), torch.zeros_like(images[:1])) if answer is None else answer

    def _empty(self, images: Tensor) -> Tensor:
        unseen = UNSEEN_LOGIT if self.level == "logit" else 0.0
        return torch.full_like(images[:1], unseen)

    def _run(self, call: Any, network: nn.Module, images: Tensor, inside: Tensor | None) -> Any:
        began, last, rounds, share = self.clock(), 0, 0, 1.0

        def progress(done: int, windows: int) -> None:
            nonlocal last, rounds, share
            rounds += done <= last
            last = done
            share = min(1.0, (rounds + done / windows) / self.rounds)
            spent = self.clock() - began
            if spent > self.part_s and share < 1 and spent / share > self.most_s:
                raise EnoughSeenError

        try:
            answer = call(network, images, inside, progress)
            share = 1.0
        except EnoughSeenError:
            answer = None
        spent = self.clock() - began
        self.spent_s += spent
        self.whole_s += spent / share
        self.share = min(self.share, share)
        return answer


def batch_plan(batch: int, accumulate: int) -> list[tuple[int, int]]:
    """Batches and how many of them make the paper's step, the largest batch first."""
    parts = [part for part in range(1, batch + 1) if batch % part == 0]
    return [(batch // part, accumulate * part) for part in parts]


def subject_of(task: Mapping[str, Any], config: Config) -> LongitudinalSubject:
    """The first pair with new lesions: without any, most networks refuse to learn."""
    from msseg_lightning.read.msseg2 import Msseg2
    from msseg_lightning.read.open_ms import OpenMs

    reader = OpenMs if task["data"] == "real" else Msseg2
    return next(filter(build_has_lesions(config), reader(task["root"]).subjects()))


def prepare(task: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Prepare the pair as every network of the system needs it, each way once."""
    subject = subject_of(task, config)
    caches = [build_cache(network.config) for network in networks(config)]
    places = {cache.place(subject): cache for cache in caches}
    began, shapes, notes = time.process_time(), [], []
    for place, cache in places.items():
        shutil.rmtree(place, ignore_errors=True)
        (prepared,) = cache.prepare([subject])
        spacing = [round(float(edge), 2) for edge in prepared.grid.spacing_mm]
        shapes.append({"shape": list(prepared.grid.shape), "spacing_mm": spacing})
        notes += prepared.notes
    return {"seconds": time.process_time() - began, "grids": shapes, "notes": notes}


def step(task: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """One optimiser step of one network, and two more where they are quick."""
    member, stage = members(config)[task["member"]][0], task["stage"]
    method = methods(member)[stage]
    facts: dict[str, Any] = {"parameters": parameters(method)}
    subject, clock = subject_of(task, config), Clock(task["gpu"])
    if not isinstance(method, NetworkMethod):
        return facts | booster(task, method, subject)
    own = stage_config(member, stage) if stage else member
    given = own["train"]
    facts |= {"steps": given["steps"], "patch": patch_of(own["sample"])}
    facts |= {"paper_batch": given["batch_size"], "paper_accumulate": given["accumulate"]}
    for image in method.derived:
        image.maps = lambda _, prepared: np.zeros(prepared.grid.shape, np.float32)
    batch, accumulate = task["batch"], task["accumulate"]
    method.patches = functools.partial(method.patches, batch_size=batch)
    method.training = dataclasses.replace(
        method.training,
        steps=3,
        batch_size=batch,
        accumulate=accumulate,
        validate_every=1,
        checkpoint_minutes=1e6,
    )
    times = StepTimes(clock, task["enough_s"])
    method.callbacks.append(times)
    began = clock()
    with tempfile.TemporaryDirectory(prefix=".part-", dir=task["folder"]) as folder:
        method.fit([subject], [], Path(folder))
    rest = clock() - began - sum(times.seconds)
    (prepared,) = method.cache.prepare([subject])
    forget_images(prepared)
    return facts | {"seconds": times.seconds, "around_s": rest}


def patch_of(sample: Mapping[str, Any]) -> list[int]:
    """Edges of the patches that a sampler draws."""
    size = sample["size"]
    return [size] * 3 if isinstance(size, int) else [int(edge) for edge in size if edge > 1]


def booster(task: Mapping[str, Any], method: Any, subject: LongitudinalSubject) -> dict[str, Any]:
    """Methods without gradients: they are fitted on the pair, for the prediction to have a model.

    Boosters take their own time; rules have nothing to fit.
    """
    model = Path(task["model"])
    began = time.process_time()
    method.cache.prepare([subject])
    prepared = time.process_time()
    method.fit([subject], [], model.with_name(f"{model.name}-fit"))
    fitted = time.process_time() - prepared
    method.save(model)
    return {
        "fit_s": fitted,
        "around_s": prepared - began,
        "boosters": len(getattr(method, "texts", ())),
    }


def predict(task: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Predict the pair with one member, all of its stages included."""
    member, _ = members(config)[task["member"]]
    subject, clock = subject_of(task, config), Clock(task["gpu"])
    watch = functools.partial(
        PartOfWindows, clock=clock, most_s=task["most_s"], part_s=task["part_s"]
    )
    watched: list[tuple[PartOfWindows, int]] = []

    def maps(rule: Any) -> Any:
        rule.infer = watch(rule.infer)
        watched.append((rule.infer, 1))
        return rule

    method = methods(member, maps)[LAST]
    if isinstance(method, NetworkMethod):
        # a stage fitted out of fold asks all of its networks about a new pair
        folds = [node.get("out_of_fold") or 1 for node in member["stages"].values()]
        watched = [(rule, max(folds)) for rule, _ in watched]
        method.infer = watch(method.infer)
        watched.append((method.infer, 1))
    elif Path(task["model"]).is_dir():
        method.load(Path(task["model"]))
    (prepared,) = method.cache.prepare([subject])
    began = clock()
    prediction = method.predict(subject)
    spent = clock() - began
    forget_images(prepared)
    rest = spent - sum(rule.spent_s for rule, _ in watched)
    whole = rest + sum(count * rule.whole_s for rule, count in watched)
    share = min((rule.share for rule, _ in watched), default=1.0)
    return {
        "seconds": whole,
        "measured_s": spent,
        "share_of_windows": share,
        "grid": list(prepared.grid.shape),
        "mask_voxels": int(np.count_nonzero(prediction.mask)),
    }


def forget_images(prepared: PreparedSubject) -> None:
    """Delete what stages of this process left beside a prepared pair."""
    for place in prepared.folder.parent.glob(f"{prepared.folder.name}-*{KEY}*"):
        shutil.rmtree(place, ignore_errors=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the part of a task and write its answer beside it."""
    (file,) = sys.argv[1:] if arguments is None else arguments
    task = json.loads(Path(file).read_text(encoding="utf-8"))
    if task["parent"]:
        end_with_parent(task["parent"])
    torch.set_num_threads(task["threads"])
    if task["gpu"]:
        free = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, task["limit_bytes"] / free))
    config = composed(task["system"], *task["words"])
    part = {"prepare": prepare, "step": step, "predict": predict}[task["part"]]
    try:
        facts = part(task, config)
    except torch.cuda.OutOfMemoryError:
        return OUT_OF_MEMORY
    if task["gpu"]:
        facts["gpu_peak_bytes"] = torch.cuda.max_memory_reserved()
        facts["gpu"] = torch.cuda.get_device_name()
    write_json(Path(task["answer"]), facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
