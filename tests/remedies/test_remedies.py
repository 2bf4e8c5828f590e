"""Every refusal of the package is followed by its remedy, or listed with the reason why not."""

from __future__ import annotations

import re

import pytest

from tests.remedies import (  # noqa: F401  (each enters its cases)
    benchmarks,
    comparison,
    configuration,
    downloads,
    files_of_models,
    images,
    models,
    readers,
    runs,
    steps,
    tables,
)
from tests.remedies.no_command import NO_COMMAND
from tests.remedies.place import CASES, Place
from tests.remedies.refusals import refusals


@pytest.mark.parametrize("case", CASES, ids=str)
def test_remedy_is_followed_to_the_letter_and_ends_well(case, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    place = Place(tmp_path, request)
    case.follow(place)
    for code in case.codes:  # one in braces stands for several
        form = re.compile(re.sub(r"\\{\w+\\}", "[a-z_]+", re.escape(code)))
        assert any(map(form.fullmatch, place.seen)), f"the case did not meet {code}"


def test_every_refusal_has_a_case_or_a_reason():
    followed = {code for case in CASES for code in case.codes}
    listed, made = set(NO_COMMAND), set(refusals())
    assert not sorted(made - followed - listed), "these have neither"
    assert not sorted((followed | listed) - made), "the package does not make these"
    assert not sorted(followed & listed), "these have both"


def test_every_reason_is_a_sentence():
    assert not [code for code, reason in NO_COMMAND.items() if len(reason.split()) < 5]
