"""Settings: layers, faults, and nothing left to chance."""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from config.fault import UNSHOWN, Fault, SettingsError
from config.load import DEFAULT_FILE, RESPONSE_FILE, load
from config.settings import Settings

FAULTS = sorted((Path(__file__).parent / "faults").glob("*.toml"))
MARK = "# fault: "


def sound(_: Settings) -> list[str]:
    """Find nothing more to object to."""
    return []


def expected_faults(file: Path) -> list[str]:
    """Read what a file says of itself: `# fault:` comments, each at the end of the faulty line or on a line after it."""
    found, line = [], 0
    for number, text in enumerate(file.read_text().splitlines(), start=1):
        before, mark, said = text.partition(MARK)
        line = number if before.strip() else line
        if mark:
            found.append(f"{file}:{line}: {said}")
    return found


def faults_of(file: Path | None, environment: Mapping[str, str]) -> tuple[Fault, ...]:
    with pytest.raises(SettingsError) as caught:
        load(file, environment, {}, sound)
    return caught.value.faults


@pytest.mark.parametrize("file", FAULTS, ids=lambda file: file.stem)
def test_every_fault_of_a_file_is_named_with_its_line_what_was_expected_what_came_and_what_to_do(file: Path) -> None:
    assert [str(fault) for fault in faults_of(file, {})] == expected_faults(file)


def test_each_faulty_file_says_what_is_wrong_with_it() -> None:
    assert [file.stem for file in FAULTS if not expected_faults(file)] == []


def test_the_defaults_are_those_of_the_design() -> None:
    settings = load(None, {}, {}, sound)
    join, detect = settings.join, settings.detect
    assert (join.tick_ms, join.allowed_disorder_ms, join.idle_after_ms) == (10_000, 10_000, 30_000)
    assert (join.label_wait_ms, join.orphan_wait_ms, join.correction_wait_ms) == (1_209_600_000, 86_400_000, 86_400_000)
    assert (join.future_skew_ms, join.checkpoint_ms) == (300_000, 2_000)
    assert (detect.pages_per_week, detect.tickets_per_week) == (1, 20)
    assert (detect.max_lanes_per_model, detect.max_rollups_per_model) == (500, 16)
    assert (settings.kafka.input_partitions, settings.kafka.output_partitions) == (4, 4)


def test_probes_answer_on_loopback_alone_unless_told_otherwise() -> None:
    assert ip_address(load(None, {}, {}, sound).probes.address).is_loopback


SETTING = re.compile(r"^(?P<name>\w+) = (?P<rest>.*)$|^#.*$", re.MULTILINE)
NO_WORDS = re.compile(r"\[[TP]\]|[\d_,.]+ (?:business )?(?:ms|s|min|h|d)\b|\W")


def unexplained(text: str) -> set[str]:
    """Name the settings of a file whose first line has no comment in words, and no comment above that names them."""
    explained: set[str] = set()
    bare: set[str] = set()
    for found in SETTING.finditer(text):
        if found["name"] is None:
            explained |= set(re.findall(r"\w+(?=:)|(?<=class:)\w+", found[0]))
        elif found["name"] not in explained:
            said = NO_WORDS.sub("", found["rest"].rpartition(" # ")[2]) if " # " in found["rest"] else ""
            (explained if said else bare).add(found["name"])
    return bare


@pytest.mark.parametrize("file", [DEFAULT_FILE, RESPONSE_FILE], ids=lambda file: file.name)
def test_each_setting_stands_with_a_word_of_explanation(file: Path) -> None:
    assert unexplained(file.read_text(encoding="utf-8")) == set()


def no_defaults(kind: type) -> list[str]:
    assert is_dataclass(kind)
    return [f"{kind.__name__}.{field.name}" for field in fields(kind) if field.default is not field.default_factory]


def test_no_setting_has_a_default_in_code() -> None:
    settings = load(None, {}, {}, sound)
    parts = [settings, settings.kafka, settings.kafka.security, settings.join, settings.worker]
    parts += [settings.probes, settings.detect]
    assert [name for part in parts if is_dataclass(part) for name in no_defaults(type(part))] == []


def test_a_file_says_only_what_it_wants_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[join]\ntick = "1 min"\n[models.fraud]\nkind = "classification"\nsla_accuracy = 0.9\n')
    settings = load(file, {}, {}, sound)
    assert settings.join.tick_ms == 60_000
    assert settings.join.idle_after_ms == 30_000
    fraud = settings.models["fraud"]
    assert (fraud.threshold, fraud.tier, fraud.label_wait_ms) == (0.5, "standard", settings.join.label_wait_ms)


def test_the_environment_is_above_the_file_and_the_command_line_above_both(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('tenant = "file"\nenvironment = "file"\n[kafka]\ntopic_prefix = "file."\n')
    environment = {"TOCSIN__ENVIRONMENT": "variable", "TOCSIN__KAFKA__TOPIC_PREFIX": "variable.", "PATH": "/bin"}
    settings = load(file, environment, {"kafka.topic_prefix": ("--topic-prefix", "option.")}, sound)
    assert (settings.tenant, settings.environment, settings.kafka.topic_prefix) == ("file", "variable", "option.")


@pytest.mark.parametrize(
    ("variable", "text", "wait_ms"),
    [
        ("TOCSIN__JOIN__LABEL_WAIT_MS", "86400000", 86_400_000),
        ("TOCSIN__JOIN__LABEL_WAIT", "36 h", 129_600_000),
    ],
)
def test_a_variable_replaces_a_duration_in_either_form(variable: str, text: str, wait_ms: int) -> None:
    assert load(None, {variable: text}, {}, sound).join.label_wait_ms == wait_ms


def test_a_text_in_a_variable_may_be_quoted_as_in_a_file() -> None:
    quoted = {
        "TOCSIN__JOIN__TICK": '"5 s"',
        "TOCSIN__JOIN__START": "'latest'",
        "TOCSIN__TENANT": '"acme"',
        "TOCSIN__POLICY__SEVERITIES__2__RESPOND__WITHIN": '"7 min"',
    }
    settings = load(None, quoted, {}, sound)
    assert (settings.join.tick_ms, settings.join.start, settings.tenant) == (5_000, "latest", "acme")
    bare = {name: text.strip("\"'") for name, text in quoted.items()}
    assert settings == load(None, bare, {}, sound)


def test_a_variable_finds_a_model_whose_name_no_variable_can_hold(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[models."Fraud-2.1"]\nkind = "classification"\n')
    settings = load(file, {"TOCSIN__MODELS__FRAUD_2_1__SEGMENTS": '["region"]'}, {}, sound)
    assert settings.models["Fraud-2.1"].segments == ("region",)


def test_a_password_of_digits_stays_a_text_and_is_never_shown() -> None:
    environment = {
        "TOCSIN__KAFKA__SECURITY__PROTOCOL": "SASL_SSL",
        "TOCSIN__KAFKA__SECURITY__USERNAME": "007",
        "TOCSIN__KAFKA__SECURITY__PASSWORD": "0123",
    }
    settings = load(None, environment, {}, sound)
    assert settings.kafka.client()["sasl.password"] == "0123"
    assert settings.kafka.client()["sasl.username"] == "007"
    assert "0123" not in repr(settings)


def test_a_password_may_lie_in_a_file_and_is_not_shown_either(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret with spaces \n")
    environment = {"TOCSIN__KAFKA__SECURITY__PASSWORD_FILE": str(file)}
    settings = load(None, environment, {}, sound)
    assert settings.kafka.security.password == "s3cret with spaces "  # noqa: S105
    assert "s3cret" not in repr(settings)
    file.write_text("\n")
    (empty,) = faults_of(None, environment)
    file.write_text("s3cret\nand more\n")
    (lines,) = faults_of(None, environment)
    assert (lines.expected, lines.got) == ("a secret on one line", "2 lines")
    (twice,) = faults_of(None, environment | {"TOCSIN__KAFKA__SECURITY__PASSWORD": "another"})
    assert (empty.expected, twice.expected) == ("a secret in this file", "one source of this secret")


def test_a_faulty_variable_is_named_as_the_source() -> None:
    variable, option = "TOCSIN__JOIN__TIKC", ("--broker", "nowhere")
    with pytest.raises(SettingsError) as caught:
        load(None, {variable: "10 s"}, {"kafka.broker": option}, sound)
    assert [(fault.source, fault.line, fault.setting) for fault in caught.value.faults] == [
        ("--broker", 0, "kafka.broker"),
        (variable, 0, "join.tikc"),
    ]


def test_a_port_is_a_number_from_1_to_65535() -> None:
    for port in (1, 9, 10, 9092, 9999, 10000, 59999, 60000, 64999, 65000, 65499, 65529, 65530, 65535):
        assert (
            load(None, {"TOCSIN__KAFKA__BROKER": f"a:{port},b:{port}"}, {}, sound).kafka.broker == f"a:{port},b:{port}"
        )
    for odd in ("0", "65536", "65540", "65600", "66000", "70000", "99999", "165535", "\u0661"):
        (fault,) = faults_of(None, {"TOCSIN__KAFKA__BROKER": f"a:9092,b:{odd}"})
        assert fault.setting == "kafka.broker"


def test_what_has_no_end_is_no_file_of_settings_or_of_a_password(tmp_path: Path) -> None:
    (settings,) = faults_of(Path("/dev/zero"), {})
    assert (settings.expected, settings.got) == ("a TOML file", "more than 1 MiB")
    assert settings.remedy.startswith("name a file of at most 1 MiB")
    (password,) = faults_of(None, {"TOCSIN__KAFKA__SECURITY__PASSWORD_FILE": "/dev/zero"})
    assert (password.expected, password.got) == ("a secret of at most 65536 bytes", "more")
    file = tmp_path / "long.toml"
    file.write_bytes(b"#" * (1 << 20))
    assert load(file, {}, {}, sound) == load(None, {}, {}, sound)


@pytest.mark.parametrize(
    "table", ["KAFKA", "KAFKA__SECURITY", "JOIN", "MODELS", "MODELS__M", "CHANNELS", "POLICY", "KINDS"]
)
def test_a_variable_that_should_be_a_table_is_named_and_its_value_is_not_shown(table: str) -> None:
    (fault,) = faults_of(None, {f"TOCSIN__{table}": "TOPSECRET"})
    assert fault.source == f"TOCSIN__{table}"
    assert fault.got == UNSHOWN


def test_a_file_that_is_not_there_is_a_fault_and_no_traceback(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path / "absent.toml", {})
    assert "No such file" in fault.got
    assert fault.remedy == "name a file that is there and may be read"


def test_a_file_in_another_encoding_is_to_be_saved_as_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "latin.toml"
    file.write_bytes('tenant = "zürich"\n'.encode("latin-1"))
    (fault,) = faults_of(file, {})
    assert (fault.got, fault.remedy) == ("bytes that are no UTF-8", "save it as UTF-8")


def test_whoever_copies_the_defaults_as_a_start_has_the_same_settings() -> None:
    assert load(DEFAULT_FILE, {}, {}, sound) == load(None, {}, {}, sound)


def test_an_operator_changes_one_figure_of_the_response_and_keeps_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        '[policy.severities.2]\nfirst_wait = "1 min"\n[kinds.drift]\nseverity = 3\n[notify.give_up]\npage = "1 h"\n'
    )
    ours, theirs = load(None, {}, {}, sound).response, load(file, {}, {}, sound).response
    assert theirs.policy.severities["2"].first_wait_ms == 60_000
    assert theirs.policy.severities["2"].steps == ours.policy.severities["2"].steps
    assert (theirs.kinds["drift"].severity, theirs.kinds["drift"].says) == (3, ours.kinds["drift"].says)
    assert theirs.escalate.acknowledged_repeat_cap == 3


def test_what_stages_object_to_is_named_at_its_place_too(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[policy.severities.1]\nfirst_wait = "1 min"\n')
    with pytest.raises(SettingsError) as caught:
        load(file, {}, {}, lambda _: ["policy.severities.1: the first page waits"])
    (fault,) = caught.value.faults
    assert (fault.source, fault.line, fault.got) == (str(file), 1, "the first page waits")


def test_the_budget_of_all_models_is_proven_and_an_excess_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[models.a]\nkind = "text"\ntier = "critical"\n[models.b]\nkind = "text"\ntier = "long_tail"\n')
    budget = load(file, {}, {}, sound).budget()
    assert budget.proven() == {"page": 1.0, "ticket": 20.0}
    assert budget.model_share("a") == pytest.approx(6 / 7)
    monkeypatch.setattr("detectors.budget.LANES_SHARE", 0.8)
    (fault,) = faults_of(file, {})
    assert (fault.setting, "too many" in fault.got) == ("detect", True)
