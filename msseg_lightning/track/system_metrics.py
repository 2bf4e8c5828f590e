"""Load of processor, memory and GPU as metrics."""

from __future__ import annotations

import time

from msseg_lightning.track.journal import Record

_MIB = 2**20


class SystemMetrics:
    """System metrics with the names of MLflow, sampled at most every ``interval_s`` seconds.

    Args:
        interval_s: time between samples.
    """

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self._next = 0.0
        self._count = 0
        self._gpus: list[object] | None = None

    def sample(self) -> list[Record]:
        """One record with the current load; empty if the interval has not passed."""
        if time.monotonic() < self._next:
            return []
        self._next = time.monotonic() + self.interval_s
        now = int(time.time() * 1000)
        points = [
            [f"system/{name}", value, now, self._count] for name, value in self._load().items()
        ]
        self._count += 1
        return [{"do": "metrics", "points": points}]

    def _load(self) -> dict[str, float]:
        import psutil

        memory = psutil.virtual_memory()
        load = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_percentage": memory.percent,
            "process_memory_mebibytes": psutil.Process().memory_info().rss / _MIB,
        }
        return load | self._gpu_load()

    def _gpu_load(self) -> dict[str, float]:
        try:
            import pynvml
        except ImportError:
            return {}
        try:
            if self._gpus is None:
                pynvml.nvmlInit()
                count = pynvml.nvmlDeviceGetCount()
                self._gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
            load: dict[str, float] = {}
            for index, gpu in enumerate(self._gpus):
                rates = pynvml.nvmlDeviceGetUtilizationRates(gpu)
                memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
                load[f"gpu_{index}_utilization_percentage"] = float(rates.gpu)
                load[f"gpu_{index}_memory_usage_megabytes"] = memory.used / 1e6
            return load
        except pynvml.NVMLError:
            self._gpus = []
            return {}
