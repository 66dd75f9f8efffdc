"""The official firebase-admin SDK, unmodified, against a server that is running.

Started by tests/it/python.rs with the server's address and the name of one check. Where a check
needs the server restarted it prints "restart" and waits for a line.
"""

import os
import queue
import sys
import threading
import time
import traceback

import firebase_admin
from firebase_admin import db, exceptions

LIMIT = 30


def check_writes(root):
    root.set({"a": 1})
    assert root.get() == {"a": 1}
    root.child("text").set("é🦊 \"quoted\"")
    assert root.child("text").get() == "é🦊 \"quoted\""
    root.child("list").set(["x", None, "z"])
    assert root.child("list").get() == ["x", None, "z"]
    root.child("deep/er").set({"n": 1.5, "b": True})
    root.update({"a": 2, "deep/er/n": 2, "text": None})
    assert root.get() == {"a": 2, "deep": {"er": {"n": 2, "b": True}}, "list": ["x", None, "z"]}
    pushed = [root.child("pushed").push(n) for n in range(5)]
    assert root.child("pushed").get() == {ref.key: n for n, ref in enumerate(pushed)}
    assert [ref.key for ref in pushed] == sorted(ref.key for ref in pushed)
    assert root.child("pushed").push().get() == ""
    root.child("deep").delete()
    assert root.child("deep").get() is None
    before = int(time.time() * 1000) - 1
    root.update({"time": {".sv": "timestamp"}, "a": {".sv": {"increment": 40}}})
    assert before <= root.child("time").get() <= time.time() * 1000
    assert root.child("a").get() == 42
    assert root.child("missing").get() is None
    assert root.get(shallow=True) == {"a": True, "list": True, "pushed": True, "time": True}
    assert root.child("a").get(shallow=True) == 42


def check_etags(root):
    value, etag = root.get(etag=True)
    assert (value, etag) == (None, "null_etag")
    root.set({"n": 1})
    value, etag = root.get(etag=True)
    assert value == {"n": 1} and etag not in (None, "null_etag")
    assert root.get_if_changed(etag) == (False, None, None)
    assert root.get_if_changed("other") == (True, value, etag)
    assert root.set_if_unchanged("other", {"n": 2}) == (False, value, etag)
    assert root.get() == {"n": 1}
    done, value, _ = root.set_if_unchanged(etag, {"n": 2})
    assert (done, value) == (True, {"n": 2})
    assert root.get() == {"n": 2}
    assert root.get_if_changed(etag)[0]


def check_transactions(root):
    count = root.child("count")
    for expected in range(1, 6):
        assert count.transaction(lambda old: (old or 0) + 1) == expected
    assert count.get() == 5

    def interrupted(old, tries=[]):
        tries.append(old)
        if len(tries) == 1:
            count.set(100)
        return old + 1

    assert count.transaction(interrupted) == 101

    def refuses(old):
        raise ValueError("no")

    try:
        count.transaction(refuses)
        raise AssertionError("the function's error must come through")
    except ValueError as error:
        assert str(error) == "no"

    def never(old):
        count.set(old + 1)
        return 0

    try:
        count.transaction(never)
        raise AssertionError("25 tries must be the end")
    except db.TransactionAbortedError:
        pass
    assert count.get() == 126


def check_queries(root):
    heights = {"linhe": 0.6, "lamb": 2.1, "brach": 18.7, "steg": 4, "tric": 3, "pter": 0.6}
    root.set({name: {"height": h, "sub": {"len": len(name)}} for name, h in heights.items()})
    ordered = sorted(heights, key=lambda name: (heights[name], name))
    by_height = lambda: root.order_by_child("height")
    assert list(by_height().get()) == ordered
    assert list(by_height().limit_to_first(2).get()) == ordered[:2]
    assert list(by_height().limit_to_last(2).get()) == ordered[-2:]
    assert list(by_height().start_at(3).get()) == ["tric", "steg", "brach"]
    assert list(by_height().end_at(3).get()) == ["linhe", "pter", "lamb", "tric"]
    assert list(by_height().start_at(2).end_at(4).get()) == ["lamb", "tric", "steg"]
    assert list(by_height().equal_to(0.6).get()) == ["linhe", "pter"]
    assert list(by_height().equal_to("0.6").get()) == []
    assert sorted(root.order_by_child("sub/len").equal_to(4).get()) == ["lamb", "pter", "steg", "tric"]
    by_key = lambda: root.order_by_key()
    assert list(by_key().get()) == sorted(heights)
    assert list(by_key().start_at("l").end_at("p").get()) == ["lamb", "linhe"]
    assert list(by_key().equal_to("lamb").get()) == ["lamb"]
    assert list(by_key().limit_to_last(1).get()) == ["tric"]
    root.set(heights)
    by_value = lambda: root.order_by_value()
    assert list(by_value().get()) == ordered
    assert list(by_value().start_at(3).limit_to_first(2).get()) == ["tric", "steg"]
    assert list(by_value().equal_to(0.6).get()) == ["linhe", "pter"]
    root.delete()
    assert list(by_value().get() or []) == []


def listen(ref):
    events = queue.Queue()
    registration = ref.listen(events.put)

    def told(kind, path, data):
        event = events.get(timeout=LIMIT)
        got = (event.event_type, event.path, event.data)
        assert got == (kind, path, data), got

    return registration, events, told


def close(registration, ref):
    # The SDK's own thread looks up only when something comes.
    closing = threading.Thread(target=registration.close)
    closing.start()
    end = time.time() + LIMIT
    while closing.is_alive():
        assert time.time() < end, "the listener can't be closed"
        ref.child("end").push(True)
        closing.join(0.05)


def check_listens(root):
    registration, events, told = listen(root)
    told("put", "/", None)
    root.child("text").set("é🦊")
    told("put", "/text", "é🦊")
    root.update({"a": 1, "b/c": [1, 2]})
    told("patch", "/", {"a": 1, "b/c": [1, 2]})
    root.child("b").delete()
    told("put", "/b", None)
    ref = root.push({"n": 1})
    told("put", "/" + ref.key, {"n": 1})
    root.set({"all": "new"})
    told("put", "/", {"all": "new"})
    root.child("all").set("new")
    root.child("all").set("newer")
    told("put", "/all", "newer")
    assert events.empty()
    close(registration, root)


def check_reconnects(root):
    root.set({"n": 0})
    registration, events, told = listen(root)
    told("put", "/", {"n": 0})
    root.child("n").set(1)
    told("put", "/n", 1)
    print("restart", flush=True)
    assert sys.stdin.readline()
    # The SDK comes back after three seconds; what happens until then is not missed.
    root.child("n").set(2)
    root.child("m").set(3)
    told("put", "/n", 2)
    told("put", "/m", 3)
    root.child("n").set(4)
    told("put", "/n", 4)
    assert events.empty()
    close(registration, root)


def refused(kind, call):
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"not refused with {kind.__name__}")


def check_errors(root):
    told = refused(exceptions.InvalidArgumentError, lambda: root.set({"a.b": 1}))
    assert told, "the reason is told"
    refused(exceptions.InvalidArgumentError, lambda: root.child("a").set({".sv": "nothing"}))
    refused(exceptions.InvalidArgumentError, lambda: root.update({"a": 1, "a/b": 2}))
    refused(exceptions.InvalidArgumentError, lambda: root.set({"x" * 800: 1}))
    assert root.get() is None


def check_denied(root):
    told = refused(exceptions.UnauthenticatedError, root.get)
    assert told == "Could not parse auth token.", told
    refused(exceptions.UnauthenticatedError, lambda: root.set(1))
    refused(exceptions.UnauthenticatedError, lambda: root.listen(print))


def main():
    address, name = sys.argv[1:]
    check = globals()[f"check_{name}"]
    # Both ways to reach a server that is not Google's; the variable is set by the caller.
    for url in ("https://by-variable.firebaseio.com", f"http://{address}?ns=by-url"):
        app = firebase_admin.initialize_app(None, {"databaseURL": url}, name=url)
        check(db.reference("/", app))
        firebase_admin.delete_app(app)
    print("done", flush=True)


try:
    main()
except BaseException:
    traceback.print_exc()
    # A listener's thread would keep the process alive.
    os._exit(1)
