"""How is a broker made to answer with errors, and late? By librdkafka's mock cluster, through its C interface.

The interface is not part of confluent-kafka: the handle of a client is the first field behind the head of its Python
object. That is private, hence it is first asked for its name.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, Producer

PRODUCE, FETCH, LIST_OFFSETS, OFFSET_COMMIT, HEARTBEAT = 0, 1, 2, 8, 12
"""Kafka's numbers of requests."""

_HANDLE, _SHORT, _INT = ctypes.c_void_p, ctypes.c_int16, ctypes.c_int


class BrokerFaults:
    """Faults of the mock cluster that lives in a client.

    Parameters
    ----------
    owner
        The producer that was made with `test.mock.num.brokers`.
    """

    def __init__(self, owner: Producer) -> None:
        bundled = Path(confluent_kafka.__file__).parent.with_name("confluent_kafka.libs")
        self._library: Any = ctypes.CDLL(str(next(bundled.glob("librdkafka*.so*"))))
        handle = _HANDLE.from_address(id(owner) + object.__basicsize__).value
        self._function("rd_kafka_name", [_HANDLE], ctypes.c_char_p)
        assert self._library.rd_kafka_name(handle).startswith(b"rdkafka#producer-")
        self._function("rd_kafka_handle_mock_cluster", [_HANDLE], _HANDLE)
        self._function(
            "rd_kafka_mock_push_request_errors_array", [_HANDLE, _SHORT, ctypes.c_size_t, ctypes.POINTER(_INT)], None
        )
        self._function("rd_kafka_mock_clear_request_errors", [_HANDLE, _SHORT], None)
        self._function("rd_kafka_mock_broker_set_rtt", [_HANDLE, ctypes.c_int32, _INT], _INT)
        self._cluster = self._library.rd_kafka_handle_mock_cluster(handle)

    def _function(self, name: str, arguments: Sequence[Any], answer: object) -> None:
        function = getattr(self._library, name)
        function.argtypes, function.restype = arguments, answer

    def answer(self, request: int, codes: Sequence[int]) -> None:
        """Let the next requests of a kind, whoever sends them, be answered with errors."""
        array = (_INT * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, request, len(codes), array)

    def clear(self, *requests: int) -> None:
        """Forget errors that were not used."""
        for request in requests:
            self._library.rd_kafka_mock_clear_request_errors(self._cluster, request)

    def delay(self, wait_ms: int) -> None:
        """Let every answer come so much later."""
        error = self._library.rd_kafka_mock_broker_set_rtt(self._cluster, 1, wait_ms)
        assert error == KafkaError.NO_ERROR, error
