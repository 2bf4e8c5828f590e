import shutil

import pytest

from msseg_lightning.track.store import DATABASE, ensure_store


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory):
    """Schema migrations take seconds: once per session, then copied."""
    folder = tmp_path_factory.mktemp("migrated") / "mlruns"
    ensure_store(folder)
    return folder


@pytest.fixture
def store(migrated_store, tmp_path):
    """URI of an empty store of the test's own."""
    folder = tmp_path / "mlruns"
    folder.mkdir()
    shutil.copy(migrated_store / DATABASE, folder / DATABASE)
    return ensure_store(folder)
