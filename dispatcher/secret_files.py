"""Settings by file: ``DISPATCHER_NATS_PASSWORD_FILE=/run/secrets/nats`` stands for what is in the file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

from dispatcher.errors import ConfigurationError

__all__ = ["EnvironmentAndFiles", "variables"]

_MOST = 64 * 1024


def variables(name: str, field: FieldInfo) -> tuple[str, ...]:
    """The environment variables that set a field of ``Settings``, the strongest first."""
    if isinstance(field.validation_alias, AliasChoices):
        return tuple(str(choice) for choice in field.validation_alias.choices)
    return (f"DISPATCHER_{name.upper()}",)


class EnvironmentAndFiles(EnvSettingsSource):
    """The environment but for the fields to ``leave_out``, with the content of files in the place of those named."""

    def __init__(self, settings_cls: type[BaseSettings], leave_out: Collection[str] = ()) -> None:
        self._leave_out = leave_out
        super().__init__(settings_cls)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        found = dict(super()._load_env_vars())
        for name in self._leave_out:
            for variable in variables(name, self.settings_cls.model_fields[name]):
                found.pop(variable.lower(), None)
                found.pop(f"{variable}_FILE".lower(), None)
        for name, field in self.settings_cls.model_fields.items():
            for variable in variables(name, field):
                path = found.get(f"{variable}_FILE".lower())
                if not path:
                    continue
                if found.get(variable.lower()):
                    raise ConfigurationError(f"{variable} and {variable}_FILE exclude each other: set one of them")
                found[variable.lower()] = _content(f"{variable}_FILE", Path(path))
        return found


def _content(variable: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST + 1)
        text = data.decode().strip()
    except OSError as error:
        raise ConfigurationError(f"{variable}={path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{variable}={path} is not text in UTF-8") from None
    if not text or len(data) > _MOST or "\n" in text:
        raise ConfigurationError(f"{variable}={path} must hold one line with the value and nothing else")
    return text
