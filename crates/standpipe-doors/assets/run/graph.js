// Draws the tasks of a run and what each waits for: in columns, a task to the right of all it needs.
import { duration, isFinal, outcome, words } from './summary.js';

const [WIDTH, HEIGHT, ACROSS, DOWN, EDGE] = [176, 40, 44, 12, 8];
const NAME_CHARACTERS = 22;
const SIGNS = { succeeded: '✓', failed: '✗', running: '▶', starting: '▶', retrying: '↻', stopping: '■', skipped: '–', timed_out: '⏱', waiting: '·' };

/** Column and row of every task; a circle, which the server lets nobody have, ends up in one column. */
function places(tasks) {
  const levels = new Map();
  const level = (name, path) => {
    if (levels.has(name)) return levels.get(name);
    if (path.has(name)) return 0;
    const before = needs(tasks[name]).filter((other) => other in tasks);
    const own = before.length ? 1 + Math.max(...before.map((other) => level(other, new Set(path).add(name)))) : 0;
    levels.set(name, own);
    return own;
  };
  const columns = [];
  for (const name of Object.keys(tasks)) (columns[level(name, new Set())] ??= []).push(name);
  const at = new Map();
  columns.forEach((names, column) => {
    // Beside what they need, so that few lines cross.
    const middle = (name) => {
      const rows = needs(tasks[name]).map((other) => at.get(other)?.row).filter((row) => row !== undefined);
      return rows.length ? rows.reduce((a, b) => a + b) / rows.length : 0;
    };
    const order = names.map((name) => [middle(name), name]).sort(([a, x], [b, y]) => a - b || (x < y ? -1 : 1));
    order.forEach(([, name], row) => at.set(name, { column, row }));
  });
  return at;
}

const needs = (task) => (Array.isArray(task.needs) ? task.needs : Object.keys(task.needs ?? {}));

function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  element.append(...children);
  return element;
}

const corner = ({ column, row }) => [EDGE + column * (WIDTH + ACROSS), EDGE + row * (HEIGHT + DOWN)];

export class Graph {
  /** `choose(name)` is called with the task that was clicked. */
  constructor(container, choose) {
    Object.assign(this, { container, choose, shape: null, nodes: new Map(), edges: [] });
  }

  /** Shows the tasks; draws anew only when there are others, so that what has the focus keeps it. */
  show(tasks, chosen, now) {
    const shape = JSON.stringify(Object.entries(tasks).map(([name, task]) => [name, needs(task)]));
    if (shape !== this.shape) this.draw(tasks);
    this.shape = shape;
    for (const [name, node] of this.nodes) this.update(node, name, tasks[name], name === chosen, now);
    for (const [from, path] of this.edges) path.setAttribute('class', tasks[from].state === 'succeeded' ? 'edge done' : 'edge');
  }

  draw(tasks) {
    const at = places(tasks);
    this.nodes.clear();
    this.edges = [];
    let [right, bottom] = [0, 0];
    const drawing = svg('svg', { role: 'list' });
    for (const [name, task] of Object.entries(tasks)) {
      const [x, y] = corner(at.get(name));
      for (const other of needs(task).filter((other) => at.has(other))) {
        const [fromX, fromY] = corner(at.get(other));
        const [a, b, c, d] = [fromX + WIDTH, fromY + HEIGHT / 2, x, y + HEIGHT / 2];
        const path = svg('path', { class: 'edge', d: `M${a} ${b}C${a + ACROSS / 2} ${b} ${c - ACROSS / 2} ${d} ${c} ${d}` });
        this.edges.push([other, path]);
        drawing.append(path);
      }
      [right, bottom] = [Math.max(right, x + WIDTH + EDGE), Math.max(bottom, y + HEIGHT + EDGE)];
    }
    for (const name of Object.keys(tasks)) drawing.append(this.node(name, corner(at.get(name))));
    drawing.setAttribute('width', right);
    drawing.setAttribute('height', bottom);
    this.container.replaceChildren(drawing);
  }

  node(name, [x, y]) {
    const box = svg('rect', { class: 'box', width: WIDTH, height: HEIGHT, rx: 7 });
    const done = svg('rect', { class: 'done', width: 0, height: HEIGHT, rx: 7 });
    const short = name.length > NAME_CHARACTERS ? `${name.slice(0, NAME_CHARACTERS - 1)}…` : name;
    const title = svg('text', { x: 9, y: 17 }, short);
    const word = svg('text', { class: 'word', x: 9, y: 32 });
    const label = svg('title');
    const group = svg('g', { transform: `translate(${x} ${y})`, tabindex: 0, role: 'button' }, label, box, done, title, word);
    group.addEventListener('click', () => this.choose(name));
    group.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' && event.key !== ' ') return;
      event.preventDefault();
      this.choose(name);
    });
    this.nodes.set(name, { group, done, word, label });
    return svg('g', { role: 'listitem' }, group);
  }

  update({ group, done, word, label }, name, task, chosen, now) {
    const set = (element, text) => element.textContent !== text && (element.textContent = text);
    const ended = task.ended_at ?? (isFinal(task.state) ? null : now);
    const took = task.started_at && ended ? duration(ended - task.started_at) : '';
    const attempt = task.attempts > 1 ? `attempt ${task.attempts}` : '';
    const stalled = task.stalled && !isFinal(task.state) ? 'stalled' : '';
    const leaked = task.leaked ? 'leaked' : '';
    const parts = [words(task.state), took, attempt, stalled, leaked].filter(Boolean);
    set(word, `${SIGNS[task.state] ?? '·'} ${parts.slice(0, 3).join(', ').replace('attempt ', '#')}`);
    set(label, [name, ...parts, outcome(task)].filter(Boolean).join(', '));
    group.setAttribute('aria-label', label.textContent);
    group.setAttribute('aria-pressed', String(chosen));
    group.setAttribute('class', `task ${task.state}${chosen ? ' chosen' : ''}`);
    const fraction = isFinal(task.state) ? 0 : Math.min(1, Math.max(0, task.progress?.fraction ?? 0));
    done.setAttribute('width', WIDTH * fraction);
  }
}
