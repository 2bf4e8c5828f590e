"""Help texts and exit codes of the command line."""

from __future__ import annotations

import importlib
import logging
import shlex
import subprocess
import sys

import pytest

from msseg_lightning.cli.main import COMMANDS, main, usage
from msseg_lightning.core.problem import ExitCode


def test_the_help_names_every_command_with_a_summary(capsys):
    assert main(["--help"]) == ExitCode.OK
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command}" in text
    assert "not a medical device" in text


def test_no_command_is_a_usage_error(capsys):
    assert main([]) == ExitCode.CONFIG


def test_an_unknown_command_suggests_the_nearest(capsys):
    assert main(["trian"]) == ExitCode.CONFIG
    assert "msseg train" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_teaches_by_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"msseg {command}" in capsys.readouterr().out


def test_the_help_imports_nothing_heavy():
    script = (
        "import sys; from msseg_lightning.cli.main import main; main(['--help']); main(['list']);"
        "print([m for m in ('torch', 'hydra', 'mlflow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("[]")


def test_a_refused_setting_ends_with_its_code_and_a_remedy(capsys):
    assert main(["show", "pre_unet", "read.root=data", "train.stepz=3"]) == ExitCode.CONFIG
    assert "train.steps" in capsys.readouterr().err


def test_every_command_keeps_freed_memory(monkeypatch, capsys):
    kept = []
    monkeypatch.setattr("msseg_lightning.cli.main.keep_freed_memory", lambda: kept.append(True))
    assert main(["list"]) == 0
    assert kept == [True]


def test_the_usage_lists_the_exit_codes():
    assert "3 data" in usage()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), ExitCode.ENVIRONMENT),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), ExitCode.ENVIRONMENT),
        (RuntimeError("a bug"), ExitCode.INTERNAL),
        (KeyError("a bug"), ExitCode.INTERNAL),
    ],
)
def test_running_out_of_memory_is_the_machines_business(error, code, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr("msseg_lightning.cli.list.main", fail)
    assert main(["list"]) == code
    assert ("train.batch_size" in capsys.readouterr().err) == (code == ExitCode.ENVIRONMENT)


def test_sigterm_outside_training_ends_with_its_own_code(tmp_path):
    script = (
        "import os, signal, sys, types; import msseg_lightning.cli.main as cli\n"
        "module = types.SimpleNamespace(main=lambda _: os.kill(os.getpid(), signal.SIGTERM))\n"
        "sys.modules['msseg_lightning.cli.list'] = module\nsys.exit(cli.main(['list']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert done.returncode == ExitCode.TERMINATED


def test_a_run_without_scores_has_no_report_yet(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("name: x\n")
    assert main(["report", str(tmp_path)]) == ExitCode.MODEL
    assert "msseg train" in capsys.readouterr().err


def test_numbers_below_one_are_usage_errors(tmp_path, capsys):
    assert main(["simulate", str(tmp_path / "c"), "preset=tiny", "train=-4"]) == ExitCode.CONFIG
    assert not (tmp_path / "c").exists()
    with pytest.raises(SystemExit) as caught:
        main(["check", "read=msseg2", f"read.root={tmp_path}", "--workers", "-1"])
    assert caught.value.code == ExitCode.CONFIG


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (FileExistsError(17, "File exists", "out"), "environment.in_the_way", "move it away"),
        (NotADirectoryError(20, "Not a directory", "a/b"), "environment.in_the_way", "away"),
        (IsADirectoryError(21, "Is a directory", "a"), "environment.in_the_way", "another place"),
        (OSError(28, "No space left on device"), "environment.files", "check free space"),
        (PermissionError(13, "Permission denied", "x"), "environment.files", "paths.cache=FOLDER"),
        (RuntimeError("unexpected pos 832 vs 726"), "environment.files", "check free space"),
        (MemoryError(), "environment.memory", "data.workers=1"),
    ],
)
def test_what_the_machine_refuses_is_said_with_what_to_do(error, code, said, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr("msseg_lightning.cli.list.main", fail)
    assert main(["list"]) == ExitCode.ENVIRONMENT
    text = capsys.readouterr().err
    assert text.startswith(f"msseg: [{code}]") and said in text
    if getattr(error, "filename", None):
        assert f"] {error.filename}: " in text


@pytest.mark.faults
@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("| true", ExitCode.OK, ""),
        (">&-", ExitCode.OK, ""),
        ("2>&-", ExitCode.OK, ""),
        (">&- 2>&- <&-", ExitCode.OK, ""),
        ("2>/dev/full", ExitCode.OK, ""),
        (">/dev/full", ExitCode.ENVIRONMENT, "environment.files"),
    ],
)
def test_work_ends_well_whoever_stopped_reading(ending, code, said, tmp_path):
    script = (
        "import sys, types; import msseg_lightning.cli.main as cli\n"
        "def work(_):\n"
        "    print(chr(233) + 'lesion')\n"  # a letter that ASCII has not
        "    for _ in range(3):\n"
        "        print('x' * 100_000); print('y' * 100_000, file=sys.stderr)\n"
        "    open(sys.argv[2], 'w').write('done')\n"
        "    return 0\n"
        "sys.modules['msseg_lightning.cli.list'] = types.SimpleNamespace(main=work)\n"
        "sys.exit(cli.main())"
    )
    done = tmp_path / "done"
    words = shlex.join([sys.executable, "-c", script, "list", str(done)])
    shell = subprocess.run(
        ["bash", "-c", f"PYTHONIOENCODING=ascii {words} {ending}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
    )
    assert shell.returncode == code, shell.stderr[:500]
    assert said in shell.stderr
    # what went to no reader did not go into the file, and the work was done
    assert not done.exists() if code else done.read_text() == "done"


@pytest.mark.parametrize(
    ("option", "level"), [("--quiet", "WARNING"), ("--verbose", "DEBUG"), ("list", "INFO")]
)
def test_quiet_and_verbose_go_with_every_command(option, level, capsys, monkeypatch):
    monkeypatch.delenv("MSSEG_LOG", raising=False)
    for words in ([option, "list"], ["list", option]):
        assert main([word for word in dict.fromkeys(words)]) == ExitCode.OK
        assert logging.getLevelName(logging.getLogger("msseg").level) == level
        assert "pre_unet" in capsys.readouterr().out
    assert main(["--quiet"]) == ExitCode.CONFIG


@pytest.mark.parametrize(("command", "goes_on"), [("train", True), ("list", False)])
def test_ctrl_c_says_how_to_go_on(command, goes_on, monkeypatch, capsys):
    def interrupt(arguments):
        raise KeyboardInterrupt

    module = importlib.import_module(f"msseg_lightning.cli.{command}")
    monkeypatch.setattr(module, "main", interrupt)
    assert main([command, "pre_unet"]) == ExitCode.INTERRUPTED
    assert ("the same command goes on" in capsys.readouterr().err) is goes_on
