"""Settings, searches and words of the command line: what the remedy prints is given and taken."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from msseg_lightning.cli.ui import refuse_other_hosts, require_free_port
from msseg_lightning.evaluate.case_score import ScoreOptions
from msseg_lightning.method.ensemble import EnsembleMethod
from msseg_lightning.run.assemble.system import _check_uses, _stage_arguments, instantiate
from msseg_lightning.run.config.allow_list import refuse_interpolations
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.config.user_packages import packages_of
from msseg_lightning.run.data.rater_ceiling import rater_ceiling
from msseg_lightning.run.data.simulate import load_recipe
from msseg_lightning.run.shard import Shard
from msseg_lightning.run.sweep.command import SweepArguments, check_search
from msseg_lightning.run.sweep.space import read_search
from msseg_lightning.run.sweep.storage import open_storage, reachable, refuse_pickles
from msseg_lightning.run.sweep.study import SharedStudy
from msseg_lightning.run.train.folds_and_seeds import count_folds
from msseg_lightning.simulate.cohort import write_cohort
from msseg_lightning.simulate.recipe import replace_field
from msseg_lightning.simulate.scanner import scanners_named
from msseg_lightning.track.journal import Journal
from msseg_lightning.track.pseudonym import Pseudonyms
from msseg_lightning.track.store import store_uri
from msseg_lightning.track.tracking import checked_uri
from msseg_lightning.train.training import Hardware
from tests.remedies.place import Place, case, with_settings

SHOW = ["show", "pre_unet"]


@case("config.experiment")
def a_misspelt_experiment(place: Place) -> None:
    refusal = place.refused("config.experiment", ["show", "pre_unett"])
    assert refusal.expected.split(", ")[0] in place.follow_commands(refusal)[0]
    place.ends_well(["show", refusal.expected.split(", ")[0]])


@case("config.experiment_file", "config.preset_file", "config.file")
def own_files_that_are_not_there_or_no_settings(place: Place) -> None:
    text = "defaults: [pre_unet]\nname: mine\n"
    mine, loss = place.folder / "mine.yaml", place.folder / "loss.yaml"
    refusal = place.refused("config.experiment_file", ["show", str(mine)])
    place.follow_commands(refusal)
    mine.write_text("defaults: [")
    place.follow_commands(place.refused("config.file", ["show", str(mine)]))
    mine.write_text(text)
    place.ends_well(["show", str(mine)])
    words = ["show", str(mine), f"loss={loss}"]
    refusal = place.refused("config.preset_file", words)
    place.follow_settings(refusal, words, NAME="dice")
    loss.write_text("_target_: msseg_lightning.loss.overlap.SoftDice\n")
    place.ends_well(words)


@case("config.package", "config.packages", "config.package_source", "config.package_import")
def classes_of_an_own_package(place: Place) -> None:
    network = place.folder / "net.yaml"
    network.write_text("_target_: remedy_lab.net.Net\n")
    words = ["show", "pre_unet", "network=net.yaml"]
    refusal = place.refused("config.package", words)
    assert "no package remedy_lab here" in refusal.text
    ((allowed,), *_) = refusal.settings()
    assert allowed == "packages=remedy_lab"
    refusal = place.refused("config.packages", [*words, allowed])
    assert refusal.remedy.startswith("give the command in the folder that holds remedy_lab")
    module = place.folder / "remedy_lab" / "net.py"
    module.parent.mkdir()
    module.write_text("class Net(:\n    pass\n")
    place.refused("config.package_source", [*words, allowed])
    module.write_text("import remedy_none\n\n\nclass Net:\n    pass\n")
    with packages_of([allowed]):
        node = {"_target_": "remedy_lab.net.Net"}
        place.raised("config.package_import", lambda: instantiate(node))
        module.write_text("class Net:\n    pass\n")
        importlib.invalidate_caches()
        instantiate(node)
    place.ends_well([*words, allowed])
    place.ends_well(["show", "pre_unet"])  # "else leave it out"


@case("config.key")
def a_misspelt_setting(place: Place) -> None:
    refusal = place.refused("config.key", [*SHOW, "trian.steps=3"])
    (shown,) = place.follow_commands(refusal, EXPERIMENT="pre_unet")
    (key,) = re.findall(r"did you mean (\S+)\?", refusal.remedy)
    assert f"{key.rpartition('.')[2]}:" in shown
    place.ends_well([*SHOW, f"{key}=3"])
    place.refused("config.key", [*SHOW, "+data.foo=3"])  # nobody would read it
    refusal = place.refused("config.key", [*SHOW, "network.kernels=[3,3,3,3,3]"])
    ((added,),) = refusal.settings(VALUE="[3,3,3,3,3]")
    place.ends_well([*SHOW, added])


@case("config.root")
def settings_that_nothing_reads(place: Place) -> None:
    """The names of earlier versions, in an experiment or on the command line."""
    for word, right in (
        ("+loader.depth=3", "+sample.loader.depth=3"),
        ("+visits.reader=null", "+sample.visits.reader=null"),
    ):
        refusal = place.refused("config.root", [*SHOW, word])
        assert refusal.remedy == f"write it as {right.strip('+').rpartition('.')[0]}"
        place.ends_well([*SHOW, right])
    refusal = place.refused("config.root", [*SHOW, "+widths=3"])
    assert refusal.remedy == "leave it out"
    place.ends_well(SHOW)


@case("config.preset")
def a_file_that_is_not_there(place: Place) -> None:
    for word in ("network=ohem", "network=xyz"):
        refusal = place.refused("config.preset", [*SHOW, word])
        place.follow_settings(refusal, [*SHOW, word], NAME=refusal.expected.split(", ")[0])


@case("config.compose", "config.unresolved")
def what_cannot_be_taken_away(place: Place) -> None:
    for word in ("~seed", "~data.workers", "~none", "~train.steps"):
        code = "config.unresolved" if word == "~train.steps" else "config.compose"
        refusal = place.refused(code, [*SHOW, word])
        left_out = re.match(r"leave (\S+) out", refusal.remedy)
        assert left_out is not None
        place.ends_well([one for one in [*SHOW, word] if one != left_out[1]])


@case("config.word")
def words_that_are_no_setting(place: Place) -> None:
    cohort = place.fixture("coarse_cohort")
    words = ["check", "read=msseg2", "--workers", "1"]
    refusal = place.refused("config.word", [*words, str(cohort)])
    place.follow_settings(refusal, words)
    for word in ("foo", "@foo=3"):
        refusal = place.refused("config.word", [*SHOW, word])
        assert refusal.remedy.startswith(f"leave {word} out")
        place.ends_well(SHOW)
    refusal = place.refused("config.word", [*SHOW, "paths.runs="])
    place.follow_settings(refusal, [*SHOW, "paths.runs="], PATH="elsewhere")
    link = place.folder / "a${b}"
    link.symlink_to(cohort)
    for given in (link, str(link).replace("$", "\\$")):
        refusal = place.refused("config.word", [*words, f"read.root={given}"])
        assert "give a link to it whose name holds no ${" in refusal.remedy
    (place.folder / "plain").symlink_to(link)
    place.ends_well([*words, "read.root=plain"])
    labels = "data.reading.label_values={1: 0, 1: 1}"
    refusal = place.refused("config.word", [*SHOW, labels])
    assert refusal.remedy == "leave one 1 out"
    place.ends_well([*SHOW, labels.replace("1: 0, ", "")])


@case("config.type", "config.size")
def a_value_that_is_none(place: Place) -> None:
    refusal = place.refused("config.type", [*SHOW, "trainer.compile=maybe"])
    place.follow_commands(refusal, EXPERIMENT="pre_unet")
    place.ends_well([*SHOW, "trainer.compile=true"])
    refusal = place.refused("config.size", [*SHOW, "size=huge"])
    assert refusal.remedy.startswith("leave it out")
    place.ends_well(SHOW)
    place.ends_well([*SHOW, f"size={refusal.expected.split(', ')[-1]}"])


@case("config.missing", "config.unresolved", "config.range")
def a_value_to_be_given(place: Place) -> None:
    cohort = place.fixture("coarse_cohort")
    words = ["check", "read=msseg2", "--workers", "1"]
    place.follow_settings(place.refused("config.missing", words), words, VALUE=str(cohort))
    words = [*SHOW, "trainer.devices=${nothing}"]
    place.follow_settings(place.refused("config.unresolved", words), words, VALUE="1")
    for word in ("fold=-1", "seed=-3", "data.workers=1.5", "network.widths=[8,inf]"):
        words = [*SHOW, word]
        value = "[8,16,32,64]" if "widths" in word else "1"
        place.follow_settings(place.refused("config.range", words), words, VALUE=value)


@case("config.range", "config.strategy")
def hardware_by_number(place: Place) -> None:
    for wrong, code in (({"devices": 0}, "config.range"), ({"strategy": "x"}, "config.strategy")):
        refusal = place.raised(code, lambda wrong=wrong: Hardware(**wrong))
        ((word,),) = refusal.settings()
        key, _, value = word.removeprefix("trainer.").partition("=")
        Hardware(**{key: int(value) if value.isdecimal() else value})
        place.ends_well([*SHOW, word])


@case("config.reading")
def an_unfit_option_of_the_gate(place: Place) -> None:
    words = ["check", f"read.root={place.fixture('coarse_cohort')}", "--workers", "1"]
    refusal = place.refused("config.reading", [*words, "data.reading.trust=both"])
    (shown,) = place.follow_commands(refusal)
    assert "trust" in shown and "sform or qform" in shown
    place.ends_well([*words, "data.reading.trust=sform"])


@case("config.value")
def a_value_that_a_class_refuses(place: Place) -> None:
    config = compose_config(["read.root=.", "split.folds=5"], "pre_unet")
    node = {**config["network"], "none_such": 3}
    refusal = place.raised("config.value", lambda: instantiate(node))
    (shown,) = place.follow_commands(refusal, EXPERIMENT="pre_unet")
    assert "network:" in shown
    instantiate(config["network"])


@case("config.value")
def several_sources(place: Place) -> None:
    words = ["check", "read=several", "--workers", "1"]
    refusal = place.refused("config.value", words)
    quoted = re.search(r"'\+read.*'", refusal.remedy)
    assert quoted is not None
    (word,) = shlex.split(quoted[0])
    cohort = str(place.fixture("coarse_cohort"))
    place.ends_well([*words, word.replace("NAME", "mine").replace("FOLDER", cohort)])


@case("config.target", "config.resolver", "config.interpolation")
def what_may_not_be_built(place: Place) -> None:
    refusal = place.refused("config.target", [*SHOW, "network._target_=os.system"])
    assert refusal.remedy.startswith("leave this setting out; `msseg show EXPERIMENT`")
    place.ends_well(SHOW)
    words = [*SHOW, "paths.runs=${oc.env:HOME}"]
    refusal = place.refused("config.resolver", words)
    assert refusal.remedy == "write the value itself"
    place.ends_well(with_settings(words, ["paths.runs=/home/me"]))
    stored = {"network": {"widths": "${train.steps}"}}
    refusal = place.raised("config.interpolation", lambda: refuse_interpolations(stored))
    assert "write the value in its place" in refusal.remedy
    refuse_interpolations({"network": {"widths": 8}})


@case("config.ensemble")
def an_unknown_rule(place: Place) -> None:
    arguments = {
        "members": {"one": object}, "folds": 1, "has_lesions": bool, "level": "binary",
        "rule": "mean",
    }  # fmt: skip
    for wrong in ("level", "rule"):
        refusal = place.raised(
            "config.ensemble",
            lambda wrong=wrong: EnsembleMethod(**{**arguments, wrong: "none_such"}),
        )
        ((word,),) = refusal.settings()
        key, _, value = word.removeprefix("ensemble.").partition("=")
        EnsembleMethod(**{**arguments, key: value})


@case("config.uses")
def stages_that_are_not_there(place: Place) -> None:
    config = {"uses": {"trainer.none": "lesions"}}
    refusal = place.raised("config.uses", lambda: _stage_arguments(config, {}))
    assert "with stages" in refusal.remedy and "loss.ARGUMENT" in refusal.expected
    _stage_arguments({"uses": {"loss.metric": "lesions"}}, {})
    config = {"uses": {"loss.metric": "later"}}
    refusal = place.raised("config.uses", lambda: _check_uses(config, "segment", ["metric"]))
    assert refusal.remedy == "name an earlier stage, or change their order"
    _check_uses({"uses": {"loss.metric": refusal.expected}}, "segment", ["metric"])
    _check_uses(config, "segment", ["metric", "later"])


@case("evaluate.option")
def options_of_the_score(place: Place) -> None:
    refusal = place.raised("evaluate.option", lambda: ScoreOptions(min_lesion_volume_mm3=-1))
    ScoreOptions(min_lesion_volume_mm3=float(refusal.remedy.split()[-1]))
    name = next(
        field for field in ScoreOptions.__dataclass_fields__ if field != "min_lesion_volume_mm3"
    )
    refusal = place.raised("evaluate.option", lambda: ScoreOptions(**{name: 7.0}))
    assert "leave it at the default" in refusal.remedy
    ScoreOptions()


@case("product.endless")
def all_folds_of_one_draw(place: Place) -> None:
    cohort = place.fixture("coarse_cohort")
    words = [f"read.root={cohort}", "split=hold_out", "split.fraction=0.5"]
    refusal = place.raised("product.endless", lambda: count_folds(compose_config(words)))
    choices = refusal.settings()
    assert ["split=kfold"] in choices and ["fold=0,1,2"] in choices
    count_folds(compose_config([words[0], "split=kfold", "split.folds=2"]))


@case("shard.argument")
def a_part_that_is_none(place: Place) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX"):
            patch.delenv(name, raising=False)
        refusal = place.raised("shard.argument", lambda: Shard.parse("auto"))
        part = re.search(r"--shard (\S+)", refusal.remedy)
        assert part is not None
        Shard.parse(part[1])
        patch.setenv("JOB_COMPLETION_INDEX", "2")
        refusal = place.raised("shard.argument", lambda: Shard.parse("auto"))
        part = re.search(r"--shard (\S+)", refusal.remedy)
        assert part is not None and Shard.parse(part[1]) == Shard(3, 8)
    refusal = place.raised("shard.argument", lambda: Shard.parse("9/8"))
    assert refusal.remedy.startswith("parts are counted from 1")
    Shard.parse("8/8")


@case("launch.setting")
def a_launcher_that_is_none(place: Place) -> None:
    refusal = place.refused("launch.setting", [*SHOW, "launcher=none_such"])
    assert "leave launcher= out" in refusal.remedy
    place.ends_well(SHOW)
    document = re.search(r"docs/\S+\.md", refusal.remedy)
    assert document is not None and (Path(__file__).parents[2] / document[0]).is_file()


@case("simulate.argument", "simulate.config")
def words_of_a_simulation(place: Place) -> None:
    words = ["simulate", "out", "preset=tiny", "spacing_floor_mm=6.0", "sampling_mm=3.0"]
    for code, word in (
        ("simulate.argument", "patients=9-3"),
        ("simulate.argument", "seed=x"),
        ("simulate.config", "trian=3"),
    ):
        (shown,) = place.follow_commands(place.refused(code, [*words, word]))
        assert "patients" in shown
    place.ends_well([*words, "patients=1"])


@case(
    "simulate.no_such_patient", "simulate.other_cohort", "simulate.other_version",
    "simulate.field", "simulate.scanner",
)  # fmt: skip
def cohorts(place: Place) -> None:
    recipe = load_recipe("tiny", ["spacing_floor_mm=6.0", "sampling_mm=3.0"])
    out = place.folder / "out"
    refusal = place.raised(
        "simulate.no_such_patient", lambda: write_cohort(out, recipe, 0, indices=[recipe.size])
    )
    assert refusal.remedy.startswith("count from 0")
    write_cohort(out, recipe, 0, indices=[])
    refusal = place.raised(
        "simulate.other_cohort", lambda: write_cohort(out, recipe, 1, indices=[])
    )
    assert refusal.remedy == "choose another folder or delete this one"
    write_cohort(place.folder / "other", recipe, 1, indices=[])
    record = out / "cohort.json"
    record.write_text(re.sub(r'("renderer_version": )\d+', r"\g<1>0", record.read_text()))
    refusal = place.raised(
        "simulate.other_version", lambda: write_cohort(out, recipe, 0, indices=[])
    )
    assert refusal.remedy.startswith("make a new cohort in another folder")
    write_cohort(place.folder / "new", recipe, 0, indices=[])
    refusal = place.raised("simulate.field", lambda: replace_field(recipe, "trian", 3))
    assert refusal.remedy == "give one of these names"
    replace_field(recipe, next(n for n in refusal.expected.split(", ") if n == "train"), 3)
    refusal = place.raised("simulate.scanner", lambda: scanners_named("none_such"))
    assert refusal.remedy == "give one of these names"
    scanners_named(refusal.expected.removeprefix("the start of one of ").split(", ")[0])


@case("simulate.no_labels")
def no_cohort_to_score(place: Place) -> None:
    """The command of the remedy, with words behind it that make it one patient of coarse voxels."""
    refusal = place.raised("simulate.no_labels", lambda: rater_ceiling(place.folder))
    (words,) = refusal.commands(OUT="out")
    place.ends_well(
        [*words, "preset=tiny", "patients=1", "spacing_floor_mm=6.0", "sampling_mm=3.0"]
    )
    rater_ceiling(place.folder / "out")


SEARCHES: list[tuple[str, list[str]]] = [
    ("search=none_such", []),
    ("search.none_such=1", []),
    ("search.trials=many", []),
    ("search.trials=0", []),
    ("search.retrain.best=-1", []),
    ("search.folds=[0,0]", []),
    ("search.sampler=none_such", []),
    ("search.pruner=none_such", []),
    ("search.objective=[]", []),
    ("search.retrain.seeds=[0]", []),
    ("search.objective=[{metric: dice, direction: up}]", []),
    ("search.objective=[{metric: dice, budget: few}]", []),
    ("search.objective=[{metric: dice}, {metric: lesion_f1}]", []),
    ("search.sampler=cmaes", ["search.objective=[{metric: dice}, {metric: lesion_f1}]",
                              "search.pruner=none"]),
    ("search.sampler=grid", []),
    ("search.space.train.optimizer.lr={type: real, low: 0, high: 1}", []),
    ("search.space.train.optimizer.lr={type: float, low: 2, high: 1}", []),
    ("search.space.train.optimizer.lr={type: int, low: 0.5, high: 1}", []),
    ("search.space.train.optimizer.lr={type: float, low: 0, high: 1, log: true}", []),
    ("search.space.train.optimizer.lr={type: float, low: 0, high: 1, step: 3}", []),
    ("search.space.train.optimizer.lr={type: categorical}", []),
    ("search.space.train.optimizer.lr={type: float, low: 0, high: 1, when: {x: 1}}", []),
]  # fmt: skip


@case("sweep.search")
def every_fault_of_a_search(place: Place) -> None:
    """Each alternative of each remedy is a word that makes the search one that can be used."""

    def search(words: list[str]) -> object:
        own = SweepArguments.of("pre_unet", words)
        found = read_search(own.search, own.changes)
        found.extreme_points()
        if found.sampler == "grid":
            [parameter.grid() for parameter in found.space]
        return found

    for wrong, others in SEARCHES:
        refusal = place.raised(
            "sweep.search", lambda wrong=wrong, others=others: search([*others, wrong])
        )
        if refusal.remedy.startswith("leave"):
            search(others)
            continue
        choices = refusal.settings(A="0.1", B="0.2")
        assert choices, refusal.remedy
        for choice in choices:
            search(with_settings([*others, wrong], choice))
    refusal = place.raised("sweep.search", lambda: search(["search.space.x={type: int"]))
    assert "close every bracket" in refusal.remedy
    search(["search.space.x={type: int, low: 1, high: 3}"])


@case("sweep.goal", "sweep.space", "sweep.metric")
def goals_and_space(place: Place) -> None:
    def check(*words: str) -> None:
        own = SweepArguments.of("pre_unet", ["read.root=.", *words])
        check_search(read_search(own.search, own.changes), own)

    wrong = "search.objective=[{metric: none_such}]"
    refusal = place.raised("sweep.goal", lambda: check(wrong))
    assert refusal.remedy == "choose one of these"
    check(wrong.replace("none_such", refusal.expected.split(", ")[0]))
    refusal = place.raised("sweep.space", lambda: check("train.optimizer.lr=0.1"))
    assert refusal.remedy == "leave it out of one of the two"
    check()
    check("train.optimizer.lr=0.1", "search.space.train.optimizer.lr=null")
    goal = read_search("default").objective[0]
    refusal = place.raised("sweep.metric", lambda: goal.value({"dice": 0.5}))
    assert "pairs with and without new lesions" in refusal.remedy
    goal.value({"dice": 0.5, goal.metric: 0.5, "false_lesions_per_case_without": 1.0})


@case("sweep.missing", "sweep.changed", "sweep.cmaes", "sweep.store", "sweep.store_address")
def stores(place: Place) -> None:
    """Studies are begun again with the words that the remedy names."""
    search, other = read_search("default"), read_search("default", {"sampler": "random"})
    folder = place.folder / "one"
    refusal = place.raised("sweep.missing", lambda: SharedStudy.find("one", folder))
    assert refusal.remedy.startswith("give the arguments of its first command")
    SharedStudy.begin("one", folder, search, ["a=1"])
    SharedStudy.find("one", folder)
    refusal = place.raised(
        "sweep.changed", lambda: SharedStudy.begin("one", folder, other, ["a=1"])
    )
    assert "give the first command's settings" in refusal.remedy
    SharedStudy.begin("one", folder, search, ["a=1"])
    ((word,),) = refusal.settings(OTHER="two")
    SharedStudy.begin(word.removeprefix("name="), place.folder / "two", other, ["a=1"])
    cmaes = read_search("default", {"sampler": "cmaes", "objective": [{"metric": "dice"}]})
    url = f"sqlite:///{place.folder}/shared.db"
    refusal = place.raised("sweep.cmaes", lambda: refuse_pickles(cmaes, url, folder))
    ((word,), *_) = refusal.settings()
    refuse_pickles(read_search("default", {"sampler": word.partition("=")[2]}), url, folder)
    assert "leave store= out" in refusal.remedy
    refuse_pickles(cmaes, None, folder)
    away = f"sqlite:///{place.folder}/none/shared.db"
    refusal = place.raised("sweep.store", lambda: SharedStudy.begin("s", folder, search, [], away))
    assert "start it or check store=" in refusal.remedy
    (place.folder / "none").mkdir()
    SharedStudy.begin("s", folder, search, [], away)

    def ask(store: str) -> None:
        with reachable(store):
            open_storage(store, folder)

    refusal = place.raised("sweep.store_address", lambda: ask("nonsense"))
    assert "leave store= out" in refusal.remedy and "store=postgresql://" in refusal.remedy
    ask(url)


@case("sweep.store_version")
def a_store_of_another_optuna(place: Place) -> None:
    """An older store is upgraded by the command that is printed; beside a newer a sweep begins."""
    import sqlalchemy

    search = read_search("default")
    folder = place.folder / "old"
    SharedStudy.begin("s", folder, search, [])
    engine = sqlalchemy.create_engine(f"sqlite:///{folder}/study.db")

    def become(version: str) -> None:
        with engine.begin() as connection:
            connection.execute(
                sqlalchemy.text("UPDATE alembic_version SET version_num = :v"), {"v": version}
            )

    become("v999.0.0.a")
    refusal = place.raised("sweep.store_version", lambda: SharedStudy.find("s", folder))
    ((word,),) = refusal.settings(OTHER="new")
    SharedStudy.begin(word.removeprefix("name="), place.folder / "new", search, [])
    become("v3.0.0.d")
    refusal = place.raised("sweep.store_version", lambda: SharedStudy.find("s", folder))
    command = re.search(r"optuna storage upgrade --storage \S+(?=, or)", refusal.remedy)
    assert command is not None
    with engine.begin() as connection:  # which the versions since then added
        connection.execute(sqlalchemy.text("DROP INDEX IF EXISTS trials_study_id_key"))
        connection.execute(sqlalchemy.text("DROP INDEX IF EXISTS ix_trials_study_id"))
    words = shlex.split(command[0])
    program = Path(sys.executable).with_name(words[0])
    subprocess.run([program, *words[1:]], check=True, capture_output=True)
    SharedStudy.find("s", folder)


@case("sweep.store_damaged")
def a_store_that_is_no_store(place: Place) -> None:
    """Empty, cut off, something else, or with a broken text: named, and another is begun."""
    search = read_search("default")
    sound = place.folder / "sound"
    SharedStudy.begin("s", sound, search, [])
    content = (sound / "study.db").read_bytes()
    for number, bad in enumerate(
        (b"", b"trials", content[: len(content) // 2], content.replace(b'{"search"', b'["search"'))
    ):
        folder = place.folder / f"bad{number}"
        folder.mkdir()
        (folder / "study.db").write_bytes(bad)
        for action in (
            lambda folder=folder: SharedStudy.begin("s", folder, search, []),
            lambda folder=folder: SharedStudy.find("s", folder),
        ):
            refusal = place.raised("sweep.store_damaged", action)
            assert refusal.remedy.startswith("restore a copy of it, or name=")
        ((word,),) = refusal.settings(OTHER=f"new{number}")
        SharedStudy.begin(word.removeprefix("name="), place.folder / f"new{number}", search, [])
        (folder / "study.db").write_bytes(content)
        SharedStudy.find("s", folder)


@case("sync.other_store")
def records_for_another_store(place: Place) -> None:
    other = store_uri(place.folder / "other store")
    record = {"do": "open", "uri": other, "experiment": "e", "artifacts": None, "key": "k"}
    record |= {"name": "run", "time": 1000, "tags": {}, "parent": None}
    Journal(place.folder / "runs" / "a run" / "track").append([record])
    refusal = place.refused("sync.other_store", ["sync"])
    present, named = refusal.commands()
    assert "1 sent" in place.ends_well(present)
    shutil.copytree("mlruns", "other store")  # making a new one takes seconds
    assert "1 sent" in place.ends_well(named)


@case("ui.exposed", "ui.port_taken", "sync.missing", "track.uri", "track.pseudonym_key")
def around_tracking(place: Place) -> None:
    refusal = place.refused("ui.exposed", ["ui", "--host", "0.0.0.0"])
    address = re.search(r"[\d.]+\d", refusal.remedy)
    assert address is not None
    refuse_other_hosts(address[0])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refusal = place.refused("ui.port_taken", ["ui", "--port", port])
        ((_, _, other),) = refusal.commands()
        require_free_port("127.0.0.1", int(other))
    place.follow_commands(place.refused("sync.missing", ["sync", "nowhere"]))
    refusal = place.raised("track.uri", lambda: checked_uri("nonsense"))
    ((word,),) = refusal.settings()
    place.ends_well([*SHOW, word])
    key = place.folder / "key"
    name = Pseudonyms(key).name("a")
    key.chmod(0o644)
    refusal = place.raised("track.pseudonym_key", lambda: Pseudonyms(key))
    mode = re.search(r"chmod (\d+)", refusal.remedy)
    assert mode is not None and "or delete it" in refusal.remedy
    key.chmod(int(mode[1], 8))
    assert Pseudonyms(key).name("a") == name
    key.write_bytes(b"short")
    key.chmod(stat.S_IRUSR | stat.S_IWUSR)
    place.raised("track.pseudonym_key", lambda: Pseudonyms(key))
    key.unlink()
    Pseudonyms(key)
