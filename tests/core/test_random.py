"""Random numbers depend on their key only."""

from __future__ import annotations

import subprocess
import sys

from msseg_lightning.core.random import keyed_generator, keyed_seed


def test_the_same_key_draws_the_same_and_any_other_key_differs():
    base = keyed_generator(0, "augment", 5, 1).random(4).tolist()
    assert keyed_generator(0, "augment", 5, 1).random(4).tolist() == base
    for other in [
        (1, "augment", 5, 1),
        (0, "place", 5, 1),
        (0, "augment", 6, 1),
        (0, "augment", 51),
    ]:
        assert keyed_generator(*other).random(4).tolist() != base


def test_parts_of_a_key_do_not_run_together():
    assert keyed_seed(1, 23) != keyed_seed(12, 3)
    assert keyed_seed("1") != keyed_seed(1)


def test_another_process_with_another_hash_seed_draws_the_same():
    script = "from msseg_lightning.core.random import keyed_seed; print(keyed_seed(3, 'x', 9))"
    values = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert values == {f"{keyed_seed(3, 'x', 9)}\n"}
