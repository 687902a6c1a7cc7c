// One connection to a host: frames in, calls to the plugin, frames out.
//
// What a read brought is dealt with in one go, and what is answered meanwhile leaves in one
// write. Each call ends with the one CLOSE that `#close` sends: the entry in `#calls` is taken
// away with it, and without an entry nothing is sent.
import { randomBytes } from 'node:crypto';
import {
  Flag, FrameReader, HEADER, MAX_U32, Method, ProtocolError, Type, decode, describe, encode,
} from './frames.js';
import { Call, Run } from './call.js';
import { clean, keepSecret, sdkLog, takeRecords, urgent } from './log.js';
import { PROTOCOL, PluginError, Status, marshal, parameters } from './plugin.js';

const HANDSHAKE_TIMEOUT = 30_000; // for the host's HELLO
const CANCEL_GRACE = 2_000; // for a cancelled handler, before its call is closed without it
const STOP_TIMEOUT = 10_000; // for the plugin's `stop`
const STOP_GRACE = 25_000; // for running calls after SIGTERM
const CLOSING_TIMEOUT = 2_000; // for the host to take the last bytes
const NOTE_INTERVAL = 250, METRICS_INTERVAL = 10_000;
const NOTES_BELOW = 262_144; // bytes waiting for a host that does not read, at which it gets no notes
const READ_BELOW = 4_194_304; // the same, at which no more is read from it
const MAX_CONTROL_CALLS = 4; // calls of the other methods, beside max_streams
const DRAIN_TOKEN = 0x647261; // of the PING after a GOAWAY: its echo says that the host has read both
const HEALTH = { healthy: 0, degraded: 1, unhealthy: 2 };

/** Health as the wire has it. Throws TypeError for a status that there is not. */
function wireHealth({ status = 'healthy', message, details = {} } = {}) {
  if (!Object.hasOwn(HEALTH, status)) throw new TypeError(`no such health: ${status}`);
  const texts = Object.entries(details).map(([key, value]) => [key, clean(String(value))]);
  return { status: HEALTH[status], message: message && clean(message), details: Object.fromEntries(texts) };
}

/** Wait for one of `promises`, but not longer than that; true where it was there in time. */
async function within(milliseconds, ...promises) {
  let timer;
  const late = new Promise((resolve) => { timer = setTimeout(resolve, milliseconds, false); });
  try {
    return await Promise.race([...promises.map(async (one) => { await one; return true; }), late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Serves `plugin` (as `checked` returns it) to the host at the other end of `socket`. */
export class Session {
  setup = null; // what Initialize said
  state = undefined; // what the plugin's `start` returned
  metrics = {
    requestsTotal: 0, requestsFailed: 0, latencyMs: 0, connectionsActive: 0, connectionsIdle: 0,
    queriesExecuted: 0, cacheHits: 0, cacheMisses: 0, custom: {},
  };

  #socket; #plugin; #trace;
  #reader = new FrameReader();
  #peer = null; // the host's HELLO
  #calls = new Map();
  #control = 0; // those of them that are neither Execute nor ExecuteStream
  #last = 0; // highest call id served
  #serving = false; #initialized = false; #draining = false; #started = false;
  #out = []; #flushing = false;
  #outcome = null;
  #onNone = []; #onDrainSeen = null; #over;
  #timers = []; #noted = '';

  constructor(socket, plugin, { trace = null } = {}) {
    this.#socket = socket;
    this.#plugin = plugin;
    this.#trace = trace;
    /** Resolves once it is over, and closed: { kind, reason }, the kind one of
     *  `shutdown`, `replaced`, `drained`, `ended`, `refused`, `broken`, `crashed`. */
    this.over = new Promise((resolve) => { this.#over = resolve; });
    socket.on('data', (chunk) => this.#receive(chunk));
    socket.on('end', () => this.#end('ended', 'the connection to the host ended'));
    socket.on('error', (error) => this.#end('ended', `the connection to the host broke: ${error.message}`));
    socket.on('close', () => this.#end('ended', 'the connection to the host ended'));
    const { name, version, maxFrame, maxStreams, window } = plugin;
    this.#send(Type.HELLO, { aux: PROTOCOL }, JSON.stringify({
      name, version, instance: randomBytes(16).toString('hex'), codecs: ['json'],
      max_frame: maxFrame, window, max_streams: maxStreams,
    }));
    this.#after(HANDSHAKE_TIMEOUT, () => {
      if (!this.#peer) this.#end('refused', 'the host did not answer HELLO in time');
    });
  }

  // -- writing ------------------------------------------------------------------

  #send(type, fields, message) {
    if (this.#outcome !== null) return;
    const frame = encode(type, fields, message);
    if (this.#trace) this.#traceBytes('->', frame);
    this.#out.push(frame);
    if (!this.#flushing) {
      this.#flushing = true;
      process.nextTick(() => this.#flush());
    }
  }

  #flush() {
    this.#flushing = false;
    const out = this.#out;
    if (!out.length) return;
    this.#out = [];
    this.#socket.write(out.length === 1 ? out[0] : Buffer.concat(out));
    if (this.#socket.writableLength > READ_BELOW && !this.#socket.isPaused()) {
      this.#socket.pause();
      this.#socket.once('drain', () => this.#socket.resume());
    }
  }

  #traceBytes(direction, bytes) {
    const [type, flags, codec, method] = bytes.subarray(8);
    const stream = bytes.readUInt32BE(4), aux = bytes.readUInt32BE(12);
    this.#trace(clean(describe(direction, { type, flags, codec, method, stream, aux, payload: bytes.subarray(HEADER) })));
  }

  /** Send logs, and metrics where they changed. */
  #note(withMetrics) {
    if (!this.#peer || this.#outcome !== null || this.#socket.writableLength > NOTES_BELOW) return;
    for (let logs; (logs = takeRecords()).length;) this.#sendNote({ logs });
    const metrics = withMetrics ? this.#wireMetrics() : null;
    if (metrics && JSON.stringify(metrics) !== this.#noted) {
      this.#noted = JSON.stringify(metrics);
      this.#sendNote({ metrics });
    }
  }

  #sendNote(note) {
    if (!this.#peer || this.#outcome !== null) return;
    const text = JSON.stringify(note);
    if (Buffer.byteLength(text) <= this.#peer.max_frame) this.#send(Type.NOTE, {}, text);
  }

  #wireMetrics() {
    const m = this.metrics;
    return {
      requests_total: m.requestsTotal, requests_failed: m.requestsFailed, latency_ms: m.latencyMs,
      connections_active: m.connectionsActive, connections_idle: m.connectionsIdle,
      queries_executed: m.queriesExecuted, cache_hits: m.cacheHits, cache_misses: m.cacheMisses,
      custom_metrics_json: Object.keys(m.custom).length ? JSON.stringify(m.custom) : undefined,
    };
  }

  // -- reading ------------------------------------------------------------------

  #receive(chunk) {
    try {
      this.#reader.feed(chunk, (frame) => { if (this.#outcome === null) this.#take(frame); });
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      sdkLog.error(`the host broke the frame protocol: ${error.message}`);
      this.#send(Type.GOAWAY, { aux: this.#last }, JSON.stringify({ reason: error.message }));
      this.#end('broken', error.message);
    }
  }

  #take(frame) {
    if (this.#trace) this.#trace(clean(describe('<-', frame)));
    const { type, flags, stream, aux } = frame;
    if (!this.#peer) return this.#handshake(frame);
    switch (type) {
      case Type.OPEN: return this.#open(frame);
      case Type.PING:
        if (!(flags & Flag.ACK)) this.#send(Type.PING, { flags: Flag.ACK, aux });
        else if (aux === DRAIN_TOKEN) this.#onDrainSeen?.();
        return undefined;
      case Type.GOAWAY: return sdkLog.info(`the host says GOAWAY: ${decode(frame).reason ?? ''}`);
      case Type.NOTE: return undefined;
      case Type.HELLO: throw new ProtocolError('a second HELLO');
      default: break;
    }
    if (stream > this.#last || stream % 2 === 0) {
      throw new ProtocolError(`a frame for call ${stream}, which was never opened`);
    }
    const run = this.#calls.get(stream);
    if (!run) return undefined; // it is over: the two crossed
    switch (type) {
      case Type.CANCEL:
        return this.cancel(run, aux === Status.DEADLINE_EXCEEDED ? aux : Status.CANCELLED);
      case Type.CREDIT:
        run.credit += aux;
        if (run.credit > MAX_U32) throw new ProtocolError(`credit of call ${stream} above 2^32 - 1`);
        return run.changed();
      case Type.DATA: return this.#data(run, frame);
      default: throw new ProtocolError(`CLOSE of call ${stream}, which only the plugin closes`);
    }
  }

  #handshake(frame) {
    if (frame.type !== Type.HELLO && frame.type !== Type.GOAWAY) throw new ProtocolError('no HELLO came first');
    const message = decode(frame);
    if (frame.type === Type.GOAWAY) {
      return this.#end('refused', `the host refused this plugin: ${message.reason ?? ''}`);
    }
    if (message.codec !== 'json') throw new ProtocolError(`codec ${message.codec}; json was offered`);
    if (frame.aux !== PROTOCOL) throw new ProtocolError(`version ${frame.aux}; ${PROTOCOL} was offered`);
    this.#peer = { max_frame: 1048576, window: 262144, ...message };
    this.#reader.limit = this.#plugin.maxFrame;
    const send = () => { this.#note(false); this.#flush(); };
    urgent.add(send);
    this.over.then(() => urgent.delete(send));
    this.#every(NOTE_INTERVAL, () => this.#note(false));
    this.#every(METRICS_INTERVAL, () => this.#note(true));
    return undefined;
  }

  #open(frame) {
    const { stream, method, aux, flags } = frame;
    if (stream % 2 === 0 || stream <= this.#last) throw new ProtocolError(`OPEN of call ${stream} after ${this.#last}`);
    if (method < Method.INITIALIZE || method > Method.SHUTDOWN) throw new ProtocolError(`unknown method ${method}`);
    const message = decode(frame);
    this.#last = stream;
    const run = new Run(stream, method, aux);
    const isCall = method === Method.EXECUTE || method === Method.EXECUTE_STREAM;
    const full = isCall ? this.#calls.size - this.#control >= this.#plugin.maxStreams : this.#control >= MAX_CONTROL_CALLS;
    if (full) throw new ProtocolError(`call ${stream} is one more than may be open at a time`);
    this.#calls.set(stream, run);
    if (!isCall) this.#control += 1;
    if (this.#draining && method !== Method.SHUTDOWN) {
      return this.#refuse(run, Status.UNAVAILABLE, 'the plugin is draining', Flag.NOT_STARTED);
    }
    switch (method) {
      case Method.INITIALIZE: return void this.#initialize(run, message);
      case Method.HEALTH_CHECK: return void this.#healthCheck(run);
      case Method.SHUTDOWN: return void this.#shutdown(run, message);
      default: break;
    }
    if (!this.#serving) return this.#refuse(run, Status.FAILED_PRECONDITION, 'Initialize has to come first');
    this.metrics.requestsTotal += 1;
    if (method === Method.EXECUTE) return this.#execute(run, message);
    Object.assign(run, {
      inboxEnded: (flags & Flag.END) !== 0, credit: this.#peer.window, room: this.#plugin.window,
    });
    return void this.#stream(run, message);
  }

  #data(run, frame) {
    if (run.method !== Method.EXECUTE_STREAM) throw new ProtocolError(`DATA for call ${run.id}, which is no stream`);
    if (run.inboxEnded) throw new ProtocolError(`DATA for call ${run.id} after its END`);
    const message = decode(frame), size = HEADER + frame.payload.length;
    run.inboxEnded = (frame.flags & Flag.END) !== 0;
    if (run.cancelled) return;
    if (run.room <= 0) {
      this.cancel(run, Status.CANCELLED);
      this.#refuse(run, Status.CANCELLED, 'the host sent more than it had credit for');
      return;
    }
    run.room -= size;
    const says = Object.keys(message).length > 0 || !run.inboxEnded; // END may come without a message
    if (says) run.inbox.push({ message, size });
    run.changed();
  }

  /** A message of the client has been dealt with. */
  giveBack(run, size) {
    run.dealtWith += size;
    if (run.closed || run.inboxEnded || run.dealtWith < this.#plugin.window / 2) return;
    this.#send(Type.CREDIT, { stream: run.id, aux: run.dealtWith });
    run.room += run.dealtWith;
    run.dealtWith = 0;
  }

  // -- calls --------------------------------------------------------------------

  /** Tell a handler that nobody waits any more. One that does not end in time is left to itself. */
  cancel(run, status) {
    if (run.cancelled || run.closed) return;
    run.timers.push(setTimeout(() => {
      sdkLog.warn(`call ${run.id} went on ${CANCEL_GRACE / 1000} s after it was cancelled; ` +
        'its handler should watch call.signal');
      this.#fail(run, run.reason());
    }, CANCEL_GRACE));
    run.cancel(status);
  }

  #execute(run, request) {
    let result;
    try {
      const { handler } = this.#operation(request.operation, 'handler');
      result = handler(parameters(request), new Call(this, run, request));
    } catch (error) {
      return this.#fail(run, error, request);
    }
    if (typeof result?.then !== 'function') return this.#answer(run, result, request);
    return void result.then(
      (value) => this.#answer(run, value, request), (error) => this.#fail(run, error, request),
    );
  }

  #operation(name, kind) {
    const operation = this.#plugin.operations.get(name);
    if (!operation) throw new PluginError(Status.UNIMPLEMENTED, `there is no operation ${JSON.stringify(name ?? '')}`);
    if (!operation[kind]) {
      throw new PluginError(Status.UNIMPLEMENTED, kind === 'stream'
        ? `${name} is no stream: call it by Execute` : `${name} is a stream: call it by ExecuteStream`);
    }
    return operation;
  }

  #answer(run, result, request) {
    try {
      const message = { success: true, result_json: marshal(result).text };
      this.#close(run, Status.OK, message);
    } catch (error) {
      this.#fail(run, error, request);
    }
  }

  async #stream(run, request) {
    let iterator;
    try {
      const { stream } = this.#operation(request.operation, 'stream');
      const items = stream(parameters(request), new Call(this, run, request));
      iterator = items[Symbol.asyncIterator]?.() ?? items[Symbol.iterator]();
      for (let item; !(item = await iterator.next()).done;) {
        await run.until(() => run.credit > 0);
        if (!this.#sendItem(run, marshal(item.value))) return;
      }
      iterator = undefined;
      this.#close(run, Status.OK);
    } catch (error) {
      await this.#leave(iterator); // what it holds is given back before the call is over
      iterator = undefined;
      this.#fail(run, error, request);
    } finally {
      await this.#leave(iterator);
    }
  }

  async #leave(iterator) {
    try {
      await iterator?.return?.();
    } catch (error) {
      sdkLog.debug(error);
    }
  }

  #sendItem(run, { text, position }) {
    const message = JSON.stringify({ result_json: text, position: position || undefined });
    const length = Buffer.byteLength(message);
    if (length > this.#peer.max_frame) {
      this.#refuse(run, Status.RESOURCE_EXHAUSTED, `a message of ${length} bytes, the host takes ` +
        `${this.#peer.max_frame}`, Flag.TOO_LARGE);
      return false;
    }
    run.credit -= HEADER + length;
    this.#send(Type.DATA, { stream: run.id }, message);
    return true;
  }

  /** Close a call whose handler threw `error`. */
  #fail(run, error, request) {
    if (run.closed) return;
    if (error instanceof PluginError) return this.#refuse(run, error.status, clean(error.message));
    if (run.cancelled) return this.#refuse(run, run.cancelled, run.reason().message);
    const id = randomBytes(4).toString('hex');
    const of = request?.metadata?.['prism-request-id'];
    sdkLog.error(`operation ${request?.operation} failed, error id ${id}${of ? `, request ${of}` : ''}\n` +
      `${error?.stack ?? error}`);
    this.#refuse(run, Status.INTERNAL, 'the plugin failed unexpectedly; its log has the cause under ' +
      `error id ${id}`);
  }

  #refuse(run, status, error, flags = 0) {
    const of = run.method === Method.HEALTH_CHECK
      ? { status: HEALTH.unhealthy, message: error }
      : { error, error_code: run.method === Method.SHUTDOWN ? undefined : status };
    if (run.method === Method.EXECUTE_STREAM) of.is_final = true;
    this.#close(run, status, of, flags);
  }

  /** The one CLOSE of a call. */
  #close(run, status, message, flags = 0) {
    if (!this.#calls.delete(run.id)) return;
    run.end();
    if (run.method === Method.EXECUTE || run.method === Method.EXECUTE_STREAM) {
      this.metrics.latencyMs = performance.now() - run.began;
      if (status) this.metrics.requestsFailed += 1;
    } else {
      this.#control -= 1;
    }
    let text = message === undefined ? '' : JSON.stringify(message);
    if (text.length * 3 > this.#peer.max_frame && Buffer.byteLength(text) > this.#peer.max_frame) {
      [status, flags] = [Status.RESOURCE_EXHAUSTED, Flag.TOO_LARGE];
      const error = `an answer of ${Buffer.byteLength(text)} bytes, the host takes ${this.#peer.max_frame}`;
      text = JSON.stringify({ error, error_code: status });
      if (text.length > this.#peer.max_frame) text = '';
    }
    this.#send(Type.CLOSE, { stream: run.id, flags, aux: status }, text);
    if (this.#calls.size <= this.#control) this.#onNone.splice(0).forEach((resolve) => resolve());
  }

  // -- the other methods ----------------------------------------------------------

  async #initialize(run, message) {
    if (this.#initialized) return this.#refuse(run, Status.FAILED_PRECONDITION, 'Initialize came before');
    this.#initialized = true;
    const { namespace = '', backend_type: backendType = '', config_json: config, credentials = {}, cache } = message;
    keepSecret(credentials);
    try {
      this.setup = Object.freeze({
        namespace, backendType, credentials, cache: cache ?? null, metrics: this.metrics,
        tellHealth: (health) => this.#sendNote({ health: wireHealth(health) }),
        config: parameters({ params_json: config }), capabilities: message.capabilities ?? {},
      });
      if (cache && !this.#plugin.cache) {
        throw new PluginError(Status.INVALID_ARGUMENT, 'this plugin keeps no cache: take `cache:` out of the namespace');
      }
      this.#started = true;
      this.state = await this.#plugin.start?.(this.setup);
    } catch (error) {
      if (error instanceof PluginError) return this.#refuse(run, error.status, clean(error.message));
      sdkLog.error(`start failed\n${error?.stack ?? error}`);
      return this.#refuse(run, Status.INTERNAL, clean(`start failed: ${error}`));
    }
    this.#serving = true;
    const operations = this.#plugin.declarations;
    return this.#close(run, Status.OK, {
      success: true, plugin_version: this.#plugin.version,
      supported_operations: operations.map(({ name }) => name), operations,
    });
  }

  async #healthCheck(run) {
    let found;
    try {
      found = wireHealth(this.#serving ? await this.#plugin.health?.(this.state) : { status: 'unhealthy', message: 'not initialized' });
    } catch (error) {
      found = { status: HEALTH.unhealthy, message: clean(String(error?.message ?? error)) };
    }
    this.#close(run, Status.OK, { ...found, metrics: this.#wireMetrics() });
  }

  async #shutdown(run, { timeout_seconds: seconds = 0, reason = '' }) {
    this.#draining = true;
    await this.#finishCalls((seconds || STOP_GRACE / 1000) * 1000);
    const error = await this.#stop();
    this.#close(run, error ? Status.INTERNAL : Status.OK, error ? { error } : { success: true });
    this.#end(reason === 'replaced' ? 'replaced' : 'shutdown', reason);
  }

  async #finishCalls(milliseconds) {
    if (this.#calls.size > this.#control) {
      await within(milliseconds, new Promise((resolve) => { this.#onNone.push(resolve); }), this.over);
    }
    for (const run of this.#calls.values()) {
      if (run.method !== Method.EXECUTE && run.method !== Method.EXECUTE_STREAM) continue;
      run.cancel(Status.UNAVAILABLE);
      this.#refuse(run, Status.UNAVAILABLE, 'the plugin stopped before the call had ended; it may have run');
    }
  }

  /** Run the plugin's `stop`, once; the text of what went wrong. */
  async #stop() {
    if (!this.#started) return '';
    [this.#started, this.#serving] = [false, false];
    try {
      const inTime = await within(STOP_TIMEOUT, this.#plugin.stop?.(this.state));
      if (!inTime) throw new Error(`it took more than ${STOP_TIMEOUT / 1000} s`);
      return '';
    } catch (error) {
      sdkLog.error(`stop failed\n${error?.stack ?? error}`);
      return clean(`stop failed: ${error}`);
    }
  }

  // -- the end --------------------------------------------------------------------

  /** Start no more calls, let the running ones finish, and end. */
  async drain(reason) {
    this.#draining = true;
    if (this.#peer && this.#outcome === null) {
      const seen = new Promise((resolve) => { this.#onDrainSeen = resolve; });
      this.#send(Type.GOAWAY, { aux: this.#last }, JSON.stringify({ reason }));
      this.#send(Type.PING, { aux: DRAIN_TOKEN });
      await within(CLOSING_TIMEOUT, seen, this.over);
      await this.#finishCalls(STOP_GRACE);
    }
    this.#note(true);
    this.#end('drained', reason);
    await this.over;
  }

  /** The process is about to end for a fault: answer what runs. */
  crash(why) {
    for (const run of [...this.#calls.values()]) this.#refuse(run, Status.INTERNAL, why);
    this.#end('crashed', why);
  }

  #end(kind, reason) {
    if (this.#outcome !== null) return;
    if (kind !== 'ended') this.#note(false); // else nobody takes them: what started this process gets them printed
    this.#outcome = { kind, reason };
    this.#timers.forEach(clearTimeout);
    for (const run of this.#calls.values()) {
      run.cancel(Status.CANCELLED);
      run.end();
    }
    this.#calls.clear();
    this.#flush();
    this.#socket.end();
    void this.#closed();
  }

  async #closed() {
    await this.#stop();
    if (!this.#socket.destroyed && !this.#socket.writableFinished) {
      await within(CLOSING_TIMEOUT, new Promise((resolve) => {
        this.#socket.once('finish', resolve).once('close', resolve);
      }));
    }
    this.#socket.destroy();
    this.#over(this.#outcome);
  }

  #after(milliseconds, act) {
    this.#timers.push(setTimeout(act, milliseconds).unref());
  }

  #every(milliseconds, act) {
    this.#timers.push(setInterval(act, milliseconds).unref());
  }
}
