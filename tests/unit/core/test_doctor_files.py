"""What is said of our files: whose they are, who may look into them, and what `doctor --fix` would do."""

from __future__ import annotations

import pytest

from supervisord_ai.core.doctor.files import FilesFacts, FoundFile, OurFile, check_files
from supervisord_ai.core.doctor.finding import Deed, Finding, Fix, Severity, is_well, size

ME = 1000
READS = "whoever reads it can pass for an agent, or has its keys"
WRITES = "whoever writes it decides what we run"


def said(file: OurFile) -> list[Finding]:
    return [one for one in check_files(FilesFacts(ME, (file,), config="/c.toml")) if one.name != "files.config"]


def secret(mode: int, *, uid: int = ME, is_link: bool = False, should_be: int = 0o600) -> OurFile:
    return OurFile("/s/secret", "the secret", should_be, FoundFile(uid, mode, is_link), is_secret=True)


def folder(mode: int, *, uid: int = ME, is_link: bool = False, should_be: int = 0o755) -> OurFile:
    return OurFile("/agents.d", "a folder", should_be, FoundFile(uid, mode, is_link))


@pytest.mark.parametrize(
    "file",
    [
        secret(0o600),
        secret(0o400),
        folder(0o755),
        folder(0o755, is_link=True),  # what is no secret may be a link
        folder(0o770, should_be=0o770),  # its group may write, and is meant to
    ],
)
def test_a_file_that_is_as_it_should_be_is_told_with_its_mode(file: OurFile) -> None:
    assert file.found is not None
    name = f"files.{file.what.replace(' ', '-')}"
    assert said(file) == [Finding(name, Severity.GOOD, f"{file.path} ({file.what}), mode {file.found.mode:o}")]


@pytest.mark.parametrize(
    ("file", "can", "mode"),
    [
        (secret(0o640), "be read by others (mode 640)", 0o600),
        (secret(0o604), "be read by others (mode 604)", 0o600),
        (secret(0o620), "be written by others (mode 620)", 0o600),
        (secret(0o460), "be written by others (mode 460)", 0o400),  # what it lacks it is not given
        (folder(0o775), "be written by others (mode 775)", 0o755),
        (folder(0o757), "be written by others (mode 757)", 0o755),
    ],
)
def test_a_file_that_others_may_use_is_a_failure_that_can_be_mended(file: OurFile, can: str, mode: int) -> None:
    (found,) = said(file)
    assert (found.severity, found.words) == (Severity.FAIL, f"{file.path} ({file.what}) can {can}")
    assert found.why == (READS if file.is_secret else WRITES)
    assert found.fixes == (Fix("a shell", (f"chmod {mode:o} {file.path}",)),)
    assert found.deed == Deed(file.path, mode)


def test_a_folder_that_may_be_read_by_others_is_none_of_our_business() -> None:
    assert [one.severity for one in said(folder(0o755, should_be=0o750))] == [Severity.GOOD]


@pytest.mark.parametrize("file", [secret(0o600, uid=0), folder(0o777, uid=0)])
def test_a_file_of_another_user_is_that_users_to_mend(file: OurFile) -> None:
    (found,) = said(file)
    assert (found.severity, found.words) == (Severity.FAIL, f"{file.path} ({file.what}) belongs to user 0, and {ME} asks")
    assert found.fixes == (Fix("a shell", (f"sudo chown {ME} {file.path}",)),)
    assert found.deed is None


def test_a_secret_that_is_a_link_is_a_failure_whatever_it_leads_to() -> None:
    assert said(secret(0o777, uid=0, is_link=True)) == [
        Finding(
            "files.the-secret",
            Severity.FAIL,
            "/s/secret (the secret) is a link, which we do not follow",
            fixes=(Fix("a shell", ("ls -l /s/secret",), "put the file itself there"),),
        )
    ]


def test_what_was_never_made_is_no_finding_but_for_what_is_missed() -> None:
    assert said(OurFile("/s/secret", "the secret", 0o600, None, is_secret=True)) == []
    assert said(OurFile("/agents.d", "a folder", 0o755, None, is_wanted=True)) == [
        Finding(
            "files.a-folder",
            Severity.NOTE,
            "/agents.d (a folder) is not there",
            fixes=(Fix("a shell", ("mkdir -m 755 /agents.d",)),),
            deed=Deed("/agents.d", 0o755, is_missing=True),
        )
    ]


def test_the_config_is_right_wrong_or_not_there_yet() -> None:
    start = Fix("a shell", ("ai-supervisor config init",)), Fix("or first, without one", ("ai-supervisor try -- CMD",))
    check = (Fix("a shell", ("ai-supervisor config check",)),)
    why = "a daemon that runs goes on with what it was; none can be started"
    for facts, expected in (
        (
            FilesFacts(ME, config_place="/etc/c.toml"),
            Finding("files.config", Severity.NOTE, "there is no config at /etc/c.toml yet", "", start),
        ),
        (FilesFacts(ME, config="/c.toml"), Finding("files.config", Severity.GOOD, "/c.toml is right")),
        (
            FilesFacts(ME, config="/c.toml", problems=("one",)),
            Finding("files.config", Severity.FAIL, "/c.toml has a mistake: one", why, check),
        ),
        (
            FilesFacts(ME, config="/c.toml", problems=("one", "two")),
            Finding("files.config", Severity.FAIL, "/c.toml has 2 mistakes: one", why, check),
        ),
    ):
        assert check_files(facts) == (expected,)


def test_only_what_need_be_mended_makes_it_not_well() -> None:
    wells = {severity: is_well([Finding("x", Severity.GOOD, ""), Finding("x", severity, "")]) for severity in Severity}
    assert wells == {Severity.FAIL: False, Severity.WARN: False, Severity.NOTE: True, Severity.GOOD: True}
    assert is_well([])


def test_bytes_are_said_as_people_say_them() -> None:
    sizes = (300_000_000, 501_500_000, 999_000_000, 1_000_000_000, 48_000_000_000, 10**17)
    assert [size(count) for count in sizes] == ["300 MB", "502 MB", "999 MB", "1.0 GB", "48.0 GB", "100000000.0 GB"]
