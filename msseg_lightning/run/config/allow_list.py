"""Security checks of configurations: allowed classes, interpolations and paths.

A run folder, model or preset may have been written by somebody else, and Hydra would turn its
content into calls. Before anything is imported, every class is compared with the classes allowed at
its place in the configuration, and every ``${...}`` with what it may name.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pickle
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.config.own_classes import own_class, user_class
from msseg_lightning.run.config.user_packages import (
    VARIABLE,
    make_importable,
    source_file,
    user_package,
)

LIBRARY_CLASSES = {
    "optimizer": frozenset(
        {"torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD", "torch.optim.RMSprop"}
    ),
    "scheduler": frozenset(
        {
            "monai.optimizers.WarmupCosineSchedule",
            "torch.optim.lr_scheduler.CosineAnnealingLR",
            "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts",
            "torch.optim.lr_scheduler.ConstantLR",
            "torch.optim.lr_scheduler.ExponentialLR",
            "torch.optim.lr_scheduler.LinearLR",
            "torch.optim.lr_scheduler.PolynomialLR",
            "torch.optim.lr_scheduler.ReduceLROnPlateau",
            "torch.optim.lr_scheduler.StepLR",
        }
    ),
    "network": frozenset(
        {
            "monai.networks.nets.SegResNet",
            "monai.networks.nets.DynUNet",
            "monai.networks.nets.UNet",
            "monai.networks.nets.AttentionUnet",
            "monai.networks.nets.ResNet",
        }
    ),
    "loss": frozenset(
        {
            "monai.losses.DiceLoss",
            "monai.losses.DiceCELoss",
            "monai.losses.DiceFocalLoss",
            "monai.losses.FocalLoss",
            "monai.losses.GeneralizedDiceLoss",
            "monai.losses.TverskyLoss",
        }
    ),
    # transforms of TorchIO that keep the size, read no file and call no function given to them
    "augment": frozenset(
        {
            "monai.transforms.RandSimulateLowResolutiond",
            "torchio.transforms.Affine",
            "torchio.transforms.Clamp",
            "torchio.transforms.Compose",
            "torchio.transforms.Flip",
            "torchio.transforms.Gamma",
            "torchio.transforms.OneOf",
            "torchio.transforms.RandomAffine",
            "torchio.transforms.RandomAffineElasticDeformation",
            "torchio.transforms.RandomAnisotropy",
            "torchio.transforms.RandomBiasField",
            "torchio.transforms.RandomBlur",
            "torchio.transforms.RandomElasticDeformation",
            "torchio.transforms.RandomFlip",
            "torchio.transforms.RandomGamma",
            "torchio.transforms.RandomGhosting",
            "torchio.transforms.RandomMotion",
            "torchio.transforms.RandomNoise",
            "torchio.transforms.RandomSpike",
            "torchio.transforms.RescaleIntensity",
            "torchio.transforms.ZNormalization",
        }
    ),
    # loggers whose folder the program sets, and callbacks that write no files of their own
    "loggers": frozenset(
        {
            "lightning.pytorch.loggers.CSVLogger",
            "lightning.pytorch.loggers.TensorBoardLogger",
            "lightning.pytorch.loggers.WandbLogger",
        }
    ),
    "callbacks": frozenset(
        {
            "lightning.pytorch.callbacks.DeviceStatsMonitor",
            "lightning.pytorch.callbacks.EMAWeightAveraging",
            "lightning.pytorch.callbacks.EarlyStopping",
            "lightning.pytorch.callbacks.LearningRateMonitor",
            "lightning.pytorch.callbacks.Timer",
        }
    ),
}
"""Classes outside this package that a configuration may build, by part of the configuration."""

_LIBRARIES = {name.partition(".")[0] for names in LIBRARY_CLASSES.values() for name in names}


@dataclasses.dataclass(frozen=True)
class Slot:
    """Classes that may be built at a place of the configuration.

    Args:
        place: pattern of the dotted key, also inside a stage or a member.
        steps: folders of this package whose classes are allowed.
        methods: methods that such a class must have.
        classes: the class must be one of these or be derived from one; any class if empty.
        external: allowed classes of other packages.
        paths: whether the constructor of the class may have a path as argument.
    """

    place: str
    steps: tuple[str, ...] = ()
    methods: frozenset[str] = frozenset()
    classes: frozenset[str] = frozenset()
    external: frozenset[str] = frozenset()
    paths: bool = False

    def accepts(self, target: str) -> bool:
        """Whether a class may be built here."""
        if target in self.external:
            return True
        own = own_class(target)
        if own is None:
            return self._accepts_user_class(target)
        return (
            own.buildable
            and own.step in self.steps
            and self.methods <= own.methods
            and (not self.classes or not self.classes.isdisjoint(own.ancestors))
            and (self.paths or not own.takes_path)
        )

    def _accepts_user_class(self, target: str) -> bool:
        """Whether a class of a package that the user has allowed has what is needed here.

        Methods and bases that a class has from another library are not known; it is accepted then.
        """
        own = user_class(target)
        return (
            own is not None
            and own.buildable
            and (self.methods <= own.methods or not own.complete)
            and (not self.classes or not self.classes.isdisjoint(own.ancestors) or not own.complete)
        )

    def __str__(self) -> str:
        own = [f"msseg_lightning.{step}" for step in self.steps]
        return ", ".join([*(f"a class of {name}" for name in own), *sorted(self.external)])


CALLED = frozenset({"__call__"})

SLOTS = (
    Slot(
        r"read(\..+)?|sample\.visits\.reader|sample\.extra_pairs\.reader(\..+)?",
        ("read",),
        frozenset({"subjects"}),
        paths=True,
    ),
    Slot(r"split", ("split",), frozenset({"split"}), paths=True),
    Slot(r"(preprocess|sample\.visits)\.steps\.[^.]+", ("preprocess",), CALLED),
    Slot(
        r"sample\.visits",
        ("preprocess",),
        classes=frozenset({"msseg_lightning.preprocess.visits.PreparedVisits"}),
        paths=True,
    ),
    Slot(r"(sample\.loader|train\.task\..+)(\..+)?", ("sample", "augment")),
    Slot(r"sample(\..+)?", ("sample",)),
    Slot(r"augment(\..+)?", ("augment",), external=LIBRARY_CLASSES["augment"]),
    Slot(r"network(\..+)?", ("network",), external=LIBRARY_CLASSES["network"]),
    Slot(r"loss(\..+)?", ("loss",), external=LIBRARY_CLASSES["loss"]),
    Slot(
        r"train",
        ("train",),
        classes=frozenset({"msseg_lightning.train.training.Training"}),
    ),
    Slot(r"train\.task", ("train",), classes=frozenset({"msseg_lightning.train.task.Task"})),
    Slot(r"train\.optimizer", external=LIBRARY_CLASSES["optimizer"]),
    Slot(
        r"train\.scheduler",
        ("train",),
        classes=frozenset(
            f"torch.optim.lr_scheduler.{name}" for name in ("LambdaLR", "MultiStepLR")
        ),
        external=LIBRARY_CLASSES["scheduler"],
    ),
    Slot(r"(maps\.)?infer(\..+)?", ("infer",), CALLED),
    Slot(r"maps", ("method",), CALLED),
    Slot(r"postprocess\.rules\.[^.]+", ("postprocess",), CALLED),
    Slot(r"method", ("method",), frozenset({"fit", "predict", "save", "load"})),
    Slot(r"method\..+", ("method", "sample")),
    Slot(
        r"track",
        ("track",),
        classes=frozenset({"msseg_lightning.track.tracking.Tracking"}),
        paths=True,
    ),
    Slot(r"simulate(\..+)?", ("simulate",)),
    Slot(
        r"loggers\.\d+",
        classes=frozenset({"lightning.pytorch.loggers.Logger"}),
        external=LIBRARY_CLASSES["loggers"],
    ),
    Slot(
        r"callbacks\.\d+",
        classes=frozenset({"lightning.Callback", "lightning.pytorch.callbacks.Callback"}),
        external=LIBRARY_CLASSES["callbacks"],
    ),
)
"""The first slot whose pattern matches applies; at any other place no class is allowed."""

CALL_KEYS = {
    "_partial_": (True, False),
    "_convert_": ("none", "partial", "object", "all"),
}
"""Allowed special keys of Hydra and their values; ``_args_`` and ``_recursive_`` are refused, since
they pass arguments that are not checked by name."""

KeyPath = tuple[object, ...]


def refuse_targets(node: Any, anywhere: bool = False) -> None:
    """Check every ``_target_`` at every depth before anything is imported or built.

    Args:
        node: a complete configuration.
        anywhere: ``node`` is a part of a configuration, so classes of any place are allowed.

    Raises:
        MssegError: one problem per class that may not be built at its place, and per special key of
            Hydra that is not in ``CALL_KEYS`` (exit 6).
    """
    problems = []
    for place, value in walk(node):
        key = place[-1] if place else None
        if not isinstance(key, str):
            continue
        if key == "_target_" and not _allowed(place[:-1], value, anywhere):
            slot = _slot(place[:-1])
            expected = "no class" if slot is None else str(slot)
            if anywhere:
                expected = "a class of msseg_lightning, or one of LIBRARY_CLASSES"
            message = "this class may not be built here from a configuration"
            problems.append(_target_problem(message, place, value, expected))
        elif re.fullmatch(r"_[a-z]+_", key) and key != "_target_":
            choices = CALL_KEYS.get(key, ())
            if not any(type(value) is type(choice) and value == choice for choice in choices):
                expected = " or ".join(map(str, choices)) or "no such key"
                message = "a configuration may not use this special key of Hydra"
                problems.append(_target_problem(message, place, value, expected))
    if problems:
        raise MssegError(problems)


def _target_problem(message: str, place: KeyPath, value: object, expected: str) -> Problem:
    module = str(value).rpartition(".")[0]
    package = module.partition(".")[0]
    if re.fullmatch(r"[A-Za-z_]\w*", package) and not user_package(module):
        known = {*sys.stdlib_module_names, "msseg_lightning", *_LIBRARIES}
        if package not in known:
            return _package_problem(package, place, str(value)[:200], expected)
    return Problem(
        "config.target",
        message,
        field=dotted(place),
        found=str(value)[:200],
        expected=expected,
        remedy="leave this setting out; `msseg show EXPERIMENT` prints the class. Do not use a "
        "model or run folder that another wrote and that asks for this",
        exit_code=ExitCode.SECURITY,
    )


def _package_problem(package: str, place: KeyPath, target: str, expected: str) -> Problem:
    """The refusal of a class of another package, which may be one of the user."""
    here = "" if source_file(package) else f"; there is no package {package} here"
    return Problem(
        "config.package",
        "this class is of a package that you have not allowed",
        field=dotted(place),
        found=f"{target}{here}",
        expected=expected,
        remedy=f"if {package} is a package of yours, allow it: packages={package}; or set "
        f"{VARIABLE}={package} before the command. Do not do so for a model or run folder "
        "that another wrote: to build the class runs code that came with it, which is why no file "
        "can allow a package",
        exit_code=ExitCode.SECURITY,
    )


def _allowed(place: KeyPath, target: object, anywhere: bool) -> bool:
    if not isinstance(target, str):
        return False
    if anywhere:
        return any(slot.accepts(target) for slot in SLOTS)
    slot = _slot(place)
    return slot is not None and slot.accepts(target)


def _slot(place: KeyPath) -> Slot | None:
    """The slot of a place, where stages and members of an ensemble count as complete systems.

    A key with a dot in it matches no slot, except below ``sizes``, whose keys are dotted.
    """
    if place[:1] == ("sizes",) and len(place) > 2:
        place = (*str(place[2]).split("."), *place[3:])
    while True:
        if place[:1] == ("stages",) and len(place) > 2:
            place = place[2:]
        elif place[:2] == ("ensemble", "configs") and len(place) > 3:
            place = place[3:]
        else:
            break
    if not all(isinstance(key, int) or re.fullmatch(r"[\w-]+", str(key)) for key in place):
        return None
    text = ".".join(map(str, place))
    return next((slot for slot in SLOTS if re.fullmatch(slot.place, text)), None)


def refuse_imports(node: Any) -> None:
    """Import the classes that ``refuse_targets`` accepted, and check that each name is a class.

    Raises:
        MssegError: a name is not a class that is defined in its module (exit 6).
    """
    for place, target in walk(node):
        if not place or place[-1] != "_target_":
            continue
        module, _, name = str(target).rpartition(".")
        own, package = module.startswith("msseg_lightning."), user_package(module)
        holder = _user_module(module) if package else importlib.import_module(module)
        found = getattr(holder, name, None)
        if not isinstance(found, type) or (own and found.__module__ != module):
            message = "this name is not a class that is defined in its module"
            raise MssegError(_target_problem(message, place, target, "the class of that name"))


def _user_module(module: str) -> ModuleType:
    """Import a module of a package that the user has allowed.

    Raises:
        MssegError: it cannot be imported (exit 2).
    """
    make_importable(module)
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise MssegError(
            Problem(
                "config.package_import",
                "this module of yours cannot be imported",
                file=source_file(module),
                field=module,
                found=f"{type(error).__name__}: {error}"[:300],
                remedy="correct the module, or install what it imports, and give the same command "
                "again",
                exit_code=ExitCode.CONFIG,
            )
        ) from error


def refuse_interpolations(node: Any) -> None:
    """Check that a stored configuration has no interpolations.

    The result of ``compose_config`` is resolved. Hydra would resolve any remaining ``${...}``, and
    a resolver may read the environment or build any class.

    Raises:
        MssegError: one problem per text with an interpolation (exit 6).
    """
    problems = [
        Problem(
            "config.interpolation",
            "a stored configuration holds values only",
            field=dotted(place),
            found=text[:200],
            expected="the value itself",
            remedy="do not use this configuration, or write the value in its place",
            exit_code=ExitCode.SECURITY,
        )
        for place, value in walk(node)
        for text in (value, place[-1] if place else None)
        if isinstance(text, str) and "${" in text
    ]
    if problems:
        raise MssegError(problems)


def refuse_paths(config: Any, without: tuple[object, ...] = ("card", "sizes")) -> None:
    """Check that the configuration of a model folder holds no paths.

    ``msseg train`` writes only the last part of every path. Names of members and stages are folders
    inside the model folder, so keys are checked too.

    Args:
        config: of a model folder.
        without: root keys that hold free text.

    Raises:
        MssegError: one problem per text that is a path (exit 6).
    """
    problems = [
        Problem(
            "config.place",
            "the configuration of a model may not hold paths",
            field=dotted(place),
            found=text[:200],
            expected="a plain name",
            remedy="do not use a model of somebody else that names paths of your machine; "
            "your own paths are given on the command line, as paths.cache=FOLDER",
            exit_code=ExitCode.SECURITY,
        )
        for place, value in walk(config)
        if place and str(place[0]) not in without
        for text in (value, place[-1])
        if isinstance(text, str) and _is_path(text)
    ]
    if problems:
        raise MssegError(problems)


def _is_path(text: str) -> bool:
    return bool(re.search(r"[/\\\x00]|^~|^\.\.?$|^[A-Za-z]:", text))


def refuse_links(folder: Path) -> None:
    """Check that a model folder holds only plain files and folders.

    Raises:
        MssegError: one problem per link to a file outside and per pipe or device (exit 6).
    """
    root = folder.resolve()
    problems = [
        Problem(
            "model.file",
            "a model folder holds plain files only",
            file=path,
            found=f"a link to {path.resolve()}" if path.is_symlink() else "a pipe or device",
            expected="files and folders inside the model folder",
            remedy="if you trust it, copy the folder with `cp -rL` and use the copy",
            exit_code=ExitCode.SECURITY,
        )
        for path in sorted(folder.rglob("*"))
        if not path.resolve().is_relative_to(root) or not (path.is_file() or path.is_dir())
    ]
    if problems:
        raise MssegError(problems)


MAX_TEXT_LENGTH = 4_000_000
MAX_VALUES = 100_000
MAX_DEPTH = 60
"""Limits of characters, values and levels of a stored configuration; the largest configuration of
this package has about 60,000 characters, 3,000 values and 15 levels."""


class _PlainLoader(yaml.SafeLoader):
    """YAML loader for plain values, without Python tags and merged mappings."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse ``<<``, which can create a mapping of any size and is never written here."""
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise _unsafe_text("a merged mapping (<<)")


def _refuse_tag(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    raise _unsafe_text(f"the tag {node.tag}")


_PlainLoader.add_constructor(None, _refuse_tag)  # every tag without a constructor of its own


def read_stored_yaml(text: str) -> Any:
    """Parse a stored configuration, which may hold plain values of a limited size only.

    Raises:
        MssegError: a tag, ``<<``, or more than ``MAX_VALUES`` values after aliases are expanded
            (exit 6).
        ValueError: it is not YAML.
    """
    return pickle.loads(_read_stored_yaml(text))  # a new object each time, which may be changed


@functools.lru_cache(maxsize=64)
def _read_stored_yaml(text: str) -> bytes:
    """Parsing takes 0.1 s, and one command reads a configuration several times."""
    if len(text) > MAX_TEXT_LENGTH:
        raise _unsafe_text(f"{len(text)} characters")
    try:
        content = yaml.load(text, _PlainLoader)  # a restricted SafeLoader
    except RecursionError as error:
        raise _unsafe_text("endless nesting") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error
    open_nodes, seen = [(content, 0)], 0
    while open_nodes:
        node, depth = open_nodes.pop()
        seen += 1
        if seen > MAX_VALUES or depth > MAX_DEPTH:
            raise _unsafe_text(f"more than {MAX_VALUES} values or {MAX_DEPTH} levels")
        inner: Iterable[Any] = ()
        if isinstance(node, Mapping):
            inner = node.values()
        elif isinstance(node, list | tuple | set):
            inner = node
        open_nodes += [(value, depth + 1) for value in inner]
    return pickle.dumps(content)


def _unsafe_text(found: str) -> MssegError:
    return MssegError(
        Problem(
            "config.unsafe",
            "a stored configuration may hold plain values of a limited size only",
            file="config.yaml",
            found=found,
            expected="YAML as `msseg train` wrote it",
            remedy="do not use this folder, or copy it again from where it came from",
            exit_code=ExitCode.SECURITY,
        )
    )


def walk(node: Any, place: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Key path and value of a node and of everything inside it."""
    yield place, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from walk(value, (*place, key))
    elif isinstance(node, list | tuple | set):  # YAML's !!pairs and !!omap are tuples
        for index, value in enumerate(node):
            yield from walk(value, (*place, index))


def dotted(place: KeyPath) -> str:
    """A key path as text: ``a[0].b``."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)
    return text.removeprefix(".")


def nodes(node: Any) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of a node and of everything inside it."""
    return ((dotted(place), value) for place, value in walk(node))


def refuse_resolvers(texts: Iterable[tuple[str, str]]) -> None:
    """Check that texts hold no interpolations except ``${name.of.a.setting}``.

    Args:
        texts: pairs of place and text.

    Raises:
        MssegError: one problem per text that calls a resolver (exit 6).
    """
    problems = [
        Problem(
            "config.resolver",
            "a configuration may not read the environment or call a resolver",
            field=where,
            found=call,
            remedy="write the value itself",
            exit_code=ExitCode.SECURITY,
        )
        for where, text in texts
        if (call := _resolver_call(text))
    ]
    if problems:
        raise MssegError(problems)


def _resolver_call(text: str) -> str:
    """The first interpolation that is not the name of a setting; empty without any.

    Names may be nested, ``${a.${b}}``, so harmless ones are removed from the inside out.
    """
    while (left := re.sub(r"\$\{[^{}:]*\}", "", text)) != text:
        text = left
    found = re.search(r"\$\{[^}]*\}?", text)
    return found.group(0) if found else ""


def yaml_texts(*folders: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every YAML file below some folders, for ``refuse_resolvers``."""
    for folder in folders:
        for path in folder.rglob("*.yaml"):
            yield path.name, path.read_text(encoding="utf-8")
