// The load of `bench firebase`: the official JavaScript SDK, the same for every server. It prints how many
// answers or events it got and in how many milliseconds, or `ready` and holds what it holds until stdin ends.
'use strict';
const { initializeApp } = require('firebase/app');
const { getDatabase, goOffline, onValue, ref, set } = require('firebase/database');

const [address, mode, ...numbers] = process.argv.slice(2);
const [first, second, third] = numbers.map(Number);

// An app is a connection.
function connect(name) {
  return getDatabase(initializeApp({ databaseURL: `http://${address}?ns=default` }, name));
}

// Keeps `window` sets on their way for so many seconds; gives the number that was answered.
async function sets(database, seconds, window, paths) {
  const until = Date.now() + seconds * 1000;
  let answered = 0;
  const one = async (start) => {
    for (let i = start; Date.now() < until; i += window) {
      await set(ref(database, `bench/k${i % paths}`), i);
      answered += 1;
    }
  };
  await Promise.all(Array.from({ length: window }, (_, start) => one(start)));
  return answered;
}

// Resolves when the listen has its first value.
function listen(database, path, heard) {
  return new Promise((resolve, reject) => onValue(ref(database, path), () => { heard(); resolve(); }, reject));
}

const modes = {
  async sets() {
    const database = connect('writer');
    await set(ref(database, 'bench/warm'), 0);
    const begun = Date.now();
    const answered = await sets(database, first, second, 1000);
    console.log(answered, Date.now() - begun);
  },
  async events() {
    let events = 0;
    const watchers = Array.from({ length: second }, (_, i) => connect(`watcher${i}`));
    await Promise.all(watchers.map((database) => listen(database, 'bench/k0', () => { events += 1; })));
    const begun = Date.now();
    events = 0;
    await sets(connect('writer'), first, third, 1);
    console.log(events, Date.now() - begun);
  },
  async listens() {
    const databases = Array.from({ length: second }, (_, i) => connect(`listener${i}`));
    for (const [n, database] of databases.entries()) {
      const paths = Array.from({ length: first }, (_, i) => `listens/${n}/k${i}`);
      await Promise.all(paths.map((path) => listen(database, path, () => {})));
    }
    console.log('ready');
    await new Promise((resolve) => process.stdin.on('end', resolve).resume());
    databases.forEach(goOffline);
  },
};

modes[mode]().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
