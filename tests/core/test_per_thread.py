from __future__ import annotations

import pickle
import threading

from msseg_lightning.core.per_thread import PerThread


def test_every_thread_and_every_process_has_its_own():
    scratch, seen = PerThread(), []
    scratch.here = 1
    thread = threading.Thread(target=lambda: seen.append(hasattr(scratch, "here")))
    thread.start()
    thread.join()
    assert seen == [False]
    assert not hasattr(pickle.loads(pickle.dumps(scratch)), "here")
