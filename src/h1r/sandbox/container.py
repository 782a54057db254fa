"""What runs first in a container of gVisor's: gives up what is left to give up, then does the one job."""

from __future__ import annotations

import os
import site
import sys
from typing import Any

from h1r.sandbox import confine, inside, seccomp
from h1r.sandbox.limits import Limits


def main(limits: dict[str, Any], scratch: str, import_paths: list[str]) -> None:
    """Reads the job from descriptor 3, as a fork of a fork server does; never returns."""
    try:
        sys.path += import_paths
        site.setquit()
        job, reader = inside.read_job()
        given = inside.read_input() if job.get("stdin_file") else b""
        os.chdir(scratch)
        inside.write_files(job)
        if job.get("stdin_file"):
            inside.become_input(given, f"{scratch}/{confine.INPUT}")
        allowed = Limits(**limits)
        confine.leave_no_core()
        confine.set_limits(allowed, files_writable=True, own_user=True)
        confine.no_new_privileges()
        confine.restrict_system_calls(seccomp.Grant(allowed.processes > 1, strict=False))
        inside.run(job, reader)
    except BaseException as error:
        os.write(2, f"sandbox: {type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(126)
