// Puts a run and what is noted about it into words. Pure: values in, text out.

const FINAL = new Set(['succeeded', 'failed', 'skipped', 'cancelled', 'timed_out', 'lost', 'interrupted']);

export const isFinal = (state) => FINAL.has(state);

/** `timed_out` as it is said. */
export const words = (state) => String(state ?? '').replaceAll('_', ' ');

export function duration(ms) {
  if (!(ms >= 0)) return '';
  if (ms < 10_000) return `${(ms / 1_000).toFixed(1)} s`;
  const seconds = Math.floor(ms / 1_000);
  const [hours, minutes] = [Math.floor(seconds / 3_600), Math.floor(seconds / 60) % 60];
  const two = (number) => String(number).padStart(2, '0');
  if (hours) return `${hours} h ${two(minutes)} min`;
  return minutes ? `${minutes} min ${two(seconds % 60)} s` : `${seconds} s`;
}

export function bytes(count) {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (count >= 1_000 && unit < units.length - 1) [count, unit] = [count / 1_000, unit + 1];
  return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
}

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
export const time = (ms) => clock.format(new Date(ms));

/** `exit code 2, signal 9: why`. */
export function outcome({ exit_code, signal, reason }) {
  const parts = [];
  if (Number.isInteger(exit_code)) parts.push(`exit code ${exit_code}`);
  if (Number.isInteger(signal)) parts.push(`signal ${signal}`);
  const codes = parts.join(', ');
  return reason ? (codes ? `${codes}: ${reason}` : reason) : codes;
}

/** The command as it would be typed. */
export function command(argv) {
  const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);
  return argv.map((word) => quoted(String(word))).join(' ');
}

/** The facts of a run in a line; `now` is the server's time. */
export function facts(run, now) {
  const parts = [];
  if (run.state === 'queued' && run.queue?.position) parts.push(`number ${run.queue.position} in the queue`);
  if (run.started_at) {
    parts.push(`started ${time(run.started_at)}`);
    const ended = run.ended_at ?? (isFinal(run.state) ? null : now);
    if (ended) parts.push(`${run.ended_at ? 'took' : 'for'} ${duration(ended - run.started_at)}`);
  } else if (run.created_at) parts.push(`created ${time(run.created_at)}`);
  if (run.by) parts.push(`by ${run.by}`);
  if (run.job) parts.push(`job ${run.job}`);
  for (const [name, value] of Object.entries(run.params ?? {})) parts.push(`${name} = ${value}`);
  if (run.usage?.cpu_ms) parts.push(`${duration(run.usage.cpu_ms)} of processor`);
  if (run.usage?.memory_bytes_max) parts.push(`at most ${bytes(run.usage.memory_bytes_max)} of memory`);
  if (run.output?.lines) parts.push(`${run.output.lines.toLocaleString()} lines, ${bytes(run.output.bytes ?? 0)}`);
  return parts.join(' · ');
}

/** What a reader should be warned of. */
export function warnings(run) {
  const lines = [];
  for (const [name, task] of Object.entries(run.tasks ?? {})) {
    const who = run.single ? 'The command' : `Task ${name}`;
    if (task.stalled && !isFinal(task.state)) lines.push(`${who} has written nothing for a while.`);
    if (task.leaked) lines.push(`${who} has ended, but a process it started lives on and holds its output.`);
  }
  return lines;
}

/** How far a run is: as it says itself, or by its tasks that have ended. */
export function progress(run) {
  if (isFinal(run.state)) return null;
  if (Number.isFinite(run.progress?.fraction)) return { fraction: run.progress.fraction, text: run.progress.text ?? '' };
  const tasks = Object.values(run.tasks ?? {});
  const single = tasks.length === 1 ? tasks[0].progress : null;
  if (Number.isFinite(single?.fraction)) return { fraction: single.fraction, text: single.text ?? '' };
  if (tasks.length < 2) return null;
  const done = tasks.filter((task) => isFinal(task.state)).length;
  return { fraction: done / tasks.length, text: `${done} of ${tasks.length} tasks` };
}

/** A note of the stream as a line among the output; none for what the page shows elsewhere. */
export function note(record) {
  let said;
  try {
    said = JSON.parse(record.text);
  } catch {
    return record.text ?? null;
  }
  const { event, ...rest } = said ?? {};
  if (event === 'progress') return null;
  if (event === 'started') return rest.pid ? `started, process ${rest.pid}` : 'started';
  if (event === 'task') return `task ${rest.task}: ${[words(rest.state), outcome(rest)].filter(Boolean).join(', ')}`;
  if (event === 'output') return `output ${rest.name} = ${rest.value}`;
  const more = Object.entries(rest).map(([name, value]) => `${name} ${typeof value === 'object' ? JSON.stringify(value) : value}`);
  return [event ?? JSON.stringify(said), ...(event ? more : [])].join(' · ');
}
