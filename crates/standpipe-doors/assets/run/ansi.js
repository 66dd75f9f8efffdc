// What a terminal would show of one line: text in pieces that look alike. Of what a process writes only colours,
// styles and moves within the line have a meaning here; titles, links, queries and everything else that a terminal
// could be told is left out. Nothing is ever made into markup: the pieces are plain text.

/** Bits of `flags`, and their classes in the style sheet. */
const FLAGS = { b: 1, d: 2, i: 4, u: 8, s: 16, o: 32, h: 64, v: 128 };

/** How text looks: flags, and two colours: -1 is the page's own, 0 to 255 the palette, from RGB on 24 bits. */
export const PLAIN = Object.freeze({ flags: 0, front: -1, back: -1 });
const RGB = 0x1000000;

/** No move goes further than this: a process can ask for column 999,999,999. */
const COLUMNS_MAX = 16_384;

// In this order: control sequences; strings (OSC, DCS, SOS, PM, APC) to their end or that of the line; other escapes;
// other control characters. ECMA-48 §5.4, §5.6; the 8-bit forms are the same.
const CONTROL = new RegExp(
  '(?:\\x1b\\[|\\x9b)([0-?]*)[ -/]*([@-~]|$)' +
    '|(?:\\x1b[\\]PX^_]|[\\x90\\x98\\x9d-\\x9f])[^]*?(?:\\x07|\\x1b\\\\|\\x9c|$)' +
    '|\\x1b[ -/]*[0-~]?' +
    '|[\\x00-\\x08\\x0a-\\x1f\\x7f-\\x9f]',
  'g',
);
const ANY = /[\x00-\x08\x0a-\x1f\x7f-\x9f]/;
const MOVES = /[\r\b]|(?:\x1b\[|\x9b)[0-?]*[ -/]*[CDGKPX`]/;

/**
 * The pieces of a line, `[text, style]` each, from the style that the line begins with; and the style at its end.
 */
export function parse(text, style = PLAIN) {
  if (!ANY.test(text)) return { pieces: text ? [[text, style]] : [], style };
  text = text.replace(/\r+$/, '');
  return MOVES.test(text) ? overwrite(text, style).result() : straight(text, style);
}

/** The line without what steers a terminal. */
export function plain(text) {
  return ANY.test(text) ? parse(text).pieces.map(([piece]) => piece).join('') : text;
}

/**
 * A shorter text that shows the same and leaves the cursor where it was, for a line that is overwritten again and
 * again and never ends.
 */
export function collapse(text, style = PLAIN) {
  if (!MOVES.test(text)) return text;
  const cells = overwrite(text, style);
  const { pieces } = cells.result();
  let short = '\x1b[0m';
  for (const [piece, look] of pieces) short += codes(look) + piece;
  return short + codes(cells.style) + '\r' + (cells.column ? `\x1b[${cells.column}C` : '');
}

/** A line whose cursor only goes forward. */
function straight(text, style) {
  const pieces = [];
  let from = 0;
  const put = (piece) => {
    const last = pieces.at(-1);
    if (last && same(last[1], style)) last[0] += piece;
    else if (piece) pieces.push([piece, style]);
  };
  for (const match of text.matchAll(CONTROL)) {
    put(text.slice(from, match.index));
    from = match.index + match[0].length;
    if (match[2] === 'm') style = look(style, match[1]);
    else if (match[0].length === 1) put(picture(match[0]));
  }
  put(text.slice(from));
  return { pieces, style };
}

/** A line in cells, for what goes back and writes over what is there. */
function overwrite(text, style) {
  const cells = new Cells(style);
  let from = 0;
  for (const match of text.matchAll(CONTROL)) {
    cells.write(text.slice(from, match.index));
    from = match.index + match[0].length;
    if (match[2] !== undefined) cells.control(match[2], match[1]);
    else if (match[0] === '\r') cells.column = 0;
    else if (match[0] === '\b') cells.column = Math.max(0, cells.column - 1);
    else if (match[0].length === 1) cells.write(picture(match[0]));
  }
  cells.write(text.slice(from));
  return cells;
}

class Cells {
  constructor(style) {
    this.style = style;
    this.column = 0;
    this.characters = [];
    this.styles = [];
  }

  write(text) {
    for (const character of text) {
      if (this.column >= COLUMNS_MAX) return;
      while (this.characters.length < this.column) this.blank();
      this.characters[this.column] = character;
      this.styles[this.column] = this.style;
      this.column += 1;
    }
  }

  blank() {
    this.characters.push(' ');
    this.styles.push(PLAIN);
  }

  control(final, parameters) {
    const count = Math.min(Number.parseInt(parameters, 10) || 0, COLUMNS_MAX);
    const far = Math.max(count, 1);
    if (final === 'm') this.style = look(this.style, parameters);
    else if (final === 'C') this.column = Math.min(COLUMNS_MAX, this.column + far);
    else if (final === 'D') this.column = Math.max(0, this.column - far);
    else if (final === 'G' || final === '`') this.column = far - 1;
    else if (final === 'X') this.erase(this.column, this.column + far);
    else if (final === 'P') for (const list of [this.characters, this.styles]) list.splice(this.column, far);
    else if (final === 'K' && count === 0) for (const list of [this.characters, this.styles]) list.length = Math.min(list.length, this.column);
    else if (final === 'K') this.erase(0, count === 1 ? this.column + 1 : this.characters.length);
  }

  erase(from, to) {
    for (let at = from; at < Math.min(to, this.characters.length); at += 1) {
      this.characters[at] = ' ';
      this.styles[at] = PLAIN;
    }
  }

  result() {
    const pieces = [];
    this.characters.forEach((character, at) => {
      const last = pieces.at(-1);
      if (last && same(last[1], this.styles[at])) last[0] += character;
      else pieces.push([character, this.styles[at]]);
    });
    return { pieces, style: this.style };
  }
}

/** A control character that means nothing here, so that it is seen; of the upper ones nothing. */
function picture(character) {
  const code = character.charCodeAt(0);
  if (code === 0x0a || code === 0x0d || code === 0x1b || code > 0x7f) return '';
  return String.fromCharCode(code === 0x7f ? 0x2421 : 0x2400 + code);
}

/** The style after "select graphic rendition" (ECMA-48 §8.3.117; colours by ITU T.416, with `;` as well). */
function look(style, parameters) {
  const parts = parameters === '' ? ['0'] : parameters.split(';');
  let { flags, front, back } = style;
  for (let at = 0; at < parts.length; at += 1) {
    const [first, ...sub] = parts[at].split(':');
    const code = Number.parseInt(first, 10) || 0;
    if (code === 0) [flags, front, back] = [0, -1, -1];
    else if (code === 1) flags |= FLAGS.b;
    else if (code === 2) flags |= FLAGS.d;
    else if (code === 3) flags |= FLAGS.i;
    else if (code === 4) flags = sub[0] === '0' ? flags & ~FLAGS.u : flags | FLAGS.u;
    else if (code === 7) flags |= FLAGS.v;
    else if (code === 8) flags |= FLAGS.h;
    else if (code === 9) flags |= FLAGS.s;
    else if (code === 21) flags |= FLAGS.u;
    else if (code === 22) flags &= ~(FLAGS.b | FLAGS.d);
    else if (code === 23) flags &= ~FLAGS.i;
    else if (code === 24) flags &= ~FLAGS.u;
    else if (code === 27) flags &= ~FLAGS.v;
    else if (code === 28) flags &= ~FLAGS.h;
    else if (code === 29) flags &= ~FLAGS.s;
    else if (code === 53) flags |= FLAGS.o;
    else if (code === 55) flags &= ~FLAGS.o;
    else if (code >= 30 && code <= 37) front = code - 30;
    else if (code >= 40 && code <= 47) back = code - 40;
    else if (code >= 90 && code <= 97) front = code - 82;
    else if (code >= 100 && code <= 107) back = code - 92;
    else if (code === 39) front = -1;
    else if (code === 49) back = -1;
    else if (code === 38 || code === 48) {
      const [colour, used] = sub.length ? [extended(sub, true), 0] : extendedOf(parts.slice(at + 1));
      at += used;
      if (colour !== null) code === 38 ? (front = colour) : (back = colour);
    }
  }
  return { flags, front, back };
}

/** A colour of the parts that follow 38 or 48, and how many of them it took. */
function extendedOf(parts) {
  return [extended(parts, false), parts[0] === '5' ? 2 : parts[0] === '2' ? 4 : 1];
}

/** `5;N`, `2;R;G;B`, and with colons `2::R:G:B`, whose second part is a colour space nobody has. */
function extended(parts, colons) {
  const byte = (text) => Math.min(255, Math.max(0, Number.parseInt(text, 10) || 0));
  if (parts[0] === '5') return byte(parts[1]);
  if (parts[0] !== '2') return null;
  const [red, green, blue] = (colons && parts.length > 4 ? parts.slice(2) : parts.slice(1)).map(byte);
  return RGB + ((red ?? 0) << 16) + ((green ?? 0) << 8) + (blue ?? 0);
}

/** The escape that gives this style to a terminal that has none. */
function codes({ flags, front, back }) {
  const on = [0];
  for (const [bit, code] of [[1, 1], [2, 2], [4, 3], [8, 4], [16, 9], [32, 53], [64, 8], [128, 7]]) {
    if (flags & bit) on.push(code);
  }
  for (const [colour, code] of [[front, 38], [back, 48]]) {
    if (colour >= RGB) on.push(code, 2, (colour >> 16) & 255, (colour >> 8) & 255, colour & 255);
    else if (colour >= 0) on.push(code, 5, colour);
  }
  return `\x1b[${on.join(';')}m`;
}

export function same(a, b) {
  return a === b || (a.flags === b.flags && a.front === b.front && a.back === b.back);
}

/** Makes `element` look so: classes for what the style sheet has, else colours of its own. */
export function dress(element, { flags, front, back }) {
  const classes = Object.keys(FLAGS).filter((name) => flags & FLAGS[name]);
  // Swapped, the page's own colours stand for each other.
  const [ink, paper] = flags & FLAGS.v ? [back < 0 ? 'fb' : back, front < 0 ? 'gt' : front] : [front, back];
  for (const [colour, prefix, property] of [[ink, 'f', 'color'], [paper, 'g', 'backgroundColor']]) {
    if (typeof colour === 'string') classes.push(colour);
    else if (colour >= 16) element.style[property] = css(colour);
    else if (colour >= 0) classes.push(prefix + colour);
  }
  if (classes.length) element.className = classes.join(' ');
}

/** A colour above the 16 that the style sheet names: the cube of 6, the 24 greys, or 24 bits. */
function css(colour) {
  if (colour >= RGB) return `rgb(${(colour >> 16) & 255} ${(colour >> 8) & 255} ${colour & 255})`;
  if (colour >= 232) return `rgb(${Array(3).fill(8 + 10 * (colour - 232)).join(' ')})`;
  const level = (step) => (step === 0 ? 0 : 55 + 40 * step);
  const index = colour - 16;
  return `rgb(${level(Math.floor(index / 36))} ${level(Math.floor(index / 6) % 6)} ${level(index % 6)})`;
}
