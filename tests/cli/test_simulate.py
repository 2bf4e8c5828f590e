import pytest

from msseg_lightning.cli.simulate import main
from msseg_lightning.core.problem import ExitCode, MssegError


def test_writes_the_asked_patients(tmp_path, capsys):
    assert main([str(tmp_path), "preset=tiny", "patients=2", "seed=3"]) == ExitCode.OK
    assert (tmp_path / "002" / "ground_truth.nii.gz").is_file()
    assert not (tmp_path / "001").exists()
    assert "1 patients" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", ["patients=9-12", "patients=0", "seed=x", "workers", "preset=none", "trian=3"]
)
def test_wrong_arguments_exit_2(tmp_path, wrong):
    with pytest.raises(MssegError) as caught:
        main([str(tmp_path / "out"), "preset=tiny", wrong])
    assert caught.value.exit_code == ExitCode.CONFIG
    assert not (tmp_path / "out").exists()
