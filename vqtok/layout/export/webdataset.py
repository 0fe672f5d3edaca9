"""WebDataset tars: for every record INDEX.ids.npy (or codes.npy) and INDEX.json."""

import io
import json
import tarfile

import numpy as np

from vqtok.layout.export.base import Exporter, Record, Target

SHARD_RECORDS = 10_000
ARRAYS = ("loss_mask", "document_ids", "position_ids")


class WebDatasetExporter(Exporter):
    """SPLIT/00000.tar, ...; members have fixed times and owners, so equal codes are equal bytes.

    Torch has no arithmetic for uint16 and uint32: collate with `.astype(np.int64)`.
    """

    name = "webdataset"

    def __init__(self, target: Target, split: str):
        super().__init__(target, split)
        self._count = 0
        self._tar: tarfile.TarFile | None = None

    def add(self, record: Record) -> None:
        if self._count % SHARD_RECORDS == 0:
            self._end_shard()
            file = self.target.open(f"{self.folder.name}/{self._count // SHARD_RECORDS:05d}.tar")
            tar = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)
            self._tar = self.target.files.enter_context(tar)
        name = f"{self._count:09d}"
        ids = self.cast(record)
        if record.shape is not None:
            self._member(f"{name}.codes.npy", _npy(ids.reshape(record.shape)))
        else:
            self._member(f"{name}.ids.npy", _npy(ids))
        for field in ARRAYS:
            if getattr(record, field) is not None:
                self._member(f"{name}.{field}.npy", _npy(getattr(record, field)))
        self._member(f"{name}.json", json.dumps({"key": record.key}).encode())
        self._count += 1

    def close(self) -> None:
        self._end_shard()

    def _member(self, name: str, data: bytes) -> None:
        about = tarfile.TarInfo(name)
        about.size, about.mode = len(data), 0o644
        self._tar.addfile(about, io.BytesIO(data))
        self._tar.members.clear()  # it would remember every member for a listing

    def _end_shard(self) -> None:
        if self._tar is not None:
            self._tar.close()


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()
