"""How does a command write records? Each acknowledged by all replicas before it says that it is done."""

from collections.abc import Iterable

from confluent_kafka import KafkaError, KafkaException, Message

from config.settings import KafkaSettings
from schemas.fields import counted
from streams.runtime import kafka
from streams.runtime.stage_spec import Routed
from streams.runtime.terminal import CommandError, Exit

ROOM_WAIT_S = 0.1
LOOK_EVERY = 100
"""Records after which reports of delivery are looked at."""


class Sending:
    """A producer that counts what was acknowledged and keeps the first refusal."""

    def __init__(self, settings: KafkaSettings, name: str) -> None:
        self._settings = settings
        self._producer = kafka.producer(settings, name)
        self._refused: KafkaError | None = None
        self._sent = 0
        self.acknowledged = 0

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is None:
            self.acknowledged += 1
        elif self._refused is None:
            self._refused = error

    def send(self, record: Routed) -> None:
        """Hand one record over; wait for room where there is none."""
        topic = self._settings.topic_prefix + record.topic
        partition = -1 if record.partition is None else record.partition
        headers: list[tuple[str, str | bytes | None]] = [*record.headers]
        while True:
            try:
                self._producer.produce(
                    topic, record.value, record.key, partition, on_delivery=self._delivered, headers=headers
                )
            except BufferError:
                self._producer.poll(ROOM_WAIT_S)
                self._check()
                continue
            except KafkaException as error:  # the client's own refusal: a record that is too large, for one
                self._producer.flush(self._settings.delivery_wait_ms / 1000)
                self._check()
                raise CommandError(
                    Exit.BROKER,
                    f"a record of {len(record.value or b''):,} bytes for {topic} was refused "
                    f"({error.args[0].str()}); {self.acknowledged:,} before it were taken",
                ) from None
            break
        self._sent += 1
        if self._sent % LOOK_EVERY == 0:
            self._producer.poll(0)
            self._check()

    def finish(self) -> int:
        """Wait until everything is acknowledged, and return how much."""
        waiting = self._producer.flush(self._settings.delivery_wait_ms / 1000)
        self._check()
        if waiting:
            message = f"{counted(waiting, 'record')} not acknowledged in {self._settings.delivery_wait_ms} ms"
            raise CommandError(Exit.BROKER, f"{message}; it is safe to run the command again")
        return self.acknowledged

    def _check(self) -> None:
        if self._refused is not None:
            raise CommandError(
                Exit.BROKER,
                f"{self._settings.broker} refused a record ({self._refused.str()}); "
                f"{self.acknowledged:,} before it were taken, and it is safe to run the command again",
            )


def send_all(settings: KafkaSettings, records: Iterable[Routed]) -> int:
    """Write records and wait until all are acknowledged."""
    sending = Sending(settings, "command")
    for record in records:
        sending.send(record)
    return sending.finish()
