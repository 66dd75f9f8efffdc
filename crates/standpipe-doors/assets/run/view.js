// Shows the loaded lines: only the blocks near what is seen are in the document, the others are two empty boxes of
// their height. Keeps what the reader looks at where it is, whatever comes or goes around it; follows the end only for
// who is there. Finds text in what is loaded.
import { PLAIN, dress, same } from './ansi.js';

/** Pixels above and below what is seen that are shown as well. */
const BEYOND = 800;
/** Height of a line until one has been measured. */
const LINE_HEIGHT = 18;
/** Matches that are counted. */
const MATCHES_MAX = 100_000;

export class View {
  /** `told` has `moved()`, `live()`, whether the end of what is loaded is the end, `near(end)` with `'older'` or `'newer'`, and `link(seq)`. */
  constructor(element, told) {
    this.element = element;
    this.told = told;
    this.rows = document.createElement('div');
    this.rows.className = 'rows';
    [this.above, this.below] = [document.createElement('div'), document.createElement('div')];
    this.rows.append(this.above, this.below);
    element.append(this.rows);
    this.following = true;
    this.anchor = null;
    this.placed = 0;
    this.lineHeight = LINE_HEIGHT;
    this.find('');
    element.addEventListener('scroll', () => this.scrolled(), { passive: true });
    new ResizeObserver(() => this.remeasure()).observe(element);
  }

  /** Shows other lines. */
  reset(lines) {
    for (const block of this.lines?.blocks ?? []) this.hide(block);
    this.lines = lines;
    this.anchor = null;
    this.hits = null;
    this.current = null;
    this.linked = null;
    this.layout();
  }

  /** Forgets blocks that are loaded no more. */
  gone(blocks) {
    blocks.forEach((block) => this.hide(block));
    if (this.anchor && blocks.includes(this.anchor.block)) this.anchor = null;
    this.hits = null;
  }

  follow() {
    this.following = true;
    this.layout();
  }

  /** Every height may be another one. */
  remeasure() {
    for (const block of this.lines?.blocks ?? []) block.height = null;
    this.layout();
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.element;
    this.following = scrollHeight - scrollTop - clientHeight < 4 && this.told.live();
    this.placed = scrollTop;
    this.anchor = this.at(scrollTop);
    this.soon();
    this.told.moved();
  }

  soon() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.layout();
    });
  }

  heightOf(block) {
    return block.height ?? block.lines.length * this.lineHeight;
  }

  /** What is at this height: a block, and how far into it. */
  at(top) {
    let from = 0;
    for (const block of this.lines?.blocks ?? []) {
      const height = this.heightOf(block);
      if (from + height > top) return { block, offset: top - from };
      from += height;
    }
    return null;
  }

  topOf(block) {
    let top = 0;
    for (const other of this.lines.blocks) {
      if (other === block) return top;
      top += this.heightOf(other);
    }
    return 0;
  }

  /** Puts into the document what is seen, and scrolls to where the reader is. */
  layout() {
    if (!this.lines) return;
    const { element } = this;
    const height = element.clientHeight;
    // The reader has scrolled away and the event has not come yet.
    if (this.following && element.scrollTop < this.placed - 1) this.scrolled();
    let top = 0;
    // A measured height moves the others; it settles at once or in the second turn.
    for (let turn = 0; turn < 4; turn += 1) {
      top = this.wanted(height);
      if (!this.show(top - BEYOND, top + height + BEYOND)) break;
    }
    top = this.wanted(height);
    if (Math.abs(element.scrollTop - top) >= 1) element.scrollTop = top;
    this.placed = element.scrollTop;
    const total = this.total();
    if (top < height * 2) this.told.near('older');
    if (total - top - height < height * 2) this.told.near('newer');
  }

  total() {
    return this.lines.blocks.reduce((sum, block) => sum + this.heightOf(block), 0);
  }

  wanted(height) {
    const most = Math.max(0, this.total() - height);
    if (this.following) return most;
    const { block, offset } = this.anchor ?? { block: this.lines.blocks[0], offset: 0 };
    return block ? Math.max(0, Math.min(most, this.topOf(block) + offset)) : 0;
  }

  /** Shows what lies between two heights and nothing else; whether that changed a height. */
  show(from, to) {
    let [top, above, below] = [0, 0, 0];
    let before = this.above;
    const shown = [];
    for (const block of this.lines.blocks) {
      const height = this.heightOf(block);
      if (top + height < from) above += height;
      else if (top > to) below += height;
      else shown.push(block);
      if (top + height < from || top > to) this.hide(block);
      top += height;
    }
    for (const block of shown) {
      this.refresh(block);
      if (before.nextSibling !== block.element) before.after(block.element);
      before = block.element;
    }
    this.above.style.height = `${above}px`;
    this.below.style.height = `${below}px`;
    let moved = false;
    for (const block of shown) {
      if (block.height !== null) continue;
      const estimated = this.heightOf(block);
      block.height = block.element.offsetHeight;
      if (block.lines.length > 8) this.lineHeight = block.height / block.lines.length;
      moved ||= Math.abs(block.height - estimated) >= 1;
    }
    return moved;
  }

  hide(block) {
    if (!block.element) return;
    block.element.remove();
    block.element = null;
    for (const line of block.lines) line.row = null;
  }

  refresh(block) {
    if (!block.element) {
      block.element = document.createElement('div');
      block.changed = true;
    }
    if (!block.changed) return;
    block.changed = false;
    block.height = null;
    for (const line of block.lines) {
      if (!line.row) block.element.append(this.row(line));
      else if (line.changed) line.row.replaceWith(this.row(line));
      line.changed = false;
    }
  }

  row(line) {
    const [row, number, text] = ['div', 'a', 'span'].map((name) => document.createElement(name));
    row.className = `row ${line.kind}`;
    if (line === this.current?.line) row.classList.add('current');
    if (line === this.linked) row.classList.add('linked');
    number.className = 'n';
    number.href = this.told.link(line.seq);
    number.dataset.n = line.seq;
    number.tabIndex = -1;
    number.setAttribute('aria-label', `Line ${line.seq}`);
    text.className = 't';
    if (line.kind === 'err') text.title = 'standard error';
    this.fill(text, line);
    if (line.cut) text.append(element('span', 'more', ` … ${line.cut.toLocaleString()} more characters`));
    row.append(number, text);
    line.row = row;
    return row;
  }

  fill(target, line) {
    const pieces = line.pieces();
    const marks = this.pattern ? matches(this.pattern, pieces.map(([text]) => text).join('')) : [];
    let at = 0;
    for (const [text, style] of pieces) {
      for (const [part, marked] of divide(text, at, marks)) {
        if (!marked && same(style, PLAIN)) {
          target.append(part);
          continue;
        }
        const span = element(marked ? 'mark' : 'span', '', part);
        dress(span, style);
        target.append(span);
      }
      at += text.length;
    }
  }

  /** Draws all rows again that are in the document. */
  redraw() {
    for (const block of this.lines?.blocks ?? []) {
      if (!block.element) continue;
      for (const line of block.lines) line.changed = true;
      block.changed = true;
    }
    this.layout();
  }

  /** Looks for a text, whatever its case. */
  find(query) {
    this.query = query;
    this.pattern = query ? new RegExp(query.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'), 'gi') : null;
    this.hits = null;
    this.current = null;
    this.redraw();
  }

  /** All matches, in order: `{line, nth}`. */
  all() {
    if (this.hits) return this.hits;
    this.hits = [];
    if (!this.pattern) return this.hits;
    for (const block of this.lines.blocks) {
      for (const line of block.lines) {
        const count = matches(this.pattern, line.plain()).length;
        for (let nth = 0; nth < count; nth += 1) this.hits.push({ line, nth });
        if (this.hits.length >= MATCHES_MAX) return this.hits;
      }
    }
    return this.hits;
  }

  /** Where the current match is: `[index, count]`, from 0; -1 where there is none. */
  place() {
    const hits = this.all();
    const current = this.current;
    return [current ? hits.findIndex((hit) => hit.line === current.line && hit.nth === current.nth) : -1, hits.length];
  }

  /** Goes to the next match (`by` is 1) or the one before (-1); from where the reader is, when there was none. */
  step(by) {
    const [index, count] = this.place();
    if (!count) return;
    const hits = this.all();
    let to = (index + by + count) % count;
    if (index < 0) {
      const here = this.at(this.element.scrollTop)?.block;
      const seq = here?.lines[0].seq ?? 0;
      const ahead = hits.findIndex((hit) => hit.line.seq >= seq);
      to = ahead >= 0 ? ahead : 0;
      if (by < 0) to = (to - 1 + count) % count;
    }
    const before = this.current?.line;
    this.current = hits[to];
    before?.row?.classList.remove('current');
    this.reveal(this.current.line);
    this.current.line.row?.classList.add('current');
  }

  /** Scrolls a line into the middle. */
  reveal(line) {
    this.following = false;
    const { block } = line;
    const index = block.lines.indexOf(line);
    this.anchor = { block, offset: (this.heightOf(block) * index) / block.lines.length - this.element.clientHeight / 2 };
    this.layout();
    // Now that it is in the document, where it is is known.
    if (!line.row) return;
    const offset = line.row.offsetTop - block.element.offsetTop;
    const middle = this.topOf(block) + offset - (this.element.clientHeight - line.row.offsetHeight) / 2;
    this.anchor = this.at(Math.max(0, middle));
    this.layout();
    this.told.moved();
  }

  /** Whether all of a line is seen. */
  sees(line) {
    if (!line.row) return false;
    const [pane, row] = [this.element.getBoundingClientRect(), line.row.getBoundingClientRect()];
    return row.top >= pane.top && row.bottom <= pane.bottom;
  }

  /** Marks the line that the address names. */
  mark(line) {
    this.linked?.row?.classList.remove('linked');
    this.linked = line;
    line?.row?.classList.add('linked');
  }
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

/** `[from, to]` of every match. */
function matches(pattern, text) {
  return Array.from(text.matchAll(pattern), (match) => [match.index, match.index + match[0].length]);
}

/** `text`, which begins at `at` of its line, in parts that are marked or not. */
function* divide(text, at, marks) {
  let from = 0;
  for (const [start, end] of marks) {
    const [begin, stop] = [Math.max(start - at, from), Math.min(end - at, text.length)];
    if (stop <= from || begin >= text.length) continue;
    if (begin > from) yield [text.slice(from, begin), false];
    yield [text.slice(begin, stop), true];
    from = stop;
  }
  if (from < text.length) yield [text.slice(from), false];
}
