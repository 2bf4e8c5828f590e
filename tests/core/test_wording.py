from msseg_lightning.core.wording import counted


def test_one_is_singular_and_nothing_is_plural():
    assert [counted(n, "pair") for n in (0, 1, 2)] == ["0 pairs", "1 pair", "2 pairs"]
