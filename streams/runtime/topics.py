"""Which topics are there, how are they cut and kept, who writes and who reads them, and where does a record go?

The table below is the only place that knows. Names stand in it without the deployment's prefix, and so they do in what
`route` returns; the hosts put the prefix in front.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException, murmur2
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from config.settings import KafkaSettings
from schemas.baseline import Baseline
from schemas.clock import Clock
from schemas.closed import Closed
from schemas.dead_letter import DeadLetter, SentAgain
from schemas.deployment import Deployment
from schemas.finding import Finding
from schemas.incident_action import IncidentAction
from schemas.label import Label
from schemas.ledger_entry import LedgerEntry
from schemas.notification import Notification
from schemas.output import Output
from schemas.receipt import Receipt
from schemas.through import Through
from schemas.window_stats import WindowStats
from streams.runtime.stage_spec import Routed

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

OUTPUTS, LABELS, CHANGELOG = "model-outputs", "labels", "pending-changelog"
WINDOW_STATS, BASELINES, CLOCK = "window-stats", "baselines", "clock"
FINDINGS, LEDGER, DEPLOYMENTS = "findings", "ledger", "deployments"
ACTIONS, INCIDENTS, INCIDENTS_LATEST = "incident-actions", "incidents", "incidents-latest"
NOTIFICATIONS, RECEIPTS, DEAD_LETTERS = "notifications", "receipts", "dead-letters"

STAGES = ("join", "detect", "triage", "escalate", "notify")

NOT_THERE = "is not there"
LOOK_AGAIN_S = 0.1

Count = Literal["IN", "OUT"]

# A restart reads a state topic from its beginning: by Kafka's own settings a week of overwritten rows would lie there.
_COMPACTED_SOON = {"segment_ms": "600000", "min_cleanable_dirty_ratio": "0.1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One row of the table.

    Parameters
    ----------
    key
        What the key of a record is.
    partition
        Which rule finds its partition.
    count
        How many partitions: as many as inputs (`IN`), or as many as outputs (`OUT`).
    retention_ms
        How long a record is kept; None: until a later record of its key takes its place.
    settings
        Further settings of the topic that must be so.
    made_with
        Further ones that it is made with; one of before will do as it is.
    """

    name: str
    key: str
    partition: str
    count: Count
    retention_ms: int | None
    written_by: tuple[str, ...]
    read_by: tuple[str, ...]
    settings: Mapping[str, str]
    made_with: Mapping[str, str]

    def partitions(self, kafka: KafkaSettings) -> int:
        """How many partitions it has in this deployment."""
        return {"IN": kafka.input_partitions, "OUT": kafka.output_partitions}[self.count]

    @property
    def wanted(self) -> dict[str, str]:
        """Settings of the topic, by Kafka's names."""
        if self.retention_ms is None:
            return {"cleanup.policy": "compact", **self.settings}
        return {"cleanup.policy": "delete", "retention.ms": str(self.retention_ms), **self.settings}


def _topic(
    name: str,
    key: str,
    partition: str,
    count: Count,
    retention_ms: int | None,
    ways: str,
    made_with: Mapping[str, str] | None = None,
    /,
    **settings: str,
) -> Topic:
    written, read = ways.split(" -> ")
    return Topic(
        name=name,
        key=key,
        partition=partition,
        count=count,
        retention_ms=retention_ms,
        written_by=tuple(written.split(", ")),
        read_by=tuple(read.split(", ")),
        settings={setting.replace("_", "."): value for setting, value in settings.items()},
        made_with=made_with or {},
    )


_BY_ID = "murmur2 of the prediction id"
_BY_MODEL = "murmur2 of the model"
_STAGES = ", ".join(STAGES)

TOPICS: Mapping[str, Topic] = {
    one.name: one
    for one in (
        # producers' clocks are not trusted: the broker's own tells what lies in the future
        _topic(
            OUTPUTS, "prediction id", _BY_ID, "IN", 7 * DAY_MS, "producers -> join",
            message_timestamp_type="LogAppendTime",
        ),
        _topic(
            LABELS, "prediction id", _BY_ID, "IN", 7 * DAY_MS, "producers -> join",
            message_timestamp_type="LogAppendTime",
        ),
        _topic(CHANGELOG, "kind, epoch, bucket, run", "that of the input", "IN", None, "join -> join", **_COMPACTED_SOON),
        _topic(WINDOW_STATS, "model", _BY_MODEL + "; Closed to each", "OUT", 7 * DAY_MS, "join -> detect"),
        _topic(BASELINES, "model, version, part", _BY_MODEL, "OUT", None, "tocsin baseline -> join, detect"),
        _topic(
            CLOCK, "none", "each", "OUT", HOUR_MS, "detect, triage, escalate, notify -> " + _STAGES,
            {"message.timestamp.type": "LogAppendTime"},  # nor is a worker's
        ),
        _topic(FINDINGS, "model", _BY_MODEL + "; Through to its own", "OUT", 30 * DAY_MS, "detect -> triage"),
        _topic(LEDGER, "model", _BY_MODEL, "OUT", 400 * DAY_MS, "detect -> command line"),
        _topic(DEPLOYMENTS, "model", _BY_MODEL, "OUT", 400 * DAY_MS, "people -> detect, triage"),
        _topic(ACTIONS, "incident id", _BY_MODEL, "OUT", 400 * DAY_MS, "people, escalate -> triage"),
        _topic(INCIDENTS, "incident id", _BY_MODEL, "OUT", 400 * DAY_MS, "triage -> escalate, notify, consumers"),
        _topic(INCIDENTS_LATEST, "incident id", _BY_MODEL, "OUT", None, "triage -> command line, consumers"),
        _topic(NOTIFICATIONS, "incident id", _BY_MODEL, "OUT", 400 * DAY_MS, "escalate -> notify"),
        _topic(RECEIPTS, "notification id", _BY_MODEL, "OUT", 400 * DAY_MS, "notify -> escalate, notify"),
        _topic(DEAD_LETTERS, "topic, partition, offset, row", "that of the source", "OUT", 30 * DAY_MS,
               _STAGES + ", command line -> command line"),
    )
}  # fmt: skip
"""Every topic by name, without prefix; the changelogs of the stages' tables come on top, named by their hosts."""


def partition_of(model: str, n: int) -> int:
    """Partition of all records about a model, among `n`.

    >>> [partition_of(model, 4) for model in ("fraud", "credit", "tocsin")]
    [2, 2, 0]
    """
    return murmur2(model.encode(), n)


def partition_of_id(prediction_id: str, n: int) -> int:
    """Partition of an output and of its labels, among `n`: what a producer with Java's default partitioner does.

    >>> [partition_of_id(one, 4) for one in ("p1", "p2", "p3")]
    [2, 2, 2]
    """
    return murmur2(prediction_id.encode("utf-8", "surrogatepass"), n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where records of one kind go: their topic, their key, and the partition among `n`; None is by the key."""

    topic: str
    key: Callable[[Any], str | None]
    partition: Callable[[Any, int], int | None]


def _by_model(record: Any, n: int) -> int | None:  # noqa: ANN401 - each record that has a model
    return partition_of(record.model, n)


def _model(record: Any) -> str | None:  # noqa: ANN401
    key: str = record.model
    return key


def _incident_id(record: IncidentAction | Notification) -> str | None:
    return record.incident_id


def _prediction_id(record: Output | Label) -> str | None:
    return record.prediction_id


def _of_dead_letter(letter: DeadLetter, n: int) -> int | None:
    return letter.partition % n


ROUTES: dict[type, Route] = {
    Output: Route(topic=OUTPUTS, key=_prediction_id, partition=lambda one, n: partition_of_id(one.prediction_id, n)),
    Label: Route(topic=LABELS, key=_prediction_id, partition=lambda one, n: partition_of_id(one.prediction_id, n)),
    WindowStats: Route(topic=WINDOW_STATS, key=_model, partition=_by_model),
    Baseline: Route(topic=BASELINES, key=lambda one: f"{one.model}/{one.version}/{one.part}", partition=_by_model),
    Finding: Route(topic=FINDINGS, key=_model, partition=_by_model),
    Through: Route(topic=FINDINGS, key=lambda _: None, partition=lambda one, _: one.partition),
    LedgerEntry: Route(topic=LEDGER, key=_model, partition=_by_model),
    Deployment: Route(topic=DEPLOYMENTS, key=_model, partition=_by_model),
    IncidentAction: Route(topic=ACTIONS, key=_incident_id, partition=_by_model),
    Notification: Route(topic=NOTIFICATIONS, key=_incident_id, partition=_by_model),
    Receipt: Route(topic=RECEIPTS, key=lambda one: one.notification_id, partition=_by_model),
    DeadLetter: Route(
        topic=DEAD_LETTERS,
        key=lambda one: f"{one.topic}/{one.partition}/{one.offset}/{one.row}",
        partition=_of_dead_letter,
    ),
    SentAgain: Route(
        topic=DEAD_LETTERS, key=lambda one: one.first, partition=lambda one, n: int(one.first.split("/")[1]) % n
    ),
}
"""How each kind of record travels. `Closed` and `Clock` go to each partition (`route_each`); an incident goes to two
topics, under headers of its own (`schemas.cloudevents`)."""


def route(record: Any, n: int) -> Routed:  # noqa: ANN401 - each record of `ROUTES`
    """Say where a record goes, as bytes; `n` is how many partitions its topic has.

    >>> deployment = Deployment(deployment_id="d1", model="fraud", at_ms=7, decided_at_ms=7)
    >>> routed = route(deployment, 4)
    >>> routed.topic, routed.key, routed.partition
    ('deployments', b'fraud', 2)
    """
    way = ROUTES[type(record)]
    key = way.key(record)
    return Routed(
        topic=way.topic,
        key=None if key is None else key.encode("utf-8", "surrogatepass"),
        value=record.encode(),
        partition=way.partition(record, n),
    )


def route_each(record: Closed | Clock, n: int) -> list[Routed]:
    """Say where a mark of time goes: to every partition.

    >>> [routed.partition for routed in route_each(Clock(now_ms=7), 3)]
    [0, 1, 2]
    """
    topic = CLOCK if isinstance(record, Clock) else WINDOW_STATS
    value = record.encode()
    return [Routed(topic=topic, key=None, value=value, partition=partition) for partition in range(n)]


@dataclass(frozen=True, slots=True)
class TopicFault:
    """What is not as the table says, and what to do about it.

    >>> str(TopicFault("labels", "has 6 partitions, the settings say 4", "set kafka.input_partitions to 6"))
    'labels: has 6 partitions, the settings say 4; set kafka.input_partitions to 6'
    """

    topic: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.problem}; {self.remedy}"


def _planned(kafka: KafkaSettings, table_changelogs: Sequence[str]) -> dict[str, Topic]:
    """Every topic of a deployment by its full name."""
    planned = {kafka.topic_prefix + name: topic for name, topic in TOPICS.items()}
    for name in table_changelogs:  # the hosts name them, prefix and all
        planned[name] = _topic(
            name, "partition, row", "that of the input", "OUT", None, "Faust -> Faust", **_COMPACTED_SOON
        )
    return planned


def check(
    admin: AdminClient, kafka: KafkaSettings, table_changelogs: Sequence[str] = (), *, settings_too: bool = True
) -> list[TopicFault]:
    """Compare the cluster with the table, and return all that is wrong; nothing is changed.

    Parameters
    ----------
    table_changelogs
        Full names of the changelogs of the stages' tables.
    settings_too
        Whether to ask for the topics' settings; the embedded broker answers no such question.
    """
    wait_s = kafka.request_wait_ms / 1000
    there = admin.list_topics(timeout=wait_s).topics
    planned = _planned(kafka, table_changelogs)
    faults = []
    for name, topic in planned.items():
        wanted = topic.partitions(kafka)
        if name not in there:
            faults.append(TopicFault(name, NOT_THERE, "run `tocsin topics create`"))
        elif (count := len(there[name].partitions)) != wanted:
            faults.append(TopicFault(name, f"has {count} partitions, {wanted} are expected", _remedy(topic, count)))
    if settings_too:
        faults += _settings_faults(admin, {name: topic for name, topic in planned.items() if name in there}, wait_s)
    return faults


def _remedy(topic: Topic, count: int) -> str:
    if topic.count == "IN":
        return (
            f"labels would miss their outputs: set kafka.input_partitions to {count} where `{OUTPUTS}`, `{LABELS}` and "
            f"`{CHANGELOG}` all have {count}, else make them anew with equal counts"
        )
    return f"set kafka.output_partitions to {count} where all topics past the join have {count}, else make it anew"


def _settings_faults(admin: AdminClient, topics: Mapping[str, Topic], wait_s: float) -> list[TopicFault]:
    if not topics:
        return []
    asked = admin.describe_configs(
        [ConfigResource(ResourceType.TOPIC, name) for name in topics], request_timeout=wait_s
    )
    faults = []
    for resource, answer in asked.items():
        said = {name: entry.value for name, entry in answer.result(wait_s).items()}
        for setting, wanted in topics[resource.name].wanted.items():
            if not _satisfied(setting, wanted, said.get(setting)):
                remedy = (
                    f"run `kafka-configs.sh --alter --entity-type topics --entity-name {resource.name} "
                    f"--add-config {setting}={wanted}`"
                )
                faults.append(TopicFault(resource.name, f"{setting} is {said.get(setting)}, not {wanted}", remedy))
    return faults


def _satisfied(setting: str, wanted: str, got: str | None) -> bool:
    """Whether a setting will do: keeping longer than the table says is no fault."""
    if setting == "retention.ms" and got is not None:
        return int(got) < 0 or int(got) >= int(wanted)
    return got == wanted


def create(admin: AdminClient, kafka: KafkaSettings, table_changelogs: Sequence[str] = ()) -> list[TopicFault]:
    """Make the topics that are missing, touch none that is there, and return what is wrong afterwards.

    Raises
    ------
    KafkaException
        The cluster refused one, and not because it was there already.
    """
    wait_s = kafka.request_wait_ms / 1000
    there = admin.list_topics(timeout=wait_s).topics
    safe = {"min.insync.replicas": "2"} if kafka.replication > 2 else {}  # noqa: PLR2004 - one may be away
    missing = [
        NewTopic(name, topic.partitions(kafka), kafka.replication, config={**topic.wanted, **topic.made_with, **safe})
        for name, topic in _planned(kafka, table_changelogs).items()
        if name not in there
    ]
    made: Mapping[str, Future[None]] = (
        admin.create_topics(missing, operation_timeout=wait_s, request_timeout=wait_s) if missing else {}
    )
    wait(made.values(), timeout=wait_s)
    for answer in made.values():
        try:
            answer.result(0)
        except KafkaException as refused:
            if refused.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody else was quicker
                raise
    until_s = time.monotonic() + wait_s
    while True:
        faults = check(admin, kafka, table_changelogs)
        if all(fault.problem != NOT_THERE for fault in faults) or time.monotonic() > until_s:
            return faults
        time.sleep(LOOK_AGAIN_S)  # a broker answers for the controller before it has heard of the topic itself
