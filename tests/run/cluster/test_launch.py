"""Jobs of SLURM against stand-ins for its commands, which run them on this machine."""

from __future__ import annotations

import os
import pickle
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.cluster.launch import Command, commands, launch, read_launcher

pytest.importorskip("submitit")

SBATCH = """
import os, re, subprocess, sys
place, script = os.environ["STAND_IN"], sys.argv[1]
text = open(script).read()
open(place + "/script.sh", "w").write(text)
array = re.search("--array=.?0-([0-9]+)", text)
if "--queue" not in sys.argv:  # queued: the caller goes on, the jobs run by themselves
    subprocess.Popen([sys.executable, __file__, script, "--queue"], start_new_session=True,
                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print("Submitted batch job 77")
    sys.exit()
for task in range(int(array[1]) + 1 if array else 1):
    number = f"77_{task}" if array else "77"
    own = {"SLURM_JOB_ID": str(77 + task), "SLURM_NTASKS": "1", "SLURM_PROCID": "0",
           "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NNODES": "1",
           "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_NAME": "msseg", "JOB": number}
    if array:
        own |= {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": str(task)}
    while True:
        subprocess.run(["bash", script], env={**os.environ, **own})
        try:
            os.remove(place + "/requeued")
        except FileNotFoundError:
            break
open(place + "/ended", "w").close()
"""

SRUN = """
import os, subprocess, sys
options = dict(zip(sys.argv, sys.argv[1:]))
first = next(i for i, word in enumerate(sys.argv) if word.startswith("/") and "python" in word)
def log(option):
    name = options[option].replace("%j", os.environ["JOB"]).replace("%t", "0")
    return open(name.replace("%A_%a", os.environ["JOB"]), "a")
step = subprocess.Popen(sys.argv[first:], start_new_session=True, stdout=log("--output"),
                        stderr=log("--error"))
open(os.environ["STAND_IN"] + "/step", "w").write(str(step.pid))
sys.exit(step.wait())
"""

SCONTROL = """
import os, sys
assert sys.argv[1] == "requeue", sys.argv
open(os.environ["STAND_IN"] + "/requeued", "w").write(sys.argv[2])
open(os.environ["STAND_IN"] + "/scontrol.log", "a").write(" ".join(sys.argv[1:]))
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """sbatch, srun, scontrol and sacct on PATH."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    sacct = "print('JobID|State|NodeList')"
    stand_ins = {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL, "sacct": sacct}
    for name, code in stand_ins.items():
        path = bin_folder / name
        path.write_text(f"#!{sys.executable}\n{code}")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")  # restored afterwards
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wait_for(found, seconds=400.0):
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
    return value


def test_an_array_of_parts_is_submitted_and_finishes(slurm, capsys):
    out = slurm / "cohort"
    small = ["train=1", "test=1", "spacing_floor_mm=8.0", "sampling_mm=4.0"]
    words = ["launcher=slurm", "launcher.array=2", "launcher.partition=long", "launcher.wait=true"]
    words += ["launcher.timeout_min=30", "launcher.additional_parameters={mail-type: END}"]
    assert main(["simulate", str(out), "preset=tiny", *small, *words]) == ExitCode.OK
    assert "finished: 77_0, 77_1" in capsys.readouterr().out
    script = (slurm / "script.sh").read_text()
    for line in (
        "--array=0-1%2", "--partition=long", "--signal=USR1@90", "--requeue", "--time=30",
        "--open-mode=append", "--mail-type=END", "--job-name=msseg-simulate", "--mem=32GB",
    ):  # fmt: skip
        assert re.search(rf"^#SBATCH {line}$", script.replace("'", ""), re.MULTILINE), line
    assert "export SUBMITIT_PREEMPT_SIGNAL=USR1" in script and "\nsrun " in script
    assert sorted(path.name for path in out.glob("*/patient.json")) == ["patient.json"] * 2
    alone = slurm / "alone"
    assert main(["simulate", str(alone), "preset=tiny", *small]) == ExitCode.OK
    for file in (path for path in alone.rglob("*") if path.is_file()):
        assert file.read_bytes() == (out / file.relative_to(alone)).read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_preempted_training_saves_is_requeued_and_goes_on(slurm, coarse_cohort):
    words = [
        "preprocess=nonzero_zscore_native",
        f"read.root={coarse_cohort}",
        "split=file",
        f"split.path={coarse_cohort / 'split.json'}",
        "network.widths=[8,8,8]",
        "sample.size=[16,16,16]",
        "infer.size=32",
        "train.steps=40",
        "train.validate_every=10",
        "data.workers=1",
        "track=off",
    ]
    assert launch("train", ["pre_unet", *words, "launcher=slurm"]).startswith("submitted: 77")
    script = (slurm / "script.sh").read_text()
    assert "#SBATCH --signal=USR1@90" in script and "--array" not in script
    run = slurm / "runs" / "pre_unet" / f"{coarse_cohort.name}-fold0-seed0"
    curves = run / "fit" / "curves.csv"
    wait_for(lambda: (run / "fit" / "last.ckpt").exists() or (slurm / "ended").exists())
    os.killpg(int((slurm / "step").read_text()), signal.SIGUSR1)  # SLURM signals the whole step
    wait_for(lambda: (slurm / "ended").exists())
    log = next((slurm / "jobs" / "77").glob("*log.err")).read_text()
    assert (slurm / "scontrol.log").read_text() == "requeue 77"
    stopped = re.search(r"stopped by SIGUSR1 after step (\d+)", log)
    assert stopped and 10 <= int(stopped[1]) < 40, log[-3000:]
    assert '"status": "finished"' in (run / "run.json").read_text(), log[-3000:]
    steps = [line.split(",")[0] for line in curves.read_text().splitlines()[1:]]
    assert len(steps) == len(set(steps)) or "step" not in curves.read_text()


def test_the_local_launcher_runs_parts_side_by_side(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    monkeypatch.chdir(tmp_path)
    words = ["preset=tiny", "train=1", "test=1", "spacing_floor_mm=8.0", "launcher=local"]
    assert main(["simulate", "cohort", *words, "launcher.array=2"]) == ExitCode.OK
    assert len(list((tmp_path / "cohort").glob("*/patient.json"))) == 2
    with pytest.raises(MssegError, match="1 of 1 jobs failed") as caught:
        launch("simulate", ["cohort", *words, "seed=5"])  # another cohort lies there
    assert caught.value.exit_code == ExitCode.PARTIAL


def test_a_job_that_is_to_end_before_it_began_comes_back_whole():
    job = Command(("predict", "RUN"), grace_period_s=7.0)
    later = job.checkpoint()
    assert later.function == job and pickle.loads(pickle.dumps(job)) == job


def test_what_the_jobs_of_an_array_do():
    jobs = commands("predict", ["RUN", "--folder", "out"], 2)
    assert [job.words[-2:] for job in jobs] == [("--shard", "1/2"), ("--shard", "2/2")]
    sweep = commands("sweep", ["pre_unet"], 3)
    assert [job.words for job in sweep] == [("sweep", "pre_unet")] * 3
    assert [job.words for job in commands("predict", ["RUN"], 1)] == [("predict", "RUN")]


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("train", ["launcher=slrum"], "local, slurm"),
        ("train", ["launcher=slurm", "launcher.partitoin=x"], "partition"),
        ("predict", ["launcher=local", "launcher.array=0"], "1 or more"),
        ("report", ["launcher=local"], "msseg simulate"),
        ("train", ["pre_unet", "read.root=x", "launcher=local", "launcher.array=2"], "one job"),
        ("evaluate", ["p", "t", "launcher=local", "launcher.array=2"], "--cases"),
        ("train", ["pre_unet", "read.root=x", "train.setps=3", "launcher=slurm"], "train.steps"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_queued(command, words, said, tmp_path):
    with pytest.raises(MssegError, match=said) as caught:
        launch(command, words)
    assert caught.value.exit_code == ExitCode.CONFIG


def test_without_slurm_that_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    with pytest.raises(MssegError, match="srun"):
        launch("predict", ["RUN", "launcher=slurm"])


@pytest.mark.parametrize(
    ("trainer", "asked"),
    [
        ([], {}),
        (["trainer.devices=4"], {"nodes": 1, "ntasks-per-node": 1, "gpus-per-node": 4}),
        (
            ["trainer.devices=4", "trainer.num_nodes=2"],
            {"nodes": 2, "ntasks-per-node": 4, "gpus-per-node": 4},
        ),
        (["trainer.devices=2", "trainer.accelerator=cpu"], {"nodes": 1, "ntasks-per-node": 1}),
        (["trainer.devices=2", "launcher.gpus_per_node=3"], {"gpus-per-node": 3}),
    ],
)
def test_a_training_asks_for_its_devices(slurm, trainer, asked):
    (slurm / "bin" / "sbatch").write_text(
        f"#!{sys.executable}\nimport shutil, sys\n"
        f"shutil.copy(sys.argv[1], {str(slurm / 'script.sh')!r})\nprint('Submitted batch job 5')"
    )
    launch("train", ["pre_unet", "read.root=x", "launcher=slurm", *trainer])
    script = (slurm / "script.sh").read_text()
    found = dict(
        re.findall(r"^#SBATCH --(nodes|ntasks-per-node|gpus-per-node)=(\d+)", script, re.M)
    )
    assert asked.items() <= {key: int(value) for key, value in found.items()}.items()
    assert "gpus-per-node" in asked or "gpus-per-node" not in found


def test_values_keep_their_type():
    launcher = read_launcher(["launcher=slurm", "launcher.setup=[module load cuda]"])
    assert launcher["setup"] == ["module load cuda"] and launcher["array"] == 1
