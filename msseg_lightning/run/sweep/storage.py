"""The store of the trials of a search: a local SQLite file, or any database by URL."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
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
    """Open a store and create its tables; safe for several processes at once."""
    import optuna
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if store is None:
        refuse_damaged(folder / DATABASE)
    url = store_url(store, folder)
    waiting: dict[str, Any] = {"timeout": 120} if url.startswith("sqlite") else {}
    attempts = 5
    for attempt in range(attempts):
        try:
            return optuna.storages.RDBStorage(
                url, engine_kwargs={"connect_args": waiting, "pool_pre_ping": True}
            )
        except RuntimeError as error:  # Optuna raises it for tables of another version
            raise MssegError(_other_version(url, error)) from error
        except (IntegrityError, ProgrammingError, OperationalError) as error:
            taken = "exist" in str(error) or "pg_type" in str(error)
            if not taken or attempt == attempts - 1:
                raise
            time.sleep(0.5 * (attempt + 1))
    raise AssertionError("unreachable")


def refuse_damaged(file: Path) -> None:
    """Refuse a file that is empty, damaged or not SQLite; a missing file is accepted.

    Raises:
        MssegError: the file is damaged (exit 8).
    """
    if not file.exists():
        return
    wrong = ""
    try:
        for _ in range(5):  # another process may be about to write the first page
            if file.stat().st_size or file.with_name(f"{file.name}-journal").exists():
                break
            time.sleep(0.2)
        else:
            wrong = "an empty file"
        if not wrong:
            with contextlib.closing(
                sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
            ) as database:
                (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            wrong = "" if found == "ok" else str(found)
    except sqlite3.OperationalError as error:  # locked or unreadable: reported when it is used
        if "malformed" in str(error):
            wrong = str(error)
    except (sqlite3.DatabaseError, OSError) as error:
        wrong = str(error)
    if wrong:
        raise MssegError(damaged_store(file, wrong))


def damaged_store(place: Path | str | None, found: str) -> Problem:
    """The refusal of a store that is damaged."""
    return Problem(
        "sweep.store_damaged",
        "the store of the trials was changed or damaged",
        file=place,
        found=" ".join(found.split())[:300],
        expected="the trials as they were written",
        remedy="restore a copy of it, or name=OTHER to begin anew",
        exit_code=ExitCode.STORE,
    )


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
    """SQLAlchemy address of a store; ``postgresql://`` uses the driver psycopg."""
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
    """Context that turns errors of a store into refusals.

    Raises:
        MssegError: it cannot be reached (exit 8); an invalid address, or no driver for it (exit 2).
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
    except (AssertionError, KeyError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise MssegError(
            damaged_store(
                shown_store(store) if store else DATABASE, f"{type(error).__name__}: {error}"
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
    """Refuse CMA-ES on a store of others, since it loads pickles from it, which can run code.

    Raises:
        MssegError: others may write to the store (exit 6).
    """
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
