import socket

import pytest

from msseg_lightning.cli import ui
from msseg_lightning.core.problem import ExitCode, MssegError


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org", ""])
def test_no_address_of_the_network(host):
    with pytest.raises(MssegError) as caught:
        ui.main(["--host", host])
    assert caught.value.exit_code is ExitCode.SECURITY


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_addresses_of_this_computer(host):
    ui.refuse_other_hosts(host)


def test_a_taken_port_names_a_free_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MssegError) as caught:
            ui.main(["--port", str(port)])
    assert caught.value.exit_code is ExitCode.ENVIRONMENT
    assert "--port" in str(caught.value) and f"--port {port} " not in str(caught.value)


def test_a_port_that_is_none():
    with pytest.raises(MssegError):
        ui.require_free_port("127.0.0.1", 70_000)


def test_the_store_is_served_on_this_computer(tmp_path, monkeypatch, capsys):
    served = []
    monkeypatch.setattr("msseg_lightning.track.store.ensure_store", lambda folder: f"at {folder}")
    monkeypatch.setattr("msseg_lightning.track.pages.runs_address", lambda uri: "#/runs")
    monkeypatch.setattr("msseg_lightning.track.pages.serve", lambda *where: served.append(where))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert ui.main(["--folder", str(tmp_path), "--port", str(port)]) is ExitCode.OK
    assert served == [(f"at {tmp_path}", "127.0.0.1", port)]
    assert f"http://127.0.0.1:{port}/#/runs\n" in capsys.readouterr().out
