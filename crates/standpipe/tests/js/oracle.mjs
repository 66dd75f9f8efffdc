// What a query shows, told from the data alone: the simplest possible reading of the documentation, on objects in memory.
// Nothing of it is fast, and nothing of it is the SDK's or the server's.

const INTEGER = /^-?0*\d{1,10}$/;
const isInteger = (key) => INTEGER.test(key) && Number(key) >= -2147483648 && Number(key) <= 2147483647;

/** Keys that look like 32-bit integers come first, by number; the others by UTF-16 code units. */
export function compareKeys(a, b) {
  if (a === b) return 0;
  if (isInteger(a) && isInteger(b)) return Number(a) - Number(b) || a.length - b.length;
  if (isInteger(a) !== isInteger(b)) return isInteger(a) ? -1 : 1;
  return a < b ? -1 : 1;
}

const rank = (value) => {
  if (value === null || value === undefined) return 0;
  if (value === false) return 1;
  if (value === true) return 2;
  return { number: 3, string: 4, object: 5 }[typeof value];
};

/** null, false, true, numbers, texts, objects. */
export function compareValues(a, b) {
  if (rank(a) !== rank(b)) return rank(a) - rank(b);
  if (rank(a) < 3 || rank(a) === 5 || a === b) return 0;
  return a < b ? -1 : 1;
}

/** What `by` (`$key`, `$value`, `$priority` or a child's path) orders a child by. */
function indexed(by, { key, value, priority }) {
  if (by === "$key") return key;
  if (by === "$value") return value;
  if (by === "$priority") return priority;
  return by.split("/").reduce((node, name) => (node !== null && typeof node === "object" ? node[name] : undefined), value);
}

/**
 * The keys that a query shows, in its order.
 * `children`: a list of `{key, value, priority}`; `bounds`: `[name, value, key?]`; `limit`: `["first" | "last", count]`.
 */
export function shown(children, { by, bounds = [], limit }) {
  const compare = (a, b) => (by === "$key" ? compareKeys(a, b) : compareValues(a, b));
  const byIndex = (a, b) => compare(indexed(by, a), indexed(by, b)) || compareKeys(a.key, b.key);
  const inside = (child, [name, value, key]) => {
    const difference = compare(indexed(by, child), value) || (key === undefined ? 0 : compareKeys(child.key, key));
    switch (name) {
      case "startAt": return difference >= 0;
      case "startAfter": return difference > 0;
      case "endAt": return difference <= 0;
      case "endBefore": return difference < 0;
      default: return difference === 0;
    }
  };
  const keys = children.filter((child) => bounds.every((bound) => inside(child, bound))).sort(byIndex).map((child) => child.key);
  if (!limit) return keys;
  return limit[0] === "first" ? keys.slice(0, limit[1]) : keys.slice(Math.max(0, keys.length - limit[1]));
}
