// A client of Tally in one file without dependencies, for browsers and Node.js 20 and newer: copy it.
// It sends each hit with a key, and again with the same key until its number is known.

// The request was not carried out, and may be another time. After any other 5xx, also a proxy's, it may have been.
const NOT_YET = [408, 429, 503];

/** The request was not carried out, and would not be the next time: `type` is one of docs/counter/api.md, "about:blank"
 *  where the answer is another server's. */
export class Refused extends Error {
  constructor(status, { type = "about:blank", detail = "is this the URL of Tally?" }) {
    super(`${status} ${type}: ${detail}`);
    Object.assign(this, { name: "Refused", status, type });
  }
}

/** No answer within the client's patience. `mayHaveCounted`: whoever sends `key` again, within 24 h at least, learns
 *  the number. */
export class NotAnswered extends Error {
  constructor(key, mayHaveCounted, reason) {
    super(reason);
    Object.assign(this, { name: "NotAnswered", key, mayHaveCounted });
  }
}

export class Tally {
  #url;
  #headers;
  #timeout;
  #patience;

  /** Times are in seconds: of one request, and of all for one answer. */
  constructor(url, { token, timeout = 20, patience = 60 } = {}) {
    this.#url = url;
    this.#headers = { Accept: "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
    this.#timeout = timeout;
    this.#patience = patience;
  }

  /** Counts, once for a key; resolves to { number, first, receipt, replayed }. Rejects with Refused or NotAnswered. */
  async hit(name, { amount = 1, key = newKey() } = {}) {
    const [given, headers] = await this.#answered("POST", `/counters/${name}/hits`, key, { amount });
    const { number, first, receipt } = given;
    return { number, first, receipt, replayed: headers.get("Idempotent-Replayed") === "true" };
  }

  /** Resolves to the last number, without counting. Rejects with Refused or NotAnswered. */
  async read(name) {
    const [counter] = await this.#answered("GET", `/counters/${name}`);
    return counter.value;
  }

  async #answered(method, path, key, body) {
    const headers = { ...this.#headers, ...(key && { "Idempotency-Key": key, "Content-Type": "application/json" }) };
    const end = Date.now() + this.#patience * 1000;
    let mayHaveCounted = false;
    for (let pause = 0.1; ; pause = Math.min(2 * pause, 5)) {
      let wait = pause * (0.5 + Math.random()); // or all clients of a lost replica come at once
      let reason;
      try {
        const signal = AbortSignal.timeout(this.#timeout * 1000);
        const sent = { method, headers, body: body && JSON.stringify(body), signal, redirect: "manual" };
        const answer = await fetch(this.#url + path, sent); // followed, a redirect would lose the token
        if (answer.ok) return [await answer.json(), answer.headers];
        reason = `${answer.status} ${answer.statusText}`;
        const isUnknown = answer.status >= 500 && !NOT_YET.includes(answer.status);
        mayHaveCounted ||= isUnknown;
        if (!isUnknown && !NOT_YET.includes(answer.status)) {
          // Of an earlier try that may have counted, this answer says nothing.
          throw mayHaveCounted ? new NotAnswered(key, true, reason) : await refused(answer);
        }
        wait = Math.max(wait, Number(answer.headers.get("Retry-After")) || 0);
      } catch (error) {
        if (error instanceof Refused || error instanceof NotAnswered) throw error;
        reason = String(error.cause ?? error); // the connection was lost, or never made: fetch does not tell which
        mayHaveCounted = true;
      }
      if (Date.now() + wait * 1000 > end) throw new NotAnswered(key, mayHaveCounted, reason);
      await new Promise((resume) => setTimeout(resume, wait * 1000));
    }
  }
}

async function refused(answer) {
  const isProblem = answer.headers.get("Content-Type")?.startsWith("application/problem+json");
  return new Refused(answer.status, isProblem ? await answer.json() : {});
}

function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID is not there in pages without TLS
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
