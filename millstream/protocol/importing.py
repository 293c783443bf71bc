"""Find the application object that ``module:object`` names."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path

from millstream.protocol.app import Millstream
from millstream.protocol.errors import ImportFailed

_PACKAGE = str(Path(__file__).parents[1]) + os.sep


def import_app(reference: str) -> Millstream:
    """Import ``module:object`` (the object defaults to ``app``) and the modules it includes.

    The current folder is importable. Raises :class:`ImportFailed` with what is wrong and where.
    """
    module_name, _, attribute = reference.partition(":")
    if (folder := os.getcwd()) not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
        app = getattr(module, attribute or "app")
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ImportFailed(
                f"app {reference!r}: there is no module {error.name!r} (looked in {folder} and sys.path)"
            ) from None
        raise ImportFailed(f"app {reference!r} cannot be imported: {_where(error)}") from error
    except AttributeError as error:
        if attribute and not hasattr(sys.modules.get(module_name), attribute):
            raise ImportFailed(f"app {reference!r}: module {module_name!r} has no {attribute!r}") from None
        raise ImportFailed(f"app {reference!r} cannot be imported: {_where(error)}") from error
    except (Exception, SystemExit) as error:
        raise ImportFailed(f"app {reference!r} cannot be imported: {_where(error)}") from error
    if not isinstance(app, Millstream):
        raise ImportFailed(f"app {reference!r} is a {type(app).__name__}, not a Millstream application")
    try:
        app.import_jobs()
    except (Exception, SystemExit) as error:
        raise ImportFailed(f"app {reference!r}: an included module cannot be imported: {_where(error)}") from error
    return app


def _where(error: BaseException) -> str:
    """The error and the line of user code that raised it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame.filename)]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _is_ours(file: str) -> bool:
    """Whether a frame is of the import machinery or of this package, where no user looks for his fault."""
    return "importlib" in file or file.startswith(_PACKAGE)
