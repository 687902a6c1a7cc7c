// Frames: a header of 16 bytes and a payload, which is one JSON object (docs/protocol.md, 3).
import { isUtf8 } from 'node:buffer';

export const Type = {
  HELLO: 1, OPEN: 2, DATA: 3, CLOSE: 4, CANCEL: 5, CREDIT: 6, PING: 7, GOAWAY: 8, NOTE: 9,
};
export const Flag = { END: 1, NOT_STARTED: 2, ACK: 4, TOO_LARGE: 8 };
export const Method = {
  INITIALIZE: 1, HEALTH_CHECK: 2, EXECUTE: 3, EXECUTE_STREAM: 4, SHUTDOWN: 5,
};
export const HEADER = 16;
export const MAX_HELLO = 65536;
export const MAX_U32 = 2 ** 32 - 1;
const JSON_CODEC = 1;
const { HELLO, OPEN, NOTE, CANCEL, CREDIT, PING, GOAWAY } = Type;
const OF_CONNECTION = new Set([HELLO, PING, GOAWAY, NOTE]);
const WITHOUT_PAYLOAD = new Set([CANCEL, CREDIT, PING]);
const TYPE_NAMES = Object.keys(Type);
const METHOD_NAMES = ['Initialize', 'HealthCheck', 'Execute', 'ExecuteStream', 'Shutdown'];
const TRACED = 300; // bytes of a payload that are shown

/** The host broke a rule of the protocol: the connection ends. */
export class ProtocolError extends Error {
  name = 'ProtocolError';
}

/** One frame as bytes. `message` is its payload as JSON text; empty for none. */
export function encode(type, { stream = 0, flags = 0, method = 0, aux = 0 }, message = '') {
  const length = message === '' ? 0 : Buffer.byteLength(message);
  const frame = Buffer.allocUnsafe(HEADER + length);
  frame.writeUInt32BE(length, 0);
  frame.writeUInt32BE(stream, 4);
  frame[8] = type;
  frame[9] = flags;
  frame[10] = length ? JSON_CODEC : 0;
  frame[11] = method;
  frame.writeUInt32BE(aux, 12);
  if (length) frame.write(message, HEADER);
  return frame;
}

/** Cuts frames out of the bytes that come, in whatever portions they do. */
export class FrameReader {
  #chunks = [];
  #have = 0;
  #need = HEADER;
  /** Longest payload that is taken: that of a HELLO, until it has come. */
  limit = MAX_HELLO;

  /** Take in bytes, and give each frame that is whole now to `take`, in order.
   *  Throws ProtocolError; also for a header whose payload has not come. */
  feed(chunk, take) {
    this.#chunks.push(chunk);
    this.#have += chunk.length;
    if (this.#have < this.#need) return; // joined only when there are enough of them
    const data = this.#chunks.length === 1 ? chunk : Buffer.concat(this.#chunks, this.#have);
    let at = 0;
    this.#need = HEADER;
    while (data.length - at >= HEADER) {
      const size = HEADER + this.#check(data, at);
      if (data.length - at < size) {
        this.#need = size;
        break;
      }
      const payload = data.subarray(at + HEADER, at + size);
      take({
        type: data[at + 8], flags: data[at + 9], codec: data[at + 10], method: data[at + 11],
        stream: data.readUInt32BE(at + 4), aux: data.readUInt32BE(at + 12), payload,
      });
      at += size;
    }
    this.#have = data.length - at;
    this.#chunks = this.#have ? [data.subarray(at)] : [];
  }

  /** The length of the payload, once the header was found right. */
  #check(data, at) {
    const length = data.readUInt32BE(at), stream = data.readUInt32BE(at + 4), type = data[at + 8];
    if (type < HELLO || type > NOTE) throw new ProtocolError(`unknown frame type ${type}`);
    if (OF_CONNECTION.has(type) !== (stream === 0)) {
      throw new ProtocolError(`${TYPE_NAMES[type - 1]} on stream ${stream}`);
    }
    if (length > (WITHOUT_PAYLOAD.has(type) ? 0 : this.limit)) {
      throw new ProtocolError(`${TYPE_NAMES[type - 1]} with ${length} bytes, which is too long`);
    }
    return length;
  }
}

// What each message has that a plugin reads; a field of another type breaks the protocol.
const REQUEST = { operation: 'string', params_json: 'string', params_raw: 'string', metadata: 'strings' };
const FIELDS = {
  [HELLO]: { codec: 'string', max_frame: 'limit', window: 'limit' },
  [GOAWAY]: { reason: 'string' },
  [Type.DATA]: REQUEST,
  [NOTE]: {},
  [Type.CLOSE]: {},
};
const METHOD_FIELDS = {
  [Method.INITIALIZE]: {
    namespace: 'string', backend_type: 'string', config_json: 'string', credentials: 'strings',
    cache: 'object', capabilities: 'object',
  },
  [Method.HEALTH_CHECK]: {},
  [Method.EXECUTE]: REQUEST,
  [Method.EXECUTE_STREAM]: REQUEST,
  [Method.SHUTDOWN]: { timeout_seconds: 'int', reason: 'string' },
};
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
const IS = {
  string: (value) => typeof value === 'string',
  strings: (value) => isObject(value) && Object.values(value).every(IS.string),
  object: (value) => value === null || isObject(value),
  int: Number.isInteger,
  limit: (value) => Number.isInteger(value) && value >= 1 && value <= MAX_U32,
};

/** One JSON object from text; throws Error with a sentence where it is none. */
export function parseObject(text) {
  const value = JSON.parse(text);
  if (!isObject(value)) throw new Error('not one JSON object');
  return value;
}

/** The message that a frame carries. Throws ProtocolError. */
export function decode({ type, codec, method, payload }) {
  if (payload.length === 0) return {};
  const name = TYPE_NAMES[type - 1];
  if (codec !== JSON_CODEC) throw new ProtocolError(`${name} in codec ${codec}; JSON was agreed on`);
  if (!isUtf8(payload)) throw new ProtocolError(`${name} is not UTF-8`);
  let message;
  try {
    message = parseObject(payload.toString());
  } catch (error) {
    throw new ProtocolError(`${name}: ${error.message}`);
  }
  const fields = type === OPEN ? METHOD_FIELDS[method] : FIELDS[type];
  for (const field in fields) {
    if (Object.hasOwn(message, field) && !IS[fields[field]](message[field])) {
      throw new ProtocolError(`${name}: ${field} is not of its type (${fields[field]})`);
    }
  }
  return message;
}

/** A frame for the eyes of a person; the values of credentials are left out. */
export function describe(direction, { type, flags, method, stream, aux, payload }) {
  let name = TYPE_NAMES[type - 1];
  let text = payload.subarray(0, TRACED).toString();
  if (type === OPEN) {
    name += ` ${METHOD_NAMES[method - 1] ?? method}`;
    if (method === Method.INITIALIZE) { // nothing is known of its secrets yet
      try {
        text = JSON.stringify({ ...JSON.parse(payload.toString()), credentials: '(hidden)' });
      } catch {
        text = '(not JSON)';
      }
    }
  }
  const more = payload.length > TRACED ? '…' : '';
  return `${direction} ${name} stream=${stream} flags=${flags} aux=${aux} length=${payload.length} ${text.slice(0, TRACED)}${more}`;
}
