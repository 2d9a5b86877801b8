"""What can be chosen? Everything that a deployment of Tocsin is told, units in the names.

No field has a default: `default.toml` states each once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from detectors.budget import Budget
from schemas.model import Model
from schemas.response import Response

HOST = "{host}"
"""What stands for the machine's name in `worker.instance`."""

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuritySettings:
    """How a client proves itself to the brokers.

    Parameters
    ----------
    ca_file, certificate_file, key_file
        Paths; empty where the system's authorities, or no certificate of our own, are meant.
    password, key_password
        From the environment, or from a file that the settings name; never shown.
    """

    protocol: Protocol
    mechanism: Mechanism
    username: str
    password: str | None = field(repr=False)
    ca_file: str
    certificate_file: str
    key_file: str
    key_password: str | None = field(repr=False)

    def client(self) -> dict[str, str]:
        """Return settings of librdkafka, only those that say something.

        >>> SecuritySettings(protocol="SASL_SSL", mechanism="PLAIN", username="u", password="p", ca_file="",
        ...                  certificate_file="", key_file="", key_password=None).client()
        {'security.protocol': 'SASL_SSL', 'sasl.mechanism': 'PLAIN', 'sasl.username': 'u', 'sasl.password': 'p'}
        """
        if self.protocol == "PLAINTEXT":
            return {}
        said: dict[str, str | None] = {"security.protocol": self.protocol}
        if self.protocol.startswith("SASL"):
            said |= {
                "sasl.mechanism": self.mechanism,
                "sasl.username": self.username,
                "sasl.password": self.password,
            }
        if self.protocol.endswith("SSL"):
            said |= {
                "ssl.ca.location": self.ca_file,
                "ssl.certificate.location": self.certificate_file,
                "ssl.key.location": self.key_file,
                "ssl.key.password": self.key_password,
            }
        return {name: value for name, value in said.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """Where the topics are, and how they are cut.

    Parameters
    ----------
    broker
        `HOST:PORT`, several with commas.
    topic_prefix
        What keeps deployments apart on one cluster, for instance `demo.`.
    input_partitions
        Of `model-outputs`, `labels` and `pending-changelog`.
    output_partitions
        Of everything past the join.
    replication
        Copies of each partition; with 3 and more, two of them must acknowledge a write.
    delivery_wait_ms
        How long the brokers may take to acknowledge a write: then a command gives up, and a worker writes again.
    request_wait_ms
        How long the brokers may take to answer a question about topics, offsets or a log's content.
    fetch_wait_ms
        How long a broker waits before it answers a fetch that there is nothing. A real one sends at once what comes
        meanwhile; the embedded one does not, and every hop costs this wait there.
    """

    broker: str
    topic_prefix: str
    security: SecuritySettings
    input_partitions: int
    output_partitions: int
    replication: int
    delivery_wait_ms: int
    request_wait_ms: int
    fetch_wait_ms: int

    def client(self) -> dict[str, str]:
        """Return what every librdkafka client of this deployment is given."""
        return {"bootstrap.servers": self.broker, **self.security.client()}


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinSettings:
    """The waits of the join, in event time unless said otherwise.

    Parameters
    ----------
    tick_ms
        Smallest closed interval; a divisor of one hour.
    allowed_disorder_ms
        How far behind the newest row of its partition a row may be and still count in its own tick.
    idle_after_ms
        How long a partition at its edge may be silent before the clock moves it.
    label_wait_ms
        How long after an output its label may come, where a model says nothing else.
    orphan_wait_ms
        How long a label waits for its output.
    correction_wait_ms
        How long after the first label a correction still counts.
    future_skew_ms
        How far beyond its broker's time a row's own time may lie before the row is refused.
    checkpoint_ms
        How often state is made durable, in wall time.
    folder
        Where cold rows lie; workers of a machine may share it.
    block_rows
        Rows of a segment of pending outputs.
    orphans_bound_rows
        Labels of one partition that may wait for their output.
    start
        Where a partition that was never read begins.
    """

    tick_ms: int
    allowed_disorder_ms: int
    idle_after_ms: int
    label_wait_ms: int
    orphan_wait_ms: int
    correction_wait_ms: int
    future_skew_ms: int
    checkpoint_ms: int
    folder: str
    block_rows: int
    orphans_bound_rows: int
    start: Literal["earliest", "latest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How a worker lives with its group, in wall time.

    Parameters
    ----------
    instance
        Static membership: the worker that comes back under this name within the session keeps its partitions. `{host}`
        stands for the machine's name. Empty for workers that come and go.
    session_timeout_ms, heartbeat_ms
        After how long a silent worker's partitions are given away, and how often it says that it lives.
    clock
        `wall`: the workers write the time of their machines to the topic `clock`, and the join goes by its own. `topic`:
        all go by that topic, and somebody else writes it, who replays.
    clock_every_ms
        How often the wall clock is written to the topic `clock`.
    clock_wait_ms
        How long its own clock may stay unseen before the worker ends.
    restore_wait_ms
        How long a rebalance with its recovery may take.
    stall_wait_ms
        How long a record that the brokers hold may stay undelivered before it is read back.
    read_back_wait_ms
        How long reading back may find nothing where the brokers say there is something.
    hand_over_wait_ms
        How long the join's last checkpoint may take when its partitions go to another worker.
    stop_wait_ms
        How long a worker that is told to stop may take to finish what is in hand.
    group_limit
        Records that may wait for one commit.
    """

    instance: str
    session_timeout_ms: int
    heartbeat_ms: int
    clock: Literal["wall", "topic"]
    clock_every_ms: int
    clock_wait_ms: int
    restore_wait_ms: int
    stall_wait_ms: int
    read_back_wait_ms: int
    hand_over_wait_ms: int
    stop_wait_ms: int
    group_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """What a worker tells of itself over HTTP, and when it calls itself alive and ready.

    Parameters
    ----------
    address, port
        Where it listens; an empty address is nowhere, port 0 a free one.
    silent_after_ms
        How long a loop may take to come round before it counts as stuck.
    answer_wait_ms
        How long the brokers may answer nothing before they count as away.
    mismatch_wait_ms
        For how long rows may lie in other partitions than their ids' before the worker is not ready.
    """

    address: str
    port: int
    silent_after_ms: int
    answer_wait_ms: int
    mismatch_wait_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectSettings:
    """What false pages may cost.

    Parameters
    ----------
    pages_per_week, tickets_per_week
        Expected false pages, and tickets, of a week, over all models, lanes and detectors together.
    max_lanes_per_model, max_rollups_per_model
        Between how many a model's share is divided; a baseline never lists more.
    """

    pages_per_week: float
    tickets_per_week: float
    max_lanes_per_model: int
    max_rollups_per_model: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything, checked.

    Parameters
    ----------
    tenant, environment
        Whose deployment it is, and which: part of every finding's and incident's identity.
    event_type_prefix
        Reverse DNS name before the type of each CloudEvent.
    log_level
        What is less than this is not logged.
    response
        The playbook as data: kinds, hold-downs, policy, directory, delivery.
    models
        By name; a model that is not listed is joined and counted, and has no armed lane.
    """

    tenant: str
    environment: str
    event_type_prefix: str
    kafka: KafkaSettings
    join: JoinSettings
    worker: WorkerSettings
    log_level: LogLevel
    probes: ProbeSettings
    detect: DetectSettings
    models: Mapping[str, Model]
    response: Response

    def budget(self) -> Budget:
        """Return the budget of false pages over the configured models."""
        return Budget(
            pages_per_week=self.detect.pages_per_week,
            tickets_per_week=self.detect.tickets_per_week,
            tick_ms=self.join.tick_ms,
            tiers={name: model.tier for name, model in self.models.items()},
            max_lanes_per_model=self.detect.max_lanes_per_model,
            max_rollups_per_model=self.detect.max_rollups_per_model,
        )
