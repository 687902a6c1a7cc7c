// One call: what its handler may know of it, and what the session keeps of it.
import { PluginError, Status, parameters } from './plugin.js';

/** What the session keeps of a call that runs. */
export class Run {
  closed = false;
  cancelled = 0; // the status with which it was cancelled
  controller = null;
  timers = [];
  // Of a stream: messages not yet read, and credit in both directions.
  inbox = [];
  inboxEnded = true;
  dealtWith = 0;
  #waiting = [];

  constructor(id, method, milliseconds) {
    this.id = id;
    this.method = method;
    this.began = performance.now();
    this.deadline = milliseconds ? this.began + milliseconds : Infinity;
  }

  /** Something changed: a message, credit, or a cancel. */
  changed() {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }

  /** Wait until `ready()`. Throws what the call was cancelled with. */
  async until(ready) {
    while (!this.cancelled && !ready()) await new Promise((resolve) => this.#waiting.push(resolve));
    if (this.cancelled) throw this.reason();
  }

  reason() {
    return new PluginError(this.cancelled, this.cancelled === Status.DEADLINE_EXCEEDED
      ? 'the time of the call is up' : 'the call was cancelled');
  }

  cancel(status) {
    this.cancelled = status;
    this.controller?.abort(this.reason());
    this.changed();
  }

  /** The signal is made when it is asked for: most handlers never do, and a call costs less. */
  signal(expire) {
    if (this.controller === null) {
      this.controller = new AbortController();
      if (this.cancelled) this.controller.abort(this.reason());
      else if (this.deadline !== Infinity) {
        const left = Math.min(Math.max(this.deadline - performance.now(), 0), 2 ** 31 - 1);
        this.timers.push(setTimeout(expire, left));
      }
    }
    return this.controller.signal;
  }

  end() {
    this.closed = true;
    for (const timer of this.timers) clearTimeout(timer);
  }
}

/** What a handler may know of its call beside the parameters. */
export class Call {
  #session;
  #run;
  #request;

  constructor(session, run, request) {
    this.#session = session;
    this.#run = run;
    this.#request = request;
  }

  get operation() { return this.#request.operation; }
  get namespace() { return this.#session.setup.namespace; }
  get setup() { return this.#session.setup; }
  get state() { return this.#session.state; }
  get metadata() { return this.#request.metadata ?? {}; }
  get principal() { return this.metadata['prism-principal'] ?? ''; }
  get requestId() { return this.metadata['prism-request-id'] ?? ''; }
  get traceparent() { return this.metadata.traceparent ?? ''; }
  get resumeAfter() { return this.metadata['prism-last-event-id'] ?? ''; }
  get paramsText() { return this.#request.params_json || '{}'; }

  /** Milliseconds until the deadline; Infinity without one. */
  timeLeft() { return Math.max(this.#run.deadline - performance.now(), 0); }

  /** Aborted at the deadline, and when the caller no longer waits. */
  get signal() { return this.#run.signal(() => this.#session.cancel(this.#run, Status.DEADLINE_EXCEEDED)); }

  /** The client's further messages, of a stream. */
  get messages() { return this.#read(); }

  async *#read() {
    const run = this.#run;
    for (;;) {
      await run.until(() => run.inbox.length || run.inboxEnded);
      if (!run.inbox.length) return;
      const { message, size } = run.inbox.shift();
      this.#session.giveBack(run, size);
      yield parameters(message);
    }
  }
}
