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
    unlisted
        Rows of models that are not configured, by model.
    """

    rows: int = 0
    misplaced: int = 0
    unlisted: Counter[str] = field(default_factory=Counter)


def sample(reader: Reader, models: Mapping[str, Model], topic: str) -> Sample:
    """Look at the newest rows of `model-outputs` or `labels`; of a message of many, at some."""
    count = reader.partitions(topic)
    edge = OutputEdge({}, count) if topic == OutputEdge.topic else LabelEdge({}, count)
    found = Sample()
    for read in reader.all(topic, last=MESSAGES):
        decoded: Decoded[OutputBatch] | Decoded[LabelBatch] = edge.decode(_one(read))
        found.rows += decoded.sampled
        found.misplaced += decoded.mismatched
        of = decoded.batch.model
        counts = np.bincount(of.codes, minlength=len(of.values)).tolist()
        found.unlisted.update({name: n for name, n in zip(of.values, counts, strict=True) if name not in models})
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
