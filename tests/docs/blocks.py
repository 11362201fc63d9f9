"""The code blocks of the documentation, and how each kind is run."""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mmguard.cli.main import main

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```([\w{}:.-]*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RUN = ("python", "console")
SHOWN = ("", "text", "yaml", "json", "promql")
"""Languages of blocks that are only shown."""
NOT_RUN = {
    "pip install": "needs a package registry",
    "git clone": "needs the repository's address",
    "make": "installs an environment; CI runs the targets",
    "mmguard demo": "takes a minute; tests/test_demo.py runs it",
    "mmguard report": "--open starts a browser; tests/cli runs the command",
    "docker": "needs a container runtime",
}
"""Beginnings of commands that are not run, and why."""
PORTS = {"8080": "--port", "9464": "--metrics-port"}
"""The ports that the documentation names, and the options of `mmguard serve` that choose others."""
SECONDS = 60


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str


def pages() -> list[Path]:
    """Every page that a reader sees."""
    return sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for match in FENCE.finditer(text)
        if not match[1].startswith("{")
    ]


@dataclass
class Runner:
    """Runs the blocks of one page in order, in one folder and one namespace."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    namespace: dict[str, Any] = field(default_factory=dict)
    ports: dict[str, str] = field(default_factory=dict)
    servers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    code: int = 0

    def run(self, block: Block) -> None:
        """Run a block; anything that it raises fails the test at the block's line."""
        if block.language == "python":
            source = "\n" * block.line + self._with_ports(block.text)
            exec(compile(source, str(block.page), "exec"), self.namespace)
        else:
            for command, output in commands(block.text):
                self._command(block, command, output)
            assert self.code == 0, f"{block.page.name}, line {block.line}: exit code {self.code}, say so by echo $?"

    def stop(self) -> None:
        """Stop the servers that the page started."""
        for server in self.servers:
            server.terminate()
            server.wait()

    def _command(self, block: Block, command: str, expected: str) -> None:
        where = f"{block.page.name}, line {block.line}: {command}"
        if command.startswith(tuple(NOT_RUN)):
            return
        if command == "echo $?":
            assert self.code == int(expected), where
            self.code = 0
            return
        assert self.code == 0, f"{where}: the command before it exited with {self.code}, and the page does not say so"
        self.capsys.readouterr()
        words = shlex.split(self._with_ports(command), comments=True)
        output = self._execute(words)
        assert matches(expected, output), f"{where}: expected\n{expected}\ngot\n{output}"

    def _execute(self, words: list[str]) -> str:
        """Run a command; returns what it prints and sets its exit code."""
        self.code = 0
        if words[0] == "mmguard" and words[-1] == "&":
            return self._serve(words[1:-1])
        if words[0] == "mmguard":
            with pytest.raises(SystemExit) as stopped:
                main(words[1:])
            self.code = int(stopped.value.code or 0)
            return "".join(self.capsys.readouterr())
        if words[0] == "curl":
            return _curl(words[1:])
        assert words[0] == "head", f"{words[0]} is neither run nor listed as not run"
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def _serve(self, words: list[str]) -> str:
        chosen = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        options = [part for port, option in PORTS.items() for part in (option, chosen[port])]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "mmguard", *words, *options]
        self.servers.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
        self.ports = chosen
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and self.servers[-1].poll() is None:
            try:
                return _curl([f"http://localhost:{chosen['8080']}/v2/health/ready"])
            except OSError:
                time.sleep(0.1)
        raise AssertionError(f"mmguard {shlex.join(words)} did not become ready")

    def _with_ports(self, text: str) -> str:
        for port, chosen in self.ports.items():
            text = text.replace(f"localhost:{port}", f"127.0.0.1:{chosen}")
        return text


def commands(text: str) -> list[tuple[str, str]]:
    """The commands after `$ ` of a console block, each with the output below it."""
    found: list[tuple[str, str]] = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        command = lines.pop(0)
        while command.endswith("\\") or _open_quote(command):
            command = command.removesuffix("\\").rstrip() + " " + lines.pop(0).strip()
        found.append((command, "\n".join(lines).strip()))
    return found


def free_ports(count: int) -> list[str]:
    """Ports that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def matches(expected: str, output: str) -> bool:
    """Whether the output holds what is documented, where `…` stands for anything and space is of any width."""
    pattern = r".*?".join(r"\s+".join(map(re.escape, part.split())) for part in expected.split("…"))
    return re.search(pattern, output, re.DOTALL) is not None


def _open_quote(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return True
    return False


def _curl(words: list[str]) -> str:
    """Fetch a URL, or post to it what follows `-d`."""
    data = words[words.index("-d") + 1].encode() if "-d" in words else None
    url = next(word for word in words if "://" in word or "127.0.0.1" in word or word.startswith("localhost"))
    request = urllib.request.Request(url if "://" in url else f"http://{url}", data)
    with urllib.request.urlopen(request, timeout=10) as response:
        text: str = response.read().decode()
    return text
