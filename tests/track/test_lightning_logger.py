from msseg_lightning.track.lightning_logger import TrackerLogger


class Recorder:
    run_id = "abc"

    def __init__(self):
        self.calls = []

    def log_metrics(self, metrics, step):
        self.calls.append((dict(metrics), step))


def test_metrics_are_forwarded_with_their_step():
    recorder = Recorder()
    logger = TrackerLogger(recorder)
    logger.log_metrics({"train/loss": 0.5, "epoch": 1}, step=7)
    logger.log_hyperparams({"lr": 1})
    logger.finalize("success")
    assert recorder.calls == [({"train/loss": 0.5}, 7)]
    assert logger.version == "abc" and logger.experiment is recorder


def test_without_a_tracker_nothing_happens():
    TrackerLogger(None).log_metrics({"train/loss": 0.5}, step=7)
