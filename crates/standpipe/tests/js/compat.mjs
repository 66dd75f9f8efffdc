// `firebase/compat/database` in Node: the chained API of the SDKs before version 9, which many applications still have.

import { address, assert, host, Log, port, rejection, require, rest, run, test } from "./lib.mjs";

const firebase = require("firebase/compat/app").default ?? require("firebase/compat/app");
require("firebase/compat/database");
const { ServerValue } = firebase.database;

let count = 0;

/** A client of its own connection, through `useEmulator` or by its address. */
function client(t, { emulator = true, user } = {}) {
  const app = firebase.initializeApp({ projectId: "demo-standpipe", databaseURL: emulator ? `https://${t.ns}.firebaseio.com` : `http://${address}?ns=${t.ns}` }, `compat${count++}`);
  const db = app.database();
  if (emulator) db.useEmulator(host, port, user ? { mockUserToken: user } : undefined);
  t.onEnd(async () => {
    db.goOffline();
    await app.delete();
  });
  return db;
}

function events(query) {
  const log = new Log();
  for (const name of ["child_added", "child_changed", "child_moved", "child_removed", "value"]) {
    // A `value` event has no previous key.
    query.on(name, (snapshot, previous) => log.push([name, snapshot.key, snapshot.val(), ...(name === "value" ? [] : [previous])]));
  }
  return log;
}

test("set, update, remove, push, once", async (t) => {
  const [writer, reader] = [client(t), client(t, { emulator: false })];
  const at = (db) => db.ref(t.path);
  await at(writer).set({ a: 1, b: { c: "é🦊" } });
  assert.deepEqual((await at(reader).once("value")).val(), { a: 1, b: { c: "é🦊" } });
  await at(writer).update({ a: null, "b/d": 2 });
  assert.deepEqual((await at(reader).once("value")).val(), { b: { c: "é🦊", d: 2 } });
  const pushed = await at(writer).child("list").push({ n: 1 });
  assert.deepEqual((await at(reader).child("list").once("value")).val(), { [pushed.key]: { n: 1 } });
  await at(writer).remove();
  assert.equal((await at(reader).once("value")).exists(), false);
});

test("completion callbacks get null, or the error", async (t) => {
  const db = client(t);
  const done = (start) => new Promise((resolve) => void start((error) => resolve(error)));
  const at = db.ref(t.path);
  assert.equal(await done((end) => at.set(1, end)), null);
  assert.equal(await done((end) => at.setWithPriority({ x: 1 }, 2, end)), null);
  assert.equal(await done((end) => at.setPriority(3, end)), null);
  assert.equal(await done((end) => at.update({ y: 2 }, end)), null);
  assert.equal(await done((end) => at.remove(end)), null);
  await rest("PUT", "/.settings/rules.json", { rules: {} }, t.ns);
  assert.equal((await done((end) => at.set(1, end))).code, "PERMISSION_DENIED");
});

test("on: every event in its order, with the previous key", async (t) => {
  const [writer, reader] = [client(t), client(t)];
  const at = (db) => db.ref(t.path);
  await at(writer).set({ a: { ".value": 1, ".priority": 1 }, b: { ".value": 2, ".priority": 2 } });
  const seen = events(at(reader));
  await seen.exactly([["child_added", "a", 1, null], ["child_added", "b", 2, "a"], ["value", t.path, { a: 1, b: 2 }]]);
  seen.clear();
  await at(writer).child("a").setPriority(3);
  await seen.until((items) => items.some(([name]) => name === "value"));
  assert.deepEqual(seen.items, [["child_moved", "a", 1, "b"], ["child_changed", "a", 1, "b"], ["value", t.path, { b: 2, a: 1 }]]);
});

test("off: one callback, one event, all", async (t) => {
  const [writer, reader] = [client(t), client(t)];
  const at = reader.ref(t.path);
  const logs = [new Log(), new Log(), new Log()];
  const callbacks = logs.map((log) => at.on("value", (snapshot) => log.push(snapshot.val())));
  await writer.ref(t.path).set(1);
  await Promise.all(logs.map((log) => log.last(1)));
  at.off("value", callbacks[0]);
  await writer.ref(t.path).set(2);
  await Promise.all([logs[1].last(2), logs[2].last(2)]);
  at.off();
  await writer.ref(t.path).set(3);
  assert.equal((await at.once("value")).val(), 3);
  assert.deepEqual(logs.map((log) => log.items.at(-1)), [1, 2, 2]);
});

test("once of a child event, and of a query", async (t) => {
  const [writer, reader] = [client(t), client(t)];
  await writer.ref(t.path).set({ a: { n: 3 }, b: { n: 1 }, c: { n: 2 } });
  const list = reader.ref(t.path);
  assert.ok(["a", "b", "c"].includes((await list.once("child_added")).key));
  assert.deepEqual(Object.keys((await list.orderByChild("n").limitToLast(2).once("value")).val()).sort(), ["a", "c"]);
  assert.deepEqual((await list.orderByChild("n").startAt(2).endAt(2).once("value")).val(), { c: { n: 2 } });
  assert.deepEqual((await list.orderByKey().equalTo("b").once("value")).val(), { b: { n: 1 } });
  assert.deepEqual((await list.orderByChild("n").startAfter(1).limitToFirst(1).get()).val(), { c: { n: 2 } });
  assert.deepEqual((await list.orderByKey().endBefore("b").once("value")).val(), { a: { n: 3 } });
});

test("snapshots: children, priorities, export, numChildren, forEach", async (t) => {
  const [writer, reader] = [client(t), client(t)];
  await writer.ref(t.path).setWithPriority({ b: { ".value": 1, ".priority": "p" }, a: [true, false], c: { d: 1 } }, 7);
  const snapshot = await reader.ref(t.path).once("value");
  assert.deepEqual([snapshot.getPriority(), snapshot.numChildren(), snapshot.hasChild("c/d"), snapshot.hasChildren()], [7, 3, true, true]);
  assert.deepEqual(snapshot.exportVal(), { ".priority": 7, b: { ".value": 1, ".priority": "p" }, a: { 0: true, 1: false }, c: { d: 1 } });
  const order = [];
  const stopped = snapshot.forEach((entry) => order.push(entry.key) === 2);
  assert.deepEqual([stopped, order], [true, ["a", "c"]]);
  assert.equal(snapshot.child("c/d").ref.toString(), reader.ref(`${t.path}/c/d`).toString());
});

test("transaction: result, abort, callback, applyLocally", async (t) => {
  const [one, two] = [client(t), client(t)];
  const first = await one.ref(t.path).transaction((value) => (value ?? 0) + 1);
  assert.deepEqual([first.committed, first.snapshot.val()], [true, 1]);
  const second = await new Promise((resolve) => {
    void two.ref(t.path).transaction((value) => (value ?? 0) + 1, (error, committed, snapshot) => resolve([error, committed, snapshot.val()]), false);
  });
  assert.deepEqual(second, [null, true, 2]);
  const third = await one.ref(t.path).transaction(() => undefined);
  assert.equal(third.committed, false);
});

test("server values", async (t) => {
  const [writer, reader] = [client(t), client(t)];
  await writer.ref(t.path).set({ at: ServerValue.TIMESTAMP, n: ServerValue.increment(2) });
  await writer.ref(t.path).update({ n: ServerValue.increment(0.5) });
  const { at, n } = (await reader.ref(t.path).once("value")).val();
  assert.ok(Math.abs(Date.now() - at) < 60_000 && n === 2.5);
});

test("onDisconnect: set, setWithPriority, update, remove, cancel", async (t) => {
  const [leaver, reader] = [client(t), client(t)];
  const at = (path) => leaver.ref(`${t.path}/${path}`);
  await reader.ref(t.path).set({ removed: 1, kept: 1 });
  await at("set").onDisconnect().set(1);
  await at("priority").onDisconnect().setWithPriority(2, "p");
  await at("update").onDisconnect().update({ a: 3 });
  await at("removed").onDisconnect().remove();
  await at("kept").onDisconnect().remove();
  await at("kept").onDisconnect().cancel();
  const seen = new Log();
  reader.ref(t.path).on("value", (snapshot) => seen.push(snapshot.exportVal()));
  await seen.until((items) => items.length > 0);
  leaver.goOffline();
  await seen.last({ set: 1, priority: { ".value": 2, ".priority": "p" }, update: { a: 3 }, kept: 1 });
});

test("rules: a listen's cancel callback, a refused write, token of a user", async (t) => {
  const db = client(t, { user: { sub: "maya", email: "maya@example.com" } });
  await rest("PUT", "/.json", { mail: "x" }, t.ns);
  await rest("PUT", "/.settings/rules.json", { rules: { mail: { ".read": "auth.token.email === 'maya@example.com'" } } }, t.ns);
  assert.equal((await db.ref("mail").once("value")).val(), "x");
  const refused = await new Promise((resolve) => db.ref("other").on("value", () => resolve("a value"), (error) => resolve(error.code)));
  assert.equal(refused, "PERMISSION_DENIED");
  assert.equal((await rejection(db.ref("mail").set(1))).code, "PERMISSION_DENIED");
});

await run();
