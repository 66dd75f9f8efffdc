"""redis-py, unmodified, against the RESP door: what an application does, in both protocol versions."""

import sys
import threading

import redis

host, port = sys.argv[1], int(sys.argv[2])

for protocol in (2, 3):
    client = redis.Redis(host=host, port=port, protocol=protocol, decode_responses=True, client_name="test")
    assert client.ping()
    base = f"py{protocol}"
    assert client.set(f"{base}/a", "hello")
    assert client.get(f"{base}/a") == "hello"
    assert client.set(f"{base}/a", "x", nx=True) is None
    assert client.incr(f"{base}/n") == 1
    assert client.incrbyfloat(f"{base}/f", 1.5) == 1.5
    assert client.mset({f"{base}/m1": "1", f"{base}/m2": "2"})
    assert client.mget(f"{base}/m1", f"{base}/none", f"{base}/m2") == ["1", None, "2"]
    assert client.hset(f"{base}/h", mapping={"one": 1, "two": "zwei"}) == 2
    assert client.hgetall(f"{base}/h") == {"one": "1", "two": "zwei"}
    assert client.type(f"{base}/h") == "hash"
    assert sorted(client.scan_iter(f"{base}/*", count=2)) == sorted(client.keys(f"{base}/*"))
    assert dict(client.hscan_iter(f"{base}/h", count=1)) == {"one": "1", "two": "zwei"}

    with client.pipeline(transaction=True) as pipe:
        pipe.set(f"{base}/p", 1).incr(f"{base}/p").get(f"{base}/p")
        assert pipe.execute() == [True, 2, "2"]
    with client.pipeline(transaction=False) as pipe:
        for number in range(1000):
            pipe.set(f"{base}/bulk/{number}", number)
        assert all(pipe.execute())
    assert client.hlen(f"{base}/bulk") == 1000

    def increment(pipe):
        value = int(pipe.get(f"{base}/t") or 0)
        pipe.multi()
        pipe.set(f"{base}/t", value + 1)

    threads = [threading.Thread(target=lambda: [client.transaction(increment, f"{base}/t") for _ in range(10)])
               for _ in range(5)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert client.get(f"{base}/t") == "50"

    pubsub = client.pubsub()
    pubsub.subscribe("channel")
    pubsub.psubscribe("__keyspace@0__:" + base + "/watched/*")
    assert pubsub.get_message(timeout=10)["type"] == "subscribe"
    assert pubsub.get_message(timeout=10)["type"] == "psubscribe"
    assert client.publish("channel", "hello") == 1
    assert pubsub.get_message(timeout=10)["data"] == "hello"
    client.set(f"{base}/watched/x", 1)
    assert pubsub.get_message(timeout=10)["data"] == "set"
    pubsub.close()

    try:
        client.lpush("list", 1)
        raise SystemExit("lists are not there")
    except redis.ResponseError as error:
        assert "unknown command" in str(error), error
    assert client.info()["redis_version"]
    assert client.client_getname() == "test"
    client.close()

print("done")
