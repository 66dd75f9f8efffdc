// The Firebase CLI's database commands against the server, as typed. Each starts a process of its own (a second or two).
// Google's own services, which the CLI asks about a project, are a stub here: nothing leaves this machine.

import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

import { address, assert, port, rest, run, test } from "./lib.mjs";

const folder = mkdtempSync(join(tmpdir(), "standpipe-cli-"));
const program = `${process.env.STANDPIPE_TOOLS}/node_modules/firebase-tools/lib/bin/firebase.js`;

/** What the CLI asks Google: what a project's database is, and whether the caller may use it. */
const google = createServer((request, response) => {
  const instance = request.url.match(/projects\/([^/]+)\/locations\/-\/instances\/([^/?]+)/);
  const answer = instance
    ? { name: `projects/${instance[1]}/locations/us-central1/instances/${instance[2]}`, databaseUrl: `http://${address}`, type: "USER_DATABASE", state: "ACTIVE" }
    : { access_token: "none", expires_in: 3600, permissions: ["firebase.projects.get", "firebasedatabase.instances.get", "firebasedatabase.instances.update"] };
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify(answer));
});
await new Promise((resolve) => google.listen(0, "127.0.0.1", resolve));
const stub = `http://127.0.0.1:${google.address().port}`;

/** With the emulator's variable the CLI takes `localhost:PORT`, but no bare IP address: it reads that as a URL. */
const EMULATOR = { FIREBASE_DATABASE_EMULATOR_HOST: `localhost:${port}` };
/** The variable that names another server than Google's. */
const SERVER = { FIREBASE_DATABASE_EMULATOR_HOST: undefined, FIREBASE_REALTIME_URL: `http://${address}` };

/** Some commands (get, remove) forget the database on any host but Google's, so that all of them mean the default one here. */
const NS = "default";

/** Runs a command of the CLI; gives what it printed. */
async function firebase(variables, ...words) {
  const origins = ["RTDB_MANAGEMENT", "RESOURCEMANAGER", "TOKEN", "API", "AUTH"].map((name) => [`FIREBASE_${name}_URL`, stub]);
  const env = { ...process.env, HOME: folder, XDG_CONFIG_HOME: folder, CI: "1", FIREBASE_TOKEN: "none", ...Object.fromEntries(origins), ...variables };
  const all = [program, ...words, "--project", "demo-standpipe", "--instance", NS];
  return (await promisify(execFile)("node", all, { cwd: folder, env, maxBuffer: 1 << 28 })).stdout;
}

/** Empties the database, rules included. */
async function fresh() {
  await rest("PUT", "/.json", null, NS);
  await rest("PUT", "/.settings/rules.json", { rules: { ".read": true, ".write": true } }, NS);
}

const file = (name, value) => {
  const path = join(folder, name);
  writeFileSync(path, JSON.stringify(value));
  return path;
};

async function values(variables) {
  await fresh();
  await firebase(variables, "database:set", "/a", "-d", '{"b":{"c":1},"l":[1,2]}', "--force");
  await firebase(variables, "database:update", "/a", "-d", '{"b/d":2,"l":null}', "--force");
  await firebase(variables, "database:push", "/list", "-d", '"first"');
  const all = await rest("GET", "/.json", undefined, NS);
  assert.deepEqual([all.a, Object.values(all.list)], [{ b: { c: 1, d: 2 } }, ["first"]]);
  assert.match(await firebase(variables, "database:get", "/a"), /\{"b":\{"c":1,"d":2\}\}/);
  assert.match(await firebase(variables, "database:get", "/a", "--shallow", "--pretty"), /\{\s+"b" ?: true\s+\}/);
  const path = join(folder, "out.json");
  await firebase(variables, "database:get", "/", "--export", "-o", path);
  assert.deepEqual(JSON.parse(readFileSync(path)), all);
}

async function queries(variables) {
  await fresh();
  await rest("PUT", "/list.json", { a: { n: 3 }, b: { n: 1 }, c: { n: 2 } }, NS);
  await rest("PUT", "/.settings/rules.json", { rules: { list: { ".indexOn": "n" } } }, NS);
  const got = await firebase(variables, "database:get", "/list", "--order-by", "n", "--start-at", "2", "--limit-to-last", "1");
  assert.match(got, /\{"a":\{"n":3\}\}/);
  assert.match(await firebase(variables, "database:get", "/list", "--order-by-key", "--limit-to-first", "1"), /\{"a":\{"n":3\}\}/);
}

async function load(variables) {
  await fresh();
  const data = Object.fromEntries(Array.from({ length: 1_000 }, (_, n) => [`key${n}`, { n, text: "x".repeat(2_000) }]));
  await firebase(variables, "database:import", "/big", file("big.json", data), "--force");
  assert.deepEqual(await rest("GET", "/big.json", undefined, NS), data);
}

test("FIREBASE_DATABASE_EMULATOR_HOST: set, update, push, get, export", () => values(EMULATOR), 240_000);
test("FIREBASE_DATABASE_EMULATOR_HOST: queries", () => queries(EMULATOR), 240_000);
test("FIREBASE_DATABASE_EMULATOR_HOST: import", () => load(EMULATOR), 240_000);
test("FIREBASE_REALTIME_URL: set, update, push, get, export", () => values(SERVER), 240_000);

// Against an emulator the CLI asks before it removes anything, whatever --force says.
test("FIREBASE_REALTIME_URL: import, remove", async () => {
  await load(SERVER);
  await firebase(SERVER, "database:remove", "/big", "--force");
  assert.equal(await rest("GET", "/big.json", undefined, NS), null);
}, 240_000);

await run();
