// Asks the server: the run as JSON, a page of a stream, a stream as it grows, and what the buttons do. The stream comes
// over a WebSocket, for a browser gives a server six connections of HTTP/1.1 in all, and a seventh tab that follows by
// one of those would wait for ever. A token travels in a header, and to a WebSocket, which can't have one, in its
// address.

/** What the server refused, or that it was not there (status 0). */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Pauses before connecting again, in milliseconds: the first, and the longest. */
const PAUSE_FIRST = 500;
const PAUSE_MAX = 10_000;
/** A request that is not answered in this time is not going to be. */
const PATIENCE = 15_000;

export class Server {
  /** `root` is the address that everything is below. */
  constructor(root) {
    this.root = root;
    this.token = null;
    /** How far the reader's clock is ahead of the server's, in milliseconds, as well as whole seconds tell. */
    this.ahead = 0;
  }

  url(path) {
    return new URL(path, this.root);
  }

  async fetch(path, options = {}) {
    const headers = new Headers(options.headers);
    if (this.token) headers.set('authorization', `Bearer ${this.token}`);
    const signal = options.signal ?? AbortSignal.timeout(PATIENCE);
    const answer = await fetch(this.url(path), { cache: 'no-store', ...options, headers, signal }).catch((error) => {
      if (error.name === 'AbortError') throw error;
      throw new Refused(0, 'the server does not answer');
    });
    const date = Date.parse(answer.headers.get('date'));
    if (date) this.ahead = Date.now() - date;
    if (answer.ok) return answer;
    throw new Refused(answer.status, await reason(answer));
  }

  async json(path, options = {}) {
    const headers = { accept: 'application/json', ...options.headers };
    return (await this.fetch(path, { ...options, headers })).json();
  }

  /** Does something to a run; what the server says to it. */
  act(run, verb, body = {}) {
    const headers = { 'content-type': 'application/json' };
    return this.json(`runs/${run}/${verb}`, { method: 'POST', headers, body: JSON.stringify(body) });
  }

  /**
   * The records of `stream` from place `from` up to `until`, at most `max`, of those that are there now; and whether
   * these were all there are.
   */
  async page(stream, from, until, max) {
    const stop = new AbortController();
    const records = [];
    const query = `follow=0&from=${from}`;
    const signal = AbortSignal.any([stop.signal, AbortSignal.timeout(PATIENCE)]);
    const answer = await this.fetch(`${stream}?${query}`, { headers: { accept: 'text/event-stream' }, signal });
    try {
      for await (const record of events(answer.body)) {
        if (record.event === 'end') break;
        if (record.seq >= until || records.length >= max) return { records, all: false };
        records.push(record);
      }
    } finally {
      stop.abort();
    }
    return { records, all: true };
  }

  /** Whether the stream may be read: throws what is in the way. */
  probe(stream) {
    return this.fetch(`${stream}?follow=0&tail=0`, { method: 'HEAD' });
  }
}

/** The sentence of a refusal. */
async function reason(answer) {
  const text = await answer.text().catch(() => '');
  try {
    return JSON.parse(text).error ?? text;
  } catch {
    return text.slice(0, 300) || `the server answered ${answer.status}`;
  }
}

/** The data of the events of a stream, as JSON. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (pending + value).split('\n');
    pending = lines.pop();
    for (const line of lines) {
      if (!line.startsWith('data:')) continue;
      const data = JSON.parse(line.slice(5));
      if (data?.event) yield data;
    }
  }
}

/**
 * Follows a stream and comes back when the connection breaks, at the record behind the last one. `told` has
 * `take(text)`, one record or word as JSON text, `here(connected)`, `position()`, which is the place to go on from (or
 * null: the last `tail`), and `failed(error)`, when the stream can't be followed at all.
 */
export class Follower {
  constructor(server, stream, tail, told) {
    Object.assign(this, { server, stream, tail, told, pause: PAUSE_FIRST, closed: false });
    this.open();
  }

  open() {
    if (this.closed || this.socket) return;
    const from = this.told.position();
    const url = this.server.url(`${this.stream}?json=1&${from === null ? `tail=${this.tail}` : `from=${from}`}`);
    url.protocol = url.protocol.replace('http', 'ws');
    if (this.server.token) url.searchParams.set('auth', this.server.token);
    const socket = new WebSocket(url);
    this.socket = socket;
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this.pause = PAUSE_FIRST;
      this.told.here(true);
    };
    socket.onmessage = ({ data }) => this.socket === socket && this.told.take(data);
    socket.onclose = () => this.socket === socket && this.broken(opened);
  }

  async broken(opened) {
    this.socket = null;
    if (this.closed) return;
    this.told.here(false);
    if (!opened) {
      // A WebSocket does not say why it was refused.
      const refusal = await this.server.probe(this.stream).then(() => null, (error) => error);
      if (this.closed) return;
      if (refusal instanceof Refused && [401, 403, 404].includes(refusal.status)) return this.told.failed(refusal);
    }
    // Not all at once, when a server comes back to a thousand readers.
    this.timer = setTimeout(() => this.open(), this.pause * (0.5 + Math.random()));
    this.pause = Math.min(PAUSE_MAX, this.pause * 2);
  }

  /** Tries at once, for the server is known to be back. */
  hurry() {
    clearTimeout(this.timer);
    this.open();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }
}
