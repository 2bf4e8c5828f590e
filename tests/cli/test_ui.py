import socket
import stat

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


def test_the_server_is_small_and_local(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "msseg_lightning.track.store._create", lambda database: database.touch(mode=0o600)
    )
    command, environment = ui.server(tmp_path / "mlruns", "127.0.0.1", 5005)
    words = " ".join(command)
    assert "--host 127.0.0.1 --port 5005 --workers 1" in words and "0.0.0.0" not in words
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert stat.S_IMODE((tmp_path / "mlruns").stat().st_mode) == 0o700
