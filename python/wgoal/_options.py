"""Options as keyword arguments: each is an option of the command line, with underscores for hyphens."""

from __future__ import annotations

import os
import warnings

from wgoal import _wgoal


def given(options):
    """Keyword arguments as (name, value) of the command line. An argument that is None is not given."""
    pairs = []
    for name, value in options.items():
        name = name.rstrip("_").replace("_", "-")
        if value is None:
            continue
        if isinstance(value, dict):
            pairs.extend((name, f"{key}={_text(each)}") for key, each in value.items())
        elif isinstance(value, (list, tuple)):
            if value:
                pairs.append((name, ",".join(_text(each) for each in value)))
        else:
            pairs.append((name, _text(value)))
    return pairs


def _text(value):
    if isinstance(value, bool) or type(value).__name__ == "bool_":
        return "on" if value else "off"
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):
        # A number of NumPy.
        value = value.item()
    return repr(value) if isinstance(value, float) else str(value)


def warn(lines, level=3):
    """Shows warnings about options, as warnings of the caller."""
    for line in lines:
        warnings.warn(line, UserWarning, stacklevel=level + 1)


def parameters(**named):
    """Parameters of an objective in the order of the native module."""
    named = {name.rstrip("_").replace("_", "-"): value for name, value in named.items()}
    unknown = [name for name in named if name not in _wgoal.PARAMETERS]
    if unknown:
        expected = ", ".join(name.replace("-", "_") for name in _wgoal.PARAMETERS)
        raise TypeError(f"parameter: expected one of {expected} (lambda_ for lambda), found '{unknown[0]}'")
    return [named.get(name) for name in _wgoal.PARAMETERS]


def objective(weights=None, param=None, **named):
    """What the native module takes after the name of an objective: its parameters, and the weight file of `custom`."""
    return parameters(**named), weights, param
