// `@firebase/rules-unit-testing`: rules as its users test them, and every method and operator of the language through it.

import { address, assert, host, port, require, rest, run, test } from "./lib.mjs";

const { assertFails, assertSucceeds, initializeTestEnvironment } = require("@firebase/rules-unit-testing");
// The contexts give databases of the compat SDK.
require("firebase/compat/database");

async function environment(t, rules, how = { host, port }) {
  const env = await initializeTestEnvironment({ projectId: t.ns, database: { ...how, rules: typeof rules === "string" ? rules : JSON.stringify({ rules }) } });
  t.onEnd(() => env.cleanup());
  return env;
}

/** Puts data in place with the rules disabled. */
const seed = (env, data) => env.withSecurityRulesDisabled((context) => context.database().ref().set(data));

test("contexts: authenticated, with claims, unauthenticated, rules disabled, clearDatabase", async (t) => {
  const env = await environment(t, {
    users: { $uid: { ".read": "auth.uid === $uid", ".write": "auth.uid === $uid" } },
    staff: { ".read": "auth.token.role === 'staff'", ".write": "auth.token.email_verified === true" },
  });
  await seed(env, { users: { maya: { name: "Maya" } }, staff: 1 });
  const maya = env.authenticatedContext("maya", { role: "staff" }).database();
  const anonymous = env.unauthenticatedContext().database();
  await assertSucceeds(maya.ref("users/maya").once("value"));
  await assertSucceeds(maya.ref("users/maya/name").set("M"));
  await assertSucceeds(maya.ref("staff").get());
  await assertFails(maya.ref("staff").set(2));
  await assertFails(maya.ref("users/ben").once("value"));
  await assertFails(anonymous.ref("users/maya").once("value"));
  await assertFails(anonymous.ref("users/maya").set(1));
  await assertSucceeds(env.authenticatedContext("ben", { email_verified: true }).database().ref("staff").set(2));
  await env.clearDatabase();
  await env.withSecurityRulesDisabled(async (context) => {
    assert.equal((await context.database().ref().once("value")).exists(), false);
  });
});

test("discovery: the hub's answer names the database", async (t) => {
  const answer = await (await fetch(`http://${address}/emulators`)).json();
  assert.equal(answer.database.port, port);
  const [hubHost, hubPort] = address.split(":");
  const env = await initializeTestEnvironment({
    projectId: t.ns, hub: { host: hubHost, port: Number(hubPort) }, database: { rules: '{"rules": {".read": true}}' },
  });
  t.onEnd(() => env.cleanup());
  assert.deepEqual(env.emulators.database, { host: answer.database.host, port });
  await assertSucceeds(env.unauthenticatedContext().database().ref("a").get());
});

test("discovery: FIREBASE_DATABASE_EMULATOR_HOST", async (t) => {
  const env = await environment(t, { ".read": true }, {});
  await assertSucceeds(env.unauthenticatedContext().database().ref("a").get());
});

test("rules that do not compile are refused with their place", async (t) => {
  await assert.rejects(environment(t, '{"rules": {".read": "nobody != null"}}'), /\d+:\d+: /);
  await assert.rejects(environment(t, '{"rules": {'), /\d+:\d+: /);
});

test("every operation is judged", async (t) => {
  const env = await environment(t, { yes: { ".read": true, ".write": true }, no: {} });
  const db = env.authenticatedContext("maya").database();
  const operations = (path) => [
    () => db.ref(path).once("value"), () => db.ref(path).get(), () => db.ref(path).orderByKey().limitToFirst(1).get(),
    () => db.ref(path).set(1), () => db.ref(path).setWithPriority(1, 2), () => db.ref(path).setPriority(3),
    () => db.ref(path).update({ a: 1 }), () => db.ref(path).push(1), () => db.ref(path).transaction(() => 5),
    () => db.ref(path).onDisconnect().set(1), () => db.ref(path).onDisconnect().update({ a: 1 }), () => db.ref(path).onDisconnect().remove(),
    () => db.ref().update({ [`${path}/a`]: 1, "yes/b": 2 }), () => db.ref(path).remove(),
  ];
  for (const operation of operations("yes/x")) await assertSucceeds(operation());
  for (const operation of operations("no/x")) await assertFails(operation());
});

test("write and validate: cascade, ancestors, removal, whole updates", async (t) => {
  const env = await environment(t, {
    rooms: { ".write": "auth != null", $room: { ".validate": "newData.hasChildren(['name'])", name: { ".validate": "newData.isString()" }, size: { ".validate": "newData.isNumber()" }, $other: { ".validate": false } } },
  });
  const db = env.authenticatedContext("maya").database();
  await assertSucceeds(db.ref("rooms/a").set({ name: "A", size: 2 }));
  await assertFails(db.ref("rooms/b").set({ size: 2 }));
  await assertFails(db.ref("rooms/b").set({ name: 5 }));
  await assertFails(db.ref("rooms/a/color").set("red"));
  await assertFails(db.ref("rooms/a/name").remove());
  await assertSucceeds(db.ref("rooms/a/size").remove());
  await assertFails(db.ref().update({ "rooms/a/size": 3, "rooms/b/size": 4 }));
  assert.equal((await rest("GET", "/rooms/a/size.json", undefined, t.ns)), null);
  await assertSucceeds(db.ref("rooms/a").remove());
});

test("a literal child wins over $other; grants cascade down, never up", async (t) => {
  const env = await environment(t, { list: { $any: { ".read": true, inner: { ".read": false } }, fixed: {} } });
  const db = env.unauthenticatedContext().database();
  await assertSucceeds(db.ref("list/x").get());
  await assertSucceeds(db.ref("list/x/inner/deep").get());
  await assertFails(db.ref("list/fixed").get());
  await assertFails(db.ref("list").get());
});

test("query-based rules", async (t) => {
  const env = await environment(t, {
    feed: { ".indexOn": ["owner", "n"], ".read": "query.orderByChild === 'owner' && query.equalTo === auth.uid" },
    pages: { ".read": "query.orderByKey && query.limitToFirst <= 10" },
    few: { ".indexOn": ".value", ".read": "query.orderByValue && query.limitToLast === 1 && query.startAt === 2" },
  });
  await seed(env, { feed: { a: { owner: "maya" }, b: { owner: "ben" } }, pages: { a: 1 }, few: { a: 2 } });
  const db = env.authenticatedContext("maya").database();
  const read = await db.ref("feed").orderByChild("owner").equalTo("maya").once("value");
  assert.deepEqual(read.val(), { a: { owner: "maya" } });
  await assertFails(db.ref("feed").orderByChild("owner").equalTo("ben").once("value"));
  await assertFails(db.ref("feed").once("value"));
  await assertSucceeds(db.ref("pages").orderByKey().limitToFirst(10).get());
  await assertFails(db.ref("pages").orderByKey().limitToFirst(11).get());
  await assertFails(db.ref("pages").get());
  await assertSucceeds(db.ref("few").orderByValue().startAt(2).limitToLast(1).get());
  await assertFails(db.ref("few").orderByValue().startAt(1).limitToLast(1).get());
});

/** The data that the tables below are judged on. */
const DATA = { n: 5, zero: 0, text: "Hello", empty: "", yes: true, no: false, deep: { a: { b: 1 }, c: "x" }, prio: { ".value": 1, ".priority": 3 } };

/** Rules of `.read`, each with its verdict for the user `maya`. */
const READS = [
  ["true", 1], ["false", 0], ["!false", 1], ["!(1 == 1)", 0], ["true && true", 1], ["true && false", 0], ["false || true", 1], ["false || false", 0],
  ["true ? true : false", 1], ["1 < 2 ? false : true", 0], ["(false || true) && true", 1],
  ["5 == 5", 1], ["5 === 5.0", 1], ["5 == '5'", 0], ["5 != '5'", 1], ["'a' !== 'b'", 1], ["null == null", 1],
  ["1 < 2", 1], ["2 < 1", 0], ["2 <= 2", 1], ["3 > 2", 1], ["2 >= 3", 0], ["'a' < 'b'", 1], ["'b' <= 'a'", 0], ["'10' < '9'", 1],
  ["1 + 2 == 3", 1], ["'a' + 'b' == 'ab'", 1], ["'a' + 1 == 'a1'", 1], ["5 - 3 == 2", 1], ["2 * 3 == 6", 1], ["7 / 2 == 3.5", 1], ["7 % 4 == 3", 1], ["-(2) == 0 - 2", 1], ["1 + 2 * 3 == 7", 1],
  ["auth != null", 1], ["auth.uid == 'maya'", 1], ["auth['uid'] == 'maya'", 1], ["auth.token.level == 3", 1], ["auth.token.missing == null", 1], ["auth.provider == 'custom'", 1],
  ["auth.token.level > 2 && auth.token.role == 'staff'", 1],
  ["now > 1600000000000", 1], ["now < 1600000000000", 0],
  ["root.child('n').val() == 5", 1], ["root.child('deep/a/b').val() == 1", 1], ["root.child('missing').val() == null", 1], ["root.child('deep').child('a').child('b').exists()", 1],
  ["root.child('n').exists()", 1], ["root.child('missing').exists()", 0], ["root.hasChild('deep/c')", 1], ["root.hasChild('deep/d')", 0],
  ["root.child('deep').hasChildren()", 1], ["root.child('n').hasChildren()", 0], ["root.child('deep').hasChildren(['a', 'c'])", 1], ["root.child('deep').hasChildren(['a', 'z'])", 0],
  ["root.child('n').isNumber()", 1], ["root.child('text').isNumber()", 0], ["root.child('text').isString()", 1], ["root.child('n').isString()", 0], ["root.child('yes').isBoolean()", 1], ["root.child('n').isBoolean()", 0],
  ["root.child('prio').getPriority() == 3", 1], ["root.child('n').getPriority() == null", 1],
  ["root.child('deep/c').parent().child('a/b').val() == 1", 1], ["data.parent().exists()", 0], ["data.parent().parent().exists()", 1], ["root.parent().exists()", 0],
  ["root.child('yes').val() == true", 1], ["root.child('no').val() == true", 0], ["root.child('zero').val() == 0", 1],
  ["root.child('text').val().length == 5", 1], ["root.child('empty').val().length == 0", 1], ["'abc'.length == 3", 1],
  ["'hello'.contains('ell')", 1], ["'hello'.contains('x')", 0], ["'hello'.beginsWith('he')", 1], ["'hello'.beginsWith('lo')", 0], ["'hello'.endsWith('lo')", 1], ["'hello'.endsWith('he')", 0],
  ["'a-b-c'.replace('-', '+') == 'a+b+c'", 1], ["'aBc'.toLowerCase() == 'abc'", 1], ["'aBc'.toUpperCase() == 'ABC'", 1],
  ["'a1'.matches(/^[a-z][0-9]$/)", 1], ["'A1'.matches(/^[a-z][0-9]$/)", 0], ["'A1'.matches(/^[a-z][0-9]$/i)", 1], ["root.child('text').val().matches(/^H.*o$/)", 1],
  ["$key == 'r0' || true", 1], ["$key.beginsWith('r')", 1],
  // An error is never true, and || does not rescue it; what is not reached does no harm.
  ["root.child('missing').val() + 1 == 1", 0], ["root.child('missing').val() < 1", 0], ["root.child('missing').val() + 1 == 1 || true", 0], ["true || root.child('missing').val() + 1 == 1", 1],
  ["root.child('text').val() < 5", 0], ["root.child('yes').val() + 1 == 2", 0], ["root.child('missing').val().length == 0", 0], ["root.child('n').val().contains('5')", 0],
];

test("every method and operator, in reads", async (t) => {
  const env = await environment(t, {});
  await seed(env, DATA);
  const db = env.authenticatedContext("maya", { level: 3, role: "staff" }).database();
  for (const [rule, allowed] of READS) {
    await rest("PUT", "/.settings/rules.json", { rules: { list: { $key: { ".read": rule } } } }, t.ns).catch((error) => assert.fail(`${rule}: ${error}`));
    const granted = await db.ref("list/r0").get().then(() => 1, () => 0);
    assert.equal(granted, allowed, rule);
  }
}, 60_000);

/** Rules of `.write` and `.validate` at `w`, what is written there, and the verdict; `5` is there before. */
const WRITES = [
  ["newData.val() == 7", "true", 7, 1], ["newData.val() == 7", "true", 8, 0], ["data.val() == 5", "true", 7, 1], ["!data.exists()", "true", 7, 0],
  ["newData.exists()", "true", null, 0], ["!newData.exists()", "true", null, 1], ["true", "newData.isNumber()", 1, 1], ["true", "newData.isNumber()", "x", 0], ["true", "newData.isNumber()", null, 1],
  ["true", "newData.isString() && newData.val().length < 5", "abc", 1], ["true", "newData.isString() && newData.val().length < 5", "abcdef", 0],
  ["true", "newData.hasChildren(['a', 'b'])", { a: 1, b: 2 }, 1], ["true", "newData.hasChildren(['a', 'b'])", { a: 1 }, 0], ["true", "newData.child('a').val() > 1", { a: 2 }, 1],
  ["newData.val() == data.val() + 1", "true", 6, 1], ["newData.val() == data.val() + 1", "true", 7, 0], ["true", "newData.val() == now", { ".sv": "timestamp" }, 1],
  ["newData.parent().child('other').val() == 'o'", "true", 1, 1], ["root.child('w').val() == 5", "true", 1, 1], ["true", "newData.getPriority() != null", { ".value": 1, ".priority": 2 }, 1], ["true", "newData.getPriority() != null", 1, 0],
];

test("newData and data, in writes", async (t) => {
  const env = await environment(t, {});
  const db = env.authenticatedContext("maya").database();
  for (const [write, validate, value, allowed] of WRITES) {
    await seed(env, { w: 5, other: "o" });
    await rest("PUT", "/.settings/rules.json", { rules: { w: { ".write": write, ".validate": validate } } }, t.ns);
    const granted = await db.ref("w").set(value).then(() => 1, () => 0);
    assert.equal(granted, allowed, JSON.stringify([write, validate, value]));
  }
}, 60_000);

/** What must not compile. */
const WRONG = [
  "auth.uid && true", "1", "'a'", "nobody", "$undeclared == 'x'", "newData.exists()", "root", "root == data", "root.val", "root.nothing()", "root.child()", "root.child(1)", "root.hasChildren('a')",
  "root.hasChildren([])", "['a'] == null", "'a'.matches('b')", "root['exi' + 'sts']()", "auth = null", "2 ** 3 == 8", "true;", "!5", "'a'.contains(5)", "true ?", "(true", "true)", "'open", "/a/ == 1", "1 ? true : false",
];

test("what must not compile does not", async (t) => {
  for (const rule of WRONG) {
    const put = rest("PUT", "/.settings/rules.json", { rules: { ".read": rule } }, t.ns).then(() => "was accepted", (error) => error.message);
    assert.match(await put, /400 .*\d+:\d+: /, rule);
  }
});

await run();
