"""Reads what W&B writes offline: records in its own protobuf schema, in LevelDB's log format."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from wandb.proto import wandb_internal_pb2


_FILE_HEADER, _BLOCK, _RECORD_HEADER = 7, 32 * 1024, 7
_FULL, _LAST = 1, 4


class OfflineRun:
    """One `offline-run-*` folder: `run_id`, `configuration` and the `rows` that were logged, by step."""

    def __init__(self, folder: Path) -> None:
        (file,) = folder.glob("run-*.wandb")
        self.run_id = ""
        self.configuration: dict[str, object] = {}
        self.rows: dict[int, dict[str, object]] = {}
        for record in _records(file.read_bytes()):
            if record.HasField("run"):
                self.run_id = self.run_id or record.run.run_id
            for item in (*record.run.config.update, *record.config.update):
                self.configuration[item.key] = json.loads(item.value_json)
            if record.HasField("history"):
                items = record.history.item
                values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
                self.rows.setdefault(int(values["_step"]), {}).update(values)


def _records(data: bytes) -> Iterator[wandb_internal_pb2.Record]:
    assert data[:4] == b":W&B"
    place, parts = _FILE_HEADER, b""
    while place + _RECORD_HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _RECORD_HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + _RECORD_HEADER : place + _RECORD_HEADER + length]
        place += _RECORD_HEADER + length
        if kind in (_FULL, _LAST):
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""
