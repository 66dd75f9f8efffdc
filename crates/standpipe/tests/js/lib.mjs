// What every suite of this folder shares: cases and their deadlines, clients that are closed again, requests to
// whoever started the script (tests/it/sdk.rs), random numbers with a seed, and waiting for what arrives.
//
// A suite prints one line of JSON for each case: {"case", "ok", "error"?, "ms"}, and at the end {"done": count}.
// Started by hand: STANDPIPE_TOOLS=$PWD/target/tools node crates/standpipe/tests/js/modular.mjs 127.0.0.1:9000 [case]

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { inspect, isDeepStrictEqual } from "node:util";

/** The packages of `target/tools/node_modules`, which is no parent of this folder. */
export const require = createRequire(`${process.env.STANDPIPE_TOOLS}/package.json`);
export const address = process.argv[2];
export const [host, port] = [address.split(":")[0], Number(address.split(":")[1])];
const only = process.argv[3];

const cases = [];
const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** Adds a case. `body` gets a `Case`; it has `limit` milliseconds. */
export function test(name, body, limit = 20_000) {
  cases.push({ name, body, limit });
}

/** Plays all cases, one after the other. */
export async function run() {
  let failed = 0;
  for (const [number, { name, body, limit }] of cases.entries()) {
    if (only && !name.includes(only)) continue;
    const start = performance.now();
    const scene = new Case(name, number);
    let error;
    try {
      await within(body(scene), limit, `the case took longer than ${limit} ms`);
    } catch (thrown) {
      error = `${thrown?.stack ?? inspect(thrown)}${scene.seeded ? `\nSEED=${scene.seed}` : ""}`;
      failed += 1;
    }
    await within(scene.close(), 10_000, "").catch(() => {});
    print({ case: name, ok: !error, error, ms: Math.round(performance.now() - start) });
  }
  print({ done: cases.length });
  process.exit(failed ? 1 : 0);
}

/** One case while it runs: what it opens is closed at its end. */
export class Case {
  constructor(name, number) {
    this.name = name;
    /** A path, and a database, that no other case uses. */
    this.path = `case${number}`;
    this.ns = `case${number}-${process.pid}`;
    this.closers = [];
    this.seeded = false;
  }

  /** Runs `close` when the case has ended. */
  onEnd(close) {
    this.closers.push(close);
  }

  async close() {
    for (const close of this.closers.reverse()) await close();
  }

  /** Random whole numbers below a bound; a failing case prints the seed, SEED plays it again. */
  random() {
    this.seeded = true;
    this.seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
    let state = this.seed || 1;
    return (bound) => {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      return (state >>> 0) % bound;
    };
  }
}

/** `promise`, or an error when it takes longer than `ms`. */
export function within(promise, ms, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(what)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** What arrived so far, and waiting for more. */
export class Log {
  constructor() {
    this.items = [];
    this.waiting = [];
  }

  push(item) {
    this.items.push(item);
    this.waiting = this.waiting.filter((wake) => !wake());
  }

  /** Waits until `condition(items)` holds. */
  until(condition, ms = 10_000) {
    if (condition(this.items)) return Promise.resolve(this.items);
    const met = new Promise((resolve) => {
      this.waiting.push(() => condition(this.items) && (resolve(this.items), true));
    });
    return within(met, ms, "").catch(() => {
      throw new Error(`waited ${ms} ms; arrived: ${inspect(this.items.slice(-20), { depth: 6 })}`);
    });
  }

  /** Waits until the last item is deeply equal to `value`. */
  last(value, ms) {
    return this.until((items) => items.length > 0 && isDeepStrictEqual(items.at(-1), value), ms);
  }

  /** Waits for `values.length` items, which must be these, and no more. */
  async exactly(values) {
    await this.until((items) => items.length >= values.length).catch(() => {});
    assert.deepEqual(this.items, values);
  }

  /** Forgets what arrived. */
  clear() {
    this.items = [];
  }
}

let answers;

/** Asks the test that started this script for something (`restart`, `kill`, `start`) and waits until it is done. */
export async function ask(what) {
  answers ??= createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  print({ ask: what });
  const { value, done } = await answers.next();
  assert.ok(!done && value === "done", `${what}: ${value}`);
}

/** A request to the REST door as administrator of the emulator; gives the JSON of the answer. */
export async function rest(method, path, body, ns, credential = "owner") {
  const url = `http://${address}${path}${path.includes("?") ? "&" : "?"}ns=${ns}`;
  const headers = credential ? { authorization: `Bearer ${credential}` } : {};
  const response = await fetch(url, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
  return JSON.parse(text);
}

/** Puts rules in place. */
export const putRules = (ns, rules) => rest("PUT", "/.settings/rules.json", { rules }, ns);

/** The error that `promise` ends with; it must. */
export async function rejection(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("it should have failed");
}

export { assert };
