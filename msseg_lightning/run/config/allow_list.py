"""What a configuration may build, look up and name: checks of text that another may have written.

A run folder, a model or a preset is data, and Hydra would turn data into calls. So before anything
is imported every class is held against what may stand at its place in the configuration, and every
``${...}`` against what it may name.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.config.own_classes import own_class

LIBRARY_CLASSES = {
    "optimizer": frozenset(
        {"torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD", "torch.optim.RMSprop"}
    ),
    "scheduler": frozenset(
        {
            "torch.optim.lr_scheduler.CosineAnnealingLR",
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
    # of TorchIO those that keep the size, read no file and call no function given to them
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
}
"""Classes outside this package that a configuration may build, by where they may stand."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """What may be built at a place of the configuration.

    Args:
        place: pattern of the dotted place, inside a stage or a member too.
        steps: folders of the package whose classes may stand there.
        methods: what such a class must have.
        classes: one of these it must be, or be derived from; any where empty.
        foreign: classes of other packages.
        paths: whether the class may take a path; it then reads, or is the tracking store.
    """

    place: str
    steps: tuple[str, ...] = ()
    methods: frozenset[str] = frozenset()
    classes: frozenset[str] = frozenset()
    foreign: frozenset[str] = frozenset()
    paths: bool = False

    def takes(self, target: str) -> bool:
        """Whether a class may be built here."""
        if target in self.foreign:
            return True
        own = own_class(target)
        return (
            own is not None
            and own.buildable
            and own.step in self.steps
            and self.methods <= own.methods
            and (not self.classes or not self.classes.isdisjoint(own.ancestors))
            and (self.paths or not own.takes_path)
        )

    def __str__(self) -> str:
        own = [f"msseg_lightning.{step}" for step in self.steps]
        return ", ".join([*(f"a class of {name}" for name in own), *sorted(self.foreign)])


CALLED = frozenset({"__call__"})

SLOTS = (
    Slot(r"read(\..+)?|sample\.visits\.reader", ("read",), frozenset({"subjects"}), paths=True),
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
    Slot(r"augment(\..+)?", ("augment",), foreign=LIBRARY_CLASSES["augment"]),
    Slot(r"network(\..+)?", ("network",), foreign=LIBRARY_CLASSES["network"]),
    Slot(r"loss(\..+)?", ("loss",), foreign=LIBRARY_CLASSES["loss"]),
    Slot(
        r"train",
        ("train",),
        classes=frozenset({"msseg_lightning.train.training.Training"}),
    ),
    Slot(r"train\.task", ("train",), classes=frozenset({"msseg_lightning.train.task.Task"})),
    Slot(r"train\.optimizer", foreign=LIBRARY_CLASSES["optimizer"]),
    Slot(
        r"train\.scheduler",
        ("train",),
        classes=frozenset(
            f"torch.optim.lr_scheduler.{name}" for name in ("LambdaLR", "MultiStepLR")
        ),
        foreign=LIBRARY_CLASSES["scheduler"],
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
)
"""The first whose pattern fits decides; at any other place nothing is built."""

CALL_KEYS = {
    "_partial_": (True, False),
    "_convert_": ("none", "partial", "object", "all"),
}
"""What else tells Hydra how to build, and its values; ``_args_`` and ``_recursive_`` are refused:
with them a class would be given what no check has looked at by name."""

Place = tuple[object, ...]


def refuse_targets(node: Any, anywhere: bool = False) -> None:
    """Check every ``_target_`` at every depth before anything is imported or built.

    Args:
        node: a whole configuration.
        anywhere: it is a part of one, so its classes may be those of any place.

    Raises:
        MssegError: one problem per class that may not be built at its place, and per key that says
            otherwise how to call it (exit 6).
    """
    problems = []
    for place, value in walk(node):
        key = place[-1] if place else None
        if not isinstance(key, str):
            continue
        if key == "_target_" and not _allowed(place[:-1], value, anywhere):
            slot = _slot(place[:-1])
            expected = "no class: nothing is built here" if slot is None else str(slot)
            if anywhere:
                expected = "a class of msseg_lightning, or one of LIBRARY_CLASSES"
            message = "this class may not be built here from a configuration"
            problems.append(_target_problem(message, place, value, expected))
        elif re.fullmatch(r"_[a-z]+_", key) and key != "_target_":
            choices = CALL_KEYS.get(key, ())
            if not any(type(value) is type(choice) and value == choice for choice in choices):
                expected = " or ".join(map(str, choices)) or "no such key"
                message = "a configuration may not say this of how a class is called"
                problems.append(_target_problem(message, place, value, expected))
    if problems:
        raise MssegError(problems)


def _target_problem(message: str, place: Place, value: object, expected: str) -> Problem:
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


def _allowed(place: Place, target: object, anywhere: bool) -> bool:
    if not isinstance(target, str):
        return False
    if anywhere:
        return any(slot.takes(target) for slot in SLOTS)
    slot = _slot(place)
    return slot is not None and slot.takes(target)


def _slot(place: Place) -> Slot | None:
    """What decides about a place, stages and members of an ensemble taken as systems of their own.

    A key with a dot in it is no place, but for those of ``sizes``, which are whole places.
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
    """Import the classes that ``refuse_targets`` let pass, and check that each is what it was.

    Raises:
        MssegError: a name stands for something else than the class of that name (exit 6).
    """
    for place, target in walk(node):
        if not place or place[-1] != "_target_":
            continue
        module, _, name = str(target).rpartition(".")
        found = getattr(importlib.import_module(module), name, None)
        own = module.startswith("msseg_lightning.")
        if not isinstance(found, type) or (own and found.__module__ != module):
            message = "this name does not stand for a class that is defined there"
            raise MssegError(_target_problem(message, place, target, "the class of that name"))


def refuse_interpolations(node: Any) -> None:
    """Check that nothing would be looked up, or called, when a stored node is built.

    What ``compose_config`` returns is resolved; what Hydra still finds as ``${...}`` in it, it
    would resolve, and a resolver may read the environment or build any class.

    Raises:
        MssegError: one problem per text that holds an interpolation (exit 6).
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


def refuse_places(config: Any, without: tuple[object, ...] = ("card", "sizes")) -> None:
    """Check that a model's configuration names no place outside the model folder.

    ``msseg train`` writes none: of every place its last name is left. Names of members and stages
    are folders inside the model folder, so keys are looked at too.

    Args:
        config: of a model folder.
        without: keys at the top that are texts for people.

    Raises:
        MssegError: one problem per text that is a path (exit 6).
    """
    problems = [
        Problem(
            "config.place",
            "a model folder may not say where files lie",
            field=dotted(place),
            found=text[:200],
            expected="a plain name",
            remedy="do not use a model that another wrote and that names places of your machine; "
            "your own places are given on the command line, as paths.cache=FOLDER",
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
    """Check that everything in a model folder is a file or folder that lies in it.

    Raises:
        MssegError: one problem per link that leads out of it and per pipe or device (exit 6).
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


LARGEST_TEXT = 4_000_000
MOST_NODES = 100_000
DEEPEST = 60
"""Letters, values and levels of a stored configuration; the largest of ours have about 60,000
letters, 3,000 values and 15 levels."""


class _PlainLoader(yaml.SafeLoader):
    """YAML's plain values: neither tags of Python's nor merged mappings."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse ``<<``, which can make a mapping of any size and is never written by us."""
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise _unsafe_text("a merged mapping (<<)")


def _refuse_tag(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    raise _unsafe_text(f"the tag {node.tag}")


_PlainLoader.add_constructor(None, _refuse_tag)  # every tag without a constructor of its own


def read_stored_yaml(text: str) -> Any:
    """What a stored configuration says; never more than plain values of a bounded size.

    Raises:
        MssegError: a tag, ``<<``, or more than ``MOST_NODES`` values once aliases are followed
            (exit 6).
        ValueError: it is no YAML.
    """
    if len(text) > LARGEST_TEXT:
        raise _unsafe_text(f"{len(text)} letters")
    try:
        content = yaml.load(text, _PlainLoader)  # a SafeLoader that takes less
    except RecursionError as error:
        raise _unsafe_text("endless nesting") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error
    open_nodes, seen = [(content, 0)], 0
    while open_nodes:
        node, depth = open_nodes.pop()
        seen += 1
        if seen > MOST_NODES or depth > DEEPEST:
            raise _unsafe_text(f"more than {MOST_NODES} values or {DEEPEST} levels")
        inner: Iterable[Any] = ()
        if isinstance(node, Mapping):
            inner = node.values()
        elif isinstance(node, list | tuple | set):
            inner = node
        open_nodes += [(value, depth + 1) for value in inner]
    return content


def _unsafe_text(found: str) -> MssegError:
    return MssegError(
        Problem(
            "config.unsafe",
            "a stored configuration holds plain values of a bounded size only",
            file="config.yaml",
            found=found,
            expected="YAML as `msseg train` wrote it",
            remedy="do not use this folder, or copy it again from where it came from",
            exit_code=ExitCode.SECURITY,
        )
    )


def walk(node: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Place and value of a node and of everything inside it."""
    yield place, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from walk(value, (*place, key))
    elif isinstance(node, list | tuple | set):  # YAML's !!pairs and !!omap are tuples
        for index, value in enumerate(node):
            yield from walk(value, (*place, index))


def dotted(place: Place) -> str:
    """A place as it is shown: ``a[0].b``."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)
    return text.removeprefix(".")


def nodes(node: Any) -> Iterator[tuple[str, Any]]:
    """Dotted place and value of a node and of everything inside it."""
    return ((dotted(place), value) for place, value in walk(node))


def refuse_resolvers(texts: Iterable[tuple[str, str]]) -> None:
    """Check texts, each after the place where it stands, for more than ``${name.of.a.setting}``.

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
    """The first interpolation that is no setting's name; empty without any.

    Names may be made of names, ``${a.${b}}``, so what is harmless is taken out from inside.
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
