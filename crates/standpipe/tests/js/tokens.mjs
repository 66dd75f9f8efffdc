// The official SDK (modular and compat) with tokens of our own, by clients/js/standpipe-auth.mjs: who is let in, a
// refresh before the end, the server's word that a token is over, and signing out. The test's server has one key.
import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { setTimeout as pause } from "node:timers/promises";
import { useTokens } from "../../../../clients/js/standpipe-auth.mjs";

const require = createRequire(`${process.env.STANDPIPE_TOOLS}/package.json`);
const { initializeApp, deleteApp } = require("firebase/app");
const { getDatabase, ref, set, get, onValue, goOffline } = require("firebase/database");
const compat = require("firebase/compat/app").default;
require("firebase/compat/database");

const [address, binary, key] = process.argv.slice(2);
const databaseURL = `http://${address}`;
const mint = (...more) => execFileSync(binary, ["token", "--key", key, ...more]).toString().trim();

let apps = 0;
function client(fetchToken, options) {
  const app = initializeApp({ databaseURL }, `app-${apps++}`);
  const tokens = useTokens(app, fetchToken, { onError: (error) => console.error("token:", String(error)), ...options });
  return { app, tokens, db: getDatabase(app) };
}

async function until(what, holds) {
  for (let turn = 0; turn < 1000; turn++) {
    if (await holds()) return;
    await pause(20);
  }
  throw new Error(`never: ${what}`);
}

const refused = (promise) => promise.then(() => false, (error) => /denied/i.test(String(error)));
function expect(what, holds) {
  if (!holds) throw new Error(what);
}

// Allowed and denied by claims.
{
  const { app, tokens, db } = client(() => mint("--uid", "maya", "--claim", "role=editor"));
  await set(ref(db, "a"), 1);
  expect("it reads what it wrote", (await get(ref(db, "a"))).val() === 1);
  expect("the uid is known", tokens.uid === "maya");
  await deleteApp(app);
  const reader = client(async () => mint("--uid", "ben"));
  expect("a reader reads", (await get(ref(reader.db, "a"))).val() === 1);
  expect("a reader does not write", await refused(set(ref(reader.db, "a"), 2)));
  await deleteApp(reader.app);
  const nobody = client(() => null);
  expect("nobody does not read", await refused(get(ref(nobody.db, "a"))));
  // Signed in later, on the same connection.
  await deleteApp(nobody.app);
  let token = null;
  const later = client(() => token);
  expect("not yet", await refused(get(ref(later.db, "a"))));
  token = mint("--uid", "ann");
  await later.tokens.refresh();
  expect("now", (await get(ref(later.db, "a"))).val() === 1);
  token = null;
  await later.tokens.refresh();
  expect("not any more", await refused(get(ref(later.db, "mine/ann"))));
  await deleteApp(later.app);
  console.log("rules");
}

// Tokens that end every two seconds, renewed before they do: a listen never breaks.
{
  let asked = 0;
  const { app, db } = client(() => (asked++, mint("--uid", "maya", "--claim", "role=editor", "--ttl", "2s")));
  const seen = [];
  let cancelled = null;
  onValue(ref(db, "n"), (snapshot) => seen.push(snapshot.val()), (error) => (cancelled = error));
  let last = 0;
  const writes = async () => {
    await set(ref(db, "n"), ++last);
    return asked >= 5;
  };
  await until("five tokens", writes);
  await until("the last write", () => seen.at(-1) === last);
  expect(`the listen goes on: ${cancelled}`, cancelled === null);
  await deleteApp(app);
  console.log("refresh");
}

// A token that ends without a new one in time: the server says so, the SDK asks for a new one and comes back.
{
  let asked = 0;
  const life = () => (asked++ === 0 ? "2s" : "1h");
  const { app, tokens, db } = client(() => mint("--uid", "maya", "--ttl", life()));
  tokens.stop();
  const connected = [];
  onValue(ref(db, ".info/connected"), (snapshot) => connected.push(snapshot.val()));
  await get(ref(db, "a"));
  await until("the server ended it, and the SDK came back", () => asked >= 2 && connected.at(-1) === true);
  expect("it reads again", (await get(ref(db, "a"))).exists());
  await deleteApp(app);
  console.log("expiry");
}

// The older interface of the SDK.
{
  const app = compat.initializeApp({ databaseURL }, "compat");
  useTokens(app, () => mint("--uid", "maya", "--claim", "role=editor"));
  await app.database().ref("c").set(3);
  expect("compat reads", (await app.database().ref("c").get()).val() === 3);
  goOffline(getDatabase(app._delegate));
  await app.delete();
  console.log("compat");
}

console.log("done");
process.exit(0);
