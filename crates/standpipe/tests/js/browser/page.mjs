// What a page of the browser test does: an app of the official SDK, and words that the test calls.
import { initializeApp } from 'firebase/app';
import * as sdk from 'firebase/database';

const seen = [];
let database;

function at(path) {
  return sdk.ref(database, path);
}

window.words = {
  // Opens the database; `polling` is all that this app may use.
  open(url, polling) {
    if (polling) sdk.forceLongPolling();
    database = sdk.getDatabase(initializeApp({ databaseURL: url }));
    sdk.onValue(at('.info/connected'), (snapshot) => seen.push({ connected: snapshot.val() }));
  },
  // Everything that comes of a path goes where `wait` looks.
  listen(path) {
    sdk.onValue(at(path), (snapshot) => seen.push({ path, value: snapshot.val() }), (error) => seen.push({ path, error: error.message }));
  },
  children(path) {
    sdk.onChildAdded(at(path), (snapshot) => seen.push({ path, child: snapshot.key, value: snapshot.val() }));
  },
  set: (path, value) => sdk.set(at(path), value),
  get: async (path) => (await sdk.get(at(path))).val(),
  push: (path, value) => sdk.push(at(path), value).then(() => null),
  // All at once, so that they travel however the connection does at the moment.
  pushAll: (path, from, to) =>
    Promise.all(Array.from({ length: to - from }, (_, n) => sdk.push(at(path), from + n))).then(() => null),
  add: (path) => sdk.runTransaction(at(path), (value) => (value ?? 0) + 1).then((result) => result.committed),
  armed: (path, value) => sdk.onDisconnect(at(path)).set(value),
  offline: () => sdk.goOffline(database),
  online: () => sdk.goOnline(database),
  seen: () => seen,
};
