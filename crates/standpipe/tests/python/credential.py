"""firebase-admin with clients/python/standpipe_admin.py, over https: python credential.py URL TOKEN_FILE BINARY KEY"""

import subprocess
import sys
import threading

sys.path.insert(0, sys.argv[5])

import firebase_admin
from firebase_admin import db, exceptions
from standpipe_admin import StandpipeCredential

URL, TOKEN_FILE, BINARY, KEY = sys.argv[1:5]


def mint(*more):
    return subprocess.run([BINARY, "token", "--key", KEY, *more], check=True, capture_output=True, text=True).stdout


def administrator():
    app = firebase_admin.initialize_app(StandpipeCredential.from_file(TOKEN_FILE), {"databaseURL": URL}, "admin")
    root = db.reference("/", app)
    root.child("a").set({"b": 1})
    assert root.child("a").get() == {"b": 1}
    assert root.child("n").transaction(lambda now: (now or 0) + 1) == 1
    seen = threading.Event()
    stream = root.child("a").listen(lambda event: seen.set() if event.data == 2 else None)
    root.child("a/b").set(2)
    assert seen.wait(20), "no event"
    root.child("a/b").set(3)
    stream.close()
    print("admin", flush=True)


def user():
    asked = []

    def token():
        asked.append(1)
        return mint("--uid", "maya", "--ttl", "2s")

    app = firebase_admin.initialize_app(StandpipeCredential(token), {"databaseURL": URL}, "user")
    assert db.reference("/a/b", app).get() == 3
    try:
        db.reference("/a/b", app).set(4)
    except exceptions.UnauthenticatedError as error:
        assert "Permission denied" in str(error), error
    else:
        raise AssertionError("a user wrote")
    before = len(asked)
    for _ in range(5):
        assert db.reference("/a/b", app).get() == 3
    assert len(asked) > before, "a short token is renewed"
    print("user", flush=True)


def stranger():
    app = firebase_admin.initialize_app(StandpipeCredential("owner"), {"databaseURL": URL}, "stranger")
    try:
        db.reference("/a", app).get()
    except exceptions.UnauthenticatedError:
        print("stranger", flush=True)


administrator()
user()
stranger()
print("done", flush=True)
