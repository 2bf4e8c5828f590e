import stat

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.track.pseudonym import Pseudonyms


def test_same_key_same_name(tmp_path):
    key = tmp_path / "config" / "key"
    names = Pseudonyms(key)
    assert names.name("patient01") == Pseudonyms(key).name("patient01") != names.name("patient02")
    assert names.name("patient01").startswith("case-") and "patient" not in names.name("patient01")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert names.name("patient01") != Pseudonyms(tmp_path / "other").name("patient01")


def test_plain_ids_need_no_key(tmp_path):
    assert Pseudonyms(tmp_path / "key", plain=True).name("013") == "013"
    assert not (tmp_path / "key").exists()


def test_a_key_others_can_read_is_refused(tmp_path):
    key = tmp_path / "key"
    Pseudonyms(key)
    key.chmod(0o644)
    with pytest.raises(MssegError) as caught:
        Pseudonyms(key)
    assert caught.value.exit_code is ExitCode.SECURITY
