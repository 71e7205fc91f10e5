"""How much memory the process may use: the least that machine, control group and resource limit allow."""

from pathlib import Path

from embedgate.server.machine_memory import available_bytes

GROUP = 300_000_000


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def test_a_machine_without_control_groups_has_what_it_has(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) > GROUP


def test_the_limit_of_a_control_group_counts_and_of_those_above_it(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/system.slice/embedgate.service\n")
    groups = tmp_path / "sys/fs/cgroup"
    write(groups / "memory.max", "max\n")
    write(groups / "system.slice/memory.max", f"{GROUP}\n")
    write(groups / "system.slice/embedgate.service/memory.max", "max\n")
    assert available_bytes(tmp_path) == GROUP


def test_version_1_counts_and_a_path_of_the_host_finds_the_root(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "5:cpu:/x\n4:memory:/docker/0123\n0::/\n")
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{GROUP}\n")
    assert available_bytes(tmp_path) == GROUP


def test_no_limit_of_version_1_is_a_number_too(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "4:memory:/a\n")
    write(tmp_path / "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n")
    assert GROUP < available_bytes(tmp_path) < 9_000_000_000_000_000_000
