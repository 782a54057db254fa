"""The Ray cluster that work runs on: one that this process is in, one at an address, or one started here.

Whoever reaches the ports of a Ray cluster can run programs there, and by default they are open on every interface. A
cluster that is started here listens on the loopback interface only, and serves only who has a token: one drawn for this
process, or the one that the environment names (`RAY_AUTH_TOKEN`, `RAY_AUTH_TOKEN_PATH`). Processes that this one starts
inherit it. Ray reads these settings when it is imported; one that was imported before keeps its own defaults, which
are a token in the home directory (Ray 2.60) and every interface.

A cluster at an address is its owner's: its authentication and its interfaces are left as they are.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from typing import Any

from h1r.errors import UserError

ADDRESS_VARIABLE = "RAY_ADDRESS"
_LOCAL = "local"
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Read on every system, in spite of its name: no cluster of several machines, so that all listen on 127.0.0.1."""

_TOO_SLOW = "timed out during startup"


class RayCluster:
    """Joins the cluster that this process is in, or the one at `address` or at RAY_ADDRESS, or starts one.

    `local` are options of `ray.init` for one that is started. `ray` is the module. `ImportError`: Ray is not installed.
    `UserError`: it cannot be joined.
    """

    def __init__(self, address: str | None = None, **local: Any) -> None:
        starts = (address or os.environ.get(ADDRESS_VARIABLE) or _LOCAL) == _LOCAL
        if starts and "ray" not in sys.modules:
            _protect()
        import ray
        import ray.exceptions

        self.ray: Any = ray
        self._joined = not ray.is_initialized()
        self._started = self._joined and starts
        if self._joined:
            options = {**local, "address": _LOCAL} if starts else {"address": address}
            try:
                self.ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", **options)
            except (ConnectionError, ray.exceptions.RayError) as error:
                place = "this machine" if starts else address or os.environ[ADDRESS_VARIABLE]
                raise UserError(
                    f"no Ray cluster can be joined at {place}: {error}; it has to run, and RAY_AUTH_TOKEN to be "
                    "its token if it wants one"
                ) from error
            except Exception as error:  # Ray has no kind of its own for this
                if not starts or _TOO_SLOW not in str(error):
                    raise
                ray.shutdown()
                raise UserError(
                    "Ray did not start on this machine in the 30 s that it gives itself; run the command again when "
                    "the machine is less busy"
                ) from error

    @property
    def address(self) -> str:
        """Where other processes join it."""
        return str(self.ray.get_runtime_context().gcs_address)

    def leave(self) -> None:
        """Ends a cluster that was started here, and leaves one that was joined here."""
        if self._started:
            # Its autoscaler, which has no machine to add, ignores the signal that Ray ends it with for a second.
            with contextlib.suppress(AttributeError):
                self.ray._private.worker._global_node.kill_monitor(check_alive=False)
        if self._joined:
            self.ray.shutdown()
        self._joined = self._started = False


def _protect() -> None:
    settings = {"RAY_AUTH_MODE": "token", **_LOOPBACK}
    if not any(os.environ.get(name) for name in _TOKENS):
        settings["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    for name, value in settings.items():
        os.environ.setdefault(name, value)
