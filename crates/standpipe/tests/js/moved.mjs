// An application that has moved: its databaseURL is that of a server of its own, over TLS, and nothing else has
// changed but where its users' tokens come from. Started by tests/it/moving.rs; no suite.

import assert from "node:assert/strict";
import dns from "node:dns";
import { createRequire } from "node:module";

const [, , url, token, shim] = process.argv;
// The name is not in the DNS of this machine.
dns.lookup = (name, options, done) => (options?.all ? done(null, [{ address: "127.0.0.1", family: 4 }]) : done(null, "127.0.0.1", 4));

const require = createRequire(`${process.env.STANDPIPE_TOOLS}/package.json`);
const { initializeApp } = require("firebase/app");
const { get, getDatabase, limitToLast, onValue, orderByChild, query, ref, set } = require("firebase/database");
const { useTokens } = await import(shim);

const app = initializeApp({ databaseURL: url });
useTokens(app, async () => token);
const db = getDatabase(app);
assert.deepEqual((await get(ref(db, "open"))).val(), { a: 1, list: { x: { n: 2 }, y: { n: 1 } } });
const newest = await new Promise((resolve, reject) => {
  onValue(query(ref(db, "open/list"), orderByChild("n"), limitToLast(1)), (snapshot) => resolve(snapshot.val()), reject);
});
assert.deepEqual(newest, { x: { n: 2 } });
await set(ref(db, "open/maya"), "was here");
await assert.rejects(set(ref(db, "shut"), 1), /PERMISSION_DENIED/);
await assert.rejects(get(ref(db, "shut")), /Permission denied/);
process.stdout.write("moved\n");
process.exit(0);
