// The tests of somebody's project, as they were written for the emulator: `npm test` runs them with node's own
// runner. All that points them at a server is FIREBASE_DATABASE_EMULATOR_HOST.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";

import { assertFails, assertSucceeds, initializeTestEnvironment } from "@firebase/rules-unit-testing";
import admin from "firebase-admin";
import { initializeApp } from "firebase/app";
import { connectDatabaseEmulator, get, getDatabase, onValue, orderByChild, limitToLast, query, ref, set } from "firebase/database";

const projectId = "demo-story";
const [host, port] = process.env.FIREBASE_DATABASE_EMULATOR_HOST.split(":");
let server;
let app;

before(() => {
  server = admin.initializeApp({ projectId, databaseURL: `https://${projectId}.firebaseio.com` }).database();
  app = getDatabase(initializeApp({ projectId, databaseURL: `https://${projectId}.firebaseio.com` }));
  connectDatabaseEmulator(app, host, Number(port), { mockUserToken: { sub: "maya" } });
});

after(() => server.goOffline());

test("the imported data are there", async () => {
  const list = (await server.ref("list").once("value")).val();
  assert.deepEqual([list.length, list[0], list[2]], [3, "x", "y"]);
  assert.equal((await get(ref(app, "a"))).priority, "p");
});

test("what the server writes, the app sees", async () => {
  await server.ref("news").set({ one: { at: 1 }, two: { at: 2 } });
  const seen = await new Promise((resolve) => onValue(query(ref(app, "news"), orderByChild("at"), limitToLast(1)), (snapshot) => resolve(snapshot.val())));
  assert.deepEqual(seen, { two: { at: 2 } });
});

test("the project's rules hold for the app", async () => {
  await set(ref(app, "profiles/maya"), { name: "Maya" });
  await assert.rejects(set(ref(app, "profiles/maya"), { name: 5 }), /PERMISSION_DENIED/);
  await assert.rejects(set(ref(app, "profiles/ben"), { name: "Ben" }), /PERMISSION_DENIED/);
  await assert.rejects(get(ref(app, "list")), /Permission denied/);
});

test("the rules' own tests", async () => {
  const env = await initializeTestEnvironment({ projectId: "demo-rules", database: { rules: readFileSync("database.rules.json", "utf8") } });
  const maya = env.authenticatedContext("maya").database();
  await assertSucceeds(maya.ref("profiles/maya").set({ name: "Maya" }));
  await assertSucceeds(maya.ref("profiles/ben").once("value"));
  await assertFails(maya.ref("profiles/ben").set({ name: "Ben" }));
  await assertFails(env.unauthenticatedContext().database().ref("profiles/maya").once("value"));
  await env.clearDatabase();
  await env.cleanup();
});

test("a transaction of the admin SDK", async () => {
  const done = await server.ref("visits").transaction((visits) => (visits ?? 0) + 1);
  assert.deepEqual([done.committed, done.snapshot.val()], [true, 1]);
});
