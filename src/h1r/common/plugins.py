"""Users' own parts: modules and files that register what they define when they are imported.

    plugins = ["package.module", "path/to/file.py"]      in a recipe, a path relative to the recipe's file
    [project.entry-points."h1r.plugins"]                 in a package: loaded once a name is unknown without it

A file becomes a module whose name is made from its path, so every process that is given the path imports it under the
same name. Loading runs the code of the module: load no recipe whose plugins you would not run.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from h1r.errors import UserError

GROUP = "h1r.plugins"
"""The group of entry points that installed plugins belong to."""
_PREFIX = "h1r_plugin_"
_installed_are_loaded = False


def load_plugins(plugins: Iterable[str]) -> None:
    """Imports each plugin once, in order; `UserError` names one that cannot be imported, and why."""
    for plugin in plugins:
        try:
            import_file(plugin) if is_file(plugin) else importlib.import_module(plugin)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(
                f"plugin `{plugin}` cannot be imported ({_explained(error)}); mend it, or take it from `plugins`"
            ) from error


def load_installed() -> None:
    """Imports the plugins of installed packages, once in a process; `UserError` names one that cannot be imported."""
    global _installed_are_loaded
    if _installed_are_loaded:
        return
    _installed_are_loaded = True  # before, since a plugin may look up names while it is imported
    from importlib.metadata import entry_points  # a fifth of what a verifier's worker imports, which asks for none

    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            package = entry.dist.name if entry.dist else entry.value
            raise UserError(
                f"plugin `{entry.value}` of the installed package `{package}` cannot be imported"
                f" ({_explained(error)}); mend or uninstall it"
            ) from error


def is_file(plugin: str) -> bool:
    """Whether a plugin is the path of a file rather than the name of a module."""
    return plugin.endswith(".py")


def import_file(path: str | Path) -> ModuleType:
    """The module of a file, imported once in a process; raises what the file raises."""
    path = Path(path).resolve()
    name = module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def module_name(path: str | Path) -> str:
    """The name that a file is imported under: its own and a hash of its path, since two files may be called alike."""
    path = Path(path).resolve()
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    return f"{_PREFIX}{re.sub('[^A-Za-z0-9]', '_', path.stem)}_{digest}"


def importable(module: str) -> tuple[str, str | None]:
    """How another process imports a module of this one: its name there, and its file where the name alone is no help.

    The script that Python was started with is imported as a file; `UserError` where there is none, as in a notebook.
    """
    file = getattr(sys.modules.get(module), "__file__", None)
    if module == "__main__":
        if file is None:
            raise UserError("what other processes are to run must be in a file; move it from the prompt into one")
        return module_name(file), str(Path(file).resolve())
    return module, file if module.startswith(_PREFIX) else None


def _explained(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
