"""Whole systems as people have them, for `doctor`: the very files, as they read there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisord_ai.cli.examine import Doors
from supervisord_ai.cli.probing import Told
from supervisord_ai.config import Config
from supervisord_ai.core.places import Surroundings
from supervisord_ai.errors import HostFault
from tests.fakes.connections import FakeConnections
from tests.fakes.tree import MemoryTree

NOW = 1_800_000_000.0
KIB_48_GB = 48_000_000_000 // 1024

MEMINFO = "MemTotal:       {total} kB\nMemFree:  900 kB\nMemAvailable:   {total} kB\nSwapTotal:      {swap} kB\n"
ROUTE = (
    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    "eth0\t00000000\t0150A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"  # 192.168.80.1
)
INTERFACES = "Inter-|   Receive\n face |bytes\n    lo: 0 0\n  eth0: 1 1\n"
LIMITS = "Limit              Soft Limit    Hard Limit    Units\nMax open files     1024          {hard}        files\n"
WSL_MOUNTS = (
    "/dev/sdc / ext4 rw,relatime 0 0\n"
    "none /usr/lib/wsl/drivers 9p ro,aname=drivers 0 0\n"
    "C:\\134 /mnt/c 9p rw,noatime,dirsync,aname=drvfs;path=C:\\;uid=1000,trans=fd 0 0\n"
    "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"
)
WSL_MOUNTINFO = "70 69 8:32 / / rw,relatime - ext4 /dev/sdc rw\n98 70 0:50 / /mnt/c rw,noatime - 9p C:\\134 rw,path=C:\\\n"
OLLAMA_UNIT = '[Service]\nExecStart=/usr/local/bin/ollama serve\nUser=ollama\nEnvironment="PATH=/usr/bin"\n'

CONFIG = """
[memory]
total = "8GB"
os = "1GB"
ollama = "4GB"
cache = "0.5GB"
monitoring = "0B"
agents = "2GB"
[class.worker]
memory = "200MB"
ceiling = 3
priority = 3
user = "ai"
[[agents]]
name = "one"
class = "worker"
command = ["true"]
[[ollama]]
url = "{url}"
"""


@dataclass
class FakeAsker:
    """Ollamas by URL."""

    told: Mapping[str, Told] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def ask(self, url: str) -> Told:
        self.asked.append(url)
        if url not in self.told:
            raise HostFault("connection refused")
        return self.told[url]


@dataclass
class System:
    """One system, and who asks there."""

    tree: MemoryTree
    around: Surroundings
    asker: FakeAsker
    connections: FakeConnections = field(default_factory=FakeConnections)
    status: dict[str, object] | None = None
    gpu_calls: tuple[tuple[str, bool], ...] | None = None

    def doors(self) -> Doors:
        def status(_config: Config | None) -> dict[str, object] | None:
            return self.status

        return Doors(
            tree=self.tree,
            files=_Files(self.tree),
            asker=self.asker,
            connections=self.connections,
            status=status,
            gpu_calls=lambda: self.gpu_calls,
            now_wall=NOW,
        )


@dataclass
class _Files:
    tree: MemoryTree

    def read(self, path: str) -> bytes:
        text = self.tree.read(path)
        if text is None:
            raise HostFault(f"{path} cannot be read: No such file or directory")
        return text.encode()

    def matching(self, pattern: str) -> list[str]:
        return self.tree.matching(pattern)


def _kernel(osrelease: str, *, total_kib: int, swap_kib: int, hard: int = 1_048_576) -> dict[str, str]:
    return {
        "/proc/sys/kernel/osrelease": f"{osrelease}\n",
        "/proc/meminfo": MEMINFO.format(total=total_kib, swap=swap_kib),
        "/proc/stat": "cpu  1 1 1 1\ncpu0 1 1\ncpu1 1 1\ncpu2 1 1\ncpu3 1 1\n",
        "/proc/net/route": ROUTE,
        "/proc/net/dev": INTERFACES,
        "/proc/self/limits": LIMITS.format(hard=hard),
        "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
    }


def plain_debian(*, uid: int = 0) -> System:
    """Debian 12 on a machine of its own, Ollama as its installer leaves it, everything of ours as `install` leaves it."""
    home = "/root" if uid == 0 else "/home/ann"
    config, state = ("/etc/ai-supervisor", "/var/lib/ai-supervisor") if uid == 0 else (
        f"{home}/.config/ai-supervisor",
        f"{home}/.local/state/ai-supervisor",
    )
    override = '[Service]\nEnvironment="OLLAMA_NUM_PARALLEL=2"\nEnvironment="OLLAMA_NO_CLOUD=1"\n'
    tree = MemoryTree(
        texts={
            **_kernel("6.1.0-50-amd64", total_kib=64_000_000, swap_kib=2_000_000),
            "/proc/1/comm": "systemd\n",
            "/proc/pressure/memory": "some avg10=0.00\n",
            "/proc/mounts": "/dev/sda1 / ext4 rw 0 0\n",
            "/proc/self/mountinfo": "29 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
            "/run/systemd/system/": "",
            "/run/systemd/timesync/synchronized": "",
            "/etc/systemd/system/ollama.service": OLLAMA_UNIT,
            "/etc/systemd/system/ollama.service.d/override.conf": override,
            f"{config}/config.toml": CONFIG.format(url="http://127.0.0.1:11434"),
            f"{config}/agents.d/": "",
            f"{state}/lock": "77\n",
            f"{state}/secret": "x" * 32,
            f"{state}/journal.db": "SQLite",
        },
        modes={state: 0o700, f"{state}/secret": 0o600, f"{state}/journal.db": 0o600},
        times={f"{state}/lock": NOW - 3600},
        uid=uid,
    )
    ollama = FakeAsker({"http://127.0.0.1:11434": Told("0.33.0", ("llama3.2:3b", "tinyllama:latest"))})
    return System(tree, Surroundings(uid, home, {}), ollama)


WSLCONFIG_OF_A_BEGINNER = "[wsl2]\r\nmemory=48GB\r\nswap=12GB\r\n"
WSLCONFIG_THAT_IS_RIGHT = (
    "[general]\r\ninstanceIdleTimeout=-1\r\n\r\n[wsl2]\r\nmemory=48GB # of 64\r\nswap=12GB\r\nvmIdleTimeout = -1\r\n"
    "kernelCommandLine=psi=1\r\n"
)
STARTUP = "/mnt/c/Users/Ann/AppData/Roaming/Microsoft/Windows/Start Menu/Programs/Startup"


def wsl2_inside(*, wslconfig: str = WSLCONFIG_OF_A_BEGINNER, uid: int = 1000) -> System:
    """Ubuntu below Windows 11 as it comes, Ollama in it, a user's own config; two people have used this Windows."""
    system = plain_debian(uid=uid)
    tree = system.tree
    tree.texts |= _kernel("6.6.114.1-microsoft-standard-WSL2", total_kib=KIB_48_GB, swap_kib=12_000_000)
    tree.texts |= {
        "/etc/wsl.conf": "[boot]\nsystemd=true\n\n[user]\ndefault=ann\n",
        "/proc/mounts": WSL_MOUNTS,
        "/proc/self/mountinfo": WSL_MOUNTINFO,
        "/mnt/c/Users/Ann/.wslconfig": wslconfig,
        "/mnt/c/Users/Ann/NTUSER.DAT": "",
        "/mnt/c/Users/Bob/NTUSER.DAT": "",
        "/mnt/c/Users/Public/desktop.ini": "",
        f"{STARTUP}/desktop.ini": "[.ShellClassInfo]",
        "/dev/dxg": "",
    }
    del tree.texts["/proc/pressure/memory"]
    tree.free = {"/": 900_000_000_000, "/mnt/c": 60_000_000_000}
    path = "/usr/bin:/mnt/c/Windows/system32:/mnt/c/Users/Ann/AppData/Local/Microsoft/WindowsApps"
    around = Surroundings(uid, system.around.home, {"WSL_DISTRO_NAME": "Ubuntu", "PATH": path})
    return System(tree, around, system.asker, gpu_calls=(("memory", True), ("utilisation", False), ("processes", False)))


def wsl2_with_ollama_on_windows(*, is_mirrored: bool = False, answers: bool = True) -> System:
    """The same, and Ollama runs on Windows."""
    system = wsl2_inside(wslconfig=WSLCONFIG_THAT_IS_RIGHT)
    tree = system.tree
    config = f"{system.around.home}/.config/ai-supervisor/config.toml"
    tree.texts[config] = CONFIG.format(url="windows")
    for name in [name for name in tree.texts if "ollama" in name]:
        del tree.texts[name]
    url = "http://192.168.80.1:11434"
    if is_mirrored:
        tree.texts["/proc/net/dev"] += "loopback0: 0 0\n"
        url = "http://127.0.0.1:11434"
    told = {url: Told("0.33.0", ("llama3.2:3b", "tinyllama:latest"), NOW)} if answers else {}
    return System(tree, system.around, FakeAsker(told))
