"""The table of architectures, and the way from a config to a spec."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace

from mlxone.core.errors import UnsupportedModel
from mlxone.formats.config import Config
from mlxone.models.families.dense import DENSE
from mlxone.models.families.family import OTHER_TOWERS, Family
from mlxone.models.families.gemma import GEMMA
from mlxone.models.families.hybrid import HYBRID
from mlxone.models.families.latent import LATENT
from mlxone.models.families.mixture import MIXTURES
from mlxone.models.families.reading import norm_spec, numbered, unsupported
from mlxone.models.spec import DecoderSpec

FAMILIES: tuple[Family, ...] = (*DENSE, *GEMMA, *MIXTURES, *HYBRID, *LATENT)
BY_MODEL_TYPE: Mapping[str, Family] = {t: family for family in FAMILIES for t in family.model_types}
NEAREST = 3  # that an error lists as near


def family_of(config: Config) -> Family:
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise config.wrong("model_type", "the name of an architecture")
    family = BY_MODEL_TYPE.get(model_type)
    if family is None:
        raise _unknown(model_type)
    return family


def _inner_family(outer: Family, config: Config) -> Family:
    """What computes the text: another family's model may stand within the same frame."""
    inner = config.section("text_config").get("model_type")
    if not outer.inner_types or not isinstance(inner, str) or inner in outer.inner_types:
        return outer
    family = BY_MODEL_TYPE.get(inner)
    if family is None or not family.prefix:
        raise _unknown(inner)
    return replace(family, defaults={**family.defaults, **outer.defaults})


def nearest(name: str) -> list[str]:
    """The model_types that are spelled most like it."""
    return difflib.get_close_matches(name, sorted(BY_MODEL_TYPE), n=NEAREST, cutoff=0.4)


def _unknown(model_type: str) -> UnsupportedModel:
    near = ", ".join(nearest(model_type[:60]))
    return UnsupportedModel(
        f"architecture {model_type[:60]!r} is not supported",
        hint=f"{f'nearest: {near}; ' if near else ''}supported: {', '.join(sorted(BY_MODEL_TYPE))}",
    )


def text_model(config: Config) -> tuple[Family, Config]:
    """What computes the text, and its own config."""
    family = _inner_family(family_of(config), config)
    return family, _inner(config) if "text_config" in config and family.prefix else config


def spec_of(config: Config) -> DecoderSpec:
    family, stated = text_model(config)
    nested = stated is not config
    config = stated.with_defaults(family.defaults)
    _refuse(family, config)
    placement = family.placement if isinstance(family.placement, str) else family.placement(config)
    context = config.count("max_position_embeddings") if "max_position_embeddings" in config else None
    return DecoderSpec(
        family=family.name,
        vocab_size=config.count("vocab_size"),
        hidden_size=config.count("hidden_size"),
        norm=norm_spec(family, config),
        layers=numbered(family.mixers(family, config), family.feed_forwards(family, config)),
        tied_head=_tied(family, stated, config),
        context_length=context,
        placement=placement,
        prefix=family.prefix if nested or family.always_prefixed else "",
        names=family.names(config) if callable(family.names) else family.names,
        unneeded=(*OTHER_TOWERS, *family.unneeded) if family.prefix else family.unneeded,
        **({} if family.decoder is None else family.decoder(config)),
    )


def _inner(config: Config) -> Config:
    """The text model's own config. A few things are stated for the whole model."""
    outer = {key: config[key] for key in ("vocab_size", "tie_word_embeddings") if key in config}
    return Config({**config.section("text_config"), **outer}, source=f"{config.source}: text_config")


def _tied(family: Family, stated: Config, config: Config) -> bool | None:
    """A head that lies in the checkpoint is passed over only where the config says so."""
    tied = config.flag("tie_word_embeddings", False)
    said = "tie_word_embeddings" in stated
    return None if (family.head_by_weights and (tied or not said)) or (tied and not said) else tied


def _refuse(family: Family, config: Config) -> None:
    for key, value in family.refuses.items():
        if key in config and (config.flag(key) if isinstance(value, bool) else config[key]) == value:
            raise unsupported(family, config, f"{key}={value}")
    for key, values in family.only.items():
        if key in config and config[key] not in values:
            raise unsupported(family, config, f"{key}={repr(config[key])[:40]}")
    activation = config.get(family.activation_key, family.activation_names[0])
    if activation not in family.activation_names:
        raise unsupported(family, config, f"{family.activation_key}={str(activation)[:40]!r}")
