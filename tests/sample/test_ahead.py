import threading
import time

import pytest
import torch

from msseg_lightning.core.batch import Batch
from msseg_lightning.sample.ahead import made_ahead


def batch(step):
    return Batch(torch.full((1,), float(step)), torch.zeros(1), ("a",), torch.ones(1))


def test_batches_come_in_order_and_few_wait():
    made = []

    def make(step):
        made.append(step)
        return batch(step)

    stream = made_ahead(make, 3, 9, waiting=2)
    assert float(next(stream).images) == 3
    time.sleep(0.05)
    assert max(made) <= 5  # two wait beside the one in use
    assert [float(item.images) for item in stream] == [4, 5, 6, 7, 8]
    assert made == [3, 4, 5, 6, 7, 8]


def test_leaving_early_stops_the_thread():
    before = threading.active_count()
    stream = made_ahead(batch, 0, 1000)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_an_error_reaches_the_caller():
    def make(step):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        next(made_ahead(make, 0, 2))
    assert list(made_ahead(batch, 2, 2)) == []
