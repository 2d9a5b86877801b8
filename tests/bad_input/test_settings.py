"""A file of settings, whatever stands in it, is settings or a list of faults, each with its place."""

import os
import threading
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from config import files
from config.fault import SettingsError
from config.load import DEFAULT_FILE, RESPONSE_FILE, load
from streams.runtime.cli import run
from streams.runtime.terminal import Exit
from tests.bad_input.mutations import mutated

FAULTY = """\
tenant = "acme corp"
[join]
tick = "7 s"
lable_wait = "3 d"
[detect]
pages_per_week = 0
[models.fraud]
kind = "clasification"
"""
ODD = (
    "true", "-1", "0", "1e308", "nan", "inf", "-inf", "1" + "0" * 400, "9" * 5_000, '"x"', '""', "[]", "[1]", "{}", "{ a = 1 }",
    "1979-05-27T07:32:00Z", "07:32:00", "0x7f", '"\\u0000"', '"\\u202e\\u001b[2J"', '"""a\nb"""', "9223372036854775808",
    '"' + "9" * 400 + ' d"', '"0 s"', '"-1 s"', '"1e5 s"', "[" * 5_000 + "]" * 5_000, "[" * 5_000,
)  # fmt: skip
"""Values that TOML can write, or that only look so."""


def loaded(file: Path, environment: Mapping[str, str]) -> None:
    """Load what may be faulty; each fault says where, what was expected, what came, and what to do."""
    try:
        load(file, environment, {}, lambda _: [])
    except SettingsError as error:
        faults = error.faults
    else:
        return
    for fault in faults:
        assert all([fault.source, fault.expected, fault.got, fault.remedy]), fault
        assert len(str(fault)) < 2_000


def names(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in table.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from names(value, (*above, name))


SETTINGS = [name for file in (DEFAULT_FILE, RESPONSE_FILE) for name in names(tomllib.loads(file.read_text()))]
own_file = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_five_faults_of_a_file_are_all_named_with_their_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tocsin.toml"
    file.write_text(FAULTY)
    assert run(["config", "check", str(file)]) == Exit.SETTINGS
    captured = capsys.readouterr()
    for line, setting in ((1, "tenant"), (3, "join.tick"), (4, "join.lable_wait"), (6, "detect.pages_per_week")):
        assert f"{file}:{line}: {setting}: expected " in captured.out
    assert f"{file}:8: models.fraud.kind: expected one of classification, regression, text" in captured.out
    assert "5 fault(s)" in captured.err


@own_file
@given(setting=st.sampled_from(SETTINGS), odd=st.sampled_from(ODD))
@example(setting=("kafka", "security", "password_file"), odd='"\\u0000"')
def test_any_value_of_any_setting_is_taken_or_named(tmp_path: Path, setting: tuple[str, ...], odd: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(".".join(f'"{name}"' for name in setting) + f" = {odd}\n")
    loaded(file, {})


@own_file
@given(setting=st.sampled_from(SETTINGS), odd=st.sampled_from(ODD))
def test_any_text_of_any_variable_is_taken_or_named(tmp_path: Path, setting: tuple[str, ...], odd: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text("")
    loaded(file, {"TOCSIN__" + "__".join(setting).upper(): odd})


@own_file
@given(data=st.data())
def test_any_bytes_of_a_file_are_settings_or_faults(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "own.toml"
    file.write_bytes(data.draw(mutated([DEFAULT_FILE.read_bytes(), RESPONSE_FILE.read_bytes(), FAULTY.encode()])))
    loaded(file, {})


@pytest.mark.parametrize(
    "setting",
    [
        "join.folder",
        "channels.file.folder",
        *(f"kafka.security.{name}_file" for name in ("ca", "certificate", "key", "password", "key_password")),
    ],
)
def test_a_path_that_no_system_takes_is_a_fault_of_its_setting(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.toml"
    file.write_text(f'{setting} = "a\\u0000b"\n')
    assert run(["config", "check", str(file)]) == Exit.SETTINGS
    assert f'own.toml:1: {setting}: expected a path, got "a\\x00b"; write' in capsys.readouterr().out


def test_a_name_of_a_file_that_no_system_takes_is_named_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", "a\0b"]) == Exit.SETTINGS
    assert run(["produce", "a\0b"]) == Exit.DATA
    assert run(["schema", "--all", "a\0b"]) == Exit.DATA
    assert capsys.readouterr().err.count("embedded null byte") == 2


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a pipe into which nobody writes, and be less patient with it."""
    monkeypatch.setattr(files, "SILENT_WAIT_S", 0.5)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_a_pipe_that_says_nothing_is_a_fault_after_a_while(pipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", str(pipe)]) == Exit.SETTINGS
    assert "expected a TOML file, got a pipe into which nobody wrote for 0.5 s" in capsys.readouterr().out
    with pytest.raises(SettingsError, match=r"password_file: .* got a pipe into which nobody wrote"):
        load(None, {"TOCSIN__KAFKA__SECURITY__PASSWORD_FILE": str(pipe)}, {}, lambda _: [])


def test_a_pipe_into_which_somebody_writes_is_a_file(pipe: Path) -> None:
    writing = threading.Thread(target=pipe.write_text, args=('tenant = "acme"\n',))
    writing.start()
    assert load(pipe, {}, {}, lambda _: []).tenant == "acme"
    writing.join()


def test_a_folder_is_no_file_of_settings_and_none_of_authorities(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="got Is a directory"):
        load(tmp_path, {}, {}, lambda _: [])
    variables = {"TOCSIN__KAFKA__SECURITY__PROTOCOL": "SSL", "TOCSIN__KAFKA__SECURITY__CA_FILE": str(tmp_path)}
    with pytest.raises(SettingsError, match=r"ca_file: .* got Is a directory"):
        load(None, variables, {}, lambda _: [])


@pytest.mark.parametrize("text", ["a." * 3_000 + "b = 1", "[" * 100_000, "\ufeffa = 1", "\0", "a = 1\ra = 2"])
def test_what_no_reader_should_fall_over_is_one_fault(tmp_path: Path, text: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as refused:
        load(file, {}, {}, lambda _: [])
    assert len(refused.value.faults) == 1


def test_an_endless_error_is_no_setting(tmp_path: Path) -> None:
    """With it, every answer of a regression would be right."""
    file = tmp_path / "own.toml"
    file.write_text('[models.price]\nkind = "regression"\nthreshold = inf\n')
    with pytest.raises(SettingsError, match=r"own\.toml:3: models\.price\.threshold: .*got inf"):
        load(file, {}, {}, lambda _: [])


def test_a_variable_is_one_value_and_not_a_file() -> None:
    with pytest.raises(SettingsError, match="pages_per_week"), suppress(KeyError):
        load(None, {"TOCSIN__DETECT__PAGES_PER_WEEK": "1\nx = 2"}, {}, lambda _: [])


def test_what_a_fault_quotes_cannot_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tocsin.toml"
    file.write_text('"\\u001b]0;owned\\u0007" = 1\n[kafka]\n"\\u202e" = 2\nbroker = "\\u001b[2J"\n')
    assert run(["config", "check", str(file)]) == Exit.SETTINGS
    said = "".join(capsys.readouterr())
    assert said.count("expected") == 3
    assert all(one.isprintable() or one == "\n" for one in said)
