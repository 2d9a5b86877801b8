"""How are our confluent-kafka clients set? In one place, so that all of them partition, acknowledge and start alike."""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AdminClient

from config.settings import KafkaSettings

FETCH_QUEUE_BACKOFF_MS = 10
"""How soon librdkafka looks again whether its full queue has room. At its default of 1,000 a fast reader starves between
two fills; at 0 the client's thread spins."""
QUEUED_MESSAGES = 100_000
"""Messages a partition that may wait in the client."""
QUEUED_KBYTES = 65_536
"""What may wait in one consumer, in KiB: the hard bound of its prefetch, but where `fetched` takes it from partitions."""
LINGER_MS = 5
PRODUCER_MESSAGES = 100_000
"""Messages that may wait in a producer; then it refuses with `BufferError`."""
PRODUCER_KBYTES = 262_144
"""What may wait in one producer, in KiB."""

OnError = Callable[[KafkaError], None]

log = logging.getLogger("tocsin.kafka")


def _common(settings: KafkaSettings, name: str, on_error: OnError | None) -> dict[str, Any]:
    common: dict[str, Any] = {**settings.client(), "client.id": f"tocsin-{name}", "logger": log}
    return common if on_error is None else {**common, "error_cb": on_error}


def producer(settings: KafkaSettings, name: str, on_error: OnError | None = None, **others: object) -> Producer:
    """Return a producer whose keys fall where those of Java's, aiokafka's and Faust's producers fall.

    Writes are acknowledged by all in-sync replicas, in order and once within its session. librdkafka's own default
    partitioner is CRC32, which would send a label elsewhere than its output.
    """
    return Producer(
        {
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "lz4",
            "linger.ms": LINGER_MS,
            "delivery.timeout.ms": settings.delivery_wait_ms,
            "queue.buffering.max.messages": PRODUCER_MESSAGES,
            "queue.buffering.max.kbytes": PRODUCER_KBYTES,
            **_common(settings, name, on_error),
            **others,
        }
    )


def consumer(
    settings: KafkaSettings, name: str, group: str, on_error: OnError | None = None, **others: object
) -> Consumer:
    """Return a consumer that commits nothing by itself, and says so when its position is lost instead of jumping."""
    return Consumer(
        {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "fetch.queue.backoff.ms": FETCH_QUEUE_BACKOFF_MS,
            "queued.min.messages": QUEUED_MESSAGES,
            "queued.max.messages.kbytes": QUEUED_KBYTES,
            "fetch.wait.max.ms": settings.fetch_wait_ms,
            **_common(settings, name, on_error),
            **others,
        }
    )


def group_member(
    settings: KafkaSettings,
    name: str,
    group: str,
    on_error: OnError | None = None,
    *,
    instance_id: str | None,
    session_timeout_ms: int,
    heartbeat_ms: int,
    **others: object,
) -> Consumer:
    """Return a consumer that shares partitions with others of its group: the same numbers of every topic to one member.

    `range` co-partitions topics of equal counts; a static instance that comes back within its session is given its
    partitions at once.
    """
    static: Mapping[str, str] = {} if instance_id is None else {"group.instance.id": instance_id}
    membership: dict[str, Any] = {
        "partition.assignment.strategy": "range",
        "session.timeout.ms": session_timeout_ms,
        "heartbeat.interval.ms": heartbeat_ms,
        **static,
        **others,
    }
    return consumer(
        settings,
        name,
        group,
        on_error,
        **membership,
    )


def admin(settings: KafkaSettings, name: str = "admin") -> AdminClient:
    """Return a client that asks about and makes topics."""
    return AdminClient(_common(settings, name, None))


def is_fatal(error: KafkaError) -> bool:
    """Whether a client is done for.

    A consumer that was fenced out of its group by a new member of its name says so with a code that means fatal, and not
    in `fatal`; it then stays without partitions for ever.
    """
    return bool(error.fatal()) or error.code() == KafkaError._FATAL  # noqa: SLF001 -- so it is named in the client


def topic_descriptions(client: AdminClient, names: Iterable[str], wait_s: float) -> Mapping[str, Future[Any]]:
    """Ask what topics are; each answer holds a `topic_id`, and a topic that is made anew gets another.

    Nothing is asked where no broker is the controller, as in librdkafka's own stand-in for a cluster: it has no ids.

    Raises
    ------
    KafkaException
        No answer came in time.
    """
    cluster = client.list_topics(timeout=wait_s)
    if cluster.controller_id not in cluster.brokers:
        return {}
    return dict(client.describe_topics(TopicCollection(list(names)), request_timeout=wait_s))


class _Heard(logging.Handler):
    """Keeps what clients say."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line without the name of the client's thread."""
        self.said.append(record.getMessage().rpartition("]: ")[2])


UNREACHED = {KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN}  # noqa: SLF001 - so they are named
"""What says no more than that no answer came."""
FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
"""What brokers say to a user who may not do it."""
TELLING = ("authenticat", "certificate", "handshake", "security.protocol", "refused")
"""Of many complaints, those with such a word say what to mend."""


def refusal(client: AdminClient | Consumer | Producer, error: Exception) -> str:
    """Say why brokers did not answer, or refused: in the words of the client, where it has some, else in the error's.

    A request fails with `Broker transport failure` whatever lies behind it: a wrong password, an authority that nobody
    trusts, a broker that is not there. The client says which when it is polled.
    """
    said = str(error.args[0].str()) if isinstance(error, KafkaException) else "no answer in time"
    if isinstance(error, KafkaException) and error.args[0].code() not in UNREACHED:
        return said
    heard = _Heard()
    log.addHandler(heard)
    try:
        client.poll(0)
    finally:
        log.removeHandler(heard)
    telling = [text for text in heard.said if any(word in text for word in TELLING)]
    return telling[-1] if telling else said


_HERE = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\]):(\d+)")


def unanswered(settings: KafkaSettings, client: AdminClient | Consumer | Producer, error: Exception) -> str:
    """Say that brokers did not answer, or refused, why, and what to look at."""
    why = refusal(client, error)
    if isinstance(error, KafkaException) and error.args[0].code() >= 0:  # a broker's word, not the client's
        rights = "; has our user the rights for it (ACLs)?" if error.args[0].code() in FORBIDDEN else ""
        return f"{settings.broker} refused ({why}){rights}"
    here = _HERE.fullmatch(settings.broker)
    start = f" None runs here: `make kafka PORT={here[1]}` starts one" if here and "refused" in why else ""
    asked = "is the address right, and may we connect (--broker, --security-protocol)?"
    return f"no answer from {settings.broker} ({why}): {asked}{start}"
