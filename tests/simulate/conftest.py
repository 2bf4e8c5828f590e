import pytest

from msseg_lightning.run.data.simulate import load_recipe
from msseg_lightning.simulate.cohort import write_cohort
from msseg_lightning.simulate.patient import simulate_patient


@pytest.fixture(scope="session")
def tiny():
    """Coarser than the preset, for the logic; detail is tested on smaller boxes."""
    return load_recipe(
        "tiny", ["spacing_floor_mm=6.0", "sampling_mm=3.0", "lesions.new_median_mm3=2500"]
    )


@pytest.fixture(scope="session")
def patients(tiny):
    """Both training patients: one has new lesions."""
    return [simulate_patient(tiny, 0, index) for index in (0, 1)]


@pytest.fixture(scope="session")
def written(tiny, tmp_path_factory):
    """The tiny cohort on disk, written by one worker in order."""
    return write_cohort(tmp_path_factory.mktemp("cohort"), tiny, 0)
