// `firebase/database` (modular) in Node: every operation and every kind of event.

import { spawn } from "node:child_process";
import { once } from "node:events";

import { address, ask, assert, Log, rejection, rest, run, test } from "./lib.mjs";
import { caughtUp, connected, events, sdk, values } from "./client.mjs";

const {
  child, get, goOffline, goOnline, increment, limitToLast, off, onChildAdded, onDisconnect, onValue, orderByChild,
  push, query, remove, runTransaction, serverTimestamp, set, setPriority, setWithPriority, update,
} = sdk;

const val = async (reference) => (await get(reference)).val();

test("set and get: every kind of value", async (t) => {
  const [writer, reader] = [t.client(), t.client({ emulator: false })];
  const kinds = [
    0, -0, 1.5, -2.25, 1e300, 5e-324, 2 ** 53 - 1, -(2 ** 53 - 1), true, false, "", "text", "\u0000\u0001\n\t\"\\/", "é🦊\uE000\u{1F600}",
    { a: 1 }, { a: { b: { c: [1, 2, 3] } } }, [1, "two", true], [[1], [2, [3]]],
  ];
  for (const [number, value] of kinds.entries()) {
    await set(t.ref(writer, `k${number}`), value);
    assert.deepEqual(await val(t.ref(reader, `k${number}`)), Object.is(value, -0) ? 0 : value, `${number}`);
  }
  assert.deepEqual(Object.keys(await val(t.ref(reader))).length, kinds.length);
});

test("null, empty objects and empty lists are nothing; parents without children vanish", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  await set(t.ref(writer, "a/b/c"), 1);
  for (const nothing of [null, {}, [], { x: { y: null } }]) {
    await set(t.ref(writer, "a/b/c"), 1);
    await set(t.ref(writer, "a/b"), nothing);
    assert.equal((await get(t.ref(reader, "a"))).exists(), false);
  }
});

test("a value below a leaf replaces the leaf", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  await set(t.ref(writer, "a"), 5);
  await set(t.ref(writer, "a/b"), 6);
  assert.deepEqual(await val(t.ref(reader, "a")), { b: 6 });
  await set(t.ref(writer, "a"), 5);
  await remove(t.ref(writer, "a/b"));
  assert.equal(await val(t.ref(reader, "a")), 5);
});

test("update: children, paths, removal; others see one event", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  await set(t.ref(writer), { a: 1, b: { c: 2, d: 3 } });
  const seen = values(t.ref(reader));
  await seen.last({ a: 1, b: { c: 2, d: 3 } });
  await update(t.ref(writer), { a: null, "b/c": 4, "x/y/z": true });
  await caughtUp(reader, writer, t.path);
  await seen.exactly([{ a: 1, b: { c: 2, d: 3 } }, { b: { c: 4, d: 3 }, x: { y: { z: true } } }]);
  await update(t.ref(writer), {});
});

test("push: keys count up and children come in their order", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  const keys = [];
  for (let number = 0; number < 20; number++) keys.push((await push(t.ref(writer), { number })).key);
  assert.deepEqual(keys, [...keys].sort());
  const order = [];
  (await get(t.ref(reader))).forEach((entry) => void order.push(entry.val().number));
  assert.deepEqual(order, [...Array(20).keys()]);
  assert.equal(push(t.ref(writer)).key.length, 20);
});

test("remove", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  await set(t.ref(writer), { a: 1, b: 2 });
  const seen = values(t.ref(reader));
  await seen.last({ a: 1, b: 2 });
  await remove(t.ref(writer, "a"));
  await seen.last({ b: 2 });
  await remove(t.ref(writer));
  await seen.last(null);
});

test("get: nothing there, a query, while a listener is attached", async (t) => {
  const db = t.client();
  const nothing = await get(t.ref(db));
  assert.deepEqual([nothing.exists(), nothing.val()], [false, null]);
  await set(t.ref(db), { a: 1, b: 2, c: 3 });
  assert.deepEqual(await val(query(t.ref(t.client()), limitToLast(2))), { b: 2, c: 3 });
  const seen = values(t.ref(db));
  await seen.last({ a: 1, b: 2, c: 3 });
  await set(t.ref(t.client(), "d"), 4);
  await seen.last({ a: 1, b: 2, c: 3, d: 4 });
  assert.deepEqual(await val(t.ref(db)), { a: 1, b: 2, c: 3, d: 4 });
});

test("events: order, previous keys, value last", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  await set(t.ref(writer), { b: 1, a: 2, 10: 0, 9: 0 });
  const seen = events(t.ref(reader));
  const first = ["added 9=0 after null", "added 10=0 after 9", "added a=2 after 10", "added b=1 after a"];
  await seen.exactly([...first, 'value {"9":0,"10":0,"a":2,"b":1}']);
  seen.clear();
  await update(t.ref(writer), { a: null, c: 3, b: 5 });
  await caughtUp(reader, writer, t.path);
  await seen.exactly(["removed a=2", "added c=3 after b", "changed b=5 after 10", 'value {"9":0,"10":0,"b":5,"c":3}']);
});

test("events: a priority moves a child", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  await setWithPriority(t.ref(writer, "a"), 1, 1);
  await setWithPriority(t.ref(writer, "b"), 2, 2);
  const seen = events(t.ref(reader));
  await seen.exactly(["added a=1 after null", "added b=2 after a", 'value {"a":1,"b":2}']);
  seen.clear();
  await setPriority(t.ref(writer, "a"), 3);
  await caughtUp(reader, writer, t.path);
  await seen.exactly(["moved a=1 after b", "changed a=1 after b", 'value {"b":2,"a":1}']);
});

test("a writer sees its own write at once, and nothing twice", async (t) => {
  const db = t.client();
  const seen = values(t.ref(db));
  await seen.last(null);
  for (let number = 0; number < 50; number++) void set(t.ref(db), number);
  await set(t.ref(db), 50);
  await caughtUp(db, db, t.path);
  await seen.exactly([null, ...Array(51).keys()]);
});

test("values never flicker back while two clients write", async (t) => {
  const [one, two] = [t.client(), t.client()];
  const seen = values(t.ref(one, "own"));
  await seen.last(null);
  for (let number = 0; number < 100; number++) {
    void set(t.ref(one, "own"), number);
    void set(t.ref(two, "other"), number);
  }
  await caughtUp(one, one, t.path);
  await seen.exactly([null, ...Array(100).keys()]);
});

test("off, unsubscribe and onlyOnce", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  const seen = values(t.ref(reader));
  const once = new Log();
  onValue(t.ref(reader), (snapshot) => once.push(snapshot.val()), { onlyOnce: true });
  const all = new Log();
  onValue(t.ref(reader), (snapshot) => all.push(snapshot.val()));
  await set(t.ref(writer), 1);
  await all.last(1);
  seen.stop();
  await set(t.ref(writer), 2);
  await all.last(2);
  off(t.ref(reader));
  await set(t.ref(writer), 3);
  await caughtUp(reader, writer, t.path);
  assert.deepEqual([seen.items, once.items.length, all.items.at(-1)], [[null, 1], 1, 2]);
});

test("listens of a parent, a child and a query of one place agree", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  const logs = [
    values(t.ref(reader, "list/b")), values(query(t.ref(reader, "list"), limitToLast(1))), values(t.ref(reader, "list")), values(t.ref(reader)),
  ];
  await set(t.ref(writer, "list"), { a: 1, b: { c: 2 } });
  await Promise.all([logs[0].last({ c: 2 }), logs[1].last({ b: { c: 2 } }), logs[2].last({ a: 1, b: { c: 2 } })]);
  await set(t.ref(writer, "list/c"), 3);
  await Promise.all([logs[1].last({ c: 3 }), logs[3].last({ list: { a: 1, b: { c: 2 }, c: 3 } })]);
  logs[3].stop();
  logs[2].stop();
  await remove(t.ref(writer, "list/c"));
  await logs[1].last({ b: { c: 2 } });
  await set(t.ref(writer, "list/b/c"), 7);
  await Promise.all([logs[0].last({ c: 7 }), logs[1].last({ b: { c: 7 } })]);
});

test("server timestamp: one value for a write, close to now", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  await set(t.ref(writer), { a: serverTimestamp(), b: { c: serverTimestamp() }, ".priority": serverTimestamp() });
  const snapshot = await get(t.ref(reader));
  const { a, b } = snapshot.val();
  assert.equal(a, b.c);
  assert.equal(a, snapshot.priority);
  assert.ok(Math.abs(Date.now() - a) < 60_000, `${a}`);
  await update(t.ref(writer), { d: serverTimestamp(), "b/c": serverTimestamp() });
  const after = await val(t.ref(reader));
  assert.ok(after.d === after.b.c && after.d >= a);
});

test("increment: on nothing, a number, a text; from several clients", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  await set(t.ref(writer, "n"), increment(2));
  await set(t.ref(writer, "n"), increment(0.5));
  await set(t.ref(writer, "text"), "x");
  await update(t.ref(writer), { text: increment(3), "deep/n": increment(-1) });
  assert.deepEqual(await val(t.ref(reader)), { n: 2.5, text: 3, deep: { n: -1 } });
  const clients = [writer, reader, t.client()];
  await Promise.all(clients.flatMap((db) => Array.from({ length: 50 }, () => set(t.ref(db, "sum"), increment(1)))));
  assert.equal(await val(t.ref(t.client(), "sum")), 150);
});

test("transaction: on nothing, on a value, with a result", async (t) => {
  const [one, two] = [t.client(), t.client()];
  const first = await runTransaction(t.ref(one), (value) => (value ?? 0) + 1);
  assert.deepEqual([first.committed, first.snapshot.val()], [true, 1]);
  const second = await runTransaction(t.ref(two), (value) => (value ?? 0) + 1);
  assert.deepEqual([second.committed, second.snapshot.val()], [true, 2]);
  const gone = await runTransaction(t.ref(one), () => null);
  assert.deepEqual([gone.committed, gone.snapshot.exists()], [true, false]);
});

test("transaction: undefined aborts; applyLocally false shows no guess", async (t) => {
  const [one, two] = [t.client(), t.client()];
  await set(t.ref(one), 5);
  const aborted = await runTransaction(t.ref(two), (value) => (value === null ? 0 : undefined));
  assert.deepEqual([aborted.committed, aborted.snapshot.val()], [false, 5]);
  const seen = values(t.ref(two));
  await seen.last(5);
  const done = await runTransaction(t.ref(two), (value) => (value ?? 0) + 1, { applyLocally: false });
  assert.deepEqual([done.committed, done.snapshot.val()], [true, 6]);
  await seen.exactly([5, 6]);
});

test("transaction: keeps priorities and works on objects, texts, lists", async (t) => {
  const [one, two] = [t.client(), t.client()];
  const before = { list: [1, 2], text: "é🦊", deep: { ".priority": 3, x: 1 }, leaf: { ".value": 1, ".priority": "p" } };
  await set(t.ref(one), before);
  const done = await runTransaction(t.ref(two), (value) => value && { ...value, added: true });
  assert.ok(done.committed);
  assert.deepEqual(await val(t.ref(one)), { list: [1, 2], text: "é🦊", deep: { x: 1 }, leaf: 1, added: true });
});

test("transactions of ten clients on one counter: the sum is exact", async (t) => {
  const clients = Array.from({ length: 10 }, () => t.client());
  const add = async (db) => {
    for (let turn = 0; turn < 5; turn++) {
      // The client gives up after 25 tries; the application tries again.
      for (let tries = 0; ; tries++) {
        const done = await runTransaction(t.ref(db), (value) => (value ?? 0) + 1).catch((error) => error);
        if (done.committed) break;
        assert.ok(tries < 20 && /maxretry/.test(`${done}`), `${done}`);
      }
    }
  };
  await Promise.all(clients.map(add));
  assert.equal(await val(t.ref(t.client())), 50);
}, 60_000);

test("priorities: set, read back, order, removed by set", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  await setWithPriority(t.ref(writer, "text"), 1, "b");
  await setWithPriority(t.ref(writer, "number"), { x: 1 }, 2);
  await set(t.ref(writer, "none"), 3);
  await setWithPriority(t.ref(writer, "other"), 4, "a");
  const snapshot = await get(t.ref(reader));
  const order = [];
  snapshot.forEach((entry) => void order.push([entry.key, entry.priority]));
  assert.deepEqual(order, [["none", null], ["number", 2], ["other", "a"], ["text", "b"]]);
  assert.deepEqual(snapshot.child("number").exportVal(), { ".priority": 2, x: 1 });
  await set(t.ref(writer, "number/x"), 2);
  await setPriority(t.ref(writer, "text"), null);
  await set(t.ref(writer, "other"), 5);
  const after = await get(t.ref(reader));
  assert.deepEqual(["number", "text", "other"].map((key) => after.child(key).priority), [2, null, null]);
});

test("lists: holes, sparse keys, leading zeros", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  await set(t.ref(writer), { list: ["a", null, "c"], sparse: { 0: "x", 9: "y" }, zeros: { "00": 1, "01": 2 } });
  const { list, sparse, zeros } = await val(t.ref(reader));
  assert.deepEqual([list.length, list[0], list[1], list[2]], [3, "a", undefined, "c"]);
  assert.deepEqual([sparse, zeros], [{ 0: "x", 9: "y" }, { "00": 1, "01": 2 }]);
});

test("keys: like integers, unicode, of prototypes; their order", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  const keys = ["-5", "0", "2", "7", "07", "007", "10", "2147483647", "-2147483649", "2147483648", "A", "_", "a", "constructor", "😀", "\uE000", "～wide"];
  await set(t.ref(writer), Object.fromEntries(keys.map((key, number) => [key, number])));
  const order = [];
  (await get(t.ref(reader))).forEach((entry) => void order.push(entry.key));
  assert.deepEqual(order, keys);
  await set(child(t.ref(writer), "__proto__"), 1);
  assert.equal(await val(child(t.ref(reader), "__proto__")), 1);
});

test("a text of 10 MB, there and back", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  const text = "0123456789é".repeat(860_000);
  const seen = values(t.ref(reader));
  await seen.last(null);
  await set(t.ref(writer), text);
  await seen.until((items) => items.length === 2, 20_000);
  assert.ok(seen.items[1] === text);
  assert.ok((await val(t.ref(t.client()))) === text);
}, 60_000);

test("20,000 children in one write, and as a listen", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  const all = Object.fromEntries(Array.from({ length: 20_000 }, (_, n) => [`child${n}`, { n, name: `name ${n}` }]));
  await set(t.ref(writer), all);
  const seen = values(t.ref(reader));
  await seen.until((items) => items.length === 1, 20_000);
  assert.deepEqual(seen.items[0], all);
}, 60_000);

test("5,000 listens on one connection", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  await connected(reader);
  const last = new Map();
  const arrived = new Log();
  for (let n = 0; n < 5_000; n++) {
    onValue(t.ref(reader, `k${n}`), (snapshot) => {
      last.set(n, snapshot.val());
      arrived.push(null);
    });
  }
  await arrived.until((items) => items.length >= 5_000, 30_000);
  await update(t.ref(writer), Object.fromEntries(Array.from({ length: 5_000 }, (_, n) => [`k${n}`, n])));
  await arrived.until((items) => items.length >= 10_000, 30_000);
  assert.ok([...last].every(([n, value]) => n === value));
  await set(t.ref(writer, "k4321"), "only");
  await caughtUp(reader, writer, t.path);
  assert.deepEqual([arrived.items.length, last.get(4321)], [10_001, "only"]);
}, 90_000);

test(".info: connected and serverTimeOffset", async (t) => {
  const db = t.client();
  const state = values(sdk.ref(db, ".info/connected"));
  await state.last(true);
  const offset = values(sdk.ref(db, ".info/serverTimeOffset"));
  await offset.until((items) => items.some((value) => Number.isFinite(value) && Math.abs(value) < 60_000));
  goOffline(db);
  await state.last(false);
  goOnline(db);
  await state.last(true);
});

test("offline: writes wait, show locally, and arrive in their order", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  const mine = values(t.ref(writer));
  const theirs = values(t.ref(reader));
  await Promise.all([mine.last(null), theirs.last(null)]);
  goOffline(writer);
  const waiting = [set(t.ref(writer), { a: 1 }), update(t.ref(writer), { b: 2 }), set(t.ref(writer, "a"), 3)];
  await mine.last({ a: 3, b: 2 });
  await set(t.ref(reader, "z"), 9);
  goOnline(writer);
  await Promise.all(waiting);
  await theirs.last({ a: 3, b: 2 });
  await caughtUp(writer, reader, t.path);
  assert.deepEqual(mine.items.at(-1), { a: 3, b: 2 });
});

test("offline: what others wrote meanwhile is there afterwards", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  await set(t.ref(writer), { a: 1, b: 2 });
  const seen = events(t.ref(reader));
  await seen.until((items) => items.length === 3);
  goOffline(reader);
  seen.clear();
  await update(t.ref(writer), { a: null, b: 3, c: 4 });
  goOnline(reader);
  await seen.exactly(["removed a=1", "added c=4 after b", "changed b=3 after null", 'value {"b":3,"c":4}']);
});

test("the server restarts: listens and writes go on", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  const seen = values(t.ref(reader));
  const window = values(query(t.ref(reader, "list"), orderByChild("n"), limitToLast(1)));
  await set(t.ref(writer), { list: { a: { n: 1 }, b: { n: 2 } } });
  await window.last({ b: { n: 2 } });
  await ask("stop");
  const waiting = set(t.ref(writer, "list/c"), { n: 3 });
  await ask("start");
  // Both clients may wait a while before they try again; this is as if the user had come back.
  for (const db of [writer, reader]) {
    goOffline(db);
    goOnline(db);
  }
  await waiting;
  await Promise.all([window.last({ c: { n: 3 } }), seen.last({ list: { a: { n: 1 }, b: { n: 2 }, c: { n: 3 } } })]);
}, 60_000);

test("the server is killed: what was acknowledged is there, clients come back by themselves", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  const seen = values(t.ref(reader));
  for (let n = 0; n < 20; n++) await set(t.ref(writer, `k${n}`), n);
  await ask("kill");
  await ask("start");
  await set(t.ref(writer, "after"), true);
  await seen.until((items) => items.at(-1)?.after === true, 30_000);
  assert.equal(Object.keys(seen.items.at(-1)).length, 21);
}, 60_000);

test("onDisconnect: set, update, remove, with priority, server values", async (t) => {
  const [leaver, reader] = [t.client(), t.client()];
  await set(t.ref(reader), { gone: 1, kept: 1, merged: { a: 1, b: 1 } });
  await onDisconnect(t.ref(leaver, "set")).set({ x: 1 });
  await onDisconnect(t.ref(leaver, "merged")).update({ a: 2, "c/d": 3 });
  await onDisconnect(t.ref(leaver, "gone")).remove();
  await onDisconnect(t.ref(leaver, "first")).setWithPriority(1, "p");
  await onDisconnect(t.ref(leaver, "at")).set(serverTimestamp());
  await onDisconnect(t.ref(leaver, "kept")).set(increment(5));
  const seen = values(t.ref(reader));
  await seen.until((items) => items.length > 0);
  const before = Date.now();
  goOffline(leaver);
  await seen.until((items) => items.at(-1).at > 0 && items.at(-1).set && items.at(-1).kept === 6 && items.at(-1).merged.c && items.at(-1).first && !items.at(-1).gone);
  const { at, ...rest } = seen.items.at(-1);
  assert.deepEqual(rest, { first: 1, kept: 6, merged: { a: 2, b: 1, c: { d: 3 } }, set: { x: 1 } });
  assert.ok(at >= before - 1_000);
  assert.equal((await get(t.ref(reader, "first"))).priority, "p");
});

test("onDisconnect: runs once; cancelled ones do not run", async (t) => {
  const [leaver, reader] = [t.client(), t.client()];
  await onDisconnect(t.ref(leaver, "a")).set(1);
  await onDisconnect(t.ref(leaver, "b/c")).set(1);
  await onDisconnect(t.ref(leaver, "b")).cancel();
  goOffline(leaver);
  const seen = values(t.ref(reader));
  await seen.last({ a: 1 });
  await remove(t.ref(reader));
  goOnline(leaver);
  await connected(leaver);
  goOffline(leaver);
  await caughtUp(reader, reader, t.path);
  assert.equal(seen.items.at(-1), null);
});

test("onDisconnect: cancelling a child takes it out of what was set above", async (t) => {
  const [leaver, reader] = [t.client(), t.client()];
  await set(t.ref(reader), { original: true, child: "oc" });
  await onDisconnect(t.ref(leaver)).set({ parent: true, child: "pc" });
  await onDisconnect(t.ref(leaver, "child")).cancel();
  const seen = values(t.ref(reader));
  await seen.until((items) => items.length > 0);
  goOffline(leaver);
  await seen.last({ original: true, child: "oc", parent: true });
});

test("onDisconnect: the client's process is killed", async (t) => {
  const script = new URL("leaver.mjs", import.meta.url).pathname;
  const leaver = spawn("node", [script, address, t.ns, `${t.path}/online`], { stdio: ["ignore", "pipe", "inherit"] });
  t.onEnd(() => void leaver.kill("SIGKILL"));
  await once(leaver.stdout, "data");
  const seen = values(t.ref(t.client(), "online"));
  await seen.last(true);
  leaver.kill("SIGKILL");
  await seen.last(false);
});

test("onDisconnect: the server is killed; it runs when the server is back", async (t) => {
  const leaver = t.client();
  await onDisconnect(t.ref(leaver, "online")).set(false);
  await set(t.ref(leaver, "online"), true);
  await ask("kill");
  goOffline(leaver);
  await ask("start");
  assert.equal(await val(t.ref(t.client(), "online")), false);
}, 60_000);

test("rules: a refused write is rolled back, a refused listen is cancelled", async (t) => {
  const db = t.client({ user: { sub: "maya" } });
  await rest("PUT", "/.json", { open: 1, shut: 2 }, t.ns);
  await rest("PUT", "/.settings/rules.json", { rules: { open: { ".read": true }, mine: { ".read": "auth.uid === 'maya'", ".write": "auth.uid === 'maya'" } } }, t.ns);
  const at = (path) => sdk.ref(db, path);
  const seen = values(at("open"));
  await seen.last(1);
  assert.equal((await rejection(set(at("open"), 2))).code, "PERMISSION_DENIED");
  await seen.exactly([1, 2, 1]);
  const refused = values(at("shut"));
  await refused.exactly(["cancel PERMISSION_DENIED"]);
  for (const attempt of [update(at("/"), { "open": 1, "mine": 2 }), remove(at("open")), onDisconnect(at("open")).set(1)]) {
    assert.match(`${await rejection(attempt)}`, /permission_denied|PERMISSION_DENIED/i);
  }
  assert.match(`${await rejection(get(at("shut")))}`, /Permission denied/);
  assert.match(`${await rejection(runTransaction(at("open"), () => 5))}`, /permission_denied/i);
  await set(at("mine"), 3);
  assert.equal(await val(at("mine")), 3);
});

test("rules: who may no longer read is cancelled at once", async (t) => {
  const db = t.client();
  const rules = (readable) => rest("PUT", "/.settings/rules.json", { rules: { a: { ".read": readable }, b: { ".read": true } } }, t.ns);
  await rest("PUT", "/.json", { a: { x: 1, y: 2 }, b: 2 }, t.ns);
  await rules(true);
  const [a, window, b] = [values(sdk.ref(db, "a")), values(query(sdk.ref(db, "a"), limitToLast(1))), values(sdk.ref(db, "b"))];
  await Promise.all([a.last({ x: 1, y: 2 }), window.last({ y: 2 }), b.last(2)]);
  await rules(false);
  await Promise.all([a.last("cancel PERMISSION_DENIED"), window.last("cancel PERMISSION_DENIED")]);
  await rest("PUT", "/b.json", 3, t.ns);
  await b.exactly([2, 3]);
});

test("a feed of the newest child misses none, however quickly they come", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  const [seen, two] = [new Log(), new Log()];
  onChildAdded(query(t.ref(reader), limitToLast(1)), (entry) => seen.push(entry.val()));
  onChildAdded(query(t.ref(reader), limitToLast(2)), (entry, previous) => two.push(`${entry.val()} after ${previous}`));
  await caughtUp(reader, writer, t.path);
  const keys = Array.from({ length: 100 }, (_, n) => `k${String(n).padStart(3, "0")}`);
  await Promise.all(keys.map((key, n) => set(t.ref(writer, key), n)));
  await remove(t.ref(writer, "k099"));
  await caughtUp(reader, writer, t.path);
  await seen.exactly([...keys.keys(), 98]);
  await two.exactly([...keys.map((_, n) => `${n} after ${n ? keys[n - 1] : null}`), "97 after null"]);
});

await run();
