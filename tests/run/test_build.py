"""What a configuration is refused for before any pair is prepared, and with which exit code."""

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.build import build_cache, build_method, instantiate
from msseg_lightning.run.compose import compose_config

TINY = ("read.root=none", "size=tiny")


@pytest.mark.parametrize(
    "override",
    [
        "sample.size=[-16,16,16]",
        "sample.size=[0,16,16]",
        "infer.overlap=1.0",
        "infer.overlap=1.5",
        "infer.overlap=-0.2",
        "infer.size=0",
        "train.optimizer.lr=-1",
        "train.batch_size=0",
        "+loss.unknown=3",
    ],
)
def test_a_setting_out_of_range_is_a_configuration_error_at_once(override):
    config = compose_config((*TINY, override), "pre_unet")
    with pytest.raises(MssegError) as caught:
        build_method(config)
    assert caught.value.exit_code == ExitCode.CONFIG
    assert all(problem.field and problem.remedy for problem in caught.value.problems)


def test_what_the_object_itself_said_comes_through():
    node = compose_config((*TINY, "infer.overlap=2"), "pre_unet")["infer"]
    with pytest.raises(MssegError) as caught:
        instantiate(node)
    assert caught.value.problems[0].field == "overlap"
    assert caught.value.problems[0].found == "2"


def test_pairs_read_under_other_rules_are_not_taken_from_the_cache():
    """Prepared under trust=qform, a scan must not come back under trust=sform."""
    rules = [[], ["+data.reading.trust=qform"], ["+data.reading.trust=sform"]]
    folders = [build_cache(compose_config([*TINY, *rule], "pre_unet")).folder for rule in rules]
    assert len(set(folders)) == 3
    assert folders[0].name == "prepared"
