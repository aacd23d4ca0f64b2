"""Code that a worker is to run, as data: names of functions, and pickles of what has no name."""

import base64
import hashlib
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lsf_jax.settings import ConfigError


class Code(NamedTuple):
    """Something to call, as settings show it and as a worker finds it."""

    text: str  # "module:function", "file.py:function", or what stands for a pickle
    pickle: str = ""  # base 64; "" where the text is a name


def code_of(value: str | Callable[..., Any], what: str) -> Code:
    """A callable as data that another process can use.

    Args:
      value: a name is taken as it is; a function or class is named by its module, or by its file if that is a script;
        anything else that can be called is pickled.
      what: the argument that it was given as, for errors.

    Raises:
      ConfigError: another process could not find it: a lambda, a function inside a function, something unpicklable.
    """
    if isinstance(value, str):
        return Code(value)
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module is None or name is None or ("<" not in name and _found(module, name) is not value):
        return _pickled(value, what)  # a method of an object, for example
    if "<" in name:
        raise ConfigError(
            f"{what} is {name}; workers are other processes: expected a function of a module, by its name"
        )
    if module != "__main__":
        return Code(f"{module}:{name}")
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None:
        raise ConfigError(
            f"{what} is {name} of this session; workers are other processes: put it into a module or file"
        )
    return Code(f"{Path(script).absolute()}:{name}")


def _found(module: str, name: str) -> Any:
    found = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _pickled(value: Any, what: str) -> Code:
    if not callable(value):
        raise ConfigError(f"{what} is {value!r}; expected 'module:function' or something to call")
    try:
        data = pickle.dumps(value)
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"{what} cannot be pickled for other processes ({cause}); expected a named function"
        ) from None
    return Code(
        f"pickle:{type(value).__name__}_{hashlib.sha256(data).hexdigest()[:8]}", base64.b64encode(data).decode()
    )
