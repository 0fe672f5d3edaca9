"""Datasets on a Hub of a few lines, on loopback: which files are meant, and of which commit."""

import functools
import hashlib
import http.server
import io
import json
import pickle
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer
from tests.data.rows import rows_of
from tests.data.test_more_sources import write_tar
from vqtok.data import tokenize_dataset, verify_run
from vqtok.data.plan import build_plan
from vqtok.data.sources import open_source
from vqtok.errors import InputError, VqtokError

NAME = "me/photos"
CARD = """---
license: mit
configs:
- config_name: small
  data_files:
  - split: train
    path: small/train-*.parquet
  - split: test
    path: [small/test-*.parquet]
- config_name: large
  default: true
  data_files: "large/**"
---
# Photos
"""


class Hub:
    """One dataset repository with its commits: what `huggingface_hub` asks for, and no more."""

    def __init__(self):
        self.commits: list[dict[str, bytes]] = [{}]
        self.requests: list[tuple[str, str]] = []
        handler = type("Handler", (Handler,), {"hub": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def upload(self, files: dict[str, bytes]) -> None:
        """A commit that adds or replaces files."""
        self.commits.append(self.commits[-1] | files)

    def sha(self, number: int = -1) -> str:
        return f"{range(len(self.commits))[number]:040x}"

    def files(self, revision: str) -> dict[str, bytes] | None:
        shas = {self.sha(number): found for number, found in enumerate(self.commits)}
        return (shas | {"main": self.commits[-1], "v1": self.commits[1]}).get(unquote(revision))

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        api, files = f"/api/datasets/{NAME}", f"/datasets/{NAME}/resolve/"
        if path == api or path.startswith(f"{api}/revision/"):
            self._info(path.removeprefix(api).removeprefix("/revision/") or "main")
        elif path.startswith(f"{api}/tree/"):
            self._tree(*path.removeprefix(f"{api}/tree/").partition("/")[::2])
        elif path.startswith(files):
            self._file(*path.removeprefix(files).partition("/")[::2])
        else:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _info(self, revision: str) -> None:
        found = self.hub.files(revision)
        if found is None:
            return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        number = max(i for i, files in enumerate(self.hub.commits) if files is found)
        self._json({"id": NAME, "sha": self.hub.sha(number), "siblings": []})

    def _tree(self, revision: str, folder: str) -> None:
        found = self.hub.files(revision) or {}
        below = f"{folder}/" if folder else ""
        names = [name for name in found if name.startswith(below)]
        if not names:
            return self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        entries = []
        folders = {name[:i] for name in names for i, c in enumerate(name) if c == "/"}
        for each in sorted(each for each in folders if len(each) > len(below)):
            entries.append({"type": "directory", "path": each, "oid": "0" * 40, "size": 0})
        for name in names:
            blob = hashlib.sha1(found[name]).hexdigest()
            entries.append({"type": "file", "path": name, "oid": blob, "size": len(found[name])})
        if "recursive=true" not in self.path.lower():
            entries = [e for e in entries if "/" not in e["path"].removeprefix(below)]
        self._json(entries)

    def _file(self, revision: str, name: str) -> None:
        data = (self.hub.files(revision) or {}).get(name)
        if data is None:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        span = self.headers.get("Range", "")
        if span:
            first, _, last = span.removeprefix("bytes=").partition("-")
            return self._answer(206, data[int(first) : int(last) + 1])
        self._answer(200, data)

    def _json(self, value) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments) -> None:
        """Nothing: the requests are in the hub's list."""


@pytest.fixture
def hub(monkeypatch):
    found = Hub()
    constants = huggingface_hub.constants  # read from HF_ENDPOINT when it was imported
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, found.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", found.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("vqtok.data.remote.RETRY_SECONDS", (0.0,))
    huggingface_hub.HfFileSystem.clear_instance_cache()
    yield found
    huggingface_hub.HfFileSystem.clear_instance_cache()
    found.stop()


def table(first: int, rows: int = 3) -> bytes:
    cells = [{"bytes": png(index), "path": None} for index in range(first, first + rows)]
    out = io.BytesIO()
    pq.write_table(pa.table({"image": cells}), out)
    return out.getvalue()


def local(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def tables(hub) -> dict[str, bytes]:
    files = {
        "data/train-00000-of-00002.parquet": table(0),
        "data/train-00001-of-00002.parquet": table(3),
        "data/test-00000-of-00001.parquet": table(6),
    }
    hub.upload(files | {"README.md": b"# Photos\n"})
    return files


def test_a_dataset_of_the_hub_gives_the_rows_of_its_files(tables, tmp_path):
    tokenize_dataset(f"hf://datasets/{NAME}", tmp_path / "there", FakeTokenizer(), unit_rows=4)
    tokenize_dataset(local(tmp_path / "f", tables), tmp_path / "here", FakeTokenizer(), unit_rows=4)

    digests = [verify_run(tmp_path / name).rows_digest for name in ("there", "here")]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("rest", "numbers"),
    [
        ("", [2, 0, 1]),
        (":train", [0, 1]),
        ("/data:test", [2]),
        ("@v1:train", [0, 1]),
        ("/data/train-00001-of-00002.parquet", [1]),
        ("/data/train-*.parquet", [0, 1]),
        ("/data/train-{00000..00001}-of-00002.parquet", [0, 1]),
    ],
)
def test_a_name_on_the_hub_chooses_files(tables, rest, numbers):
    source = open_source(f"hf://datasets/{NAME}{rest}")

    wanted = [list(tables)[number].rpartition("/")[2] for number in numbers]
    assert [name.rpartition("/")[2] for name in source.names] == wanted
    assert all(shard.rows == 3 and shard.etag for shard in source.list())


def test_a_run_reads_one_commit_and_a_resume_sees_the_next(hub, tables, tmp_path):
    source = open_source(f"hf://datasets/{NAME}:train")
    plan = build_plan(source.list(), 100)
    commit = hub.sha()
    hub.upload({"data/train-00000-of-00002.parquet": table(50)})

    samples = list(pickle.loads(pickle.dumps(source)).read(plan.units[0].segments))

    assert source.location == f"hf://datasets/{NAME}@{commit}"
    assert [sample.data for sample in samples] == [png(index) for index in range(6)]
    out = tmp_path / "out"
    tokenize_dataset(f"hf://datasets/{NAME}:train", out, FakeTokenizer())
    (out / "vqtok.json").unlink()
    hub.upload({"README.md": b"# Other words\n"})
    tokenize_dataset(f"hf://datasets/{NAME}:train", out, FakeTokenizer(), resume=True)
    (out / "vqtok.json").unlink()
    hub.upload({"data/train-00001-of-00002.parquet": table(60)})
    with pytest.raises(InputError, match=r"train-00001-of-00002\.parquet"):
        tokenize_dataset(f"hf://datasets/{NAME}:train", out, FakeTokenizer(), resume=True)


@pytest.mark.parametrize(
    ("rest", "names"),
    [
        ("", ["large/a.parquet", "large/sub/b.parquet"]),
        ("/small", ["test-0.parquet", "train-0.parquet"]),
        ("/small:test", ["test-0.parquet"]),
    ],
)
def test_the_card_says_which_files_are_the_dataset(hub, rest, names):
    places = ["small/train-0", "small/test-0", "large/a", "large/sub/b", "junk/x"]
    hub.upload({f"{place}.parquet": table(0) for place in places} | {"README.md": CARD.encode()})

    assert open_source(f"hf://datasets/{NAME}{rest}").names == names


def test_configurations_without_a_default_are_to_be_named(hub):
    card = CARD.replace("  default: true\n", "")
    hub.upload({"small/train-0.parquet": table(0), "README.md": card.encode()})

    with pytest.raises(InputError, match=r"\['small', 'large'\] and no default"):
        open_source(f"hf://datasets/{NAME}")
    hub.upload({"README.md": CARD.split("- config_name: large")[0].encode() + b"---\n"})
    with pytest.raises(InputError, match=r"splits \['train', 'test'\], but none named 'valid'"):
        open_source(f"hf://datasets/{NAME}:valid")


def test_files_of_the_hub_cost_one_request_each(hub, tmp_path):
    hub.upload({f"images/{index:02d}.png": png(index) for index in range(20)})

    tokenize_dataset(f"hf://datasets/{NAME}", tmp_path / "out", FakeTokenizer(), unit_rows=8)

    assert [row["status"] for row in rows_of(tmp_path / "out")] == ["ok"] * 20
    files = [path for _, path in hub.requests if path.endswith(".png")]
    assert len(files) == len(set(files)) == 20
    assert len(hub.requests) - len(files) <= 6


def test_a_name_that_the_hub_does_not_know_is_refused(hub, tables, monkeypatch):
    with pytest.raises(InputError, match="cannot be found on the Hub"):
        open_source("hf://datasets/me/nothing")
    with pytest.raises(InputError, match="cannot be found on the Hub"):
        open_source(f"hf://datasets/{NAME}@nowhere")
    source = open_source(f"hf://datasets/{NAME}:train")
    plan = build_plan(source.list(), 10)
    hub.stop()
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(VqtokError, match="does not answer"):
        list(source.read(plan.units[0].segments))


@pytest.mark.parametrize("what", ["p/", "p/*.png", "t.parquet", "t.tar"])
def test_a_web_server_is_a_source(tmp_path, what):
    pytest.importorskip("aiohttp")
    web = local(tmp_path / "web", {f"p/{index} ä.png": png(index) for index in range(4)})
    (web / "t.parquet").write_bytes(table(0, 4))
    write_tar(web / "t.tar", {f"{index}.png": png(index) for index in range(4)})
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": print_nothing})
    handler = functools.partial(handler, directory=str(web))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    url = f"http://127.0.0.1:{server.server_address[1]}/{what}"
    tokenize_dataset(url, tmp_path / "out", FakeTokenizer(), unit_rows=3)
    server.shutdown()
    server.server_close()

    wanted = [FakeTokenizer().tokenize([png(index)])[0].codes.flatten() for index in range(4)]
    assert [row["codes"] for row in rows_of(tmp_path / "out")] == [row.tolist() for row in wanted]


def print_nothing(*arguments) -> None:
    """The log of the web server."""


def test_a_stream_is_refused_with_the_name_of_what_streams(tmp_path):
    rows = datasets.Dataset.from_dict({"image": [png(0)]})

    with pytest.raises(InputError, match=r"hf://datasets/NAME"):
        open_source(rows.to_iterable_dataset())
    with pytest.raises(InputError, match=r"\['train'\].*take one split"):
        open_source(datasets.DatasetDict({"train": rows}))
