"""A trained system answers on the patient's own grid and says where the answer came from."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import yaml

from msseg_lightning.cli.main import main
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import BRAIN, TARGET
from msseg_lightning.core.volume import Grid
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.nifti import native_from_grid
from msseg_lightning.run.assemble.system import build_method, instantiate
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.predict.prediction_files import (
    check_outputs,
    read_pairs,
    side_car_file,
    step_file,
    step_files,
    write_prediction,
)
from msseg_lightning.run.predict.trained import find_model, load_config, load_method
from msseg_lightning.run.train.mlflow_run import without_paths


@pytest.fixture
def pair(tiny_cohort):
    folder = tiny_cohort / "003"
    return [folder / f"flair_time0{visit}_on_middle_space.nii.gz" for visit in (1, 2)]


def test_a_pair_is_predicted_as_it_was_in_its_run(trained_run, pair, tmp_path):
    out, probability = tmp_path / "new.nii.gz", tmp_path / "p.nii.gz"
    words = ["predict", str(trained_run), "-t1", str(pair[0]), "-t2", str(pair[1])]
    assert main([*words, "-o", str(out), "--probability", str(probability)]) == ExitCode.OK
    mask = nib.load(out)
    scan = nib.load(pair[1])
    assert mask.shape == scan.shape
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-5)
    again = nib.load(trained_run / "predictions" / "003.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(again.dataobj))
    values = np.asarray(nib.load(probability).dataobj)
    assert values.dtype == np.float32 and values.min() >= 0 and values.max() <= 1
    np.testing.assert_array_equal(values > 0.5, np.asarray(mask.dataobj) > 0)
    record = json.loads((tmp_path / "new_msseg.json").read_text())
    assert record["system"] == "pre_unet" and len(record["model_sha256"]) == 64


def test_the_same_pair_gives_the_same_bytes(trained_run, pair, tmp_path):
    for name in ("a", "b"):
        words = ["predict", str(trained_run), "-t1", str(pair[0]), "-t2", str(pair[1])]
        assert main([*words, "-o", str(tmp_path / f"{name}.nii.gz")]) == ExitCode.OK
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.fixture(scope="module")
def brain_model(tmp_path_factory):
    """A model folder of a small network whose preprocessing needs a brain."""
    place = tmp_path_factory.mktemp("brain")
    words = ["preprocess=brain_zscore", "network.widths=[8,8,8]", "sample.size=[16,16,16]"]
    words += ["preprocess.steps.resample.spacing_mm=3.0", "infer.size=32", "read.root=unknown"]
    config = compose_config([*words, "data.workers=1"], "pre_unet")
    build_method(config).save(place / "model")
    text = yaml.safe_dump(without_paths(config), sort_keys=False)  # steps stand in their order
    (place / "model" / "config.yaml").write_text(text)
    return place / "model"


@pytest.fixture
def no_extraction(monkeypatch):
    """A system's own brain extraction must not be asked."""
    asked = []
    monkeypatch.setattr("msseg_lightning.preprocess.brain.atlas_brain_mask", asked.append)
    return asked


def with_brain(model, pair, brain, folder):
    words = ["predict", str(model), "-t1", str(pair[0]), "-t2", str(pair[1])]
    words += ["-o", str(folder / "new.nii.gz"), "--probability", str(folder / "p.nii.gz")]
    return main([*words, "--brain", str(brain), f"paths.cache={folder / 'cache'}"])


def test_a_brain_mask_means_what_it_means_in_a_data_set(
    brain_model, tiny_cohort, pair, no_extraction, tmp_path
):
    brain = tiny_cohort / "003" / "brain_mask.nii.gz"
    assert with_brain(brain_model, pair, brain, tmp_path) == ExitCode.OK
    record = json.loads((tmp_path / "new_msseg.json").read_text())
    assert any("brain mask taken from the data" in text for text in record["warnings"])
    (subject,) = (one for one in Msseg2(tiny_cohort).subjects() if one.id == "003")
    assert {BRAIN, TARGET} <= subject.masks.keys()
    method, _ = load_method(brain_model, [f"paths.cache={tmp_path / 'cache'}"])
    same = method.predict(subject).probability
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "p.nii.gz").dataobj), same)
    assert not no_extraction


def test_of_two_grids_a_brain_mask_lies_on_the_followup(
    brain_model, tiny_cohort, pair, no_extraction, tmp_path, capsys
):
    whole = nib.load(pair[0])
    baseline = tmp_path / "baseline.nii.gz"
    nib.save(whole.slicer[:, :, 2:], baseline)
    own, other = tiny_cohort / "003" / "brain_mask.nii.gz", tmp_path / "brain_of_baseline.nii.gz"
    nib.save(nib.load(own).slicer[:, :, 2:], other)
    assert with_brain(brain_model, [baseline, pair[1]], own, tmp_path) == ExitCode.OK
    (tmp_path / "new.nii.gz").unlink()
    assert with_brain(brain_model, [baseline, pair[1]], other, tmp_path) == ExitCode.DATA
    error = capsys.readouterr().err
    assert "mask.grid" in error and "brain_of_baseline.nii.gz" in error and "resample" in error
    assert pair[1].name in error  # the scan it has to match
    assert not no_extraction and not (tmp_path / "new.nii.gz").exists()


def test_an_empty_brain_mask_is_no_brain_mask(brain_model, tiny_cohort, pair, tmp_path, capsys):
    scan = nib.load(tiny_cohort / "003" / "brain_mask.nii.gz")
    empty = tmp_path / "empty.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(scan.shape, np.uint8), scan.affine), empty)
    assert with_brain(brain_model, pair, empty, tmp_path) == ExitCode.DATA
    error = capsys.readouterr().err
    assert "mask.no_brain" in error and "empty.nii.gz" in error and "leave it out" in error
    assert with_brain(brain_model, pair, tmp_path / "nowhere.nii.gz", tmp_path) == ExitCode.DATA
    assert "nowhere.nii.gz" in capsys.readouterr().err
    assert not (tmp_path / "new.nii.gz").exists()


def test_one_pair_takes_settings_too(trained_run, pair, tmp_path, capsys):
    mask = tmp_path / "new.nii.gz"
    words = ["predict", str(trained_run), "-t1", str(pair[0]), "-t2", str(pair[1]), "-o", str(mask)]
    cache = f"paths.cache={tmp_path / 'cache'}"
    assert main([*words, "infer.overlap=0.25", cache]) == ExitCode.OK
    assert json.loads((tmp_path / "new_msseg.json").read_text())["settings"] == [
        "infer.overlap=0.25"
    ]
    for wrong, text in (
        ("network.widths=[8]", "train another system"),
        ("read.root=elsewhere", "say what to predict"),
    ):
        with pytest.raises(SystemExit) if "say" in text else contextlib.nullcontext():
            assert main([*words, wrong]) == ExitCode.CONFIG
        assert text in capsys.readouterr().err


def test_the_remedies_of_the_gate_can_be_followed(trained_run, pair, tmp_path, capsys):
    """A follow-up of which the voxels are mirrored passes once somebody has confirmed it."""
    mirrored = tmp_path / "mirrored.nii.gz"
    image = nib.load(pair[1])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine, image.header), mirrored)
    words = ["predict", str(trained_run), "-t1", str(pair[0]), "-t2", str(mirrored)]
    words += ["-o", str(tmp_path / "new.nii.gz"), f"paths.cache={tmp_path / 'cache'}"]
    assert main(words) == ExitCode.DATA
    error = capsys.readouterr().err
    assert "[pair.mirrored]" in error
    remedy = next(word for word in error.split() if word.startswith("data.reading."))
    assert main([*words, remedy]) == ExitCode.OK
    assert json.loads((tmp_path / "new_msseg.json").read_text())["settings"] == [remedy]


def test_a_brain_mask_is_never_overwritten_and_needs_a_pair(trained_run, pair, tmp_path, capsys):
    brain = shutil.copy(pair[0], tmp_path / "brain.nii.gz")
    words = ["predict", str(trained_run), "-t1", str(pair[0]), "-t2", str(pair[1])]
    assert main([*words, "-o", str(brain), "--brain", str(brain)]) == ExitCode.CONFIG
    assert "overwrite" in capsys.readouterr().err
    words = ["predict", str(trained_run), "--table", "pairs.csv", "--brain", str(brain)]
    with pytest.raises(SystemExit):
        main(words)
    assert "column brain" in capsys.readouterr().err


def test_in_a_table_a_refused_pair_is_left_out_and_named(trained_run, pair, tmp_path, capsys):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(pair[1].read_bytes()[:2000])
    good = [shutil.copy(path, tmp_path / path.name) for path in pair]
    table = tmp_path / "pairs.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "baseline_flair", "followup_flair"])
        writer.writerow(["good", *(path.name for path in map(type(table), good))])
        writer.writerow(["bad", pair[0].name, broken.name])
    folder = tmp_path / "out"
    words = ["predict", str(trained_run), "--table", str(table), "--folder", str(folder)]
    assert main(words) == ExitCode.PARTIAL
    assert (folder / "good.nii.gz").exists() and not (folder / "bad.nii.gz").exists()
    assert "bad" in capsys.readouterr().err


def test_an_output_never_overwrites_an_input(trained_run, pair, capsys):
    words = ["predict", str(trained_run), "-t1", str(pair[0]), "-t2", str(pair[1])]
    assert main([*words, "-o", str(pair[1])]) == ExitCode.CONFIG
    assert "overwrite" in capsys.readouterr().err


def test_an_unknown_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MssegError) as caught:
        find_model("nowhere")
    assert caught.value.exit_code == ExitCode.MODEL


def test_a_run_that_never_came_to_a_model_is_refused_once(trained_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run, ignore=shutil.ignore_patterns("model"))
    words = ["predict", str(run), "--folder", str(tmp_path / "out"), "read=msseg2"]
    assert main([*words, f"read.root={tmp_path}"]) == ExitCode.MODEL
    assert "run.no_model" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_hostile_model_configuration_builds_nothing(trained_run, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(trained_run / "model", copy)
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("torch.optim.AdamW", "os.system"))
    with pytest.raises(MssegError) as caught:
        load_method(copy)
    assert caught.value.exit_code == ExitCode.SECURITY


@pytest.mark.parametrize(
    "value",
    ["${oc.env:HOME}", "${oc.create:{_target_:os.mkdir,path:PLACE}}", "${ oc.env : HOME }"],
)
def test_an_interpolation_in_a_stored_configuration_is_not_resolved(value, tmp_path):
    made = tmp_path / "made"
    node = {
        "_target_": "msseg_lightning.postprocess.threshold.Threshold",
        "value": value.replace("PLACE", str(made)),
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"postprocess": {"rules": [node]}}))
    for build in (lambda: load_config(tmp_path), lambda: instantiate(node)):
        with pytest.raises(MssegError) as caught:
            build()
        assert caught.value.exit_code == ExitCode.SECURITY
        assert caught.value.problems[0].field.endswith("value")
    assert not made.exists()


def test_a_hostile_class_is_found_in_every_kind_of_list(tmp_path):
    text = f"a: !!pairs [x: {{_target_: os.mkdir, path: {tmp_path / 'made'}}}]\n"
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(MssegError) as caught:
        load_config(tmp_path)
    assert caught.value.exit_code == ExitCode.SECURITY
    with pytest.raises(MssegError) as caught:  # as `msseg report` builds the reader of a run
        instantiate({"_target_": "os.mkdir", "path": str(tmp_path / "made")})
    assert caught.value.exit_code == ExitCode.SECURITY and not (tmp_path / "made").exists()


def test_changed_weights_are_refused(trained_run, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(trained_run / "model", copy)
    weights = copy / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(MssegError) as caught:
        load_method(copy)
    assert caught.value.exit_code == ExitCode.SECURITY


@pytest.mark.parametrize(
    "content", [b"a: [1\n b", b"", b"name: pre_unet\n", b"\xff\xfe\x00", b"- 1"]
)
def test_a_damaged_configuration_is_a_model_error(content, tmp_path):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(MssegError) as caught:
        load_method(tmp_path)
    assert caught.value.exit_code == ExitCode.MODEL
    assert caught.value.problems[0].remedy


def test_a_tag_in_a_stored_configuration_builds_nothing(tmp_path):
    text = f"a: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n"
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(MssegError):
        load_method(tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("outputs", [("a.nii.gz", "a.nii.gz"), ("", "scan.nii.gz"), ("", "x.png")])
def test_an_output_of_a_table_overwrites_neither_scan_nor_mask(outputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("scan", "second"):
        (tmp_path / f"{name}.nii.gz").touch()
    rows = [f"p{n},scan.nii.gz,second.nii.gz,{output}" for n, output in enumerate(outputs)]
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(["id,baseline_flair,followup_flair,output", *rows]))
    with pytest.raises(MssegError) as caught:
        read_pairs(table)
    assert caught.value.exit_code == ExitCode.CONFIG


def test_mask_and_map_need_two_files(tmp_path):
    with pytest.raises(MssegError, match="another output"):
        check_outputs([tmp_path / "a.nii.gz"], [], tmp_path / "a.nii.gz")
    with pytest.raises(MssegError, match="another output"):  # their side-cars would be one
        check_outputs([tmp_path / "a.nii.gz", tmp_path / "a.nii"], [])


def table_with_outputs(folder, outputs, header="id,baseline_flair,followup_flair,output"):
    folder.mkdir(exist_ok=True)
    for name in ("scan", "second"):
        (folder / f"{name}.nii.gz").touch()
    rows = [f"p{n},scan.nii.gz,second.nii.gz,{output}" for n, output in enumerate(outputs)]
    (folder / "pairs.csv").write_text("\n".join([header, *rows]))
    return folder / "pairs.csv"


@pytest.mark.parametrize(
    "output",
    [
        "../masks/reference.nii.gz",
        "../elsewhere.nii.gz",
        "PLACE/new/folder/a.nii.gz",
        "link/a.nii.gz",
        "new_folder/a.nii.gz",
        "foreign.nii.gz",
        "pairs.csv",
        "hard.nii.gz",
        "SCAN.nii.gz",
    ],
)
def test_an_output_of_a_table_stays_in_its_folder_and_is_new(output, tmp_path):
    data, other = tmp_path / "data", tmp_path / "masks"
    other.mkdir()
    (other / "reference.nii.gz").write_bytes(b"reference")
    table = table_with_outputs(data, [output.replace("PLACE", str(tmp_path))])
    (data / "foreign.nii.gz").write_bytes(b"a mask of somebody else")
    (data / "link").symlink_to(other)
    (data / "hard.nii.gz").hardlink_to(data / "scan.nii.gz")
    with pytest.raises(MssegError) as caught:
        read_pairs(table, tmp_path / "out")
    assert caught.value.exit_code == ExitCode.CONFIG and caught.value.problems[0].remedy
    assert not (tmp_path / "new").exists() and not (data / "new_folder").exists()


@pytest.mark.parametrize("second", ["a.nii.gz", "./a.nii.gz", "A.nii.gz", "link/a.nii.gz", "a.nii"])
def test_two_outputs_are_two_files(second, tmp_path):
    table = table_with_outputs(tmp_path / "data", ["a.nii.gz", second])
    (tmp_path / "data" / "link").symlink_to(".")
    with pytest.raises(MssegError, match="another output"):
        read_pairs(table)


def test_outputs_count_from_the_table_and_may_lie_below_the_output_folder(tmp_path):
    out = tmp_path / "out"
    table = table_with_outputs(
        tmp_path / "data",
        ["a.nii.gz", f" {out}/new/b.nii.gz "],
        "id, baseline_flair, followup_flair, output",
    )
    found = [output for _, output in read_pairs(table, out)]
    assert found == [tmp_path / "data" / "a.nii.gz", out / "new" / "b.nii.gz"]


def test_the_side_car_of_a_scan_and_masks_of_others_are_left_alone(
    brain_model, pair, tmp_path, capsys
):
    """Its own masks are written again, also after a kill; not once somebody has changed them."""
    scan_record = tmp_path / "sub-1_FLAIR.json"
    scan_record.write_text('{"EchoTime": 0.1}')
    mask, foreign = tmp_path / "sub-1_FLAIR.nii", tmp_path / "foreign.nii.gz"
    foreign.write_bytes(b"a mask")
    command = ["predict", str(brain_model), "-t1", str(pair[0]), "-t2", str(pair[1]), "-o"]
    for _ in range(2):
        assert main([*command, str(mask)]) == ExitCode.OK
    assert json.loads(scan_record.read_text()) == {"EchoTime": 0.1}
    for words in ([str(foreign)], [str(tmp_path / "new.nii.gz"), "--probability", str(foreign)]):
        assert main([*command, *words]) == ExitCode.CONFIG
    assert "did not write" in capsys.readouterr().err and foreign.read_bytes() == b"a mask"
    assert not (tmp_path / "new.nii.gz").exists()
    side_car = side_car_file(mask)
    record = json.loads(side_car.read_text())
    side_car.write_text(json.dumps({"written_by": "msseg predict", "files": {mask.name: None}}))
    check_outputs([mask], [])  # the command was killed after this
    side_car.write_text(json.dumps(record))
    mask.write_bytes(mask.read_bytes() + b"0")
    assert main([*command, str(mask)]) == ExitCode.CONFIG
    mask.unlink()
    side_car.write_text("{}")
    assert main([*command, str(mask)]) == ExitCode.CONFIG and side_car.read_text() == "{}"


def test_a_table_in_another_encoding_is_refused(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_bytes("id,baseline_flair,followup_flair\né,x,y\n".encode("latin-1"))
    with pytest.raises(MssegError) as caught:
        read_pairs(table)
    assert caught.value.exit_code == ExitCode.DATA


def test_the_maps_of_steps_are_written_where_they_are_wanted_and_never_over_anothers(tmp_path):
    """Order and kinds come back from the side-car; a second time the same files are replaced."""
    native = native_from_grid(Grid((3, 4, 5), np.eye(4)))
    empty = np.zeros(native.grid.shape, np.uint8)
    steps = {"tissue": empty.astype(np.float32), "proposed": empty, "a_rule": empty}
    prediction = Prediction("p", empty, native, steps=steps)
    mask = tmp_path / "p.nii.gz"
    for _ in range(2):
        write_prediction(prediction, mask, None, {}, steps=True)
    found = step_files(mask)
    assert list(found.items()) == [
        ("tissue", (tmp_path / "steps" / "p_tissue.nii.gz", "image")),
        ("proposed", (tmp_path / "steps" / "p_proposed.nii.gz", "mask")),
        ("a_rule", (tmp_path / "steps" / "p_a_rule.nii.gz", "mask")),
    ]
    assert nib.load(found["tissue"][0]).get_data_dtype() == np.float32
    assert nib.load(found["a_rule"][0]).get_data_dtype() == np.uint8
    written = json.loads(side_car_file(mask).read_text())["files"]
    assert set(written) == {"p.nii.gz", *(file.name for file, _ in found.values())}
    other = tmp_path / "q.nii.gz"
    write_prediction(prediction, other, None, {})
    assert not step_files(other) and not step_file(other, "tissue").exists()
    step_file(other, "tissue").write_bytes(b"of somebody else")
    with pytest.raises(MssegError) as refused:
        write_prediction(prediction, other, None, {}, steps=True)
    assert refused.value.exit_code == ExitCode.CONFIG
    assert step_file(other, "tissue").read_bytes() == b"of somebody else"
