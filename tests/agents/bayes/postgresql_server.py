"""A PostgreSQL server of a test's own, from the binaries of Debian's package `postgresql`."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.serving.server import free_port

USER, PASSWORD = "tuner", "s3cret-of-the-test"
WANTED = "initdb and pg_ctl are not here: apt-get install postgresql"


def binaries() -> Path | None:
    """The folder with `initdb`, newest version first; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    on_path = shutil.which("initdb")
    if on_path:
        found.append(Path(on_path))
    return next((p.parent for p in found if (p.parent / "pg_ctl").exists()), None)


class Database:
    """The server; it wants a password.  Root, whom PostgreSQL refuses, runs it as another user."""

    def __init__(self) -> None:
        folder = binaries()
        assert folder is not None, WANTED
        self._binaries = folder
        self._as = _unprivileged()
        # Not below pytest's folder, which nobody but its own user can enter.
        self._folder = Path(tempfile.mkdtemp(prefix="ewsjf-postgresql-"))
        self._data = self._folder / "data"
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        if self._as:
            for path in (self._folder, secret):
                shutil.chown(path, self._as)
        self.port = free_port()
        self._run("initdb", "--auth=scram-sha-256", f"--pwfile={secret}", "-U", USER, "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        listen = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off"
        listen += f" -c unix_socket_directories={self._folder}"
        log = f"--log={self._folder / 'log'}"
        self._run("pg_ctl", "start", "--wait", log, "-o", listen)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--mode=immediate", "--wait")

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments, "-D", str(self._data)]
        if self._as:
            command = ["runuser", "-u", self._as, "--", *command]
        with (self._folder / "output").open("ab") as output:
            done = subprocess.run(command, stdout=output, stderr=output, cwd="/", timeout=120)
        assert done.returncode == 0, (self._folder / "output").read_text()


def _unprivileged() -> str:
    if os.geteuid() != 0:
        return ""
    names = [entry.pw_name for entry in pwd.getpwall()]
    return "postgres" if "postgres" in names else "nobody"
