from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode


def test_the_split_of_the_settings_decides_the_parts(coarse_cohort, tmp_path, capsys):
    folder = tmp_path / "Dataset501_Coarse"
    words = ["read=msseg2", f"read.root={coarse_cohort}", "split=file"]
    words.append(f"split.path={coarse_cohort}/split.json")
    assert main(["convert", str(folder), *words]) == ExitCode.OK
    assert "2 pairs to train on, 2 held out" in capsys.readouterr().out
    assert len(list((folder / "imagesTs").iterdir())) == 4
    assert main(["convert", str(tmp_path / "other"), *words]) == ExitCode.CONFIG
