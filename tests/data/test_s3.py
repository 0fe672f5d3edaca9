"""A server that speaks S3, on loopback: the rows of a local folder, few requests, clear errors."""

import gzip
import io
import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer
from tests.data.fake_others import FakeText
from tests.data.rows import rows_of
from tests.data.test_more_sources import write_tar
from vqtok.data import tokenize_dataset, verify_run
from vqtok.data.plan import build_plan
from vqtok.data.sources import open_source
from vqtok.errors import InputError, VqtokError

boto3 = pytest.importorskip("boto3")
moto_server = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")

BUCKET = "bucket"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class Server:
    """moto, with a list of what it was asked and of keys that nobody may read."""

    def __init__(self):
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication

        self.requests: list[tuple[str, str]] = []
        self.denied: set[str] = set()
        self.app, self.call = DomainDispatcherApplication, DomainDispatcherApplication.__call__
        self.app.__call__ = self._recorded()
        self.start(0)

    def start(self, port: int) -> None:
        self.server = moto_server.ThreadedMotoServer("127.0.0.1", port, verbose=False)
        self.server.start()
        _, self.port = self.server.get_host_and_port()

    def stop(self) -> None:
        self.server.stop()

    def _recorded(self):
        def call(app, environ, start):
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            key = path.encode("latin-1").decode().removeprefix(f"/{BUCKET}/")
            self.requests.append((method, key))
            if key in self.denied:
                start("403 Forbidden", [("Content-Type", "application/xml")])
                return [b"" if method == "HEAD" else DENIED]
            return self.call(app, environ, start)

        return call

    def count(self, method: str, part: str = "") -> int:
        return sum(asked == method and part in path for asked, path in self.requests)


@pytest.fixture(scope="module")
def server():
    variables = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        found = Server()
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{found.port}")
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        patch.setattr("vqtok.data.remote.RETRY_SECONDS", (0.0,))
        s3fs.S3FileSystem.clear_instance_cache()
        yield found
        s3fs.S3FileSystem.clear_instance_cache()
        found.app.__call__ = found.call
        found.stop()


@pytest.fixture
def bucket(server):
    """An empty bucket: (server, put)."""
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)

    def put(key: str, data: bytes) -> None:
        client.put_object(Bucket=BUCKET, Key=key, Body=data)

    yield server, put
    server.denied.clear()
    found = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    for entry in found:
        client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    client.delete_bucket(Bucket=BUCKET)
    client.close()


@pytest.fixture
def sources(bucket, tmp_path):
    """A folder of every kind, here and there."""
    server, put = bucket
    local = tmp_path / "local"
    for folder in ("photos/größe", "table", "shards", "lines"):
        (local / folder).mkdir(parents=True)
    for index in range(12):
        (local / f"photos/größe/{index:02d} ä.png").write_bytes(png(index))
    cells = [{"bytes": png(index), "path": f"{index}.png"} for index in range(9)]
    pq.write_table(pa.table({"image": cells}), local / "table/a.parquet", row_group_size=4)
    members = {f"{index}.png": png(index) for index in range(7)}
    write_tar(local / "shards/0.tar", members)
    (local / "shards/1.tar.gz").write_bytes(gzip.compress((local / "shards/0.tar").read_bytes()))
    lines = [json.dumps({"text": f"line {index}"}) for index in range(5)]
    (local / "lines/a.jsonl").write_text("\n".join(lines))
    for path in sorted(local.rglob("*")):
        if path.is_file():
            put(path.relative_to(local).as_posix(), path.read_bytes())
    server.requests.clear()
    return server, put, local


def digest(out: Path) -> str:
    report = verify_run(out)
    assert report.problems == []
    return report.rows_digest


@pytest.mark.parametrize("folder", ["photos", "table", "shards", "lines"])
def test_objects_give_the_rows_of_local_files(sources, tmp_path, folder):
    _, _, local = sources
    tokenizer = FakeText() if folder == "lines" else FakeTokenizer()

    tokenize_dataset(local / folder, tmp_path / "here", tokenizer, unit_rows=4)
    tokenize_dataset(f"s3://{BUCKET}/{folder}", tmp_path / "there", tokenizer, unit_rows=4)

    assert {row["status"] for row in rows_of(tmp_path / "there")} == {"ok"}
    assert digest(tmp_path / "here") == digest(tmp_path / "there")


def test_credentials_and_endpoint_reach_spawned_workers(sources, tmp_path):
    _, _, local = sources

    tokenize_dataset(local / "photos", tmp_path / "here", FakeTokenizer(), unit_rows=4)
    tokenize_dataset(
        f"s3://{BUCKET}/photos", tmp_path / "there", FakeTokenizer(), unit_rows=4, workers=2
    )

    assert digest(tmp_path / "here") == digest(tmp_path / "there")


def test_a_small_object_costs_one_request_and_a_listing_none_per_object(sources, tmp_path):
    server, _, _ = sources

    source = open_source(f"s3://{BUCKET}/photos")
    plan = build_plan(source.list(), 5)
    assert server.count("HEAD", ".png") == server.count("GET", ".png") == 0
    assert len(server.requests) <= 3
    for unit in plan.units:
        list(source.read(unit.segments))

    assert server.count("GET", ".png") == 12
    assert server.count("HEAD", ".png") == 0


def test_a_parquet_is_planned_by_its_footer(bucket):
    server, put = bucket
    noise = io.BytesIO()
    cells = [png(index, 160, 160) + bytes(range(256)) * 800 for index in range(48)]
    table = pa.table({"image": cells})
    pq.write_table(table, noise, row_group_size=8, compression="none", use_dictionary=False)
    put("big.parquet", noise.getvalue())
    server.requests.clear()

    source = open_source(f"s3://{BUCKET}/big.parquet")
    shards = source.list()

    assert (shards[0].rows, shards[0].size) == (48, noise.tell())
    assert server.count("GET", "big.parquet") == 1


@pytest.mark.parametrize("name", ["photos/größe/03 ä.png", "table/a.parquet", "shards/0.tar"])
def test_an_object_written_again_is_refused_by_name(sources, tmp_path, name):
    _, put, local = sources
    folder, _, _ = name.partition("/")
    source = open_source(f"s3://{BUCKET}/{folder}")
    plan = build_plan(source.list(), 100)
    data = bytearray((local / name).read_bytes())
    data[-9] ^= 1  # as long as before

    put(name, bytes(data))

    with pytest.raises(InputError, match=rf"{name.rpartition('/')[2]} changed"):
        list(source.read(plan.units[0].segments))


class Stops(FakeTokenizer):
    """Does something when it is asked for the fifth image."""

    def __init__(self, act):
        super().__init__()
        self.act, self.asked = act, 0

    def tokenize(self, items, batch_size=1, num_codebooks=None):
        self.asked += len(items)
        if self.asked > 40:  # canaries come first
            act, self.act = self.act, lambda: None
            act()
        return super().tokenize(items, batch_size)


def test_a_server_that_goes_away_is_an_error_and_the_run_goes_on_later(bucket, tmp_path):
    server, put = bucket
    (tmp_path / "local").mkdir()
    for index in range(60):
        (tmp_path / f"local/{index:02d}.png").write_bytes(png(index))
        put(f"many/{index:02d}.png", png(index))
    url, out = f"s3://{BUCKET}/many", tmp_path / "out"

    with pytest.raises(VqtokError, match=r"does not answer.*--resume"):
        tokenize_dataset(url, out, Stops(server.stop), unit_rows=6)
    published = rows_of(out)
    assert 0 < len(published) < 60
    assert {row["status"] for row in published} == {"ok"}

    server.start(server.port)
    tokenize_dataset(url, out, FakeTokenizer(), resume=True)

    tokenize_dataset(tmp_path / "local", tmp_path / "here", FakeTokenizer(), unit_rows=6)
    assert digest(out) == digest(tmp_path / "here")


def test_a_resume_refuses_an_object_that_changed_by_its_name(bucket, tmp_path):
    _, put = bucket
    for index in range(4):
        put(f"few/{index}.png", png(index))
    url, out = f"s3://{BUCKET}/few", tmp_path / "out"
    tokenize_dataset(url, out, FakeTokenizer())
    (out / "vqtok.json").unlink()

    put("few/2.png", png(7, 40, 40))

    with pytest.raises(InputError, match=r"2\.png had"):
        tokenize_dataset(url, out, FakeTokenizer(), resume=True)


def test_an_object_that_may_not_be_read_is_an_error_that_names_it(sources, tmp_path):
    server, _, _ = sources
    server.denied = {"photos/größe/05 ä.png", "table/a.parquet"}

    for folder, name in (("photos", "05 ä.png"), ("table", r"a\.parquet")):
        with pytest.raises(VqtokError, match=rf"denies access.*{name}"):
            tokenize_dataset(f"s3://{BUCKET}/{folder}", tmp_path / folder, FakeTokenizer())
        assert not (tmp_path / folder / "vqtok.json").exists()


def test_what_is_not_there_is_refused(sources, tmp_path):
    with pytest.raises(InputError, match="nothing at s3://no-such-bucket"):
        open_source("s3://no-such-bucket/photos")
    with pytest.raises(InputError, match="no files at"):
        open_source(f"s3://{BUCKET}/nowhere")
    with pytest.raises(InputError, match="no file fits the pattern"):
        open_source(f"s3://{BUCKET}/photos/*.parquet")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("shards/{0..1}.*", ["0.tar", "1.tar.gz"]),
        ("shards/{0.tar,1.tar.gz}", ["0.tar", "1.tar.gz"]),
        ("table/*.parquet", ["a.parquet"]),
        ("photos/**/0*.png", [f"größe/{index:02d} ä.png" for index in range(10)]),
    ],
)
def test_patterns_of_objects(sources, pattern, names):
    source = open_source(f"s3://{BUCKET}/{pattern}")

    assert source.names == names
    assert sum(shard.rows for shard in source.list()) >= len(names)
