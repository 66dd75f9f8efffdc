// The page of one run. It asks for the run as JSON until it has ended, follows the output of the run or of one of its
// tasks, and does what the buttons say. What a process wrote is only ever put into text nodes.
//
// The address: `#L120` is record 120 of the run's output, `#build` the output of task build, `#build.L120` a record of
// it, and `#token=…` a token to read with, which is taken out of the address at once.
import { Graph } from './graph.js';
import { Lines } from './lines.js';
import { Follower, Refused, Server } from './source.js';
import * as summary from './summary.js';
import { View } from './view.js';

/** Records that a late reader begins with, before the end, and that are read at once further up. */
const TAIL = 2_000;
const PAGE = 2_000;
/** How often a run is asked for, in milliseconds: while it is at work, and while nobody looks. */
const POLL = 1_000;
const POLL_HIDDEN = 5_000;
/** Records waiting to be shown that are taken at once, without waiting for the next frame. */
const WAITING_MAX = 5_000;
/** Who is so far behind the end and wants to see the end is taken there, in milliseconds. */
const BEHIND_MAX = 5_000;
const TOKEN = 'standpipe.token';

const $ = (id) => document.getElementById(id);
const server = new Server(new URL('../../', import.meta.url));
const reference = location.pathname.split('/').filter(Boolean).pop() ?? '';

/** The run as it was told last; its `id` is what everything else is asked by. */
let run = null;
let task = null;
let lines = null;
let follower = null;
let ended = null;
let fetching = false;
let unseen = 0;
let waiting = [];
let opened = 0;

const view = new View($('output'), {
  moved: () => showFollow(),
  // Behind what is loaded there is more to read, unless it is followed or has ended.
  live: () => Boolean(follower || ended),
  near: (end) => near(end),
  link: (seq) => `#${task === null ? '' : `${task}.`}L${seq}`,
});
const graph = new Graph($('graph'), (name) => (location.hash = name === task ? '' : `#${name}`));

// --- The run ---------------------------------------------------------------------------------------------------

let pollTimer = null;
let polling = false;

async function poll() {
  if (polling) return;
  polling = true;
  clearTimeout(pollTimer);
  let again = true;
  try {
    const told = await server.json(`runs/${run ? encodeURIComponent(run.id) : reference}`);
    notice('');
    if (!follower || follower.socket) text('link', '');
    again = show(told);
    follower?.hurry();
  } catch (error) {
    again = failed(error);
  } finally {
    polling = false;
  }
  if (again) pollTimer = setTimeout(poll, document.hidden ? POLL_HIDDEN : POLL);
}

/** What is to be said of a request that failed; whether to ask again. */
function failed(error) {
  if (!(error instanceof Refused)) {
    console.error(error);
    return true;
  }
  if (error.status === 401 || error.status === 403) {
    notice(`${error.message}. ${server.token ? 'The token that was given does not help.' : ''}`);
    signIn();
    return false;
  }
  if (error.status === 404) {
    notice(run ? 'This run has been removed.' : `There is no run ${decodeURIComponent(reference)}. If there will be, it appears here.`);
    return !run;
  }
  notice(error.status === 0 ? '' : error.message);
  $('link').textContent = error.status === 0 ? 'no connection' : '';
  return true;
}

function notice(text) {
  $('notice').textContent = text;
  $('notice').hidden = !text;
}

/** Shows the run; whether there is more to come. */
function show(told) {
  const first = run === null;
  run = normal(told);
  const now = Date.now() - server.ahead;
  const final = summary.isFinal(run.state);
  document.title = `${run.id} · ${summary.words(run.state)}`;
  text('name', run.id);
  text('state', summary.words(run.state));
  $('state').className = `state ${run.state}`;
  text('outcome', summary.outcome(run));
  text('facts', summary.facts(run, now));
  text('command', run.command?.argv ? summary.command(run.command.argv) : '');
  if (run.command?.cwd) $('command').title = `in ${run.command.cwd}`;
  $('command').hidden = !run.command?.argv;
  showLinks();
  const progress = summary.progress(run);
  $('progress').hidden = !progress;
  $('progress-text').hidden = !progress?.text;
  if (progress) $('progress').value = progress.fraction;
  text('progress-text', progress?.text ?? '');
  const warned = summary.warnings(run).join('\n');
  if ($('warnings').dataset.said !== warned) {
    $('warnings').dataset.said = warned;
    $('warnings').replaceChildren(...warned.split('\n').filter(Boolean).map((line) => item(line)));
  }
  $('stop').hidden = final;
  $('stop').disabled = run.state === 'stopping';
  $('retry').hidden = !final;
  $('resume').hidden = !final || run.single || run.state === 'succeeded' || Boolean(run.resumed_by);
  $('redo').hidden = !final || task === null;
  $('graph').hidden = run.single || Object.keys(run.tasks).length === 0;
  if (!$('graph').hidden) graph.show(run.tasks, task, now);
  if (first) readAddress();
  return !final;
}

/** The runs it has to do with, and the files it has left. */
function showLinks() {
  const links = [];
  const add = (said, name, address) => links.push([said, name, server.url(address).href]);
  const id = encodeURIComponent(run.id);
  if (run.of) add('follows', run.of, `runs/${encodeURIComponent(run.of)}`);
  if (run.resumed_by) add('resumed by', run.resumed_by, `runs/${encodeURIComponent(run.resumed_by)}`);
  for (const [name, { artefacts }] of Object.entries(run.tasks)) {
    for (const [file, size] of Object.entries(artefacts ?? {})) {
      const said = run.single ? 'file' : `file of ${name}`;
      add(`${said} (${summary.bytes(size)})`, file, `runs/${id}/artefacts/${encodeURIComponent(name)}/${encodeURIComponent(file)}`);
    }
  }
  const shape = JSON.stringify(links);
  if ($('links').dataset.shape === shape) return;
  $('links').dataset.shape = shape;
  $('links').hidden = links.length === 0;
  $('links').replaceChildren(
    ...links.flatMap(([said, name, address]) => {
      const link = document.createElement('a');
      [link.href, link.textContent] = [address, name];
      return [`${said} `, link, ' · '];
    }).slice(0, -1),
  );
}

function text(id, said) {
  if ($(id).textContent !== said) $(id).textContent = said;
}

function item(said) {
  const made = document.createElement('li');
  made.textContent = said;
  return made;
}

/** The run as this page wants it. */
function normal(told) {
  return { tasks: {}, ...told, id: told.id ?? decodeURIComponent(reference) };
}

// --- Its output ------------------------------------------------------------------------------------------------

function stream() {
  const id = encodeURIComponent(run.id);
  return task === null ? `runs/${id}/out` : `runs/${id}/tasks/${encodeURIComponent(task)}/out`;
}

/** What the address asks for. */
function readAddress() {
  const hash = location.hash.slice(1);
  const line = /^(?:([\w-]+)\.)?L(\d+)$/.exec(hash);
  const name = line ? line[1] : hash;
  const seq = line ? Number(line[2]) : null;
  const wanted = !run.single && Object.hasOwn(run.tasks, name) ? name : null;
  if (wanted !== task || lines === null) open(wanted, seq);
  else if (seq !== null) goTo(seq);
}

/** Shows the output of the run (`null`) or of a task, at its end or at a record. */
function open(name, seq) {
  task = name;
  restart();
  $('source').textContent = run.single ? '' : name === null ? 'all tasks' : `task ${name}`;
  $('all').hidden = name === null;
  $('redo').hidden = name === null || !summary.isFinal(run.state);
  $('raw').href = server.url(`${stream()}?raw=1&follow=0`);
  $('raw').hidden = Boolean(server.token);
  $('raw').download = `${run.id}${name === null ? '' : `.${name}`}.log`;
  if (!$('graph').hidden) graph.show(run.tasks, task, Date.now() - server.ahead);
  if (seq === null) attach();
  else goTo(seq);
}

/** Forgets what is loaded. */
function restart() {
  opened += 1;
  detach();
  waiting = [];
  ended = null;
  fetching = false;
  unseen = 0;
  lines = new Lines(run.single || task !== null, summary.note);
  view.reset(lines);
}

/** Follows the stream from where the lines that are loaded end. */
function attach() {
  if (follower || ended) return;
  follower = new Follower(server, stream(), TAIL, {
    take: (record) => take(record),
    here: (here) => {
      $('link').textContent = here ? '' : 'reconnecting…';
      if (!here) poll();
    },
    position: () => {
      flush();
      return lines.next;
    },
    failed: (error) => {
      detach();
      failed(error);
    },
  });
}

function detach() {
  follower?.close();
  follower = null;
  waiting = [];
  $('link').textContent = '';
}

function take(record) {
  waiting.push(record);
  if (waiting.length >= WAITING_MAX) flush();
  else if (waiting.length === 1) (document.hidden ? setTimeout : requestAnimationFrame)(flush, 100);
}

/** Puts what has come behind the lines that are loaded. */
function flush() {
  if (!waiting.length) return;
  const records = waiting.map((record) => JSON.parse(record));
  waiting = [];
  const end = records.findIndex((record) => record.event === 'end');
  if (end >= 0) finish(records[end]);
  if (behind(records.at(end >= 0 ? end - 1 : -1))) {
    restart();
    view.follow();
    return attach();
  }
  if (reading()) view.following = false;
  const added = lines.append(records);
  if (view.following) {
    unseen = 0;
    view.gone(lines.trimStart());
  } else {
    unseen += added;
    // The reader stays where they are; what has no room is read again when they get there.
    if (lines.full) detach();
  }
  shown();
}

/** Whether who wants to see the end is too far from it to get there line by line. */
function behind(record) {
  if (!view.following || ended || !record?.at || lines.count < TAIL * 2) return false;
  return Date.now() - server.ahead - record.at > BEHIND_MAX;
}

/** Whether the reader has chosen some of the output to copy. */
function reading() {
  const selection = document.getSelection();
  return selection && !selection.isCollapsed && $('output').contains(selection.anchorNode);
}

/** The stream has ended. */
function finish(record) {
  ended = record;
  detach();
  poll();
}

function shown() {
  view.soon();
  if (view.query) {
    view.hits = null;
    countSoon();
  }
  showFollow();
}

/** The reader comes near an end of what is loaded. */
async function near(end) {
  if (fetching || !lines || lines.first === null) return;
  if (end === 'older' ? lines.atStart : follower || ended) return;
  const mine = opened;
  fetching = true;
  try {
    if (end === 'older') await older(mine);
    else await newer(mine);
  } catch (error) {
    if (mine === opened) failed(error);
  }
  // A page later at the earliest, when the server had nothing.
  if (mine === opened) setTimeout(() => (fetching = false), 50);
}

async function older(mine) {
  const from = Math.max(0, lines.first - PAGE);
  const { records } = await server.page(stream(), from, lines.first, PAGE);
  if (mine !== opened) return;
  lines.prepend(records, from);
  if (lines.full) {
    detach();
    ended = null;
    view.gone(lines.trimEnd());
  }
  shown();
}

async function newer(mine) {
  const { records, all } = await server.page(stream(), lines.next, Infinity, PAGE);
  if (mine !== opened) return;
  lines.append(records);
  view.gone(lines.trimStart());
  if (all) attach();
  shown();
}

/** Shows a record, wherever it is. */
async function goTo(seq) {
  view.following = false;
  if (lines.first === null || seq < lines.first || seq >= lines.next) {
    restart();
    const mine = opened;
    const from = Math.max(0, seq - PAGE / 2);
    try {
      const { records, all } = await server.page(stream(), from, Infinity, PAGE);
      if (mine !== opened) return;
      lines.append(records);
      if (from === 0) lines.atStart = true;
      if (all) attach();
    } catch (error) {
      if (mine === opened) failed(error);
      return;
    }
  }
  const line = lines.find(seq);
  if (line && !view.sees(line)) view.reveal(line);
  view.mark(line);
  shown();
}

function toEnd() {
  unseen = 0;
  if (!follower && !ended) restart();
  view.follow();
  attach();
  showFollow();
}

function showFollow() {
  if (view.following) unseen = 0;
  const more = follower || ended ? '' : ' or more';
  const count = unseen ? `${unseen.toLocaleString()}${more} new ${unseen === 1 ? 'line' : 'lines'}` : 'Jump to end';
  $('follow').textContent = `↓ ${count}`;
  $('follow').hidden = view.following || !lines?.count;
}

// --- What the reader does --------------------------------------------------------------------------------------

function ask(question, yes) {
  $('ask-text').textContent = question;
  $('ask').querySelector('[value=yes]').textContent = yes;
  $('ask').returnValue = 'no';
  $('ask').showModal();
  return new Promise((resolve) => $('ask').addEventListener('close', () => resolve($('ask').returnValue === 'yes'), { once: true }));
}

/** Does something to the run, and goes to the run that came of it. */
async function act(button, verb, question, yes, body) {
  if (!(await ask(question, yes))) return;
  button.disabled = true;
  try {
    const made = await server.act(encodeURIComponent(run.id), verb, body);
    notice('');
    if (verb === 'stop') poll();
    else if (made?.id) location.assign(server.url(`runs/${encodeURIComponent(made.id)}`));
  } catch (error) {
    notice(error.message);
    if (error.status === 401) signIn();
  }
  button.disabled = false;
}

/** Asks for a token. */
function signIn() {
  if ($('sign-in').open) return;
  $('token').value = '';
  $('sign-in').showModal();
}

/** Asks for everything once more, with the token that was given. */
function signedIn() {
  const token = $('token').value.trim();
  if (!token) return;
  keep(token);
  poll();
  if (lines) attach();
}

function keep(token) {
  server.token = token;
  try {
    sessionStorage.setItem(TOKEN, token);
  } catch {
    // A browser that keeps nothing is asked again next time.
  }
}

function kept() {
  try {
    return sessionStorage.getItem(TOKEN);
  } catch {
    return null;
  }
}

let countTimer = null;

function countSoon() {
  countTimer ??= setTimeout(() => {
    countTimer = null;
    count();
  }, 300);
}

function count() {
  if (!view.query) return text('found', '');
  const [index, all] = view.place();
  const partly = lines && !(lines.atStart && (follower || ended)) ? ' loaded' : '';
  text('found', all ? `${index < 0 ? '–' : index + 1} of ${all.toLocaleString()}${partly}` : `nothing${partly ? ' in what is loaded' : ''}`);
}

function step(by) {
  view.step(by);
  count();
  showFollow();
}

let findTimer = null;

function find(query) {
  clearTimeout(findTimer);
  if (query === view.query) return;
  view.find(query);
  if (query) view.step(1);
  count();
  showFollow();
}

function keys(event) {
  const typing = event.target instanceof HTMLInputElement;
  const searching = (event.ctrlKey || event.metaKey) && event.key === 'f' && document.activeElement !== $('find');
  if (searching || (event.key === '/' && !typing)) {
    event.preventDefault();
    $('find').focus();
    $('find').select();
  } else if (event.key === 'End' && !typing) {
    event.preventDefault();
    toEnd();
  } else if (event.key === 'Home' && !typing && lines) {
    event.preventDefault();
    goTo(0);
  }
}

$('stop').addEventListener('click', () => act($('stop'), 'stop', `Stop ${run.id} and every process it has started?`, 'Stop'));
$('retry').addEventListener('click', () => act($('retry'), 'retry', `Run ${run.id} again, as a new run?`, 'Run again'));
$('resume').addEventListener('click', () => act($('resume'), 'resume', `Go on with ${run.id} in a new run that redoes only what did not succeed?`, 'Resume'));
$('redo').addEventListener('click', () =>
  act($('redo'), 'retry', `Run task ${task} and all that comes after it again, in a new run?`, 'Run again', { task }),
);
$('follow').addEventListener('click', toEnd);
$('find').addEventListener('input', () => {
  clearTimeout(findTimer);
  findTimer = setTimeout(() => find($('find').value), 150);
});
$('find').addEventListener('keydown', (event) => {
  if (event.key === 'Enter') {
    if ($('find').value === view.query) step(event.shiftKey ? -1 : 1);
    else find($('find').value);
  } else if (event.key === 'Escape') {
    $('find').value = '';
    find('');
    $('output').focus();
  }
});
$('previous').addEventListener('click', () => step(-1));
$('next').addEventListener('click', () => step(1));
$('wrap').addEventListener('change', () => {
  $('output').classList.toggle('wrap', $('wrap').checked);
  view.remeasure();
});
$('sign-in').addEventListener('close', signedIn);
document.addEventListener('keydown', keys);
document.addEventListener('visibilitychange', () => {
  if (document.hidden) return;
  flush();
  if (!run || !summary.isFinal(run.state)) poll();
});
window.addEventListener('hashchange', () => {
  if (!takeToken() && run) readAddress();
});

/** Takes a token out of the address; whether there was one. */
function takeToken() {
  if (!location.hash.startsWith('#token=')) return false;
  keep(decodeURIComponent(location.hash.slice('#token='.length)));
  history.replaceState(null, '', location.pathname + location.search);
  poll();
  return true;
}

$('wrap').checked = matchMedia('(max-width: 600px)').matches;
$('output').classList.toggle('wrap', $('wrap').checked);
text('name', decodeURIComponent(reference));
server.token = kept();
if (!takeToken()) poll();
