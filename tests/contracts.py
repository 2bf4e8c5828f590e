"""What every network, loss, step and method must do; ``test_contracts.py`` and
``test_experiments.py`` apply it to every preset and experiment."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import pickle
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from msseg_lightning.core.method import FitContext, Method
from msseg_lightning.core.network import DeepLogits
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import TARGET, LoadedSubject, LongitudinalSubject
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.preprocess.pipeline import Preprocess
from msseg_lightning.preprocess.step import Step, describe


def finest(output: Tensor | DeepLogits) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def check_network(network: nn.Module, images: Tensor, outputs: int = 1) -> None:
    """Shape, determinism, independence of patches, gradients everywhere, safe to copy and save.

    Args:
        network: the network under test.
        images: (2, C, X, Y, Z), two different patches of a legal size.
        outputs: logits per voxel; the first is that of the new lesions.
    """
    shape = (2, outputs, *images.shape[2:])
    network.train()
    output = network(images)
    assert tuple(finest(output).shape) == shape
    if isinstance(output, DeepLogits):
        for coarse, before in zip(output.deeper, (output.logits, *output.deeper), strict=False):
            assert all(c <= b for c, b in zip(coarse.shape[2:], before.shape[2:], strict=True))
        total = finest(output).square().mean() + sum(o.square().mean() for o in output.deeper)
    elif isinstance(output, Tensor):
        total = output.square().mean()
    else:  # several answers, each with a gradient of its own
        parts = [part for part in tree_leaves(output) if part.requires_grad]
        total = torch.stack([part.square().mean() for part in parts]).sum()
    total.backward()
    missing = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert not missing, f"no gradient reaches {missing[:5]}"
    network.zero_grad()

    network.eval()
    with torch.no_grad():
        logits = network(images)
        assert isinstance(logits, Tensor), "evaluation returns plain logits"
        assert tuple(logits.shape) == shape and bool(torch.isfinite(logits).all())
        torch.testing.assert_close(network(images), logits)
        alone = torch.cat([network(images[:1]), network(images[1:])])
        torch.testing.assert_close(alone, logits, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(copy.deepcopy(network)(images), logits)
    names = list(network.state_dict())
    assert len(names) == len(set(names))
    pointers = [weight.data_ptr() for weight in network.parameters()]
    assert len(pointers) == len(set(pointers)), "shared weights cannot be saved as safetensors"


def check_loss(loss: nn.Module, resolutions: int = 1) -> None:
    """Finite on everything a patch can be, in float32 whatever the logits, better when righter.

    Args:
        loss: ``(logits, target) -> scalar``.
        resolutions: how many outputs of a deeply supervised network it takes; 1 is plain logits.
    """
    generator = torch.Generator().manual_seed(0)
    lesion = torch.zeros(2, 1, 8, 8, 8)
    lesion[0, :, 2:5, 2:5, 2:5] = 1
    targets = {
        "no lesion": torch.zeros_like(lesion),
        "all lesion": torch.ones_like(lesion),
        "one of two": lesion,
        "raters disagree": lesion * 0.25,
    }
    random = torch.randn(lesion.shape, generator=generator)
    for name, target in targets.items():
        for scale in (0.0, 1.0, 100.0, 1e4):
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                logits = (random * scale).to(dtype).requires_grad_()
                value = loss(logits, target)
                assert value.ndim == 0 and value.dtype == torch.float32, (name, dtype)
                assert bool(torch.isfinite(value)), (name, scale, dtype)
                (slope,) = torch.autograd.grad(value, logits)
                assert bool(torch.isfinite(slope).all()), (name, scale, dtype)
    right, blind = (lesion * 2 - 1) * 8, torch.full_like(lesion, -8.0)
    assert loss(right, lesion) < loss(blind, lesion)
    torch.testing.assert_close(loss(random, lesion), loss(random.flip(2), lesion.flip(2)))
    if resolutions > 1:
        shrink = nn.functional.max_pool3d
        deeper = tuple(shrink(random, 2**level) for level in range(1, resolutions))
        value = loss(DeepLogits(random, deeper), lesion)
        assert value.ndim == 0 and bool(torch.isfinite(value))


def fingerprint(value: Any) -> object:
    """Equal for equal values, bit for bit; arrays by type, shape and bytes."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        values = np.ascontiguousarray(value)
        return value.dtype.str, value.shape, hashlib.sha256(values.data).hexdigest()
    if isinstance(value, PreparedSubject):
        names = (*value.image_names, *value.mask_names)
        return value.id, [fingerprint(value.array(value.layer(name).file)) for name in names]
    if dataclasses.is_dataclass(value):
        return [fingerprint(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        return [(str(name), fingerprint(item)) for name, item in value.items()]
    if isinstance(value, list | tuple):
        return [fingerprint(item) for item in value]
    return repr(value)


def check_step(
    make: Callable[[], Any],
    given: Any,
    apply: Callable[[Any, Any, int], Any] = lambda step, given, key: step(given),
    keys: Sequence[int] = (0,),
) -> list[Any]:
    """Equal parameters give equal results, bit for bit, in any order; input and step stay.

    A step is anything with parameters that is asked again and again: of preprocessing, a sampler,
    an augmentation, an inference rule, a rule of postprocessing.

    Args:
        make: builds it from its parameters.
        given: its input.
        apply: asks it; a random one by the key.
        keys: of random draws. Another object of the same parameters, that went through pickle and
            ``deepcopy``, is asked in the opposite order.

    Returns:
        Its result for each key.
    """
    step, twin = make(), copy.deepcopy(pickle.loads(pickle.dumps(make())))
    name = type(step).__name__
    before = fingerprint(given)
    results = [apply(step, given, key) for key in keys]
    first = [fingerprint(result) for result in results]
    assert fingerprint(given) == before, f"{name} changes its input"
    second = [fingerprint(apply(twin, given, key)) for key in reversed(keys)]
    assert first == second[::-1], f"{name}: the same key and parameters give another result"
    return results


def check_preprocessing(make: Callable[[], Step], loaded: LoadedSubject) -> LoadedSubject:
    """``check_step``, and: frozen, a key of plain values, one geometry, legal on empty images.

    Args:
        make: builds the step.
        loaded: what the steps before it leave.

    Returns:
        What it makes of the pair.
    """
    step = make()
    name = type(step).__name__
    assert isinstance(step, Step) and type(step.version) is int and step.version >= 1, name
    key = json.dumps(describe(step), sort_keys=True)
    assert type(step).__dataclass_params__.frozen, f"{name} can be changed"  # type: ignore[attr-defined]
    (result,) = check_step(lambda: step, loaded)
    assert json.dumps(describe(step), sort_keys=True) == key, f"{name} changes its parameters"
    assert json.dumps(describe(make()), sort_keys=True) == key and repr(make()) == repr(step)
    _check_loaded(result, loaded, name)
    try:
        empty = step(_emptied(loaded))
    except MssegError as error:  # a refusal is an answer; anything else is a crash
        assert all(problem.remedy for problem in error.problems), name
    else:
        _check_loaded(empty, loaded, f"{name} of an empty pair")
    return result


def _emptied(loaded: LoadedSubject) -> LoadedSubject:
    """The same pair with zeros in every image and mask."""
    volumes = {
        name: Volume(np.zeros_like(volume.data), volume.affine, volume.kind)
        for name, volume in loaded.volumes.items()
    }
    return dataclasses.replace(loaded, volumes=volumes)


def _check_loaded(result: LoadedSubject, given: LoadedSubject, name: str) -> None:
    assert result.subject == given.subject and result.native is given.native, name
    assert result.notes[: len(given.notes)] == given.notes, f"{name} drops notes"
    assert np.isfinite(result.to_native).all() and np.linalg.det(result.to_native) > 0, name
    for label, volume in result.volumes.items():
        assert np.isfinite(volume.data).all(), f"{name}: {label} is not finite"
        if volume.kind == "mask":
            assert set(np.unique(volume.data)) <= {0, 1}, f"{name}: {label} is no mask"
    if _is_common(given):
        assert _is_common(result), f"{name} moves volumes apart"


def _is_common(loaded: LoadedSubject) -> bool:
    try:
        return bool(loaded.grid)
    except ValueError:
        return False


def check_maker(
    make: Callable[[], Any],
    pair: PreparedSubject,
    cut: Callable[..., tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> None:
    """``check_step`` of an augmentation, and: both visits and all masks are moved by one draw.

    Args:
        make: builds it.
        pair: whose two images and two masks all show the same body: bright in both visits, 1 in
            both masks; a third mask, ``nothing``, is empty.
        cut: (maker, pair, key) -> images (2, ...) and labels (3, ...) of one patch.
    """
    moved = 0
    for images, labels in check_step(make, pair, cut, keys=range(12)):
        assert np.isfinite(images).all()
        assert set(np.unique(labels)) <= {0, 1}, "masks are cut at one half"
        np.testing.assert_array_equal(labels[0], labels[1], "masks are moved apart")
        assert not labels[2].any(), "something is in an empty mask"
        body = labels[0] > 0
        if not 0.02 < body.mean() < 0.98:
            continue
        moved += 1
        for image in images:
            brighter = stats.mannwhitneyu(image[body], image[~body]).statistic
            share = brighter / (body.sum() * (~body).sum())  # of pairs of voxels
            assert share > 0.8, "an image is moved apart from its mask"
    assert moved > 6, "the body is in no patch"


def check_batches(make: Callable[[], Any], pairs: Sequence[PreparedSubject], targets: int) -> None:
    """Batches are functions of their number: in any order, from any object, for any rank.

    Args:
        make: builds the loader of these pairs.
        pairs: prepared; they stay as they are.
        targets: masks that are learned.
    """
    batches = check_step(make, pairs, lambda loader, _, number: loader.batch(number), keys=(0, 3))
    assert fingerprint(batches[0]) != fingerprint(batches[1]), "every batch is the same"
    for batch in batches:
        assert bool(torch.isfinite(batch.images).all()) and batch.images.dtype == torch.float32
        assert len(batch.images) == len(batch.target) == len(batch.weight)
        assert batch.target.shape[1] >= targets and set(batch.subjects) <= {p.id for p in pairs}
        assert bool(
            ((batch.target >= 0) & (batch.target <= 1)).all()
        )  # of none where none is learned
    other = make().batch(0, rank=1, world_size=2)
    assert fingerprint(other.images) != fingerprint(batches[0].images), "ranks see the same"


def check_fit(
    fit: Callable[..., None],
    train: Sequence[LongitudinalSubject],
    val: Sequence[LongitudinalSubject],
    folder: Path,
    context: FitContext,
    place: Path,
    written_in: Collection[Path],
) -> None:
    """A fit leaves pairs, files and context as they were, and writes where it may.

    Args:
        fit: of a method.
        train: labelled pairs.
        val: likewise.
        folder: of the fit.
        context: of the fit.
        place: folder in which all is watched.
        written_in: folders below it, besides ``folder``, in which others write meanwhile.
    """
    pairs = [*train, *val]
    told = [
        fingerprint([*train, None, *val]),
        fingerprint(context.held_out),
        list(context.loggers),
        context.track,
    ]
    inputs = _hashes(pairs)
    may = [path.absolute() for path in (folder, *written_in)]
    before = _states(place, may)
    fit(train, val, folder, context)
    now = [
        fingerprint([*train, None, *val]),
        fingerprint(context.held_out),
        list(context.loggers),
        context.track,
    ]
    assert told == now, "a fit changes what it is told"
    assert _hashes(pairs) == inputs, "a fit changes its input files"
    written = {file for file, _ in _states(place, may).items() ^ before.items()}
    assert not written, "a fit writes outside its folder"


def check_method(
    make: Callable[[], Method], model: Path, pair: LongitudinalSubject, place: Path, cache: Path
) -> None:
    """A fitted method answers the same, always: asked again, saved and loaded, without reference.

    The answer has probabilities from 0 to 1 on the grid of the scan, and none where all is 0.

    Args:
        make: builds the method.
        model: its model folder, left as it is.
        pair: labelled.
        place: an empty folder to work in.
        cache: of prepared pairs, the only other place where it writes.
    """
    inputs, saved = _hashes([pair]), _states(model)
    around = _states(place.parent, (place, cache))
    method = make()
    assert isinstance(method, Method)
    method.load(model)
    answer = method.predict(pair)
    _check_prediction(answer, pair)

    empty = dataclasses.replace(pair, id="empty")
    run = Preprocess.run
    with mock.patch.object(Preprocess, "run", lambda chain, given: _dark(run(chain, given))):
        nothing = method.predict(empty)
    _check_prediction(nothing, empty)
    assert not nothing.mask.any(), "something is found where all is 0"

    assert not _differences(method.predict(pair), answer), "a second answer differs"
    method.save(place / "model")
    loaded = make()
    loaded.load(place / "model")
    masks = {name: file for name, file in pair.masks.items() if not name.startswith(TARGET)}
    again = loaded.predict(dataclasses.replace(pair, masks=masks))
    assert not _differences(again, answer), "saved, and asked without reference: differs"
    assert _hashes([pair]) == inputs and _states(model) == saved, "a prediction changes its inputs"
    assert _states(place.parent, (place, cache)) == around, "a prediction writes files"


def _dark(loaded: LoadedSubject) -> LoadedSubject:
    """The same pair with zeros in every image; masks stay."""
    volumes = {
        name: dataclasses.replace(volume, data=np.zeros_like(volume.data))
        if volume.kind == "image"
        else volume
        for name, volume in loaded.volumes.items()
    }
    return dataclasses.replace(loaded, volumes=volumes)


def _differences(one: Prediction, other: Prediction) -> list[str]:
    """Names of the parts in which two predictions differ; of headers, the grid alone.

    A prediction is written with the header of the reference where there is one.
    """
    one, other = (dataclasses.replace(answer, native=answer.native.grid) for answer in (one, other))  # type: ignore[arg-type]  # to be compared
    return [
        field.name
        for field in dataclasses.fields(Prediction)
        if fingerprint(getattr(one, field.name)) != fingerprint(getattr(other, field.name))
    ]


def _check_prediction(answer: Prediction, pair: LongitudinalSubject) -> None:
    scan = nib.load(pair.images["followup_flair"])
    assert answer.subject == pair.id
    assert answer.native.grid.same_as(Grid(scan.shape, scan.affine))
    assert answer.mask.shape == scan.shape and answer.mask.dtype == np.uint8
    assert answer.mask.max() <= 1
    for values in (answer.probability, answer.spread):
        if values is not None:
            assert values.shape == scan.shape and values.dtype == np.float32
            assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1
    if answer.inside is not None:
        assert answer.inside.shape == scan.shape and answer.inside.dtype == bool


def _hashes(pairs: Sequence[LongitudinalSubject]) -> dict[Path, str]:
    files = [file for pair in pairs for file in pair.files().values()]
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _states(place: Path, without: Collection[Path] = ()) -> dict[Path, tuple[int, int]]:
    """Size and time of every file in a folder, but for those of some folders."""

    def files(folder: Path) -> Iterator[Path]:
        for path in folder.iterdir():
            if path in without:
                continue
            if path.is_dir():
                yield from files(path)
            else:
                yield path

    return {file: (file.stat().st_size, file.stat().st_mtime_ns) for file in files(place)}
