import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from msseg_lightning.augment.batched import BatchedAugment
from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.augment.recipe import Affine, Blur, Flip, Gamma, Noise, Recipe
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, TARGET
from msseg_lightning.sample import loader as loader_module
from msseg_lightning.sample.loader import Loader, PatchLoader
from msseg_lightning.sample.ratio import RatioSampler
from msseg_lightning.sample.uniform import UniformSampler


class NoisyCut:
    """Plain patch plus a little noise, from the generator it is given."""

    def fill(self, subject, centre, image_names, label_names, generator, images, labels):
        start = np.rint(centre - (np.array(images.shape[1:]) - 1) / 2).astype(int)
        box = tuple(slice(a, a + n) for a, n in zip(start, images.shape[1:], strict=True))
        for channel, name in enumerate(image_names):
            images[channel] = subject.image(name)[box]
        images += generator.normal(0, 0.01, images.shape)
        for channel, name in enumerate(label_names):
            labels[channel] = subject.label(name)[box]


def loader(cohort, **changes):
    arguments = {"batch_size": 3, "seed": 7, **changes}
    return PatchLoader(cohort, RatioSampler((8, 10, 12)), NoisyCut(), **arguments)


def same(first, second):
    return (
        torch.equal(first.images, second.images)
        and torch.equal(first.target, second.target)
        and first.subjects == second.subjects
        and all(torch.equal(first.extra[name], second.extra[name]) for name in first.extra)
    )


def test_shapes_and_names(cohort):
    batch = loader(cohort, extra_names=(BRAIN,)).batch(0)
    assert batch.images.shape == (3, 2, 8, 10, 12) and batch.images.dtype == torch.float32
    assert batch.target.shape == (3, 1, 8, 10, 12) and batch.target.is_contiguous()
    assert batch.extra[BRAIN].shape == (3, 1, 8, 10, 12)
    assert set(batch.subjects) <= {subject.id for subject in cohort}
    assert batch.weight.tolist() == [1, 1, 1]
    assert set(batch.target.unique().tolist()) <= {0, 1}


def test_channels_follow_the_names(cohort):
    forwards = loader(cohort).batch(3).images
    backwards = loader(cohort, image_names=(FOLLOWUP, BASELINE)).batch(3).images
    assert torch.allclose(forwards, backwards.flip(1), atol=0.2)
    assert not torch.allclose(forwards, backwards, atol=0.2)


@pytest.mark.parametrize("threads", [2, 4])
def test_number_of_threads_does_not_matter(cohort, threads):
    single, several = loader(cohort), loader(cohort, threads=threads)
    for step, batch in enumerate(several.iterate(0, 6)):
        assert same(batch, single.batch(step))
    assert same(several.batch(11), single.batch(11))


def test_the_fused_engine_gives_the_same_bits_from_several_threads(cohort):
    recipe = Recipe(
        flip=Flip(),
        affine=Affine(1.0, (15, 15, 15), (0.9, 1.1)),
        blur=Blur(0.5),
        noise=Noise(0.5),
        gamma=Gamma(0.5),
    )
    sampler = RatioSampler((40, 10, 12))  # longer than the volume: padded
    single = PatchLoader(cohort, sampler, FusedAugment(recipe), batch_size=4, seed=1)
    several = PatchLoader(cohort, sampler, FusedAugment(recipe), batch_size=4, seed=1, threads=3)
    for step, batch in enumerate(several.iterate(0, 4)):
        assert same(batch, single.batch(step))
        assert torch.isfinite(batch.images).all()
        assert batch.images.std() > 0.1


def test_a_device_makes_the_same_patches(cohort):
    recipe = Recipe(flip=Flip(), affine=Affine(1.0, (15, 15, 15)), noise=Noise(1.0))
    engines = (FusedAugment(recipe), BatchedAugment(recipe))
    sampler = RatioSampler((8, 10, 12))
    host, device = (
        PatchLoader(cohort, sampler, engine, extra_names=(BRAIN,), seed=2) for engine in engines
    )
    for first, second in zip(host.iterate(3, 6), device.iterate(3, 6), strict=True):
        assert torch.allclose(first.images, second.images, atol=1e-3)
        assert first.subjects == second.subjects
        assert (first.extra[BRAIN] != second.extra[BRAIN]).float().mean() < 0.01
    assert torch.equal(device.batch(5).images, second.images)


def test_resuming_equals_not_stopping(cohort):
    steady = list(loader(cohort).iterate(0, 7))
    resumed = list(loader(cohort).iterate(4, 7))
    assert len(resumed) == 3
    assert all(same(a, b) for a, b in zip(steady[4:], resumed, strict=True))
    assert same(loader(cohort).batch(6), steady[6])  # in any order
    assert same(loader(cohort).batch(2), steady[2])


def test_all_draws_differ(cohort):
    """Steps, elements and ranks: the bug of forked workers that augment alike cannot happen."""
    made = loader(cohort)
    batches = [made.batch(step, rank, 2) for step in range(4) for rank in range(2)]
    elements = [element.numpy().tobytes() for batch in batches for element in batch.images]
    assert len(set(elements)) == len(elements) == 24
    assert not same(made.batch(0), loader(cohort, seed=8).batch(0))


def test_changes_differ_where_the_place_is_the_same(cohort):
    """A patch as large as the volume has one place: only the augmentation can differ."""
    sampler = UniformSampler(cohort[0].grid.shape)
    made = PatchLoader(cohort[:1], sampler, NoisyCut(), batch_size=2)
    elements = [
        element.numpy().tobytes() for step in range(3) for element in made.batch(step).images
    ]
    assert len(set(elements)) == 6


def test_ranks_share_one_global_batch(cohort):
    whole = loader(cohort, batch_size=4).batch(5)
    parts = [loader(cohort, batch_size=2).batch(5, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)


def test_leaving_early_stops_the_threads(cohort):
    before = threading.active_count()
    batches = loader(cohort, threads=2).iterate(0, 1000)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_at_most_a_few_batches_wait(cohort):
    made = []

    class Counting(NoisyCut):
        def fill(self, *arguments):
            made.append(1)
            super().fill(*arguments)

    stream = PatchLoader(cohort, UniformSampler(4), Counting(), batch_size=1).iterate(
        0, 100, ahead=2
    )
    next(stream)
    stream.close()
    assert len(made) <= 3


def test_an_error_in_a_thread_reaches_the_caller(cohort):
    with pytest.raises(Exception, match="no volume"):
        list(loader(cohort, image_names=("t1",), threads=2).iterate(0, 2))


def test_target_and_brain_belong_to_the_same_patch(cohort):
    batch = loader(cohort, target_names=(TARGET, BRAIN), extra_names=(TARGET,)).batch(1)
    assert batch.target.shape[1] == 2
    assert torch.equal(batch.target[:, :1], batch.extra[TARGET])


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"threads": 0}])
def test_bad_numbers(cohort, bad):
    with pytest.raises(ValueError, match="at least 1"):
        loader(cohort, **bad)
    with pytest.raises(ValueError, match="no subjects"):
        loader([])
    with pytest.raises(ValueError, match="rank"):
        loader(cohort).batch(0, rank=2, world_size=2)


def test_batches_are_made_in_one_place():
    """Threads, order and numbering of elements are the base's; others say what an element is."""
    folder = Path(loader_module.__file__).parent
    sources = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    assert {name for name, text in sources.items() if "ThreadPool" in text} == {"loader"}
    # pairs that are mixed have a loader of each kind
    assert {name for name, text in sources.items() if "def batch(" in text} == {"loader", "mixed"}


class Late(Loader):
    """One number per element, the later ones of a batch first; the batch knows its own thread."""

    def shapes(self):
        return (1,), (1,)

    def make(self, step, element, images, labels):
        time.sleep(0.002 * (self.batch_size - element % self.batch_size))
        if step == 5:
            raise OSError("no such file")
        images[:], labels[:] = step, element
        return f"{step}-{element}"

    def assemble(self, images, labels, made):
        self.assembled_by = threading.current_thread()
        return super().assemble(images, labels, made)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_waits_for_all_its_elements(threads):
    made = Late(["a"], batch_size=3, threads=threads)
    batches = list(made.iterate(2, 5, rank=1, world_size=2))
    assert [batch.images.flatten().tolist() for batch in batches] == [[2] * 3, [3] * 3, [4] * 3]
    assert all(batch.target.flatten().tolist() == [3, 4, 5] for batch in batches)
    assert [batch.subjects[0] for batch in batches] == ["2-3", "3-3", "4-3"]
    assert made.assembled_by is not threading.current_thread()  # networks may run there
    assert made.elements_per_step == 6
    with pytest.raises(OSError, match="no such file"):
        list(made.iterate(4, 7))
    with pytest.raises(OSError, match="no such file"):
        made.batch(5)
    assert list(made.iterate(2, 2)) == []


@pytest.mark.badinput
@pytest.mark.parametrize("batch_size", [10**8, 10**12])
def test_a_batch_that_memory_cannot_hold_is_refused_before_it_is_made(batch_size, cohort):
    for work in (lambda one: one.batch(0), lambda one: next(one.iterate(0, 1))):
        with pytest.raises(MssegError) as caught:
            work(loader(cohort, batch_size=batch_size))
        (problem,) = caught.value.problems
        assert (problem.code, problem.exit_code) == ("sample.memory", ExitCode.ENVIRONMENT)
        assert "sample.size" in problem.field and "GB" in problem.found
