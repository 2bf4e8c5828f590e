"""S14b is S14a with further pairs in every training fold, given by one key."""

from __future__ import annotations

import pytest

from msseg_lightning.core.method import FitContext
from msseg_lightning.core.problem import MssegError
from msseg_lightning.method.ensemble import EnsembleMethod
from msseg_lightning.run.assemble.system import build_method, further_subjects
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.train.experiment import refuse_copies

ROOT = "read.root=."
ONE_KEY = "sample.extra_pairs.reader.root"


def test_only_the_data_list_differs():
    plain, more = (
        compose_config((ROOT,), name) for name in ("triplanar_unet", "triplanar_unet_extra_data")
    )
    differing = {key for key in more if more[key] != plain[key]}
    assert differing == {"name", "experiment", "card", "sample"}
    more["sample"].pop("extra_pairs")
    assert more["sample"] == plain["sample"]


def fitted_on(monkeypatch, config, subjects):
    """(training, validation) ids of every member, as the cache is asked for them."""
    asked = []
    method = build_method(config)
    assert isinstance(method, EnsembleMethod)

    class StopHereError(Exception):
        pass

    def prepare(pairs):
        asked.append([pair.id for pair in pairs])
        raise StopHereError

    (make,) = method.members.values()
    member = make()
    monkeypatch.setattr(member.cache, "prepare", prepare)
    train, val = subjects[:1], subjects[1:]
    context = FitContext(held_out=frozenset({"extra-002"}))
    with pytest.raises(StopHereError):
        member.fit(train, val, None, context)
    return asked[0]


def test_every_member_trains_on_the_extra_pairs_and_validates_without_them(
    monkeypatch, tiny_cohort, coarse_cohort
):
    words = ("size=tiny", f"read.root={tiny_cohort}")
    config = compose_config((*words, f"{ONE_KEY}={coarse_cohort}"), "triplanar_unet_extra_data")
    from msseg_lightning.read.msseg2 import Msseg2

    own = Msseg2(tiny_cohort).subjects()[:2]
    asked = fitted_on(monkeypatch, config, own)
    extra = [f"extra-{pair.id}" for pair in Msseg2(coarse_cohort).subjects()]
    # held-out patients are not learned from, whatever they are called in the other data
    expected = [own[0].id, *(name for name in extra if name != "extra-002"), own[1].id]
    assert asked == expected
    scans = [path for pair in further_subjects(config) for path in pair.images.values()]
    assert scans and all(path.is_relative_to(coarse_cohort) for path in scans)
    plain = compose_config(words, "triplanar_unet_extra_data")
    assert fitted_on(monkeypatch, plain, own) == [own[0].id, own[1].id]


def test_the_run_s_own_scans_are_no_extra_pairs(tiny_cohort):
    """Under another name they would let a member learn from those it is tested with."""
    from msseg_lightning.read.msseg2 import Msseg2

    words = (f"read.root={tiny_cohort}", f"{ONE_KEY}={tiny_cohort}")
    config = compose_config(words, "triplanar_unet_extra_data")
    further = further_subjects(config)
    assert next(pair.id for pair in further).startswith("extra-")
    with pytest.raises(MssegError):
        refuse_copies([*Msseg2(tiny_cohort).subjects(), *further])
    plain = compose_config(words[:1], "triplanar_unet_extra_data")
    assert further_subjects(plain) == []
