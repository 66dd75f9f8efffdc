// One browser test: node browser.mjs SCENARIO URL MODULES CHROMIUM. It serves the page and the SDK from MODULES, has
// Chromium open it, and prints one line of JSON for each thing that was seen; the last is {"done": true}. A line
// {"restart": true} asks for a restart of the server, which the pages notice by themselves.
import { createRequire } from 'node:module';
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const [scenario, url, modules, chromium] = process.argv.slice(2);
const require = createRequire(path.join(modules, 'x.js'));
const puppeteer = require('puppeteer-core');
const LIMIT = 20_000;
const here = path.dirname(fileURLToPath(import.meta.url));
const say = (line) => process.stdout.write(JSON.stringify(line) + '\n');

async function serve() {
  const app = path.join(modules, 'firebase', 'firebase-app.js');
  const sdk = await readFile(path.join(modules, 'firebase', 'firebase-database.js'));
  const gstatic = /https:\/\/www\.gstatic\.com\/firebasejs\/[\d.]+\/firebase-app\.js/.exec(sdk.toString())[0];
  const files = {
    '/page.html': ['text/html', (await readFile(path.join(here, 'page.html'), 'utf8')).replace('GSTATIC', gstatic)],
    '/page.mjs': ['text/javascript', await readFile(path.join(here, 'page.mjs'))],
    '/firebase-app.js': ['text/javascript', await readFile(app)],
    '/firebase-database.js': ['text/javascript', sdk],
  };
  const server = http.createServer((request, response) => {
    const [type, body] = files[request.url] ?? [];
    response.writeHead(body ? 200 : 404, { 'content-type': type ?? 'text/plain' });
    response.end(body ?? '');
  });
  await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
  return server;
}

// A page with a profile of its own, and what it asks the server for.
async function open(browser, site, name, { polling = false, before = () => {} } = {}) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  const traffic = { polls: 0, sockets: [] };
  const cdp = await page.createCDPSession();
  await cdp.send('Network.enable');
  cdp.on('Network.webSocketCreated', (event) => traffic.sockets.push(event.url));
  cdp.on('Network.requestWillBeSent', (event) => (traffic.polls += event.request.url.includes('/.lp?') ? 1 : 0));
  const broken = [];
  page.on('pageerror', (error) => broken.push(String(error)));
  page.on('console', (message) => process.env.VERBOSE && console.error(name, message.text()));
  await page.evaluateOnNewDocument(before);
  await page.goto(`http://127.0.0.1:${site.address().port}/page.html`);
  await page.waitForFunction(() => window.words, { timeout: LIMIT });
  const call = (word, ...args) => page.evaluate((word, args) => window.words[word](...args), word, args);
  // Waits until the page has seen `count` things like `part`.
  const wait = (part, count = 1) =>
    page
      .waitForFunction(
        (part, count) => {
          const like = (seen) => Object.keys(part).every((key) => JSON.stringify(seen[key]) === JSON.stringify(part[key]));
          return window.words.seen().filter(like).length >= count;
        },
        { timeout: LIMIT, polling: 20 },
        part,
        count,
      )
      .catch(async () => {
        throw new Error(`${name} never saw ${JSON.stringify(part)} ${count} times, but ${JSON.stringify(await call('seen'))}`);
      });
  await call('open', url, polling);
  return { context, page, call, wait, traffic, broken, seen: () => call('seen') };
}

function noSocket() {
  // A proxy that knows no WebSocket: the connection opens and dies.
  window.WebSocket = class {
    constructor() {
      setTimeout(() => this.onclose?.({}), 0);
    }
    send() {}
    close() {}
  };
}

const failedBefore = () => localStorage.setItem('firebase:previous_websocket_failure', 'true');

async function seeEachOther(one, two, key) {
  await one.call('listen', key);
  await two.call('listen', key);
  await one.wait({ path: key, value: null });
  await two.wait({ path: key, value: null });
  await one.call('set', key, { text: 'from one é🦊\u2028', n: 1, ['__proto__x']: true });
  await two.wait({ path: key, value: { __proto__x: true, n: 1, text: 'from one é🦊\u2028' } });
  await two.call('set', key, 'from two');
  await one.wait({ path: key, value: 'from two' });
  say({ seen: key });
}

// A crash and a new start in between: both come back by themselves.
async function restart(pages) {
  await Promise.all(pages.map((page) => page.wait({ connected: true })));
  say({ restart: true });
  await Promise.all(pages.map((page) => page.wait({ connected: false }, 2)));
  await Promise.all(pages.map((page) => page.wait({ connected: true }, 2)));
}

const scenarios = {
  async sockets(browser, site) {
    const [one, two] = [await open(browser, site, 'one'), await open(browser, site, 'two')];
    await seeEachOther(one, two, 'before');
    say({ polls: one.traffic.polls + two.traffic.polls, sockets: one.traffic.sockets.length > 0 });
    // After that a page may come back by long polling: it does not know why its socket failed.
    await restart([one, two]);
    await two.wait({ path: 'before', value: 'from two' });
    await seeEachOther(two, one, 'after');
    return [one, two];
  },

  async polling(browser, site) {
    const one = await open(browser, site, 'one', { polling: true });
    const two = await open(browser, site, 'two', { before: noSocket });
    await seeEachOther(one, two, 'before');
    // Longer than an address may be, so in many pieces.
    const long = '0123456789 é🦊 '.repeat(2_000);
    await one.call('set', 'long', long);
    say({ long: (await two.call('get', 'long')) === long });
    say({ added: await one.call('add', 'count'), count: await two.call('get', 'count') });
    await restart([one, two]);
    await seeEachOther(two, one, 'after');
    // A page that goes away says so, and what it left is done at once.
    await two.call('listen', 'here');
    await one.call('armed', 'here', 'gone');
    await one.call('set', 'here', 'yes');
    await two.wait({ path: 'here', value: 'yes' });
    await one.page.close();
    await two.wait({ path: 'here', value: 'gone' });
    say({ polls: two.traffic.polls > 0, sockets: one.traffic.sockets.length });
    return [two];
  },

  async upgrade(browser, site) {
    const two = await open(browser, site, 'two');
    await two.wait({ connected: true });
    const one = await open(browser, site, 'one', { before: failedBefore });
    await one.call('children', 'list');
    await one.call('armed', 'here', 'gone');
    // While it moves from one transport to the other, both write as fast as they can.
    const [all, half] = [400, 200];
    const pushing = [one.call('pushAll', 'list', 0, half), two.call('pushAll', 'list', half, all)];
    await Promise.all(pushing);
    await one.wait({ path: 'list' }, all);
    const mine = (await one.seen()).filter((seen) => seen.path === 'list').map((seen) => seen.value);
    const theirs = Object.values(await two.call('get', 'list'));
    const whole = (values) => [...new Set(values)].sort((a, b) => a - b).every((value, index) => value === index);
    say({ count: mine.length, whole: whole(mine) && whole(theirs), theirs: theirs.length });
    const moved = one.traffic.sockets.filter((socket) => /[?&]s=/.test(socket)).length;
    // The mark is gone once a socket is trusted.
    await one.page.waitForFunction(() => localStorage.getItem('firebase:previous_websocket_failure') === null, {
      timeout: LIMIT,
    });
    const polls = one.traffic.polls;
    await two.call('listen', 'after');
    await two.wait({ path: 'after', value: null });
    for (let n = 0; n < 5; n++) {
      await one.call('set', 'after', n);
      await two.wait({ path: 'after', value: n });
    }
    // The session is the same: nothing it left was done, and no transport was lost.
    const connected = (await one.seen()).filter((seen) => 'connected' in seen).map((seen) => seen.connected);
    say({ moved, connected, here: await two.call('get', 'here'), polls: one.traffic.polls - polls <= 2 });
    await two.call('listen', 'here');
    await one.page.close();
    await two.wait({ path: 'here', value: 'gone' });
    return [two];
  },
};

const site = await serve();
const browser = await puppeteer.launch({
  executablePath: chromium,
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-proxy-server'],
});
try {
  const pages = await scenarios[scenario](browser, site);
  const broken = pages.flatMap((page) => page.broken);
  say({ done: broken.length === 0, broken });
} catch (error) {
  say({ failed: String(error?.stack ?? error) });
} finally {
  await browser.close();
  site.close();
  process.exit(0);
}
