"""`litdata:`: chunks in a folder and on an S3 server of this machine. Without the libraries the tests skip."""

from __future__ import annotations

import hashlib
import json
import os
import pickle

import pytest
from data_helpers import picture
from orders import assert_exact

from senet.data import open_data, scan
from senet.data.lit_chunks import INERT, ChunkIndex
from senet.errors import DataError


def index_of(**fields):
    """The `index.json` of one chunk of three items."""
    leaf = {"type": None, "context": None, "children_spec": []}
    tree = {"type": "builtins.dict", "context": json.dumps([*fields]), "children_spec": [leaf] * len(fields)}
    config = {"data_spec": json.dumps([1, tree]), "data_format": [*fields.values()], "item_loader": "PyTreeLoader"}
    return {"chunks": [{"chunk_size": 3, "filename": "chunk-0-0.bin"}], "config": config}


def checked(index):
    return ChunkIndex.read("place", json.dumps(index).encode())


def test_only_inert_formats_pass_the_check():
    assert checked(index_of(image="jpeg", label="int", size="no_header_numpy:1")).formats["size"] == "no_header_numpy"
    for kind in ("pickle", "graph", "graph:pickle", "video", "tifffile", "mine"):
        assert kind not in INERT
        with pytest.raises(DataError, match=f"stores 'meta' as {kind.partition(':')[0]}, which"):
            checked(index_of(image="jpeg", label="int", meta=kind))


def test_an_index_leads_to_no_other_file_and_imports_nothing():
    for name in ("../chunk.bin", "/tmp/chunk.bin", "a/b.bin", ".."):
        index = index_of(image="jpeg", label="int")
        index["chunks"][0]["filename"] = name
        with pytest.raises(DataError, match="its own folder"):
            checked(index)
    index = index_of(image="jpeg", label="int")
    context = json.dumps({"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": "[]"})
    tree = json.loads(index["config"]["data_spec"])
    tree[1].update(type="collections.defaultdict", context=context)
    index["config"]["data_spec"] = json.dumps(tree)
    with pytest.raises(DataError, match="dictionary, list or tuple of plain values"):
        checked(index)
    for broken in (b"", b"[]", b"{}", b'{"chunks": [], "config": {"data_spec": "[]", "data_format": []}}', b"\xff"):
        with pytest.raises(DataError, match=r"isn't an index of `litdata\.optimize`"):
            ChunkIndex.read("place", broken)


@pytest.fixture(scope="module")
def lit(tmp_path_factory):
    """litdata, with its cache and this package's scans in folders of their own."""
    os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
    litdata = pytest.importorskip("litdata")
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("senet.data.lit_chunks.DEFAULT_ROOT", cache / "scans")
        patch.setattr("litdata.utilities.dataset_utilities._LITDATA_CACHE_DIR", str(cache / "chunks"))
        yield litdata


def write(folder, items, *, chunk_size=5):
    """Chunks as `litdata.optimize` writes them, without its processes."""
    from litdata.streaming import Cache

    cache = Cache(str(folder), chunk_size=chunk_size)
    for number, item in enumerate(items):
        cache._add_item(number, item)
    cache.done()
    cache.merge()
    return folder


@pytest.fixture(scope="module")
def made(lit, tmp_path_factory):
    """41 training and 9 validation images in chunks of five."""
    root = tmp_path_factory.mktemp("set")
    images = []
    for number in range(50):
        picture(number).save(root / "one.jpg")
        images.append((root / "one.jpg").read_bytes())
    kind = lit.types.Jpeg
    items = [{"image": kind(bytes=image), "label": "abc"[number % 3]} for number, image in enumerate(images)]
    write(root / "out" / "train", items[:41])
    write(root / "out" / "val", items[41:])
    return root / "out", images


@pytest.fixture(scope="module")
def stored(made):
    """The same chunks in a bucket of a local server, by its address."""
    servers = pytest.importorskip("moto.server")
    import boto3

    server = servers.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for path in made[0].rglob("*"):
            if path.is_file():
                client.upload_file(str(path), "bucket", f"sets/{path.relative_to(made[0])}")
        yield "s3://bucket/sets"
    server.stop()


@pytest.mark.parametrize("remote", [False, True])
def test_every_image_is_there_once_byte_for_byte(made, remote, request):
    folder, images = made
    data = open_data(f"litdata:{request.getfixturevalue('stored') if remote else folder}")
    assert data.classes == ("a", "b", "c")
    assert {name: len(source) for name, source in data.splits.items()} == {"train": 41, "val": 9}
    for index in (0, 4, 5, 40, 17, 3):
        assert bytes(data.train.stored(index).content) == images[index]
        assert data.train[index][1] == index % 3
    report = scan(data, workers=0)
    assert report.corrupt == report.leaks == []
    assert len(data.record().sample) == 41
    assert data.absolute_name.startswith("litdata:s3://" if remote else f"litdata:{folder}")


@pytest.mark.parametrize("remote", [False, True])
def test_batches_are_the_same_for_any_workers_processes_and_interruptions(made, remote, request):
    assert_exact(open_data(f"litdata:{request.getfixturevalue('stored') if remote else made[0]}").train)


def test_labels_are_scanned_once(made, monkeypatch):
    open_data(f"litdata:{made[0]}")
    monkeypatch.setattr("senet.data.lit_chunks.ChunkReader.item", lambda *_: 1 / 0)
    assert open_data(f"litdata:{made[0]}").train.labels[:4].tolist() == [0, 1, 2, 0]


def test_tuples_of_pixels_and_numbers_are_divided(lit, tmp_path):
    folder = write(tmp_path / "out", [(picture(n), n % 2, b"more") for n in range(30)])
    data = open_data(f"litdata:{folder}:image=0,label=1")
    assert data.split_spec is not None
    assert data.classes == ("0", "1")
    whole = data.split("all")
    by_name = {whole.entry(i).path: i for i in range(30)}
    position = by_name["000000007"]
    assert whole[position][0].tobytes() == picture(7).tobytes()
    assert whole[position][1] == 1
    assert whole.stored(0) is None
    with pytest.raises(DataError, match="several image columns"):
        open_data(f"litdata:{folder}")
    with pytest.raises(DataError, match="'1' is int, and '0' is pil"):
        open_data(f"litdata:{folder}:image=1,label=0")


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_is_unpickled(lit, tmp_path):
    """The index is refused. One that lies about the format, or changes after the check, unpickles nothing either."""
    trap = str(tmp_path / "trap")
    picture(0).save(tmp_path / "one.jpg")
    kind = lit.types.Jpeg
    items = [{"image": kind(bytes=(tmp_path / "one.jpg").read_bytes()), "label": n, "meta": Evil(trap)} for n in (0, 1)]
    folder = write(tmp_path / "out", items)
    assert not os.path.exists(trap)
    with pytest.raises(DataError, match="stores 'meta' as pickle, which can run code"):
        open_data(f"litdata:{folder}")
    index = json.loads((folder / "index.json").read_text())
    index["config"]["data_format"] = ["jpeg", "int", "bytes"]
    (folder / "index.json").write_text(json.dumps(index))
    data = open_data(f"litdata:{folder}:image=image", training=False)
    pickled = data.split("all").sources[0].source.reader.item(0)["meta"]
    assert isinstance(pickled, bytes)
    assert not os.path.exists(trap)
    from senet.data.lit_chunks import ChunkReader, _dataset

    dataset = _dataset(ChunkReader(ChunkIndex.read(str(folder), (folder / "index.json").read_bytes())).index)
    assert isinstance(dataset.serializers["pickle"].deserialize(pickle.dumps(Evil(trap))), bytes)
    assert isinstance(dataset.serializers["graph"].deserialize(pickle.dumps(Evil(trap))), bytes)
    assert not os.path.exists(trap)


def test_an_index_that_changes_is_noticed(made, lit, tmp_path):
    content = (made[0] / "val" / "index.json").read_bytes()
    for path in (made[0] / "val").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = open_data(f"litdata:{tmp_path}", training=False)
    (tmp_path / "index.json").write_bytes(content + b" ")
    with pytest.raises(DataError, match="has changed since it was opened"):
        pickle.loads(pickle.dumps(data.train)).stored(0)
    assert hashlib.sha256(content).hexdigest() == data.train.source.reader.index.digest


def test_wrong_places_in_one_line(lit, tmp_path):
    for name, said in (
        (f"litdata:{tmp_path}", "neither .* has an index.json"),
        ("litdata:gs://bucket/set", "reads a folder or s3://"),
        ("litdata:", "needs a place"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            open_data(name)
        assert "\n" not in str(caught.value)


def test_a_store_that_refuses_or_is_silent(stored, monkeypatch):
    with pytest.raises(DataError, match="neither s3://bucket/none nor s3://bucket/none/train"):
        open_data("litdata:s3://bucket/none")
    with pytest.raises(DataError, match=r"refuses \(NoSuchBucket\)"):
        open_data("litdata:s3://another/set")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"can't be reached: .*127\.0\.0\.1:9"):
        open_data(f"litdata:{stored}")
