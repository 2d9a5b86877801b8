"""Do the newest rows lie where the join looks for them, and does anybody watch their models?

A producer with another partitioner is no error that anybody sees: its labels just never meet their outputs.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from schemas.model import Model
from streams.runtime.decode import Decoded, LabelEdge, Messages, OutputEdge
from streams.runtime.reading import Read, Reader
from streams.runtime.topics import TopicFault
from streams.stages.batch import LabelBatch, OutputBatch

MESSAGES = 25
"""Looked at from the end of each partition."""


@dataclass(slots=True)
class Sample:
    """What was seen at the end of one topic.

    Parameters
    ----------
    rows, misplaced
        Row ids that were looked at, and those that murmur2 sends to another partition.
    listed, unlisted
        Rows of models that are configured, and of those that are not, by model.
    unreadable
        Batches that cannot be read.
    """

    rows: int = 0
    misplaced: int = 0
    listed: Counter[str] = field(default_factory=Counter)
    unlisted: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0

    def faults(self, topic: str) -> list[TopicFault]:
        """Say what is wrong with the newest messages of `topic`, and what to do.

        >>> Sample(rows=100).faults("labels")
        []
        >>> str(Sample(rows=100, misplaced=74).faults("labels")[0])
        'labels: 74 of the newest 100 rows lie in another partition than their prediction id says, so labels miss ...'
        """
        found = []
        if self.unreadable:
            found.append(
                TopicFault(
                    topic,
                    f"{self.unreadable} of the newest batches cannot be read, and their rows do not count",
                    "`tocsin dead-letters list --each` says where they lie; look at their producer, or at the brokers' disks, "
                    "and send those rows again",
                )
            )
        if self.misplaced:
            found.append(
                TopicFault(
                    topic,
                    f"{self.misplaced} of the newest {self.rows} rows lie in another partition than their prediction id "
                    "says, so labels miss their outputs",
                    "their producer must use the prediction id as key and place it by murmur2 (librdkafka: "
                    "partitioner=murmur2_random; Java: its default), then send them again",
                )
            )
        return found


def sample(reader: Reader, models: Mapping[str, Model], topic: str) -> Sample:
    """Look at the newest rows of `model-outputs` or `labels`; of a message of many, at some."""
    count = reader.partitions(topic)
    edge = OutputEdge({}, count) if topic == OutputEdge.topic else LabelEdge({}, count)
    found, unreadable = Sample(), reader.unreadable[topic]
    for read in reader.all(topic, last=MESSAGES):
        decoded: Decoded[OutputBatch] | Decoded[LabelBatch] = edge.decode(_one(read))
        found.rows += decoded.sampled
        found.misplaced += decoded.mismatched
        of = decoded.batch.model
        counts = np.bincount(of.codes, minlength=len(of.values)).tolist()
        for name, n in zip(of.values, counts, strict=True):
            if n:
                (found.listed if name in models else found.unlisted)[name] += n
    found.unreadable = reader.unreadable[topic] - unreadable
    return found


def _one(read: Read) -> Messages:
    return Messages(
        partition=read.partition,
        start=read.offset,
        end=read.offset + 1,
        offset=[read.offset],
        broker_ms=[read.broker_ms],
        key=[read.key],
        value=[read.value],
    )
