"""Refusals of arguments of ``msseg predict`` that do not fit together."""

import contextlib

import pytest

from msseg_lightning.cli import predict
from msseg_lightning.cli.predict import main
from msseg_lightning.run.predict import model_zip
from msseg_lightning.run.predict.packaged import introduction, packaged_model


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--table", "t.csv", "-o", "out"], "for --table give --folder FOLDER"),
        (["read=bids", "read.root=ds", "-o", "out"], "for a data set give --folder FOLDER"),
        (["-t1", "b.nii", "-o", "m.nii"], "--baseline, --followup and --output"),
    ],
)
def test_words_that_do_not_fit_together_are_answered_with_what_does(words, advice, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["model", *words])
    assert caught.value.code == 2
    assert advice in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "settings"),
    [([], []), (["data.workers=2", "infer=null"], ["data.workers=2", "infer=null"])],
)
def test_without_a_model_the_one_in_the_package_is_taken(
    words, settings, tmp_path, monkeypatch, capsys
):
    asked = []

    def opened(text, _):
        asked.append(text)
        return contextlib.nullcontext(tmp_path)

    monkeypatch.setattr(model_zip, "opened_model", opened)
    monkeypatch.setattr(predict, "_predict", lambda _, options, __: asked.append(options.settings))
    scans = ["-t1", "b.nii", "-t2", "f.nii", "-o", str(tmp_path / "m.nii")]
    main([*words, *scans])
    assert asked == [str(packaged_model()), settings]
    assert capsys.readouterr().out == f"{introduction()}\n"
    main(["runs/x", *words, *scans])
    assert asked[2:] == ["runs/x", settings] and capsys.readouterr().out == ""
