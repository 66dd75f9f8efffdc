// The lines that are loaded: a window of the stream, bounded in lines and characters, in blocks that the view shows
// or leaves out as a whole. Records become lines here: a line may come in several records, and a record that is not
// UTF-8 comes as base64. Nothing here knows the page.
import { PLAIN, collapse, parse, plain } from './ansi.js';

export const BLOCK_LINES = 64;
const LINES_MAX = 50_000;
const CHARACTERS_MAX = 24_000_000;
/** Shown of one line; the rest is counted. */
const LINE_CHARACTERS = 8_192;

export class Line {
  constructor(seq, kind, style, text = '') {
    this.seq = seq;
    this.kind = kind;
    this.style = style;
    this.text = text;
    this.cut = 0;
    this.block = null;
    this.row = null;
  }

  pieces() {
    return parse(this.text, this.style).pieces;
  }

  plain() {
    return plain(this.text);
  }

  add(text) {
    this.text += text;
    if (this.text.length <= LINE_CHARACTERS) return;
    this.text = collapse(this.text, this.style);
    const over = this.text.length - LINE_CHARACTERS;
    if (over <= 0) return;
    this.cut += over;
    this.text = this.text.slice(0, LINE_CHARACTERS);
  }
}

/** Makes lines of the records of a stream, in order. */
class Assembler {
  /** `carries`: colours go on in the next line, as in a terminal; not so where lines of several processes alternate. */
  constructor(carries, note) {
    this.carries = carries;
    this.note = note;
    this.channels = { out: { line: null, style: PLAIN }, err: { line: null, style: PLAIN } };
  }

  /** Hands every new line to `begin` and every line that has grown to `grown`. */
  take(record, begin, grown) {
    if (record.event === 'note') {
      const text = this.note(record);
      if (text) begin(new Line(record.seq, 'note', PLAIN, text));
      return;
    }
    const channel = this.channels[record.event];
    if (!channel) return;
    const texts = content(record, channel).split('\n');
    texts.forEach((text, index) => {
      const last = index === texts.length - 1;
      if (last && text === '') return;
      if (channel.line) {
        channel.line.add(text);
        grown(channel.line);
      } else {
        channel.line = new Line(record.seq, record.event, channel.style);
        channel.line.add(text);
        begin(channel.line);
      }
      if (!last) this.close(channel);
    });
  }

  close(channel) {
    const { text, style } = channel.line;
    if (this.carries && (text.includes('\x1b') || style !== PLAIN)) channel.style = parse(text, style).style;
    channel.line = null;
  }
}

/** The text of a record. A character may be divided between two of them. */
function content(record, channel) {
  if (record.text !== undefined) return channel.torn ? torn(channel, new Uint8Array(), false) + record.text : record.text;
  const bytes = Uint8Array.from(atob(record.base64 ?? ''), (character) => character.charCodeAt(0));
  return torn(channel, bytes, true);
}

function torn(channel, bytes, stream) {
  channel.decoder ??= new TextDecoder('utf-8', { ignoreBOM: true });
  channel.torn = stream;
  return channel.decoder.decode(bytes, { stream });
}

export class Lines {
  constructor(carries, note) {
    this.options = [carries, note];
    this.assembler = new Assembler(carries, note);
    this.blocks = [];
    this.count = 0;
    this.characters = 0;
    /** Place of the first record that is loaded, and of the one behind the last; null while nothing is. */
    this.first = null;
    this.next = null;
    /** Nothing is left before `first`. */
    this.atStart = false;
  }

  get last() {
    return this.blocks.at(-1)?.lines.at(-1) ?? null;
  }

  /** Adds records behind the others, leaving out what is there; the number of lines that are new. */
  append(records) {
    const before = this.count;
    const begin = (line) => this.push(line);
    for (const record of records) {
      if (record.event === 'gap') {
        this.gap(record, begin);
        continue;
      }
      if (this.next !== null && record.seq < this.next) continue;
      this.first ??= record.seq;
      this.next = record.seq + 1;
      this.assembler.take(record, begin, (line) => this.grown(line));
    }
    return this.count - before;
  }

  gap(record, begin) {
    const from = this.next ?? 0;
    if (record.first_left <= from) return;
    if (this.first === null) this.atStart = true;
    this.first ??= record.first_left;
    this.next = record.first_left;
    begin(new Line(record.first_left, 'gap', PLAIN, `records ${from} to ${record.first_left - 1} are gone (retention)`));
  }

  push(line) {
    let block = this.blocks.at(-1);
    if (!block || block.lines.length >= BLOCK_LINES) {
      block = newBlock();
      this.blocks.push(block);
    }
    this.put(block, line);
  }

  put(block, line) {
    block.lines.push(line);
    block.changed = true;
    line.block = block;
    this.count += 1;
    line.counted = line.text.length;
    this.characters += line.counted;
  }

  grown(line) {
    if (!line.block) return;
    this.characters += line.text.length - line.counted;
    line.counted = line.text.length;
    line.changed = true;
    line.block.changed = true;
  }

  /** Adds records before the others. */
  prepend(records, from) {
    const assembler = new Assembler(...this.options);
    const blocks = [];
    const begin = (line) => {
      if (!blocks.length || blocks.at(-1).lines.length >= BLOCK_LINES) blocks.push(newBlock());
      this.put(blocks.at(-1), line);
    };
    for (const record of records) {
      if (record.event === 'gap') {
        this.atStart = true;
        begin(new Line(record.first_left, 'gap', PLAIN, `records before ${record.first_left} are gone (retention)`));
      } else if (this.first === null || record.seq < this.first) {
        assembler.take(record, begin, (line) => this.grown(line));
      }
    }
    if (from === 0 || !records.length) this.atStart = true;
    this.first = Math.min(this.first ?? Infinity, records.find((record) => record.seq !== undefined)?.seq ?? Infinity, this.first ?? from);
    this.blocks.unshift(...blocks);
  }

  get full() {
    return this.count > LINES_MAX || this.characters > CHARACTERS_MAX;
  }

  /** Forgets first lines until there is room; the blocks that went. */
  trimStart() {
    const gone = [];
    while (this.full && this.blocks.length > 1) {
      gone.push(this.forget(this.blocks.shift()));
      this.first = this.blocks[0].lines[0].seq;
      this.atStart = false;
    }
    return gone;
  }

  /** Forgets last lines until there is room; the blocks that went. What is appended next must be read again. */
  trimEnd() {
    const gone = [];
    while (this.full && this.blocks.length > 1) {
      const block = this.forget(this.blocks.pop());
      gone.push(block);
      this.next = block.lines[0].seq;
      this.assembler = new Assembler(...this.options);
    }
    return gone;
  }

  forget(block) {
    for (const line of block.lines) {
      line.block = null;
      this.characters -= line.counted;
    }
    this.count -= block.lines.length;
    return block;
  }

  /** The line that record `seq` is in, or the last one before it. */
  find(seq) {
    let found = null;
    for (const block of this.blocks) {
      if (found && block.lines[0].seq > seq) break;
      for (const line of block.lines) {
        if (line.seq > seq && found) break;
        found = line;
      }
    }
    return found;
  }
}

function newBlock() {
  return { lines: [], height: null, element: null, changed: true };
}
