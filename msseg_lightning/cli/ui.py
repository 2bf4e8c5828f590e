"""Browse and compare runs in MLflow's pages, on this computer only."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

EXAMPLES = """\
examples
  msseg ui                        runs recorded under mlruns/ in this folder
  msseg ui --port 5001            when port 5000 is taken
  msseg ui --folder /data/mlruns  another store

The server has no password and answers this computer only. From another one, forward the port:
  ssh -L 5000:127.0.0.1:5000 THIS_COMPUTER    and open http://127.0.0.1:5000
In MLflow choose the experiment, tick runs and press Compare. Stop the server with Ctrl-C.
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Serve MLflow's pages until interrupted."""
    options = _parser().parse_args(arguments)
    refuse_other_hosts(options.host)
    require_free_port(options.host, options.port)
    from msseg_lightning.track.pages import runs_address, serve
    from msseg_lightning.track.store import ensure_store

    uri = ensure_store(Path(options.folder))
    host = f"[{options.host}]" if ":" in options.host else options.host
    sys.stdout.write(
        f"http://{host}:{options.port}/{runs_address(uri)}\nopens in some 20 s; Ctrl-C stops\n"
    )
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):
        serve(uri, options.host, options.port)
    return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="msseg ui",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", default="mlruns", help="store to show (default: mlruns)")
    parser.add_argument("--port", type=int, default=5000, help="default: 5000")
    parser.add_argument("--host", default="127.0.0.1", help="an address of this computer")
    return parser


def refuse_other_hosts(host: str) -> None:
    """Refuse addresses other than those of the loopback device.

    Raises:
        MssegError: any other (exit 6); MLflow without a password gives away and deletes everything.
    """
    if host == "localhost":
        return
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    raise MssegError(
        Problem(
            "ui.exposed",
            "the page would be open to the network, without a password",
            field="--host",
            found=host,
            expected="127.0.0.1, ::1 or localhost",
            remedy="keep 127.0.0.1 and forward the port with ssh -L from the other computer",
            exit_code=ExitCode.SECURITY,
        )
    )


def require_free_port(host: str, port: int) -> None:
    """Refuse a port that is in use.

    Raises:
        MssegError: it cannot (exit 5); the message names one that can.
    """
    if 1 <= port <= 65535 and _is_free(host, port):
        return
    other = next((p for p in range(max(port, 1024) + 1, 65536) if _is_free(host, p)), 5000)
    raise MssegError(
        Problem(
            "ui.port_taken",
            "the port is in use, or this user may not use it",
            field="--port",
            found=str(port),
            expected="a free port from 1024 to 65535",
            remedy=f"`msseg ui --port {other}`",
            exit_code=ExitCode.ENVIRONMENT,
        )
    )


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # A server that ended a moment ago leaves the port in TIME_WAIT, which does no harm.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
