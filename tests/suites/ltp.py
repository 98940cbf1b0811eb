"""LTP's system call tests that deal with files: in a mount, or in a directory of another file system.

    python -m tests.suites.ltp PREFIX [--in DIRECTORY] [--only FILE] [--save FILE]

PREFIX is where LTP was installed (`configure --prefix`). --save writes the names of the tests that passed, --only takes
such a file: run in a directory of ext4 with --save first, then in the mount with --only.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.suites.around import SuiteError, judged_mount

ABOUT_FILES = re.compile(
    r"^(access|chdir|chmod|chown|chroot|close|copy_file_range|creat|dup|execl|execv|faccessat|fallocate|fanotify|fchdir|"
    r"fchmod|fchown|fcntl|fdatasync|fgetxattr|flistxattr|flock|fremovexattr|fsetxattr|fstat|fstatfs|fsync|ftruncate|"
    r"futimesat|getcwd|getdents|getxattr|inotify|ioctl|lchown|lgetxattr|link|linkat|listxattr|llistxattr|llseek|"
    r"lremovexattr|lseek|lsetxattr|lstat|mkdir|mkdirat|mknod|mknodat|mmap|mmapstress|msync|munmap|name_to_handle_at|open|"
    r"openat|open_by_handle_at|pathconf|posix_fadvise|pread|preadv|pwrite|pwritev|read|readahead|readdir|readlink|readv|"
    r"removexattr|rename|renameat|rmdir|sendfile|setxattr|splice|stat|statfs|statvfs|statx|symlink|sync|sync_file_range|"
    r"syncfs|tee|truncate|umask|unlink|utime|utimensat|utimes|vmsplice|write|writev|creat|close_range|openat2|ustat|"
    r"fsetxattr|fgetxattr|diotest|aio|io_submit|epoll_wait|lftest|growfiles|gf|rwtest|ftest|inode|stream|linker|fs_perms)"
    r"[-_a-z]*\d*"
)
DEADLINE = 1200.0  # LTP's own are shorter, and depend on the test
_CONFIGURATION = 32  # the exit code's bit for "cannot be tested here"


def tests_of(prefix: Path) -> list[tuple[str, str]]:
    """(name, command) of the tests about files, as LTP's own list has them."""
    found = []
    for line in (prefix / "runtest" / "syscalls").read_text().splitlines():
        name, _, command = line.strip().partition(" ")
        if command and not name.startswith("#") and ABOUT_FILES.match(name):
            found.append((name, command.strip()))
    return found


def run_one(prefix: Path, command: str, where: Path) -> tuple[str, str]:
    """("passed", "failed", "skipped" or "late", output) of one test with its files below `where`."""
    binaries = prefix / "testcases" / "bin"
    environment = {**os.environ, "LTPROOT": str(prefix), "TMPDIR": str(where)}
    environment["PATH"] = f"{binaries}:{environment['PATH']}"
    if not os.access(binaries / shlex.split(command)[0], os.X_OK):
        return "skipped", "not built"
    process = subprocess.Popen(
        ["sh", "-c", f"ulimit -n 1024; {command}"],
        cwd=where,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return "late", ""
    text = output.decode(errors="replace")
    if process.returncode == 0:
        return "passed", text
    return ("skipped" if process.returncode == _CONFIGURATION else "failed"), text


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when nothing failed and the tree survived."""
    parser = argparse.ArgumentParser(description="LTP's tests of file system calls")
    parser.add_argument("prefix", type=Path)
    parser.add_argument("--ten", action="store_true", help="on ten servers, three of them not running")
    parser.add_argument("--in", dest="where", type=Path, help="a directory instead of a mount")
    parser.add_argument("--only", type=Path, help="a list of names")
    parser.add_argument("--save", type=Path, help="where to list what passed")
    options = parser.parse_args(arguments)
    chosen = set(options.only.read_text().split()) if options.only else None
    passed: list[str] = []
    failed: list[str] = []
    skipped: list[str] = []
    try:
        with nullcontext(options.where) if options.where else judged_mount(ten=options.ten) as top:
            for name, command in tests_of(options.prefix):
                if chosen is not None and name not in chosen:
                    continue
                with TemporaryDirectory(prefix="ltp-", dir=top, ignore_cleanup_errors=True) as where:
                    os.chmod(where, 0o777)
                    result, output = run_one(options.prefix, command, Path(where))
                if result in ("failed", "late"):
                    failed.append(name)
                    print(f"--- {name}: {result}\n{output[-3000:]}", flush=True)
                elif result == "passed":
                    passed.append(name)
                elif result == "skipped":
                    skipped.append(name)
    except SuiteError as problem:
        print(f"FAILED: {problem}", file=sys.stderr)
        failed.append("the tree")
    if options.save:
        options.save.write_text("\n".join(passed) + "\n")
    print(f"LTP: {len(passed)} passed, {len(skipped)} skipped, {len(failed)} failed")
    print(f"skipped: {' '.join(skipped)}\nfailed: {' '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
