from msseg_lightning.track.system_metrics import SystemMetrics


def test_one_sample_per_interval():
    system = SystemMetrics(interval_s=60)
    (record,) = system.sample()
    names = {point[0] for point in record["points"]}
    assert {"system/cpu_utilization_percentage", "system/process_memory_mebibytes"} <= names
    assert system.sample() == []
