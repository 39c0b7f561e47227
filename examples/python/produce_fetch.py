"""A Naru client written from the .proto files alone: python produce_fetch.py HOST:PORT

Says Hello, creates a topic, produces records in the structured form, fetches them and checks what came back.
"""

import importlib
import pathlib
import socket
import struct
import sys
import tempfile

from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"


def generate():
    """Generates the message classes from the .proto files, and returns them."""
    out = tempfile.TemporaryDirectory()
    files = sorted(str(path) for path in PROTO.glob("naru/v1/*.proto"))
    if protoc.main(["protoc", f"-I{PROTO}", f"--python_out={out.name}", *files]) != 0:
        raise SystemExit("protoc failed")
    sys.path.insert(0, out.name)
    modules = ("common", "admin", "fetch", "hello", "produce", "naru")
    found = {m: importlib.import_module(f"naru.v1.{m}_pb2") for m in modules}
    out.cleanup()
    return found


class Client:
    """One connection, one request at a time. A frame is a u32 big-endian length and one message."""

    def __init__(self, address, pb):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.pb, self.last_id = pb, 0
        self.ask(hello=pb["hello"].HelloRequest(version_min=1, version_max=1, client_name="python-example"))

    def ask(self, **body):
        self.last_id += 1
        request = self.pb["naru"].Request(request_id=self.last_id, **body).SerializeToString()
        self.socket.sendall(struct.pack(">I", len(request)) + request)
        (length,) = struct.unpack(">I", self.read(4))
        response = self.pb["naru"].Response.FromString(self.read(length))
        kind = response.WhichOneof("body")
        if kind == "error":
            raise SystemExit(f"{response.error.name}: {response.error.message} {response.error.hint}")
        assert response.request_id == self.last_id
        return getattr(response, kind)

    def read(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise SystemExit("the broker closed the connection")
            data += part
        return data


def main(address):
    pb = generate()
    client = Client(address, pb)
    topic = "python-example"
    client.ask(create_topic=pb["admin"].CreateTopicRequest(name=topic, partitions=1, if_not_exists=True))
    place = pb["common"].TopicPartition(topic=topic, partition=0)

    Record, Header = pb["common"].Record, pb["common"].Header
    sent = [Record(key=b"key", value=b"value %d" % n, headers=[Header(key="n", value=b"%d" % n)]) for n in range(10)]
    sent.append(Record(key=b"gone"))  # no value: a tombstone
    batch = pb["produce"].ProducePartition(partition=place, structured=pb["produce"].Records(records=sent))
    produced = client.ask(produce=pb["produce"].ProduceRequest(partitions=[batch])).partitions[0]
    if produced.HasField("error"):
        raise SystemExit(f"{produced.error.name}: {produced.error.message}")
    print(f"acknowledged: offsets {produced.base_offset} to {produced.last_offset}")

    wanted = pb["fetch"].FetchPartition(partition=place, offset=produced.base_offset)
    form = pb["fetch"].FetchForm.STRUCTURED
    fetch = pb["fetch"].FetchRequest(max_wait_ms=5000, min_bytes=1, form=form, partitions=[wanted])
    fetched = client.ask(fetch=fetch).partitions[0]
    found = [r for r in fetched.records.records if r.offset <= produced.last_offset]
    strip = lambda r: (r.key, r.value, r.HasField("value"), [(h.key, h.value) for h in r.headers])
    assert [strip(r) for r in found] == [strip(r) for r in sent], found
    assert [r.offset for r in found] == list(range(produced.base_offset, produced.last_offset + 1)), found
    print(f"fetched: {len(found)} records, the same")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
