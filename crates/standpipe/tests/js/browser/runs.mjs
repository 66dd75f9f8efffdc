// One test of the page of a run: node runs.mjs SCENARIO URL MODULES CHROMIUM SECRET. It starts runs as an operator,
// has Chromium open their pages, and prints one line of JSON for each thing that was seen; the last is {"done": true}. A
// line {"restart": true} asks for a crash and a new start of the server.
//
// What a run writes is what this script writes into a named pipe that the run reads.
import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';

const [scenario, url, modules, chromium, secret] = process.argv.slice(2);
const require = createRequire(path.join(modules, 'x.js'));
const puppeteer = require('puppeteer-core');
const LIMIT = 40_000;
const dir = mkdtempSync(path.join(os.tmpdir(), 'run-page-'));
const say = (line) => process.stdout.write(JSON.stringify(line) + '\n');

async function ask(method, target, body, { token = secret } = {}) {
  const headers = { 'content-type': 'application/json' };
  if (token) headers.authorization = `Bearer ${token}`;
  const answer = await fetch(`${url}${target}`, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${method} ${target}: ${answer.status} ${text}`);
  return text && JSON.parse(text);
}

/** A run whose output this script writes: `write` text, then `end`. */
async function run(name, { exit = 0, more = {} } = {}) {
  const fifo = path.join(dir, `${name}.fifo`);
  execFileSync('mkfifo', [fifo]);
  const shell = `exec 9<'${fifo}'; while IFS= read -r line <&9; do printf '%b' "$line"; done; exit ${exit}`;
  const { id } = await ask('POST', '/runs', { name, argv: ['bash', '-c', shell], ...more });
  const file = openSync(fifo, 'r+');
  const write = (text) => {
    const bytes = Buffer.from(text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n') + '\n');
    for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at);
  };
  return { id, write, end: () => closeSync(file) };
}

class Page {
  constructor(page) {
    this.page = page;
    this.broken = [];
    page.on('pageerror', (error) => this.broken.push(String(error)));
    page.on('console', (message) => {
      const text = message.text();
      // The browser's own word for what the page expects: no answer, a refusal, a connection that is gone.
      if (message.type() === 'error' && !/Failed to load resource|WebSocket connection/.test(text)) this.broken.push(text);
    });
    page.on('dialog', (dialog) => {
      this.broken.push(`dialog ${dialog.message()}`);
      dialog.dismiss();
    });
  }

  static async open(browser, id, { hash = '', viewport = { width: 1_000, height: 700 } } = {}) {
    const context = await browser.createBrowserContext();
    const page = new Page(await context.newPage());
    await page.page.setViewport(viewport);
    await page.goto(id, hash);
    return page;
  }

  goto(id, hash = '') {
    return this.page.goto(`${url}/runs/${encodeURIComponent(id)}${hash}`);
  }

  /** Waits until `f(...args)`, in the page, is true. */
  async until(what, f, ...args) {
    await this.page.waitForFunction(f, { timeout: LIMIT, polling: 50 }, ...args).catch(async () => {
      const text = await this.page.evaluate(() => document.body.innerText.slice(0, 2_000));
      throw new Error(`never: ${what}; the page shows ${text}; broken: ${this.broken}`);
    });
  }

  shows(part) {
    return this.until(`shows ${part}`, (part) => [...document.querySelectorAll('.row .t')].some((row) => row.textContent.includes(part)), part);
  }

  state(state) {
    return this.until(`state ${state}`, (state) => document.getElementById('state').textContent === state, state);
  }

  text(id) {
    return this.page.$eval(`#${id}`, (element) => (element.hidden ? null : element.textContent));
  }

  rows(part) {
    return this.page.evaluate((part) => [...document.querySelectorAll('.row .t')].map((row) => row.textContent).filter((row) => row.includes(part)), part);
  }

  /** Scrolls the output: to the top, the end, or by pixels. */
  scroll(where) {
    return this.page.evaluate((where) => {
      const output = document.getElementById('output');
      output.scrollTop = where === 'end' ? output.scrollHeight : where;
    }, where);
  }

  where() {
    return this.page.evaluate(() => {
      const output = document.getElementById('output');
      const first = [...output.querySelectorAll('.row')].find((row) => row.getBoundingClientRect().bottom > output.getBoundingClientRect().top);
      return { top: Math.round(output.scrollTop), first: first?.querySelector('.t').textContent, nodes: document.querySelectorAll('*').length };
    });
  }
}

const ESCAPE = '\x1b';

const scenarios = {
  // Two readers, the second late; what is written is text and nothing else; the first leaves; the end with its code.
  async output(browser) {
    const child = await run('output', { exit: 3 });
    const one = await Page.open(browser, 'output');
    child.write('line one\n');
    await one.shows('line one');
    child.write(`${ESCAPE}[31mred ${ESCAPE}[1;48;5;208mwide ${ESCAPE}[38;2;1;2;3mtrue${ESCAPE}[0m plain\n`);
    child.write(`<script>alert(1)</script><img src=x onerror=alert(2)>\n`);
    child.write(`${ESCAPE}]8;;javascript:alert(3)${ESCAPE}\\click${ESCAPE}]8;;${ESCAPE}\\ ${ESCAPE}]0;title\x07${ESCAPE}P1;2|x${ESCAPE}\\here\n`);
    child.write('10 %\r50 %\r');
    child.write('100 %\nlast\n');
    const two = await Page.open(browser, 'output');
    for (const page of [one, two]) {
      for (const part of ['line one', 'last']) await page.shows(part);
      await page.state('running');
    }
    say(await two.page.evaluate(() => {
      const rows = [...document.querySelectorAll('.row .t')];
      const row = (part) => rows.find((row) => row.textContent.includes(part));
      const looks = [...row('red').children].map((span) => [span.textContent, span.className, span.style.color, span.style.backgroundColor]);
      const made = document.querySelectorAll('.output script, .output img, .output a[href^=javascript]').length;
      return { looks, script: row('<script>').textContent, link: row('click').textContent, percent: row('100 %').textContent, made, title: document.title };
    }));
    await one.page.close();
    child.write('after the first has left\n');
    await two.shows('after the first has left');
    child.end();
    await two.state('failed');
    say({ outcome: await two.text('outcome'), stop: await two.text('stop'), retry: await two.text('retry') });
    const three = await Page.open(browser, child.id);
    await three.shows('line one');
    await three.state('failed');
    say({ late: (await three.rows('after the first')).length, twice: (await three.rows('line one')).length });
    return [one, two, three];
  },

  // A long output: the document stays small, the reader stays where they are, everything can be reached and found.
  async long(browser) {
    const lines = 100_000;
    const child = await run('long');
    const page = await Page.open(browser, 'long');
    child.write('the first line\n');
    await page.shows('the first line');
    const text = Array.from({ length: 1_000 }, (_, n) => `number ${n}`);
    for (let from = 0; from < lines; from += 1_000) {
      for (let n = from; n < from + 1_000; n += 100) child.write(text.slice(0, 100).map((_, i) => `number ${n + i} of many\n`).join(''));
    }
    await page.shows(`number ${lines - 1} of many`);
    const end = await page.where();
    say({ small: end.nodes < 3_000, follows: (await page.text('follow')) === null });
    // A reader who has scrolled stays where they are.
    await page.scroll(5_000);
    await page.until('has scrolled', () => !document.getElementById('follow').hidden);
    await page.until('stands', () => document.getElementById('output').scrollTop > 0);
    await page.page.evaluate(() => new Promise((done) => setTimeout(done, 300)));
    const before = await page.where();
    for (let n = 0; n < 50; n += 1) child.write(`later ${n}\n`);
    await page.until('counts', () => /50 new lines/.test(document.getElementById('follow').textContent));
    const after = await page.where();
    say({ stays: before.first === after.first, first: /number \d+ of many/.test(after.first) });
    await page.page.click('#follow');
    await page.shows('later 49');
    // The first line, the middle, and a search that finds every one.
    await page.page.focus('#output');
    await page.page.keyboard.press('Home');
    await page.shows('the first line');
    await page.page.evaluate(() => (location.hash = '#L50000'));
    await page.until('a linked line', () => document.querySelector('.row.linked'));
    const linked = await page.page.$eval('.row.linked', (row) => [row.querySelector('.n').dataset.n, row.querySelector('.t').textContent]);
    say({ linked: linked[0], near: Math.abs(Number(/\d+/.exec(linked[1])[0]) - 50_000) < 5 });
    await page.page.focus('#output');
    await page.page.keyboard.press('End');
    await page.shows('later 49');
    await page.page.type('#find', 'LATER 1');
    await page.until('finds', () => /of 11/.test(document.getElementById('found').textContent));
    const found = [];
    for (let n = 0; n < 3; n += 1) {
      found.push(await page.page.$eval('.row.current .t', (row) => row.textContent));
      await page.page.keyboard.press('Enter');
    }
    say({ found, marks: await page.page.$$eval('mark', (marks) => marks.every((mark) => mark.textContent === 'later 1')) });
    const last = await page.where();
    say({ small: last.nodes < 3_000 });
    child.end();
    await page.state('succeeded');
    return [page];
  },

  // The button asks, and then nothing of the run is left. On a phone; with seven tabs that all stay live.
  async stop(browser) {
    const child = await run('stop');
    const phone = { width: 320, height: 568, isMobile: true, hasTouch: true };
    const pages = [];
    for (let n = 0; n < 7; n += 1) pages.push(await Page.open(browser, child.id, { viewport: phone }));
    child.write(`${'a line that is wider than any phone is '.repeat(10)}\n`);
    for (const page of pages) await page.shows('wider than any phone');
    const page = pages[6];
    say(await page.page.evaluate(() => ({ wide: document.documentElement.scrollWidth <= 320 && document.body.scrollWidth <= 320 })));
    await page.page.click('#stop');
    await page.page.click('#ask button[value=no]');
    await page.page.evaluate(() => new Promise((done) => setTimeout(done, 200)));
    say({ still: (await ask('GET', `/runs/${child.id}`)).state });
    await page.page.click('#stop');
    await page.page.click('#ask button[value=yes]');
    for (const page of pages) await page.state('cancelled');
    say({ stopped: (await ask('GET', `/runs/${child.id}`)).state, outcome: (await page.text('outcome')) !== '' });
    return pages;
  },

  // The server is killed and started again: the page comes back by itself and shows nothing twice.
  async restart(browser) {
    const child = await run('restart');
    child.write('before one\nbefore two\n');
    const page = await Page.open(browser, child.id);
    await page.shows('before two');
    const waits = await Page.open(browser, 'later');
    await waits.until('says so', () => /no run/.test(document.getElementById('notice').textContent));
    say({ restart: true });
    await page.state('interrupted');
    say({ once: (await page.rows('before two')).length, resume: await page.text('resume') });
    const later = await run('later');
    later.write('it is there\n');
    await waits.shows('it is there');
    later.end();
    await waits.state('succeeded');
    child.end();
    return [page, waits];
  },

  // A pipeline: the graph, its states, and the output of one task.
  async pipeline(browser) {
    // One for each step: a second reader of the same one could still meet the writer of the first, and its end-of-file.
    const gates = ['half', 'rest'].map((name) => path.join(dir, name));
    execFileSync('mkfifo', gates);
    const text = `
[task.fetch]
run = "echo fetched"
[task.build]
needs = "fetch"
run = "echo building; read line < '${gates[0]}'; echo '::progress 0.5 half'; read line < '${gates[1]}'; echo built"
[task.lint]
needs = "fetch"
run = "echo '<b>bad</b>' >&2; exit 4"
[task.package]
needs = ["build", "lint"]
run = "echo never"
`;
    const { id } = await ask('POST', '/runs', { name: 'pipe', pipeline: { text, format: 'toml' } });
    const page = await Page.open(browser, id);
    const state = (task, state) => page.until(`${task} is ${state}`, (task, state) => {
      const nodes = [...document.querySelectorAll('.task')];
      return nodes.some((node) => node.getAttribute('aria-label').startsWith(`${task}, ${state}`) && node.classList.contains(state));
    }, task, state);
    await state('fetch', 'succeeded');
    await state('lint', 'failed');
    await state('build', 'running');
    await page.shows('building');
    const open = (gate) => closeSync((() => { const file = openSync(gate, 'w'); writeSync(file, 'go\n'); return file; })());
    open(gates[0]);
    await page.until('progress', () => Number(document.querySelector('.task.running .done')?.getAttribute('width')) > 80);
    say({ edges: await page.page.$$eval('.edge', (edges) => edges.length), tasks: await page.page.$$eval('.task', (tasks) => tasks.length) });
    await page.page.evaluate(() => [...document.querySelectorAll('.task')].find((task) => task.textContent.includes('lint')).dispatchEvent(new MouseEvent('click', { bubbles: true })));
    await page.shows('<b>bad</b>');
    say({ own: await page.rows('building'), hash: await page.page.evaluate(() => location.hash), err: await page.page.$$eval('.row.err', (rows) => rows.length) });
    await page.page.click('#all');
    await page.shows('building');
    open(gates[1]);
    await page.state('failed');
    await state('package', 'skipped');
    await page.until('offers it', () => !document.getElementById('resume').hidden);
    return [page];
  },

  // Locked: the page asks for a token, keeps it in the tab, and takes one out of its address.
  async locked(browser) {
    const child = await run('locked');
    child.write('a secret line\n');
    const page = await Page.open(browser, child.id);
    await page.until('asks', () => document.getElementById('sign-in').open);
    say({ rows: (await page.rows('')).length });
    await page.page.type('#token', 'wrong');
    await page.page.keyboard.press('Enter');
    await page.until('asks again', () => document.getElementById('sign-in').open && document.getElementById('token').value === '');
    await page.page.type('#token', secret);
    await page.page.keyboard.press('Enter');
    await page.shows('a secret line');
    await page.page.reload();
    await page.shows('a secret line');
    const other = await Page.open(browser, child.id, { hash: `#token=${secret}` });
    await other.shows('a secret line');
    say({ address: await other.page.evaluate(() => location.hash) });
    child.end();
    await other.state('succeeded');
    return [page, other];
  },

  // What a line looks like, by the page's own module.
  async ansi(browser) {
    const child = await run('ansi');
    const page = await Page.open(browser, child.id);
    await page.state('running');
    const table = {
      '': [],
      plain: [['plain', 0, -1, -1]],
      [`${ESCAPE}[31mred${ESCAPE}[0m x`]: [['red', 0, 1, -1], [' x', 0, -1, -1]],
      [`${ESCAPE}[1;38;5;200mA${ESCAPE}[48;2;1;2;3mB${ESCAPE}[39;49;22mC`]: [['A', 1, 200, -1], ['B', 1, 200, 0x1010203], ['C', 0, -1, -1]],
      [`${ESCAPE}[38:2::1:2:3mX${ESCAPE}[4mY${ESCAPE}[4:0;91;107mZ`]: [['X', 0, 0x1010203, -1], ['Y', 8, 0x1010203, -1], ['Z', 0, 9, 15]],
      '10%\r20%\r30': [['30%', 0, -1, -1]],
      'abc\rX\r': [['Xbc', 0, -1, -1]],
      [`abc${ESCAPE}[1K${ESCAPE}[2Dx`]: [[' x ', 0, -1, -1]],
      [`abc${ESCAPE}[K${ESCAPE}[5Gx`]: [['abc x', 0, -1, -1]],
      [`${ESCAPE}]8;;javascript:alert(1)\x07link${ESCAPE}]8;;\x07`]: [['link', 0, -1, -1]],
      [`a${ESCAPE}]0;never ended`]: [['a', 0, -1, -1]],
      [`a${ESCAPE}[31`]: [['a', 0, -1, -1]],
      [`a${ESCAPE}c${ESCAPE}(Bb`]: [['ab', 0, -1, -1]],
      'a\x07b\x00\x7f': [['a␇b␀␡', 0, -1, -1]],
      'a\x9b31mb\x9d0;t\x9cc': [['a', 0, -1, -1], ['bc', 0, 1, -1]],
      [`${ESCAPE}[999999999Cx`]: [],
      [`${ESCAPE}[38;5mX${ESCAPE}[48mY${ESCAPE}[;mZ`]: [['XY', 0, 0, -1], ['Z', 0, -1, -1]],
      'é🦊\rx': [['x🦊', 0, -1, -1]],
    };
    const wrong = await page.page.evaluate(async (table) => {
      const { parse, collapse, plain } = await import('/assets/run/ansi.js');
      const { Lines } = await import('/assets/run/lines.js');
      const wrong = [];
      const check = (what, got, expected) => JSON.stringify(got) === JSON.stringify(expected) || wrong.push({ what, got, expected });
      const shown = (text) => parse(text).pieces.map(([piece, { flags, front, back }]) => [piece, flags, front, back]);
      for (const [text, expected] of table) {
        check(text, shown(text), expected);
        // A shorter text that looks the same, and goes on in the same way.
        check(`collapsed ${text}`, shown(`${collapse(text)}!`), shown(`${text}!`));
        check(`plain ${text}`, plain(text), expected.map(([piece]) => piece).join(''));
      }
      // Random bytes end, and never become anything but text.
      let seed = 12345;
      for (let n = 0; n < 3_000; n += 1) {
        let text = '';
        for (let k = 0; k < 30; k += 1) {
          seed = (seed * 1103515245 + 12345) % 2147483648;
          text += ['\x1b', '[', ']', '3', '8', ';', 'm', 'K', 'G', '\r', '\b', '\x9b', '<', 'é', 'x', ':', '2', '5', '\x07', 'C'][seed % 20];
        }
        check(`collapsed ${JSON.stringify(text)}`, plain(collapse(text)), plain(text));
      }
      // Lines of records: in pieces, of two channels, of torn characters, more than one at once, none twice.
      const lines = new Lines(true, (record) => record.text);
      const records = [
        { event: 'out', seq: 0, text: 'a' }, { event: 'err', seq: 1, text: 'e\n' }, { event: 'out', seq: 2, text: 'b\nc\n' },
        { event: 'out', seq: 3, base64: btoa('\xc3') }, { event: 'out', seq: 4, base64: btoa('\xa9\xff\n') }, { event: 'note', seq: 5, text: 'n' },
        { event: 'out', seq: 5, text: 'again' }, { event: 'gap', first_left: 9 }, { event: 'out', seq: 9, text: '\x1b[31mr\n' }, { event: 'out', seq: 10, text: 's' },
      ];
      lines.append(records);
      const all = lines.blocks.flatMap((block) => block.lines).map((line) => [line.seq, line.kind, line.plain()]);
      check('lines', all, [[0, 'out', 'ab'], [1, 'err', 'e'], [2, 'out', 'c'], [4, 'out', 'é\ufffd'], [5, 'note', 'n'], [9, 'gap', 'records 6 to 8 are gone (retention)'], [9, 'out', 'r'], [10, 'out', 's']]);
      check('colours go on', lines.last.pieces()[0][1].front, 1);
      // A line without an end is bounded, whether it goes back or not.
      const long = new Lines(true, () => null);
      for (let n = 0; n < 200; n += 1) long.append([{ event: 'out', seq: 2 * n, text: `${'x'.repeat(1_000)}` }, { event: 'err', seq: 2 * n + 1, text: `${n} ${'y'.repeat(1_000)}\r` }]);
      check('bounded', long.characters < 20_000, true);
      check('counted', long.blocks[0].lines[0].cut, 200_000 - 8_192);
      return wrong;
    }, Object.entries(table));
    say({ wrong });
    child.end();
    return [page];
  },
};

const browser = await puppeteer.launch({
  executablePath: chromium,
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-proxy-server'],
});
try {
  const pages = await scenarios[scenario](browser);
  const broken = pages.flatMap((page) => page.broken);
  say({ done: broken.length === 0, broken });
} catch (error) {
  say({ failed: String(error?.stack ?? error) });
} finally {
  await browser.close();
  process.exit(0);
}
