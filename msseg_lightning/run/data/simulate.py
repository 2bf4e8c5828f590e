"""Recipe of a simulated cohort from a preset and overrides."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.config.allow_list import refuse_targets
from msseg_lightning.run.config.preset_files import preset_file, preset_files, read_yaml
from msseg_lightning.simulate.recipe import CohortRecipe


def preset_names() -> list[str]:
    """Names of the presets in ``conf/simulate``, of the user and of this package."""
    return sorted(preset_files("simulate"))


def load_recipe(preset: str = "challenge", overrides: Sequence[str] = ()) -> CohortRecipe:
    """The recipe of a preset with overrides.

    Args:
        preset: a preset of ``conf/simulate``, or a file.
        overrides: ``key=value`` with the recipe's field names, e.g. ``lesions.touching=0.2``.

    Raises:
        MssegError: unknown preset or field, or a value of the wrong type (exit 2).
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    file = preset_file("simulate", preset)
    if file is None:
        names = ", ".join(preset_names())
        raise _config_error("there is no such preset", "preset", preset, f"{names}, or a file")
    read_yaml(file)  # refused if it is none
    plain = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    refuse_targets({"simulate": plain})
    try:
        given = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)), resolve=False)
    except OmegaConfBaseException as error:
        raise _config_error(str(error), "overrides", " ".join(overrides), "key=value") from error
    assert isinstance(plain, Mapping) and isinstance(given, Mapping)
    return _fill(_fill(CohortRecipe(), plain, ""), given, "")


def _fill(recipe: Any, values: Mapping[Any, Any], place: str) -> Any:
    """A copy of a dataclass with the given fields replaced, nested ones field by field."""
    import dataclasses

    known = [field.name for field in dataclasses.fields(recipe)]
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key == "_target_":
            continue
        name = f"{place}{key}"
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=3, cutoff=0.4)
            raise _config_error("a recipe has no such setting", name, "", ", ".join(near or known))
        present = getattr(recipe, key)
        if dataclasses.is_dataclass(present) and isinstance(value, Mapping):
            changes[key] = _fill(present, value, f"{name}.")
        else:
            changes[key] = _converted(value, present, name)
    return dataclasses.replace(recipe, **changes)


def _converted(value: Any, present: Any, name: str) -> Any:
    """``value`` converted to the type of the present value; lists become tuples."""
    if isinstance(present, tuple) and isinstance(value, list):
        if present and isinstance(present[0], float):
            if len(value) != len(present):
                raise _config_error(
                    "the list has the wrong length", name, str(value), f"{len(present)} numbers"
                )
            return tuple(_converted(item, present[0], name) for item in value)
        return tuple(value)
    if isinstance(present, Mapping) and isinstance(value, Mapping):
        return {str(key): tuple(_tuples(item) for item in items) for key, items in value.items()}
    if isinstance(present, float) and type(value) is int:
        return float(value)
    if type(value) is not type(present):
        raise _config_error(
            "the value has the wrong type", name, repr(value), f"a value such as {present!r}"
        )
    return value


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _config_error(message: str, field: str, found: str, expected: str) -> MssegError:
    return MssegError(
        Problem(
            "simulate.config",
            message,
            field=field,
            found=found,
            expected=expected,
            remedy="`msseg simulate --help` shows presets and settings",
            exit_code=ExitCode.CONFIG,
        )
    )
