"""Whole networks that were timed and weighed, kept beside the layers' measurements in the same file.

Knows nothing of models and plans: a network is known by a text of the caller's.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, final

from sqlalchemy import select
from sqlalchemy.orm import Session

from hwsparse import strictjson
from hwsparse.latency.fingerprint import Device, Toolchain
from hwsparse.latency.footprint import Footprint
from hwsparse.latency.measurement import Measurement
from hwsparse.latency.record_rows import NetworkRow, measurement_of, network_row
from hwsparse.latency.records import RecordsFile


class KnownNetwork(NamedTuple):
    """What a network took, and what it weighs."""

    taken: Measurement
    footprint: Footprint


@final
class NetworkRecords(RecordsFile):
    """A records file's networks, as one device and toolchain see them on one target."""

    def __init__(self, path: Path, device: Device, toolchain: Toolchain, target_name: str, threads: int) -> None:
        """Opens the file, or makes it.

        Raises:
            MeasureError: it cannot be opened or made, is no records file, or one of another version.
        """
        super().__init__(path)
        self._device, self._toolchain = device, toolchain
        self._target_name, self._threads = target_name, threads

    def __enter__(self) -> NetworkRecords:
        return self

    def find(self, network: str) -> KnownNetwork | None:
        """The latest of what was measured of a network; None: nothing was.

        Raises:
            MeasureError: the file cannot be read, or the row is malformed.
        """
        row = NetworkRow
        query = select(row).where(
            row.network == network,
            row.target == self._target_name,
            row.threads == self._threads,
            row.device_digest == self._device.digest,
            row.toolchain == strictjson.dumps(self._toolchain),
        )
        with self._said("cannot be read"), Session(self._engine) as session:
            found = session.scalars(query.order_by(row.id.desc()).limit(1)).first()
        if found is None:
            return None
        return KnownNetwork(measurement_of(found, self.path), Footprint(found.file_bytes, found.memory_bytes))

    def add(self, known: KnownNetwork) -> None:
        """Keeps a network by its measurement's key; it is on disk when this returns.

        Raises:
            MeasureError: it cannot be written.
        """
        row = network_row(self._target_name, self._threads, known.taken, known.footprint)
        with self._said("cannot be written"), Session(self._engine) as session, session.begin():
            session.add(row)
