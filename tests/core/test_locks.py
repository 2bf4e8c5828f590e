"""F27: without locks nothing waits for ever and nothing is written twice."""

from __future__ import annotations

import errno
import fcntl

import pytest

from msseg_lightning.core import locks
from msseg_lightning.core.locks import require_locks
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.folder import RunFolder


def test_a_disk_with_locks_is_used(tmp_path):
    require_locks(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.faults
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_refused_at_the_start(number, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, "x")

    locks._error.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        with pytest.raises(MssegError) as caught, RunFolder(tmp_path).lock():
            pass
    locks._error.cache_clear()
    (problem,) = caught.value.problems
    assert (problem.code, problem.exit_code) == ("environment.locks", ExitCode.ENVIRONMENT)
    with RunFolder(tmp_path).lock():
        pass
