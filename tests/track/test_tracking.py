from pathlib import Path

import pytest
import yaml

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.track.store import open_client
from msseg_lightning.track.tracking import Tracking

CONF = Path(__file__).parents[2] / "conf" / "track"


def test_a_run_through_the_settings_object(store, tmp_path):
    tracking = Tracking(tmp_path / "mlruns", key_file=tmp_path / "key", system_metrics=False)
    assert tracking.uri == store
    run = tracking.start("e", "r", spool=tmp_path / "track", tags={"fold": 0})
    assert run.finish()
    assert open_client(store).get_run(run.run_id).data.tags["fold"] == "0"
    assert tracking.pseudonyms.name("a").startswith("case-")


@pytest.mark.parametrize("uri", ["ftp://host", "mlruns", "postgresql+nowhere://host/db"])
def test_an_address_that_cannot_work_is_refused_at_once(uri, tmp_path):
    with pytest.raises(MssegError) as caught:
        Tracking(uri=uri, key_file=tmp_path / "key")
    assert caught.value.exit_code is ExitCode.CONFIG and uri in str(caught.value)


def test_presets_fit_the_constructor(tmp_path):
    for preset in CONF.glob("*.yaml"):
        values = yaml.safe_load(preset.read_text()) or {}
        if "_target_" not in values:
            continue  # tracking off
        assert values.pop("_target_") == "msseg_lightning.track.tracking.Tracking"
        Tracking(**values | {"key_file": tmp_path / "key"})
