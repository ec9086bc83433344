"""A program that runs commands as on a system without what POSIX alone has: `python -c CODE`.

The names of POSIX are taken away, the names of files that Windows cannot have are refused, and so
are files that are replaced or deleted while this process has them open.
"""

from __future__ import annotations

CODE = r"""
import contextlib, io, json, multiprocessing.context, os, re, signal, sys

sys.modules["fcntl"] = sys.modules["resource"] = sys.modules["pwd"] = sys.modules["grp"] = None
for name in (
    "pread", "preadv", "pwrite", "pwritev", "readv", "writev", "sendfile", "posix_fallocate",
    "sched_getaffinity", "sched_setaffinity", "nice", "setpriority", "getpriority", "getuid",
    "geteuid", "getgid", "getpgid", "killpg", "setsid", "mkfifo", "mknod", "fork", "forkpty",
    "chown", "lchown", "fchown", "chroot", "sync", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK",
    "O_DIRECTORY", "SEEK_DATA", "SEEK_HOLE", "getloadavg", "wait4", "waitid",
):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGQUIT", "alarm", "setitimer"):
    if hasattr(signal, name):
        delattr(signal, name)
for name in ("fork", "forkserver"):
    multiprocessing.context._concrete_contexts.pop(name, None)

root = os.path.realpath(sys.argv[1])
INVALID = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$')
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
PATHS = {
    "open": 1, "os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.truncate": 1,
    "os.link": 2, "os.symlink": 2, "os.listdir": 1, "os.scandir": 1, "os.chmod": 1,
}
LONGEST = 260 - len(r"C:\Users\somebody\Documents")

def refuse(event, arguments):
    if event == "os.fork" or event.startswith(("fcntl.", "os.posix_spawn")):
        raise OSError(event + " is not there")
    for path in arguments[: PATHS.get(event, 0)]:
        if not isinstance(path, (str, bytes, os.PathLike)):
            continue
        name = os.path.abspath(os.fsdecode(path))
        if not name.startswith(root + os.sep):
            continue
        inner = name[len(root) + 1 :]
        if len(inner) > LONGEST:
            raise OSError(22, f"[as on another system] {len(inner)} characters", inner)
        for part in inner.split(os.sep):
            if RESERVED.fullmatch(part) or INVALID.search(part):
                raise OSError(22, "[as on another system] no name of a file", inner)
    if event in ("os.rename", "os.remove"):
        targets = {os.path.abspath(os.fsdecode(path)) for path in arguments[: PATHS[event]]}
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                held = os.readlink(f"/proc/self/fd/{number}")
                if held in targets and held.startswith(root + os.sep):
                    raise PermissionError(13, "[as on another system] the file is open", held)

sys.addaudithook(refuse)
from steptrace_analyzer.cli.app import run

with contextlib.suppress(ImportError):  # serve one page, and end
    from steptrace_analyzer.view.server import View
    View.run = lambda self, started: None
found = []
for arguments in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    found.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""
