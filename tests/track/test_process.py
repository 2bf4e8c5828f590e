import psutil

from msseg_lightning.core import temporary
from msseg_lightning.track.process import is_alive, is_here, process_tags


def test_a_process_number_used_again_is_another_process():
    tags = process_tags()
    assert is_here(tags) and is_alive(tags)
    assert not is_alive(tags | {"process.started": "-5.0"})
    assert not is_alive(tags | {"process.pid": "999999999"})


def test_setting_the_clock_kills_nobody(monkeypatch):
    tags = process_tags()
    boot, create = psutil.boot_time, psutil.Process.create_time
    monkeypatch.setattr(psutil, "boot_time", lambda: boot() + 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: create(self) + 3600)
    assert is_alive(tags)


def test_a_container_with_the_name_of_its_host_is_another_machine(monkeypatch):
    tags = process_tags()
    monkeypatch.setattr(temporary.Path, "readlink", lambda path: "pid:[1]")
    assert not is_here(tags)
