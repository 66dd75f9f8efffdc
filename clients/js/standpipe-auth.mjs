// Lets the official Firebase JavaScript SDK send tokens of your own to a Standpipe server (or to any server of the
// Realtime Database's protocol). It stands where Firebase Authentication would, so neither the SDK nor your code that
// uses it changes. Works in browsers and in Node; needs nothing but the `firebase` package you have.
//
//   import { initializeApp } from "firebase/app";
//   import { getDatabase } from "firebase/database";
//   import { useTokens } from "./standpipe-auth.mjs";
//
//   const app = initializeApp({ databaseURL: "https://db.example.com" });
//   const tokens = useTokens(app, async () => (await fetch("/my/token")).text());   // before getDatabase(app)
//   const db = getDatabase(app);
//
// Your function gives a JWT, or null for nobody. It is asked when the SDK connects, again a while before a token
// expires, and when the server says that one is not valid any more.

/** Longest wait of a timer: what a 32-bit number of milliseconds holds. */
const TIMER_MAX_MS = 2 ** 31 - 1;

/** First and longest pause after your function has failed. */
const RETRY_MIN_MS = 1_000;
const RETRY_MAX_MS = 60_000;

/**
 * Has the SDK send what `fetchToken` gives. Call it before `getDatabase`; with `firebase/compat`, give the app too.
 *
 * @param {object} app what `initializeApp` returned
 * @param {(why: {refresh: boolean}) => (string | null | Promise<string | null>)} fetchToken gives a JWT, or null
 * @param {{refreshBeforeMs?: number, onError?: (error: unknown) => void}} [options] how long before the end of a
 *   token the next one is asked for (default: a minute, or half of a shorter life), and who hears that `fetchToken`
 *   has failed
 * @returns {{refresh(): Promise<string | null>, stop(): void, readonly uid: string | null}}
 *   `refresh` asks for a new token now (after a sign-in or sign-out of yours); `stop` asks no more by itself
 */
export function useTokens(app, fetchToken, options = {}) {
  const { refreshBeforeMs = 60_000, onError = () => {} } = options;
  const listeners = new Set();
  let token; // undefined: not asked for yet
  let pending = null;
  let timer = null;
  let failures = 0;
  let stopped = false;

  async function ask(refresh) {
    const fresh = (await fetchToken({ refresh })) || null;
    if (fresh !== null && claimsOf(fresh) === null) throw new Error("the function for tokens gave no JWT");
    return fresh;
  }

  // One question at a time, whoever wants the answer.
  function fetchNow(refresh) {
    pending ??= ask(refresh)
      .then((fresh) => {
        failures = 0;
        const changed = fresh !== token;
        token = fresh;
        schedule(lifeOf(fresh));
        if (changed) for (const listener of [...listeners]) listener(fresh);
        return fresh;
      })
      .finally(() => (pending = null));
    return pending;
  }

  function schedule(ms) {
    clearTimeout(timer);
    if (stopped || ms === null) return;
    timer = setTimeout(() => {
      if (ms > TIMER_MAX_MS) return schedule(ms - TIMER_MAX_MS);
      fetchNow(true).catch((error) => {
        onError(error);
        schedule(Math.min(RETRY_MIN_MS * 2 ** failures++, RETRY_MAX_MS));
      });
    }, Math.min(ms, TIMER_MAX_MS));
    timer.unref?.(); // Node: a timer is no reason to go on living.
  }

  // How long until the next one is asked for; null for a token that does not end.
  function lifeOf(jwt) {
    const { exp } = jwt === null ? {} : claimsOf(jwt);
    if (typeof exp !== "number") return null;
    const left = exp * 1000 - Date.now();
    return Math.max(left - Math.min(refreshBeforeMs, left / 2), 1_000);
  }

  const isOver = () => {
    const { exp } = token ? claimsOf(token) : {};
    return typeof exp === "number" && exp * 1000 <= Date.now();
  };

  const provider = {
    getUid: () => uidOf(token),
    getToken: async (force) => {
      try {
        if (token === undefined || force || isOver()) await fetchNow(Boolean(force));
      } catch (error) {
        // The SDK goes on as nobody, and hears of the next token.
        onError(error);
        schedule(Math.min(RETRY_MIN_MS * 2 ** failures++, RETRY_MAX_MS));
        return null;
      }
      return token ? { accessToken: token } : null;
    },
    addAuthTokenListener: (listener) => void listeners.add(listener),
    removeAuthTokenListener: (listener) => void listeners.delete(listener),
  };

  // What Firebase Authentication registers, by the same name.
  const { container } = app._delegate ?? app;
  container.addOrOverwriteComponent({
    name: "auth-internal",
    instanceFactory: () => provider,
    type: "PRIVATE",
    multipleInstances: false,
    serviceProps: {},
    instantiationMode: "LAZY",
    onInstanceCreated: null,
  });
  container.getProvider("auth-internal").getImmediate();

  return {
    refresh: () => fetchNow(true),
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
    get uid() {
      return uidOf(token);
    },
  };
}

/** The claims of a JWT, unverified: that is the server's business. Null for anything else. */
function claimsOf(jwt) {
  try {
    const base64 = jwt.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
    const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return null;
  }
}

function uidOf(jwt) {
  const claims = jwt ? claimsOf(jwt) : null;
  return claims?.user_id ?? claims?.sub ?? claims?.d?.uid ?? null;
}
