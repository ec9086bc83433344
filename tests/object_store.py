"""A SeaweedFS server for tests: real S3, on this machine only."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

BUCKET = "traces"


class ObjectStoreServer:
    """A store with a gateway that speaks S3, which can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = _free_ports(4)
        self._store: subprocess.Popen[bytes] | None = None
        self._gateway: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which clients find it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._ports[0]}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_SKIP_SIGNATURE": "true",
        }

    def start(self) -> None:
        """Start what is not running, and wait until it stores objects."""
        s3, master, volume, filer = self._ports
        if self._store is None:
            self._store = self._run(
                *("server", f"-dir={self._folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                *("-master.telemetry=false", "-filer", "-volume.max=20"),
                *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
            )
        self._gateway = self._run(
            *("s3", f"-filer=127.0.0.1:{filer}", "-ip.bind=127.0.0.1", f"-port={s3}"),
            *("-iam=false", "-port.iceberg=0", "-port.lance=0"),
        )
        for _ in range(900):  # a gateway that was killed is missed for half a minute
            try:
                self._put("")
                self._put("/ready")
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError((self._folder / "server.log").read_text()[-2000:])

    def stop(self) -> None:
        """Stop the gateway at once; the data stay."""
        _end(self._gateway)
        self._gateway = None

    def stop_all(self) -> None:
        """Stop everything."""
        self.stop()
        _end(self._store)
        self._store = None

    def _run(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("weed")), *arguments]
        with (self._folder / "server.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def _put(self, path: str) -> None:
        url = f"http://127.0.0.1:{self._ports[0]}/{BUCKET}{path}"
        request = urllib.request.Request(url, data=b"", method="PUT")
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 409:  # the bucket is there already
                raise


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.wait()


def is_installed() -> bool:
    """Whether the server's program is there."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) is not None


def _free_ports(count: int) -> list[int]:
    """Return free ports whose numbers plus 10000, which the server takes for gRPC, are ports."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        found = []
        for number, holder in enumerate(sockets):
            for port in range(20000 + 997 * number, 50000):
                try:
                    holder.bind(("127.0.0.1", port))
                except OSError:
                    continue
                found.append(port)
                break
        return found
    finally:
        for holder in sockets:
            holder.close()
