import shutil

import pytest

from msseg_lightning.track import store as store_module
from msseg_lightning.track.store import DATABASE, ensure_store


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory, stores_are_copies):
    """A store as the package creates it; schema migrations take seconds, so once per session."""
    folder = tmp_path_factory.mktemp("migrated") / "mlruns"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "_create", stores_are_copies)
        ensure_store(folder)
    return folder


@pytest.fixture
def store(migrated_store, tmp_path):
    """URI of an empty store of the test's own."""
    folder = tmp_path / "mlruns"
    folder.mkdir()
    shutil.copy(migrated_store / DATABASE, folder / DATABASE)
    return ensure_store(folder)
