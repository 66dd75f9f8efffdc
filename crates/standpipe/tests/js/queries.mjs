// Queries of the modular SDK against an oracle: every order, bound and limit, on data that stands and on data that moves.

import { assert, Log, run, test } from "./lib.mjs";
import { caughtUp, sdk, values } from "./client.mjs";
import { shown } from "./oracle.mjs";

const {
  endAt, endBefore, equalTo, get, limitToFirst, limitToLast, onValue, orderByChild, orderByKey, orderByPriority, orderByValue,
  query, set, startAfter, startAt, update,
} = sdk;

const BOUND = { startAt, startAfter, endAt, endBefore, equalTo };
const BOUNDS = [
  [], ["startAt"], ["startAfter"], ["endAt"], ["endBefore"], ["equalTo"],
  ["startAt", "endAt"], ["startAt", "endBefore"], ["startAfter", "endAt"], ["startAfter", "endBefore"],
];
const LIMITS = [undefined, ["first", 1], ["first", 3], ["last", 1], ["last", 3], ["first", 100]];

/** The query of the SDK that `wanted` describes. */
function make(reference, { by, bounds = [], limit }) {
  const order = { $key: orderByKey, $value: orderByValue, $priority: orderByPriority }[by];
  const parts = [order ? order() : orderByChild(by), ...bounds.map(([name, ...bound]) => BOUND[name](...bound))];
  if (limit) parts.push(limit[0] === "first" ? limitToFirst(limit[1]) : limitToLast(limit[1]));
  return query(reference, ...parts);
}

function keysOf(snapshot) {
  const keys = [];
  snapshot.forEach((entry) => void keys.push(entry.key));
  return keys;
}

const KEYS = ["-3", "0", "7", "07", "12", "2147483648", "B", "a", "b", "é", "😀", "\uE000"];
const LEAVES = [false, true, -1, 0, 0.5, 3, 3, "", "3", "a", "z", "😀", "\uE000"];

/** A child as the oracle takes it; `value` has leaves at `n` and `deep/n`, or is one. */
const makeChild = (random, key) => {
  const leaf = () => LEAVES[random(LEAVES.length)];
  const value = random(4) === 0 ? leaf() : { n: leaf(), deep: random(3) ? { n: leaf() } : 1, name: key };
  return { key, value, priority: random(3) ? null : [1, 2, "p", "q"][random(4)] };
};

const exported = ({ value, priority }) => {
  if (priority === null) return value;
  return typeof value === "object" ? { ...value, ".priority": priority } : { ".value": value, ".priority": priority };
};

/** A bound of this kind for an order; now and then with a key as well. */
function bound(random, by, name) {
  if (by === "$key") return [name, KEYS[random(KEYS.length)]];
  const key = random(3) === 0 ? [KEYS[random(KEYS.length)]] : [];
  // Priorities are texts or numbers.
  const value = by === "$priority" ? [1, 2, "p", "q"][random(4)] : random(6) ? LEAVES[random(LEAVES.length)] : null;
  return [name, value, ...(value === null ? [] : key)];
}

async function everyQuery(t, by) {
  const random = t.random();
  const [writer, reader] = [t.client(), t.client()];
  const children = KEYS.map((key) => makeChild(random, key));
  await set(t.ref(writer), Object.fromEntries(children.map((child) => [child.key, exported(child)])));
  for (const names of BOUNDS) {
    for (const limit of LIMITS) {
      const wanted = { by, bounds: names.map((name) => bound(random, by, name)), limit };
      const snapshot = await get(make(t.ref(reader), wanted));
      assert.deepEqual(keysOf(snapshot), shown(children, wanted), JSON.stringify(wanted));
    }
  }
}

test("orderByKey with every bound and limit", (t) => everyQuery(t, "$key"), 30_000);
test("orderByValue with every bound and limit", (t) => everyQuery(t, "$value"), 30_000);
test("orderByPriority with every bound and limit", (t) => everyQuery(t, "$priority"), 30_000);
test("orderByChild with every bound and limit", (t) => everyQuery(t, "n"), 30_000);
test("orderByChild of a deep path with every bound and limit", (t) => everyQuery(t, "deep/n"), 30_000);

/** One random write below the list: to the model, and to the database. */
function step(random, model) {
  const changes = {};
  for (let count = 1 + random(3); count > 0; count--) {
    const key = KEYS[random(KEYS.length)];
    if (Object.keys(changes).some((path) => path.split("/")[0] === key)) continue;
    const child = model.get(key);
    const deep = child && typeof child.value === "object" && random(3) === 0;
    if (child && random(4) === 0) {
      model.delete(key);
      changes[key] = null;
    } else if (deep) {
      const leaf = LEAVES[random(LEAVES.length)];
      model.set(key, { ...child, value: { ...child.value, n: leaf } });
      changes[`${key}/n`] = leaf;
    } else {
      const made = makeChild(random, key);
      model.set(key, made);
      changes[key] = exported(made);
    }
  }
  return changes;
}

async function movingWindows(t, orders) {
  const random = t.random();
  const [writer, reader] = [t.client(), t.client()];
  const queries = [];
  for (const by of orders) {
    for (const limit of LIMITS.slice(0, 5)) {
      for (const names of [[], ["startAt"], ["endBefore"], ["startAfter", "endAt"], ["equalTo"]]) {
        // Beside a listener of everything the SDK asks the server for no windows: it cuts them itself, and is wrong where
        // one write moves several children. That is nothing of ours, and would hide what is.
        if (!limit && !names.length) continue;
        queries.push({ by, limit, bounds: names.map((name) => bound(random, by, name)) });
      }
    }
  }
  const views = queries.map((wanted) => {
    const view = new Log();
    onValue(make(t.ref(reader), wanted), (snapshot) => view.push({ keys: keysOf(snapshot), value: snapshot.val() }), (error) => view.push({ keys: [`${error}`] }));
    return view;
  });
  const model = new Map();
  await Promise.all(views.map((view) => view.until((items) => items.length > 0)));
  for (let turn = 0; turn < 60; turn++) {
    const changes = step(random, model);
    // Every eighth write replaces everything: windows are made anew.
    if (turn % 8 === 7) await set(t.ref(writer), Object.fromEntries([...model].map(([key, child]) => [key, exported(child)])));
    else await update(t.ref(writer), changes);
    await caughtUp(reader, writer, t.path);
    for (const [number, wanted] of queries.entries()) {
      const keys = shown([...model.values()], wanted);
      const now = views[number].items.at(-1);
      const what = `turn ${turn}, ${JSON.stringify(wanted)}, after ${JSON.stringify(changes)}`;
      assert.deepEqual(now.keys, keys, what);
      for (const key of keys) assert.deepEqual(new Map(Object.entries(now.value)).get(key), model.get(key).value, what);
    }
  }
}

test("windows that move: orderByKey and orderByPriority", (t) => movingWindows(t, ["$key", "$priority"]), 90_000);
test("windows that move: orderByValue", (t) => movingWindows(t, ["$value"]), 90_000);
test("windows that move: orderByChild", (t) => movingWindows(t, ["n", "deep/n"]), 90_000);

test("a window alone on its connection is told what moves in", async (t) => {
  const [writer, reader] = [t.client(), t.client()];
  await set(t.ref(writer), { a: { n: 1 }, b: { n: 2 }, c: { n: 3 } });
  const seen = values(query(t.ref(reader), orderByChild("n"), limitToLast(2)));
  await seen.last({ b: { n: 2 }, c: { n: 3 } });
  await set(t.ref(writer, "c"), null);
  await seen.last({ a: { n: 1 }, b: { n: 2 } });
  await set(t.ref(writer, "a/n"), 9);
  await seen.last({ a: { n: 9 }, b: { n: 2 } });
  await set(t.ref(writer, "d"), { n: 5 });
  await seen.last({ a: { n: 9 }, d: { n: 5 } });
});

test("random windows, each alone on its connection", async (t) => {
  const random = t.random();
  const writer = t.client();
  const orders = ["$key", "$value", "$priority", "n", "deep/n"];
  const queries = Array.from({ length: 15 }, (_, number) => {
    const by = orders[number % orders.length];
    const names = BOUNDS[random(BOUNDS.length)];
    return { by, limit: LIMITS[1 + random(4)], bounds: names.map((name) => bound(random, by, name)) };
  });
  const readers = queries.map(() => t.client());
  const views = queries.map((wanted, number) => {
    const view = new Log();
    onValue(make(t.ref(readers[number]), wanted), (snapshot) => view.push(keysOf(snapshot)));
    return view;
  });
  const model = new Map();
  await Promise.all(views.map((view) => view.until((items) => items.length > 0)));
  for (let turn = 0; turn < 40; turn++) {
    const changes = step(random, model);
    await update(t.ref(writer), changes);
    await caughtUp(readers, writer, t.path);
    for (const [number, wanted] of queries.entries()) {
      const what = `turn ${turn}, ${JSON.stringify(wanted)}, after ${JSON.stringify(changes)}`;
      assert.deepEqual(views[number].items.at(-1), shown([...model.values()], wanted), what);
    }
  }
}, 90_000);

await run();
