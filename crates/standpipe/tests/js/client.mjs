// Clients of the modular SDK for a case, and the logs of what their listeners are told.

import { address, Case, host, Log, port, require } from "./lib.mjs";

const app = require("firebase/app");
/** All of `firebase/database`. */
export const sdk = require("firebase/database");
sdk.enableLogging(process.env.SDK_LOG ? (text) => process.stderr.write(`${text}\n`) : () => {});

let count = 0;

/** A client of its own connection. By its address where `emulator` is false, as production is reached. */
Case.prototype.client = function client({ ns = this.ns, emulator = true, user, projectId = "demo-standpipe" } = {}) {
  const databaseURL = emulator ? `https://${ns}.firebaseio.com` : `http://${address}?ns=${ns}`;
  const instance = app.initializeApp({ projectId, databaseURL }, `client${count++}`);
  const db = sdk.getDatabase(instance);
  if (emulator) sdk.connectDatabaseEmulator(db, host, port, user ? { mockUserToken: user } : undefined);
  this.onEnd(async () => {
    sdk.goOffline(db);
    await app.deleteApp(instance);
  });
  return db;
};

/** A reference below the path that only this case uses. */
Case.prototype.ref = function ref(db, path = "") {
  return sdk.ref(db, `${this.path}/${path}`);
};

/** Logs the values of a query, as the client shows them. */
export function values(query) {
  const log = new Log();
  log.stop = sdk.onValue(query, (snapshot) => log.push(snapshot.val()), (error) => log.push(`cancel ${error.code ?? error.message}`));
  return log;
}

/** Logs every event of a query as `name key=value after previous`. */
export function events(query) {
  const log = new Log();
  const show = (snapshot) => `${snapshot.key}=${JSON.stringify(snapshot.val())}`;
  sdk.onChildAdded(query, (child, previous) => log.push(`added ${show(child)} after ${previous}`));
  sdk.onChildChanged(query, (child, previous) => log.push(`changed ${show(child)} after ${previous}`));
  sdk.onChildMoved(query, (child, previous) => log.push(`moved ${show(child)} after ${previous}`));
  sdk.onChildRemoved(query, (child) => log.push(`removed ${show(child)}`));
  sdk.onValue(query, (snapshot) => log.push(`value ${JSON.stringify(snapshot.val())}`));
  return log;
}

/** Waits until a client is connected, or is not. */
export async function connected(db, state = true) {
  const log = values(sdk.ref(db, ".info/connected"));
  await log.last(state);
  log.stop();
}

const marks = new Map();

/** Waits until clients have been told everything written before this call by `writer`. */
export async function caughtUp(clients, writer, path) {
  const mark = `${Date.now()}-${count++}`;
  const readers = [clients].flat();
  // One listener for all calls, so that the mark comes as a change among changes.
  for (const db of readers) if (!marks.has(db)) marks.set(db, values(sdk.ref(db, `${path}-mark`)));
  await sdk.set(sdk.ref(writer, `${path}-mark`), mark);
  await Promise.all(readers.map((db) => marks.get(db).last(mark)));
}
