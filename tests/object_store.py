"""A SeaweedFS server for tests: real S3, on this machine only."""

from __future__ import annotations

import os
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
    """A server that can be stopped and started again; its data stay."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = free_ports(4)
        self._process: subprocess.Popen[bytes] | None = None

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
        """Start it, and wait until it stores objects; again, it takes half a minute."""
        s3, master, volume, filer = self._ports
        command = [
            str(Path(sys.executable).with_name("weed")),
            *("server", f"-dir={self._folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *("-master.telemetry=false", "-s3", "-s3.iam=false", f"-s3.port={s3}"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=20"),
            *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
        ]
        with (self._folder / "server.log").open("ab") as log:
            # With credentials in its environment it would refuse requests that have none.
            plain = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=plain)
        said = ""
        for _ in range(900):
            try:
                self._put("")
                self._put("/ready")
            except OSError as error:
                said = str(error)
                time.sleep(0.1)
            else:
                return
        raise AssertionError(said)

    def stop(self) -> None:
        """Stop it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _put(self, path: str) -> None:
        url = f"http://127.0.0.1:{self._ports[0]}/{BUCKET}{path}"
        request = urllib.request.Request(url, data=b"", method="PUT")
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 409:  # the bucket is there already
                raise


def is_installed() -> bool:
    """Whether the server's program is there."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) is not None


def free_ports(count: int) -> list[int]:
    """Return free ports whose numbers plus 10000, which the server takes for gRPC, are ports."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        found = []
        for number, holder in enumerate(sockets):
            # Tests of another process look for ports at the same time.
            for port in range(20000 + 997 * number + os.getpid() % 997, 50000):
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
