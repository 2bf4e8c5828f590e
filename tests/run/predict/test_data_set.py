"""A trained system on every pair of a data set, in any layout."""

from __future__ import annotations

import csv
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
import yaml

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.method.network_method import NetworkMethod
from msseg_lightning.read.nifti import GATE_DEFAULTS
from msseg_lightning.run.assemble.system import build_method
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.predict.data_set import predict_data_set
from msseg_lightning.run.predict.trained import changed_config, load_config, stored_config
from msseg_lightning.run.shard import Shard


def table_of(cohort, path, names, with_reference=True):
    """A CSV of some pairs of the cohort: another layout of the same scans."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "baseline_flair", "followup_flair", "new_lesions"])
        for name in names:
            scans = [f"{name}/flair_time0{visit}_on_middle_space.nii.gz" for visit in (1, 2)]
            reference = f"{name}/ground_truth.nii.gz" if with_reference else ""
            writer.writerow([f"case{name}", *scans, reference])
    return [
        "read=table",
        f"read.manifest={path}",
        f"read.root={cohort}",
        "read.registered=true",
        "data.workers=1",
    ]


def test_another_layout_gives_the_scores_of_the_run(trained_run, tiny_cohort, tmp_path, capsys):
    words = table_of(tiny_cohort, tmp_path / "pairs.csv", ["003", "004"])
    out = tmp_path / "out"
    cache = f"paths.cache={tmp_path / 'cache'}"
    assert main(["predict", str(trained_run), "--folder", str(out), *words, cache]) == ExitCode.OK
    printed = capsys.readouterr().out
    assert "2 of 2 pairs predicted" in printed and "1 pair with new lesions" in printed
    ours = json.loads((out / "scores.json").read_text())
    run = json.loads((trained_run / "scores.json").read_text())
    for name in ("003", "004"):
        assert ours["cases"][f"case{name}"]["official"] == run["cases"][name]["official"]
        mask = nib.load(out / f"case{name}.nii.gz")
        same = nib.load(trained_run / "predictions" / f"{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(same.dataobj))
        assert (out / f"case{name}_probability.nii.gz").exists()
    learned = run["pairs"]["003"]["learned_from"]
    assert ours["pairs"]["case003"] == {"patient": "case003", "learned_from": learned}
    assert ours["data"]["trained_on"] == [] and len(ours["model"]["weights_sha256"]) == 64
    assert len((out / "scores.csv").read_text().splitlines()) == 3


def test_without_references_there_are_masks_and_no_scores(trained_run, tiny_cohort, tmp_path):
    words = table_of(tiny_cohort, tmp_path / "pairs.csv", ["003"], with_reference=False)
    out = tmp_path / "out"
    words += [f"paths.cache={tmp_path / 'cache'}", "postprocess.rules.threshold.value=1.0"]
    assert main(["predict", str(trained_run), "--folder", str(out), *words]) == ExitCode.OK
    assert not np.asarray(nib.load(out / "case003.nii.gz").dataobj).any()  # nothing exceeds 1
    assert not (out / "scores.json").exists()


def test_a_refused_pair_is_named_and_the_others_are_scored(
    trained_run, tiny_cohort, tmp_path, capsys
):
    manifest = tmp_path / "pairs.csv"
    words = table_of(tiny_cohort, manifest, ["003", "004"])
    text = manifest.read_text().replace("004/ground_truth", "004/flair_time01_on_middle_space")
    manifest.write_text(text)  # a scan in place of a mask
    out = tmp_path / "out"
    words += [f"paths.cache={tmp_path / 'cache'}"]
    assert main(["predict", str(trained_run), "--folder", str(out), *words]) == ExitCode.PARTIAL
    assert "case004" in capsys.readouterr().err
    content = json.loads((out / "scores.json").read_text())
    assert list(content["cases"]) == ["case003"] and content["data"]["left_out"] == ["case004"]


def test_training_pairs_are_no_test(trained_run, tiny_cohort, tmp_path, capsys):
    words = ["predict", str(trained_run), "--folder", str(tmp_path / "out")]
    words += ["read=msseg2", f"read.root={tiny_cohort}", f"paths.cache={tmp_path / 'cache'}"]
    assert main(words) == ExitCode.MODEL
    assert "trained on 2 of these 4 pairs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*words, "--include-training"]) == ExitCode.OK
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert content["data"]["trained_on"] == ["001", "002"]


def test_only_what_was_not_trained_can_be_set(trained_run, tmp_path):
    saved = stored_config(trained_run / "model")
    read = ["read=open_ms", f"read.root={tmp_path}"]
    changed = changed_config(saved, [*read, "infer.overlap=0.25", "postprocess=threshold_0_5"])
    assert changed["read"]["_target_"].endswith("OpenMs") and changed["infer"]["overlap"] == 0.25
    assert changed["network"] == saved["network"] and saved["infer"]["overlap"] == 0.5
    for wrong in ("network.widths=[8]", "infer.overlapp=0.25", "preprocess=bsi"):
        with pytest.raises(MssegError) as caught:
            changed_config(saved, [*read, wrong])
        assert caught.value.exit_code == ExitCode.CONFIG


def test_a_system_stored_before_the_gates_options_were_settings_takes_them(trained_run, tmp_path):
    saved = stored_config(trained_run / "model")
    saved["data"]["reading"] = {}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    assert load_config(tmp_path, ["data.reading.trust=qform"])["data"]["reading"] == {
        **GATE_DEFAULTS,
        "trust": "qform",
    }


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A model folder of a small network with the weights it begins with."""
    config = compose_config(
        [
            "preprocess=nonzero_zscore_native",
            "network.widths=[8,8,8]",
            "sample.size=[16,16,16]",
            "infer.size=32",
            "read.root=unknown",
            "data.workers=1",
        ],
        "pre_unet",
    )
    folder = tmp_path_factory.mktemp("untrained") / "model"
    build_method(config).save(folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def predicted(monkeypatch):
    """Ids of the pairs that a network really looked at."""
    seen: list[str] = []
    # the program is part of what a prediction is made from, and may be edited while tests run
    monkeypatch.setattr("msseg_lightning.run.predict.predictor.code_hash", lambda *_: "code")
    real = NetworkMethod.predict
    monkeypatch.setattr(
        NetworkMethod, "predict", lambda self, pair: seen.append(pair.id) or real(self, pair)
    )
    return seen


def bytes_of(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_two_parts_and_any_executor_give_the_bytes_of_one_call(
    untrained, coarse_cohort, tmp_path, predicted
):
    data = ["read=msseg2", f"read.root={coarse_cohort}", f"paths.cache={tmp_path / 'cache'}"]
    whole = predict_data_set(untrained, data, tmp_path / "whole")
    assert len(whole.predicted) == whole.total == 4 and whole.summary
    expected = bytes_of(tmp_path / "whole")
    assert {"scores.json", "scores.csv", "scores/001.json", "001.nii.gz"} <= expected.keys()
    first = predict_data_set(untrained, data, tmp_path / "parts", shard=Shard(2, 2))
    assert first.predicted == ("002", "004") and not first.summary and first.total == 4
    assert not (tmp_path / "parts" / "scores.json").exists()
    last = predict_data_set(untrained, data, tmp_path / "parts", shard=Shard(1, 2))
    assert last.predicted == ("001", "003") and last.summary == whole.summary
    assert bytes_of(tmp_path / "parts") == expected
    with ThreadPoolExecutor(1) as pool:
        predict_data_set(untrained, data, tmp_path / "pool", executor=pool, pieces=2)
    assert bytes_of(tmp_path / "pool") == expected
    again = predict_data_set(untrained, data, tmp_path / "whole")
    assert len(predicted) == 12 and again == whole  # nothing was missing


def test_the_second_call_does_only_what_is_missing(untrained, coarse_cohort, tmp_path, predicted):
    data = tmp_path / "tiny"
    shutil.copytree(coarse_cohort, data)
    words = ["read=msseg2", f"read.root={data}", f"paths.cache={tmp_path / 'cache'}"]
    scan = data / "003" / "flair_time01_on_middle_space.nii.gz"
    sound = scan.read_bytes()
    scan.write_bytes(sound[:2000])
    command = ["predict", str(untrained), "--folder", str(tmp_path / "out"), *words]
    assert main(command) == ExitCode.PARTIAL
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert content["data"]["left_out"] == ["003"] and len(content["cases"]) == 3
    scan.write_bytes(sound)
    (tmp_path / "out" / "001.nii.gz").unlink()
    predicted.clear()
    assert main(command) == ExitCode.OK
    assert predicted == ["001", "003"]
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert content["data"]["left_out"] == [] and len(content["cases"]) == 4
    predicted.clear()  # other rules give other masks
    assert main([*command, "postprocess.rules.threshold.value=0.9"]) == ExitCode.OK
    assert predicted == ["001", "002", "003", "004"]


def test_a_table_is_divided_too(untrained, coarse_cohort, tmp_path, predicted):
    manifest = tmp_path / "pairs.csv"
    table_of(coarse_cohort, manifest, ["001", "002"], with_reference=False)
    text = manifest.read_text().replace("followup_flair", "followup_flair,output", 1)
    lines = text.replace(",new_lesions", "").replace(",\n", "\n").split()
    rows = [f"{line},{tmp_path / f'mask{n}.nii.gz'}" for n, line in enumerate(lines[1:])]
    scans = [row.replace(",0", f",{coarse_cohort}/0") for row in rows]
    manifest.write_text("\n".join([lines[0], *scans]) + "\n")
    command = ["predict", str(untrained), "--table", str(manifest), "--folder", str(tmp_path)]
    assert main([*command, "--shard", "2/2"]) == ExitCode.OK
    assert predicted == ["case002"] and (tmp_path / "mask1.nii.gz").exists()
    assert main(command) == ExitCode.OK and predicted == ["case002", "case001"]
    assert (tmp_path / "mask0_msseg.json").exists() and not list(tmp_path.glob("*probability*"))


@pytest.mark.parametrize("name", ["001.nii.gz", "002_probability.nii.gz", "scores.csv",
                                  "scores/003.json", "scores.json", "004_msseg.json"])  # fmt: skip
def test_files_of_others_in_the_output_folder_are_left_alone(
    name, untrained, coarse_cohort, tmp_path, predicted
):
    data = ["read=msseg2", f"read.root={coarse_cohort}", f"paths.cache={tmp_path / 'cache'}"]
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text('{"EchoTime": 0.1}')
    with pytest.raises(MssegError, match="did not write") as caught:
        predict_data_set(untrained, data, tmp_path / "out")
    assert caught.value.exit_code is ExitCode.CONFIG and not predicted
    assert file.read_text() == '{"EchoTime": 0.1}' and len(list(file.parent.iterdir())) == 1
