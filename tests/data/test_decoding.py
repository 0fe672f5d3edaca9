"""Decoding in threads: order, limits of time and memory, and what becomes of bad inputs."""

import threading
import time

import pytest
import torch

import vqtok.data.decoding as pool
from tests.data.conftest import png
from tests.data.fake import FakeTokenizer
from tests.data.rows import rows_of
from vqtok.data import Execution, tokenize_dataset, verify_run
from vqtok.data.decoding import WINDOW_BYTES, Decoder, Decoding
from vqtok.data.plan import build_plan
from vqtok.data.schema import RowSchema
from vqtok.data.sources import RawSample, open_source
from vqtok.data.worker import Task, Worker
from vqtok.errors import ConfigError, InputError, VqtokError


def samples(count: int, size: int = 4) -> list[RawSample]:
    return [RawSample(bytes([i % 256]) * size, None, "s", i) for i in range(count)]


def decoded_by(prepare, decoding: Decoding, window: int = 8, count: int = 40, size: int = 4):
    return list(Decoder(prepare, "image", decoding, window)(samples(count, size)))


@pytest.mark.parametrize("decoding", [Decoding(), Decoding(3), Decoding(4, ahead=True)])
def test_samples_come_back_in_order_whichever_is_done_first(decoding):
    def slow_at_times(data):
        time.sleep(0.002 * (data[0] % 3))
        return data * 2

    found = decoded_by(slow_at_times, decoding)

    assert [sample.src_row for sample, _ in found] == list(range(40))
    assert [item for _, item in found] == [sample.data * 2 for sample in samples(40)]


def test_an_error_stays_with_its_sample():
    def picky(data):
        if data[0] % 5 == 0:
            raise InputError("no picture")
        if data[0] == 7:
            raise ValueError("a bug of a library")
        return data

    found = decoded_by(picky, Decoding(2))

    kinds = [type(item).__name__ for _, item in found]
    assert [i for i, kind in enumerate(kinds) if kind == "InputError"] == list(range(0, 40, 5))
    assert [i for i, kind in enumerate(kinds) if kind == "ValueError"] == [7]


@pytest.mark.parametrize("ahead", [False, True])
def test_an_input_that_never_ends_is_left_behind_and_the_others_go_on(ahead):
    end = threading.Event()

    def hangs_on_three(data):
        if data[0] == 3:
            end.wait()
        return data

    found = decoded_by(hangs_on_three, Decoding(1, ahead, seconds=0.2), count=10)
    end.set()

    assert isinstance(found[3][1], InputError)
    assert found[3][1].status == "timeout"
    assert [item for _, item in found[:3] + found[4:]] == [
        sample.data for sample in samples(10) if sample.src_row != 3
    ]


def test_the_time_of_an_input_begins_with_its_own_decoding():
    def slow(data):
        time.sleep(0.05)
        return data

    found = decoded_by(slow, Decoding(1, seconds=0.4), window=20, count=20)  # a second in all

    assert not [item for _, item in found if isinstance(item, InputError)]


def test_only_so_much_is_decoded_ahead():
    begun = []
    decoder = Decoder(lambda data: begun.append(1), "image", Decoding(2, ahead=True), 6)
    each = WINDOW_BYTES // 2
    large = Decoder(lambda data: data, "image", Decoding(), 6)
    pulled = []

    def counted():
        for sample in samples(10, size=each):
            pulled.append(1)
            yield sample

    with pytest.raises(VqtokError):  # None is no item
        next(decoder(samples(100)))
    first = next(large(counted()))

    time.sleep(0.05)
    assert len(begun) <= 6
    assert first[1] == samples(1, each)[0].data
    assert len(pulled) <= 3  # three of them are more than may wait


def test_nothing_is_read_while_the_caller_is_busy_unless_asked_to():
    begun = []

    def noted(data):
        begun.append(data[0])
        return data

    decoder = Decoder(noted, "image", Decoding(), 4)
    found = decoder(samples(12))
    for _ in range(4):
        next(found)
    time.sleep(0.05)
    found.close()

    assert begun == [0, 1, 2, 3]


@pytest.mark.parametrize("threads", [1, 3])
def test_decoded_bytes_that_wait_are_limited_however_small_the_files(threads, monkeypatch):
    monkeypatch.setattr(pool, "HELD_BYTES", 1000)
    alive = []

    class Large:
        nbytes = 400

        def __init__(self):
            alive.append(1)

    decoder = Decoder(lambda data: Large(), "image", Decoding(threads, ahead=True), 64)
    most = 0
    for taken, _ in enumerate(decoder(samples(60)), 1):
        time.sleep(0.002)
        most = max(most, len(alive) - taken)

    assert len(alive) == 60
    assert 1 <= most <= 3 + threads  # each thread may be at one when the room is filled


class Prepares(FakeTokenizer):
    """Reads in `prepare`, as the real ones do; the image of one size never ends."""

    def prepare(self, item):
        pixels = self.processor.read(item)
        if pixels[1]["width"] == 48:
            time.sleep(0.6)
        if pixels[1]["width"] == 56:
            raise LookupError("a bug")
        return pixels

    def _one(self, item):
        pixels, _ = item
        processor, self.processor = self.processor, self
        try:
            return super()._one(pixels)
        finally:
            self.processor = processor

    def read(self, pixels):
        return pixels, {"height": pixels.shape[1], "width": pixels.shape[2]}


@pytest.mark.parametrize("decoding", [(1, False), (3, False), (3, True)])
def test_a_run_gives_the_same_rows_through_threads(tmp_path, decoding, monkeypatch):
    threads, ahead = decoding  # beside an accelerator it goes ahead
    monkeypatch.setattr(Execution, "decoding", lambda self, device: Decoding(threads, ahead, 0.3))
    source = tmp_path / "images"
    source.mkdir()
    for index in range(30):
        width = {11: 48, 17: 56}.get(index, 24)
        data = b"broken" if index == 20 else png(index, width=width)
        (source / f"{index:02d}.png").write_bytes(data)

    tokenize_dataset(source, tmp_path / "out", Prepares(), unit_rows=12)
    tokenize_dataset(source, tmp_path / "plain", FakeTokenizer(), unit_rows=12)

    rows, plain = rows_of(tmp_path / "out"), rows_of(tmp_path / "plain")
    assert {i: row["status"] for i, row in enumerate(rows) if row["status"] != "ok"} == {
        11: "timeout",
        17: "crash",
        20: "decode_error",
    }
    assert "longer than 0.3 seconds" in rows[11]["error"]
    good = [i for i, row in enumerate(rows) if row["status"] == "ok"]
    assert [rows[i]["codes"] for i in good] == [plain[i]["codes"] for i in good]
    assert verify_run(tmp_path / "out").problems == []


def test_a_worker_decodes_ahead_beside_an_accelerator_only():
    asked = Execution(item_timeout=2.0, decode_threads=5)

    assert Execution().decoding("cpu") == Decoding(1, False, 60.0)
    assert Execution().decoding("cuda") == Decoding(8, True, 60.0)
    assert asked.decoding("cpu") == Decoding(5, False, 2.0)
    assert asked.decoding("cuda") == Decoding(5, True, 2.0)


def test_a_tokenizer_that_says_so_is_alive_within_one_long_input(photos):
    told = []

    class Long(FakeTokenizer):
        @staticmethod
        def on_step():
            raise RuntimeError("nobody waits")

        def _one(self, item):
            self.on_step()
            return super()._one(item)

    tokenizer, source = Long(), open_source(photos)
    worker = Worker(source, tokenizer, RowSchema((4096,)), {}, on_rows=told.append)
    (unit,) = build_plan(source.list()).units

    worker.process(Task(unit))

    assert told == [0] * (1 + 10) + [10]  # begun, a step of each of ten images, done
    with pytest.raises(RuntimeError, match="nobody waits"):
        tokenizer.on_step()


@pytest.mark.parametrize(
    ("batch_size", "chunks"), [(None, [16, 16, 8]), (5, [20, 20]), (2, [8] * 5)]
)
def test_four_batches_worth_of_images_is_looked_at_together(photos, batch_size, chunks):
    class Prepared:
        tensor = torch.zeros(3, 8, 8)

    class Automatic(FakeTokenizer):
        def auto_batch_size(self, shape):
            return 4

    tokenizer, source = Automatic(), open_source(photos)
    worker = Worker(source, tokenizer, RowSchema((4096,)), {}, batch_size)
    decoded = [(sample, Prepared()) for sample in samples(40)]

    assert [len(chunk) for chunk in worker._chunks(iter(decoded), False)] == chunks
    assert [len(chunk) for chunk in worker._chunks(iter(decoded), True)] == [1] * 40


@pytest.mark.parametrize("option", ["item_timeout", "decode_threads"])
def test_limits_that_cannot_be_are_refused(option):
    with pytest.raises(ConfigError, match=option):
        Execution(**{option: 0})


@pytest.mark.parametrize("taken", [3, 40])
def test_no_thread_outlives_what_it_decodes_for(taken):
    decoder = Decoder(lambda data: data, "image", Decoding(3), 8)
    before = set(threading.enumerate())
    found = decoder(samples(40))
    for _ in range(taken):
        next(found)
    started = set(threading.enumerate()) - before
    assert len(started) == 3

    list(found) if taken == 40 else found.close()

    for thread in started:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in started)
