"""Files of experiments and presets: those of the user come before those of this package."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.config.allow_list import refuse_resolvers

SUFFIXES = (".yaml", ".yml")


def root() -> Path:
    """The folder that holds ``conf/`` and ``experiments/``: a checkout or the installed package."""
    package = Path(__file__).resolve().parents[2]
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "conf" / "config.yaml").is_file():
        return checkout
    return package


def conf_dir() -> Path:
    """The folder of the presets of this package."""
    return root() / "conf"


def experiments_dir() -> Path:
    """The folder of this package with one file per system."""
    return root() / "experiments"


def groups() -> set[str]:
    """Names of the groups of presets."""
    return {path.name for path in conf_dir().iterdir() if path.is_dir()}


def user_roots(*experiments: str) -> tuple[Path, ...]:
    """Folders whose ``conf/`` and ``experiments/`` come before those of this package.

    They are the folders of experiments that are given as files, then the working folder. For
    ``FOLDER/experiments/mine.yaml`` it is ``FOLDER``, for another file the folder that holds it.

    Args:
        experiments: names or files of experiments.
    """
    files = [Path(text).absolute() for text in experiments if is_file_name(text)]
    parents = [file.parents[1 if file.parent.name == "experiments" else 0] for file in files]
    places = (path.resolve() for path in (*parents, Path.cwd()))
    return tuple(dict.fromkeys(path for path in places if path != root()))


def is_file_name(text: str) -> bool:
    """Whether a word names a file rather than an experiment or preset."""
    return text.endswith(SUFFIXES) or "/" in text


def user_folder(place: Path, group: str) -> Path:
    """The folder of a group, or of the experiments, below a folder of ``user_roots``."""
    return place / group if group == "experiments" else place / "conf" / group


def user_files(places: Sequence[Path], group: str) -> dict[str, Path]:
    """Name -> file of a group, in the folders of ``user_roots``; the first of a name counts."""
    found: dict[str, Path] = {}
    for place in places:
        for file in sorted(user_folder(place, group).glob("*")):
            if file.suffix in SUFFIXES and file.is_file():
                found.setdefault(file.stem, file)
    return found


def preset_files(group: str, experiment: str = "") -> dict[str, Path]:
    """Name -> file of every preset of a group, or every experiment for ``experiments``.

    Args:
        group: a folder of ``conf/``, or ``experiments``.
        experiment: name or file of an experiment, whose own presets count too.
    """
    own = experiments_dir() if group == "experiments" else conf_dir() / group
    found = {path.stem: path for path in own.glob("*.yaml")}
    return {**found, **user_files(user_roots(experiment), group)}


def preset_file(group: str, text: str, experiment: str = "") -> Path | None:
    """The file of a preset that is given by name or as a file; None if there is none."""
    if is_file_name(text):
        file = Path(text).expanduser()
        return file if file.is_file() and file.suffix in SUFFIXES else None
    return preset_files(group, experiment).get(text)


def experiment_names() -> list[str]:
    """Every experiment of the working folder and of this package, in alphabetical order."""
    return sorted(preset_files("experiments"))


def known_experiment(text: str, beside: str = "") -> str:
    """An experiment of this package by name; one of the user as the path of its file.

    Args:
        text: name or file.
        beside: another experiment, whose neighbours count too.

    Raises:
        MssegError: there is none (exit 2).
    """
    file = preset_file("experiments", text, beside)
    if file is not None:
        own = file.resolve().parent == experiments_dir().resolve()
        return file.stem if own else str(file.absolute())
    names = experiment_names()
    near = difflib.get_close_matches(text, names, n=3, cutoff=0.4)
    if is_file_name(text):
        raise MssegError(
            Problem(
                "config.experiment_file",
                "there is no such experiment",
                file=text,
                field="experiment",
                expected="a file FOLDER/NAME.yaml",
                remedy="correct the path, or give a name: `msseg list` shows all of them",
                exit_code=ExitCode.CONFIG,
            )
        )
    raise MssegError(
        Problem(
            "config.experiment",
            f"there is no experiment named {text!r}",
            field="experiment",
            found=text,
            expected=", ".join(near) or ", ".join(names),
            remedy="`msseg list` shows all of them; your own lies in ./experiments, or is given "
            "as a file",
            exit_code=ExitCode.CONFIG,
        )
    )


def read_yaml(file: Path) -> dict[str, Any]:
    """The content of a YAML file, interpolations unresolved.

    Raises:
        MssegError: it cannot be read, or is not a mapping (exit 2).
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        found = f"a {type(content).__name__}"
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        content, found = None, " ".join(str(error).split())[:300]
    if isinstance(content, dict):
        return content
    raise MssegError(
        Problem(
            "config.file",
            "this file cannot be read as settings",
            file=file,
            found=found if content is not None or found != "a NoneType" else "an empty file",
            expected="YAML, lines such as `key: value`",
            remedy="correct the file; `msseg show pre_unet` prints settings as they should look",
            exit_code=ExitCode.CONFIG,
        )
    )


def stamps(places: Sequence[Path], files: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of files and of all presets of the user, to see when they change."""
    found = list(files)
    for group in ("experiments", *sorted(groups())):
        found += user_files(places, group).values()
    return tuple(
        (str(file), file.stat().st_mtime_ns, file.stat().st_size)
        for file in found
        if file.is_file()
    )


@functools.cache
def user_source() -> Any:
    """The class by which Hydra finds files of the user; made when Hydra is imported."""
    from hydra.core.object_type import ObjectType
    from hydra.core.plugins import Plugins
    from hydra.plugins.config_source import ConfigResult, ConfigSource
    from omegaconf import OmegaConf

    class UserSource(ConfigSource):
        """Presets of the folders of ``user_roots``, and files given as ``group//path/of/file``."""

        @staticmethod
        def scheme() -> str:
            return "msseg"

        def _file(self, name: str) -> Path | None:
            group, _, rest = name.partition("/")
            if group not in {*groups(), "experiments"} or not rest:
                return None
            if rest.startswith("/"):
                given = Path(rest)
                file = given if given.suffix in SUFFIXES else given.with_name(f"{given.name}.yaml")
                return file if file.is_file() else None
            return user_files(self._places(), group).get(rest.removesuffix(".yaml"))

        def _places(self) -> list[Path]:
            return [Path(place) for place in self.path.split("\n") if place]

        def load_config(self, config_path: str) -> ConfigResult:
            file = self._file(config_path)
            assert file is not None
            read_yaml(file)
            text = file.read_text(encoding="utf-8")
            refuse_resolvers([(str(file), text)])
            header = ConfigSource._get_header_dict(text)
            if config_path.startswith("experiments/"):
                header["package"] = header["package"] or "_global_"
            return ConfigResult(self.provider, str(file), OmegaConf.create(text), header)

        def is_group(self, config_path: str) -> bool:
            known = config_path in {*groups(), "experiments"}
            return known and bool(user_files(self._places(), config_path))

        def is_config(self, config_path: str) -> bool:
            return self._file(config_path) is not None

        def available(self) -> bool:
            return True

        def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
            return sorted(user_files(self._places(), config_path))

    Plugins.instance().register(UserSource)
    return UserSource
