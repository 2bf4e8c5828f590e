from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from msseg_lightning.cli.imports import hidden, import_without

SCRIPT = """
import sys
from msseg_lightning.cli.imports import import_lightning
import_lightning()
assert not {"matplotlib", "scipy.signal", "pydicom"} & set(sys.modules), "not hidden"
import lightning.pytorch, torchmetrics, nibabel
assert torchmetrics.MeanMetric and lightning.pytorch.Trainer and nibabel.Nifti1Header
import matplotlib, scipy.signal
assert matplotlib.get_backend and scipy.signal.oaconvolve
"""


def test_lightning_comes_without_what_it_does_not_need_and_the_rest_can_be_had_later():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=120)


def test_a_hidden_package_is_back_even_after_an_error():
    sys.modules.pop("this", None)
    with pytest.raises(KeyError), hidden("this", "json"):
        assert importlib.util.find_spec("this") is None
        assert importlib.util.find_spec("json")  # imported before, so left alone
        raise KeyError
    assert importlib.util.find_spec("this")


def test_where_packages_are_looked_for_in_another_way_nothing_is_hidden(monkeypatch):
    import lightning_utilities.core.imports as asked

    sys.modules.pop("this", None)
    monkeypatch.setattr(asked, "_version", None)
    with hidden("this"):
        assert importlib.util.find_spec("this")


def test_a_release_that_needs_a_hidden_package_gets_it(tmp_path, monkeypatch):
    (tmp_path / "needed_elsewhere.py").write_text("VALUE = 3\n")
    (tmp_path / "needs_another.py").write_text("from needed_elsewhere import VALUE\n")
    monkeypatch.syspath_prepend(tmp_path)
    import_without("needs_another", ("needed_elsewhere",))
    assert sys.modules.pop("needs_another").VALUE == sys.modules.pop("needed_elsewhere").VALUE == 3
