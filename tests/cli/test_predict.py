"""Refusals of arguments of ``msseg predict`` that do not fit together."""

import pytest

from msseg_lightning.cli.predict import main


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
