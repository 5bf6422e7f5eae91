"""The bridge from an Options dataclass to a pex_config field: a knob is defined once."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from lsst.pex.config import ChoiceField, Config, ConfigField, Field, ListField

__all__ = ["options_field", "to_options"]

_SCALARS = (bool, int, float, str)


def _make_field(hint: Any, spec: dataclasses.Field[Any]) -> Any:
    doc = spec.metadata.get("doc", spec.name)
    unit = spec.metadata.get("unit", "")
    doc = f"{doc} [{unit}]" if unit else doc
    if spec.default is not dataclasses.MISSING:
        default = spec.default
    elif spec.default_factory is not dataclasses.MISSING:
        default = spec.default_factory()
    else:
        default = None
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        args = [a for a in typing.get_args(hint) if a is not type(None)]
        optional, hint = True, args[0]
    if dataclasses.is_dataclass(hint):
        return options_field(typing.cast(type, hint), doc)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        words = typing.get_args(hint)
        return ChoiceField(
            dtype=str, doc=doc, default=default, optional=optional, allowed={w: w for w in words}
        )
    if origin is tuple:
        item = typing.get_args(hint)[0]
        return ListField(
            dtype=item,
            doc=doc,
            default=None if default is None else list(default),
            optional=optional,
        )
    if hint not in _SCALARS:
        raise TypeError(f"option {spec.name}: {hint} has no pex_config field")
    return Field(dtype=hint, doc=doc, default=default, optional=optional)


def options_field(options_class: type, doc: str = "") -> Any:
    """A pex_config field that holds the options of an algorithm.

    Parameters
    ----------
    options_class : type
        A frozen dataclass whose fields were made by `skymill.data.options.option`, or are such
        dataclasses themselves.
    doc : str
        Documentation of the field.

    Returns
    -------
    lsst.pex.config.ConfigField
        Each option is one of its fields, with its default and documentation; `to_options` turns
        it back, and the dataclass's own checks run when the configuration is validated.
    """
    hints = typing.get_type_hints(options_class)
    body: dict[str, Any] = {
        f.name: _make_field(hints[f.name], f) for f in dataclasses.fields(options_class)
    }

    def validate(self: Any) -> None:
        Config.validate(self)
        to_options(self, options_class)

    body["validate"] = validate
    body["__module__"] = options_class.__module__
    config_class = type(Config)(f"{options_class.__name__}Config", (Config,), body)
    text = doc or (options_class.__doc__ or options_class.__name__).splitlines()[0]
    return ConfigField(dtype=config_class, doc=text)


def to_options[T](config: Any, options_class: type[T]) -> T:
    """The dataclass that a configuration of `options_field` describes.

    Parameters
    ----------
    config : lsst.pex.config.Config
        Value of a field made by `options_field`.
    options_class : type
        The dataclass.

    Returns
    -------
    options_class
        Options with the configured values.
    """
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(options_class)
    for spec in dataclasses.fields(options_class):  # type: ignore[arg-type]
        value = getattr(config, spec.name)
        if isinstance(value, Config):
            value = to_options(value, hints[spec.name])
        elif value is not None and not isinstance(value, _SCALARS):
            value = tuple(value)
        values[spec.name] = value
    return options_class(**values)
