// Tests of a plugin without a proxy: everything passes through frames, as in production.
import { Duplex } from 'node:stream';
import { Flag, FrameReader, HEADER, MAX_U32, Method, Type, encode } from './lib/frames.js';
import { PluginError, checked } from './lib/plugin.js';
import { Session } from './lib/session.js';

/** One end of a connection in memory. */
class End extends Duplex {
  other = null;
  constructor() { super({ allowHalfOpen: false }); }
  _read() {}
  _write(chunk, _encoding, done) { this.other.push(chunk); done(); }
  _final(done) { this.other.push(null); done(); }
}

/** The host's side of a connection, frame by frame. */
export class Host {
  frames = []; // received and not yet taken
  ended = false;
  #reader = new FrameReader();
  #waiting = null;
  #next = 1;

  constructor(stream) {
    this.stream = stream;
    this.#reader.limit = MAX_U32;
    stream.on('data', (chunk) => this.#reader.feed(chunk, (frame) => {
      this.frames.push({ ...frame, payload: Buffer.from(frame.payload) });
      this.#waiting?.();
    }));
    stream.on('end', () => { this.ended = true; this.#waiting?.(); }).on('error', () => {});
  }

  /** A plugin's session, and the host at the other end of it. */
  static serve(plugin, options) {
    const [ours, theirs] = [new End(), new End()];
    [ours.other, theirs.other] = [theirs, ours];
    return { host: new Host(ours), session: new Session(theirs, checked(plugin), options) };
  }

  /** The first frame that `wanted` takes; null once the stream has ended. */
  async receive(wanted = () => true) {
    for (;;) {
      const at = this.frames.findIndex(wanted);
      if (at >= 0) {
        const [frame] = this.frames.splice(at, 1);
        return { ...frame, message: frame.payload.length ? JSON.parse(frame.payload.toString()) : null };
      }
      if (this.ended) return null;
      await new Promise((resolve) => { this.#waiting = resolve; });
      this.#waiting = null;
    }
  }

  send(type, fields = {}, message = undefined) {
    this.stream.write(encode(type, fields, message === undefined ? '' : JSON.stringify(message)));
  }

  async handshake(limits = {}) {
    const { message } = await this.receive();
    this.send(Type.HELLO, { aux: 1 }, { name: 'prism', codec: 'json', ...limits });
    return message;
  }

  open(method, message, { timeout = 0, end = true } = {}) {
    const stream = this.#next;
    this.#next += 2;
    this.send(Type.OPEN, { stream, method, flags: end ? Flag.END : 0, aux: timeout }, message);
    return stream;
  }

  /** What a call says next: DATA, CLOSE or CREDIT. */
  next(stream) { return this.receive((frame) => frame.stream === stream); }

  async call(method, message, options) {
    const stream = this.open(method, message, options);
    return this.receive((frame) => frame.stream === stream && frame.type === Type.CLOSE);
  }
}

function result({ aux, message }) {
  if (aux) throw new PluginError(aux, message?.error ?? '');
  return message;
}

/** Start a plugin, as a namespace with these settings would. Throws what `start` refuses with. */
export async function runPlugin(plugin, { namespace = 'test', config = {}, credentials = {}, metadata = {} } = {}) {
  const { host, session } = Host.serve(plugin);
  await host.handshake();
  const setup = { namespace, config_json: JSON.stringify(config), credentials };
  const request = (operation, params) => ({ operation, params_json: JSON.stringify(params), metadata });
  try {
    result(await host.call(Method.INITIALIZE, setup));
  } catch (error) {
    host.stream.end();
    await session.over;
    throw error;
  }
  return {
    /** Call an operation, and return its result. Throws PluginError. */
    async call(operation, params = {}, options = {}) {
      const answer = result(await host.call(Method.EXECUTE, request(operation, params), options));
      return JSON.parse(answer.result_json);
    },
    /** Open a stream with the first of `messages`, send the others, and yield what comes. */
    async *stream(operation, ...messages) {
      const [first = {}, ...others] = messages;
      const stream = host.open(Method.EXECUTE_STREAM, request(operation, first), { end: !others.length });
      others.forEach((params, index) => host.send(
        Type.DATA, { stream, flags: index === others.length - 1 ? Flag.END : 0 }, { params_json: JSON.stringify(params) },
      ));
      let closed = false;
      try {
        for (;;) {
          const frame = await host.next(stream);
          closed = frame.type === Type.CLOSE;
          const message = closed ? result(frame) : frame.message;
          if (message?.result_json) yield JSON.parse(message.result_json);
          if (closed) return;
          if (frame.type === Type.DATA) host.send(Type.CREDIT, { stream, aux: HEADER + frame.payload.length });
        }
      } finally {
        if (!closed) host.send(Type.CANCEL, { stream, aux: 1 });
      }
    },
    /** What `health` says: { status: 0 | 1 | 2, message }. */
    async health() { return (await host.call(Method.HEALTH_CHECK, {})).message; },
    /** Shut it down; `stop` has run then. */
    async close() {
      result(await host.call(Method.SHUTDOWN, { timeout_seconds: 5 }));
      await session.over;
    },
  };
}
