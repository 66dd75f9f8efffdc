// `firebase-admin` in Node, as a server of the application uses it: with FIREBASE_DATABASE_EMULATOR_HOST, untouched.

import { assert, Log, rejection, require, rest, run, test } from "./lib.mjs";

const admin = require("firebase-admin");
let count = 0;

/** An application with its own connection. */
function client(t, options = {}) {
  const app = admin.initializeApp({ projectId: "demo-standpipe", databaseURL: `https://${t.ns}.firebaseio.com`, ...options }, `admin${count++}`);
  const db = app.database();
  t.onEnd(async () => {
    db.goOffline();
    await app.delete();
  });
  return db;
}

test("an administrator passes the rules", async (t) => {
  await rest("PUT", "/.settings/rules.json", { rules: { ".read": false, ".write": false, a: { ".validate": false } } }, t.ns);
  const db = client(t);
  await db.ref("a").set({ b: 1 });
  assert.deepEqual((await db.ref("a").once("value")).val(), { b: 1 });
  assert.deepEqual((await db.ref("a").get()).val(), { b: 1 });
});

test("auth overrides: a user, nobody", async (t) => {
  await rest("PUT", "/.settings/rules.json", { rules: { $uid: { ".read": "auth.uid === $uid", ".write": "auth.uid === $uid && auth.admin === true" }, open: { ".write": true } } }, t.ns);
  const maya = client(t, { databaseAuthVariableOverride: { uid: "maya", admin: true } });
  await maya.ref("maya").set(1);
  assert.equal((await maya.ref("maya").once("value")).val(), 1);
  assert.match(`${await rejection(maya.ref("other").set(1))}`, /PERMISSION_DENIED/);
  const nobody = client(t, { databaseAuthVariableOverride: null });
  assert.match(`${await rejection(nobody.ref("maya").set(1))}`, /PERMISSION_DENIED/);
  await nobody.ref("open").set(1);
});

test("rules: set as text with comments, read back, refused when wrong", async (t) => {
  // For rules the SDK uses the application's credential, also beside an emulator; without one it asks Google.
  const db = client(t, { credential: { getAccessToken: async () => ({ access_token: "owner", expires_in: 3_600 }) } });
  const text = '// who\n{"rules": {".read": "auth != null" /* yes */, ".write": false}}\n';
  await db.setRules(text);
  assert.equal(await db.getRules(), text);
  assert.deepEqual(await db.getRulesJSON(), { rules: { ".read": "auth != null", ".write": false } });
  await db.setRules({ rules: { ".read": true } });
  assert.deepEqual(await db.getRulesJSON(), { rules: { ".read": true } });
  assert.match(`${await rejection(db.setRules('{"rules": {".read": "auth.uid && true"}}'))}`, /Error while accessing security rules: \d+:\d+: /);
  assert.deepEqual(await db.getRulesJSON(), { rules: { ".read": true } });
});

test("set, update, push, remove, transaction, server values", async (t) => {
  const [db, other] = [client(t), client(t)];
  const at = db.ref(t.path);
  await at.set({ n: 1, at: admin.database.ServerValue.TIMESTAMP });
  await at.update({ n: admin.database.ServerValue.increment(4), "x/y": true });
  const done = await other.ref(`${t.path}/n`).transaction((n) => (n ?? 0) * 2);
  assert.deepEqual([done.committed, done.snapshot.val()], [true, 10]);
  const key = (await at.child("list").push("first")).key;
  const { at: time, ...rest } = (await other.ref(t.path).once("value")).val();
  assert.deepEqual(rest, { n: 10, x: { y: true }, list: { [key]: "first" } });
  assert.ok(Math.abs(time - Date.now()) < 60_000);
  await at.remove();
  assert.equal((await other.ref(t.path).once("value")).exists(), false);
});

test("listens: values, children, queries that move", async (t) => {
  const [db, other] = [client(t), client(t)];
  const at = db.ref(t.path);
  await at.set({ a: { n: 1 }, b: { n: 2 }, c: { n: 3 } });
  const seen = new Log();
  other.ref(t.path).orderByChild("n").limitToLast(2).on("value", (snapshot) => seen.push(snapshot.val()));
  await seen.last({ b: { n: 2 }, c: { n: 3 } });
  await at.child("a/n").set(9);
  await seen.last({ c: { n: 3 }, a: { n: 9 } });
  await at.child("a").remove();
  await seen.last({ b: { n: 2 }, c: { n: 3 } });
});

test("onDisconnect of an administrator", async (t) => {
  const [db, other] = [client(t), client(t)];
  await rest("PUT", "/.settings/rules.json", { rules: {} }, t.ns);
  await db.ref("online").onDisconnect().set(false);
  await db.ref("online").set(true);
  const seen = new Log();
  other.ref("online").on("value", (snapshot) => seen.push(snapshot.val()));
  await seen.last(true);
  db.goOffline();
  await seen.last(false);
});

test("several databases of one server", async (t) => {
  const db = client(t);
  const second = admin.app(db.app.name).database(`https://${t.ns}-second.firebaseio.com`);
  t.onEnd(() => second.goOffline());
  await db.ref("a").set(1);
  await second.ref("a").set(2);
  assert.deepEqual([(await db.ref("a").once("value")).val(), (await second.ref("a").once("value")).val()], [1, 2]);
});

await run();
