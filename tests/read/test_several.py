from __future__ import annotations

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.read.reader import Reader
from msseg_lightning.read.several import Several


class Fixed:
    def __init__(self, *names, problem=None):
        self.names, self.problem = names, problem

    def subjects(self):
        if self.problem:
            raise MssegError(Problem(self.problem, "refused"))
        return [LongitudinalSubject(id=name, patient=name[0], images={}) for name in self.names]

    def order(self):
        return []

    def skipped(self):
        return [Problem("data.incomplete", name) for name in self.names if name.endswith("b")]


def test_it_is_a_reader_and_tells_what_its_sources_left_out():
    several = Several({"real": Fixed("1a", "1b"), "sim": Fixed("2b")})
    assert isinstance(several, Reader)
    assert [problem.message for problem in several.skipped()] == ["1b", "2b"]


def test_equal_ids_of_two_data_sets_are_two_patients():
    pairs = Several({"real": Fixed("1a", "1b"), "sim": Fixed("1a")}).subjects()
    assert [pair.id for pair in pairs] == ["real-1a", "real-1b", "sim-1a"]
    assert [pair.patient for pair in pairs] == ["real-1", "real-1", "sim-1"]


def test_problems_of_all_sources_are_told_together():
    with pytest.raises(MssegError) as caught:
        Several({"a": Fixed(problem="x.one"), "b": Fixed(problem="x.two")}).subjects()
    assert [problem.code for problem in caught.value.problems] == ["x.one", "x.two"]


def test_an_id_that_becomes_too_long_is_refused():
    with pytest.raises(MssegError):
        Several({"a": Fixed("n" * 63)}).subjects()


@pytest.mark.parametrize("sources", [{}, {"a-b": Fixed("1")}, {"ä": Fixed("1")}])
def test_sources_without_usable_names_are_a_configuration_error(sources):
    with pytest.raises(MssegError) as caught:
        Several(sources)
    assert caught.value.exit_code == ExitCode.CONFIG


def several(**scans):
    class One(Fixed):
        def __init__(self, patient, file):
            super().__init__()
            self.pair = LongitudinalSubject(patient, patient, {"followup_flair": file})

        def subjects(self):
            return [self.pair]

        def order(self):
            return ["by name"]

    return Several({name: One(*scan) for name, scan in scans.items()})


def test_one_person_in_two_sources(tmp_path):
    one, other = tmp_path / "one.nii", tmp_path / "other.nii"
    reader = several(a=("MS01", one), b=("ms1", other))
    assert len(reader.subjects()) == 2
    (problem,) = reader.skipped()
    assert problem.code == "patient.similar" and problem.found == "1, e.g. a-MS01, b-ms1"
    assert reader.order() == ["a: by name", "b: by name"]
    numbers = several(a=("001", one), b=("001", other))  # numbers alone say nothing
    assert len(numbers.subjects()) == 2 and not numbers.skipped()
    with pytest.raises(MssegError, match=r"patient.shared_scan"):
        several(a=("001", one), b=("P7", one)).subjects()
