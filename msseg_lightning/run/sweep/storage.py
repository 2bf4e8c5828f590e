"""Where the trials of a search lie: an SQLite file of this machine, or any database by URL."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.sweep.space import Search

if TYPE_CHECKING:
    import optuna

DATABASE = "study.db"


def open_storage(store: str | None, folder: Path) -> optuna.storages.RDBStorage:
    """Open a store, and make its tables: of several that do so at once, one succeeds at a time."""
    import optuna
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = store_url(store, folder)
    waiting: dict[str, Any] = {"timeout": 120} if url.startswith("sqlite") else {}
    attempts = 5
    for attempt in range(attempts):
        try:
            return optuna.storages.RDBStorage(
                url, engine_kwargs={"connect_args": waiting, "pool_pre_ping": True}
            )
        except RuntimeError as error:  # Optuna's only word for tables of another version
            raise MssegError(_other_version(url, error)) from error
        except (IntegrityError, ProgrammingError, OperationalError) as error:
            taken = "exist" in str(error) or "pg_type" in str(error)
            if not taken or attempt == attempts - 1:
                raise
            time.sleep(0.5 * (attempt + 1))
    raise AssertionError("unreachable")


def _other_version(url: str, error: RuntimeError) -> Problem:
    upgrade = "storage upgrade" in str(error)
    return Problem(
        "sweep.store_version",
        "the store of the trials was made by another version of Optuna",
        file=shown_store(url),
        found=" ".join(str(error).split("Please")[0].split())[:300],
        expected="tables of the Optuna that is installed",
        remedy=f"optuna storage upgrade --storage {shown_store(url)}, or name=OTHER to begin anew"
        if upgrade
        else "install the Optuna that made it or a later one, or name=OTHER to begin anew",
        exit_code=ExitCode.STORE,
    )


def store_url(store: str | None, folder: Path) -> str:
    """The address as SQLAlchemy takes it; ``postgresql://`` means the psycopg driver."""
    if store is None:
        return f"sqlite:///{(folder / DATABASE).resolve()}"
    scheme, separator, rest = store.partition("://")
    return f"postgresql+psycopg{separator}{rest}" if scheme in ("postgres", "postgresql") else store


def shown_store(store: str) -> str:
    """An address without its password."""
    from sqlalchemy import make_url

    return make_url(store).render_as_string(hide_password=True)


@contextlib.contextmanager
def reachable(store: str | None) -> Iterator[None]:
    """Say in words what is wrong with a store.

    Raises:
        MssegError: it cannot be reached (exit 8); no such address, no driver for it (exit 2).
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        yield
    except ArgumentError as error:
        raise MssegError(
            Problem(
                "sweep.store_address",
                "this is not the address of a store",
                field="store",
                found=(store or "").rpartition("@")[2],
                expected="an address such as postgresql://USER@HOST/DATABASE",
                remedy="leave store= out for a file, or give store=postgresql://USER@HOST/DATABASE",
                exit_code=ExitCode.CONFIG,
            )
        ) from error
    except ImportError as error:
        raise MssegError(
            Problem(
                "sweep.store_driver",
                "the driver of this database is not installed",
                field="store",
                found=str(error),
                remedy="pip install 'msseg-lightning[postgres]'",
                exit_code=ExitCode.CONFIG,
            )
        ) from error
    except (StorageInternalError, SQLAlchemyError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        reason = str(getattr(cause, "orig", None) or cause or error)
        raise MssegError(
            Problem(
                "sweep.store",
                "the store of the trials cannot be used",
                file=shown_store(store) if store else None,
                found=" ".join(reason.split())[:300],
                remedy="start it or check store=, then give the command again: finished folds "
                "are kept",
                exit_code=ExitCode.STORE,
            )
        ) from error


def refuse_pickles(search: Search, store: str | None, folder: Path) -> None:
    """CMA-ES keeps its state as a pickle in the store: whoever can write there could run code."""
    file = folder / DATABASE
    own = not file.exists() or file.stat().st_uid == os.getuid()
    if search.sampler != "cmaes" or (store is None and own):
        return
    raise MssegError(
        Problem(
            "sweep.cmaes",
            "CMA-ES runs code from its store, and this store may be written by others",
            field="search.sampler",
            found="cmaes",
            expected="tpe, random, grid or nsga2 on a shared store",
            remedy="search.sampler=tpe, or leave store= out",
            exit_code=ExitCode.SECURITY,
        )
    )
