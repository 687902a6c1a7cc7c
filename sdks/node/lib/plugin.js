// What a plugin is made of, and the checks of it that need no proxy.
import { MAX_U32, parseObject } from './frames.js';

export const PROTOCOL = 1;

/** gRPC's statuses: how a call ended. */
export const Status = Object.freeze({
  OK: 0, CANCELLED: 1, UNKNOWN: 2, INVALID_ARGUMENT: 3, DEADLINE_EXCEEDED: 4, NOT_FOUND: 5,
  ALREADY_EXISTS: 6, PERMISSION_DENIED: 7, RESOURCE_EXHAUSTED: 8, FAILED_PRECONDITION: 9,
  ABORTED: 10, OUT_OF_RANGE: 11, UNIMPLEMENTED: 12, INTERNAL: 13, UNAVAILABLE: 14, DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
});

/** What a handler throws for the client to read: no secrets, no internals. */
export class PluginError extends Error {
  name = 'PluginError';
  constructor(status, message, options) {
    super(message, options);
    if (!(Number.isInteger(status) && status > 0 && status <= 16)) {
      throw new TypeError(`${status} is not the status of an error: take one of Status`);
    }
    this.status = status;
  }
}

class RawJSON {
  constructor(text) { this.text = text; }
}

/** A result that is JSON text already, and leaves as it is: integers beyond 2^53, say. */
export function raw(text) {
  JSON.parse(text); // throws where the author is wrong, not at the client's
  return new RawJSON(text);
}

class Positioned {
  constructor(value, position) { Object.assign(this, { value, position }); }
}

/** A message of a stream, and the position after which a later stream can resume. */
export function positioned(value, position) {
  if (typeof position !== 'string' || Buffer.byteLength(position) > 1024) {
    throw new TypeError('a position is text of at most 1,024 bytes');
  }
  return new Positioned(value, position);
}

/** A result as JSON text, and its position. Throws TypeError for what JSON cannot hold. */
export function marshal(result) {
  let position = '';
  if (result instanceof Positioned) ({ value: result, position } = result);
  if (result instanceof RawJSON) return { text: result.text, position };
  if (result === undefined) return { text: '{}', position };
  const text = JSON.stringify(result);
  if (text === undefined) throw new TypeError(`a ${typeof result} is no JSON`);
  return { text, position };
}

const NAME = /^[a-z][a-z0-9_]{0,63}$/;
const ACCESS = { read: 1, write: 2, admin: 3 };
const FIELDS = {
  handler: 'function', stream: 'function', idempotent: 'boolean', access: 'string', cost: 'number',
  description: 'string', paramsSchema: 'object', resultSchema: 'object',
  streamParamsSchema: 'object', streamResultSchema: 'object',
};

/** The plugin itself is wrong: its author reads why, before any proxy is met. */
export class PluginMistake extends TypeError {
  name = 'PluginMistake';
}

/** The plugin with its operations as objects. Throws PluginMistake, with all that is wrong. */
export function checked(plugin) {
  const { name, operations } = plugin;
  const wrong = [];
  if (typeof name !== 'string' || name === '') wrong.push('it has no name');
  for (const hook of ['start', 'stop', 'health']) {
    if (!['function', 'undefined'].includes(typeof plugin[hook])) wrong.push(`${hook} is no function`);
  }
  for (const [limit, most] of [['maxFrame', MAX_U32], ['maxStreams', MAX_U32], ['window', MAX_U32]]) {
    const value = plugin[limit];
    if (value !== undefined && !(Number.isInteger(value) && value >= 1 && value <= most)) {
      wrong.push(`${limit} is not a number of 1 to ${most}`);
    }
  }
  if (typeof operations !== 'object' || operations === null || !Object.keys(operations).length) {
    wrong.push('it has no operations: operations: { greet: async (params) => … }');
  }
  const all = new Map();
  for (const [key, value] of Object.entries(operations ?? {})) {
    const operation = typeof value === 'function' ? { handler: value } : value;
    const at = `operation ${JSON.stringify(key)}`;
    if (!NAME.test(key)) {
      const would = key.replace(/(?<=[a-z0-9])(?=[A-Z])/g, '_').toLowerCase().replace(/[^a-z0-9_]+/g, '_')
        .replace(/^[^a-z]+/, '').slice(0, 64);
      wrong.push(`${at}: no client could call it; a name is 1 to 64 lower-case letters, digits ` +
        `and underscores, a letter first, such as "${would || 'get'}"`);
    }
    for (const [field, found] of Object.entries(operation ?? {})) {
      if (found !== undefined && typeof found !== FIELDS[field]) {
        wrong.push(`${at}: ${field} ${FIELDS[field] ? `is no ${FIELDS[field]}` : 'is unknown'}`);
      }
    }
    if (!operation?.handler && !operation?.stream) wrong.push(`${at}: it has neither handler nor stream`);
    if (operation?.access !== undefined && !Object.hasOwn(ACCESS, operation.access)) {
      wrong.push(`${at}: access is not read, write or admin`);
    }
    if (operation?.cost !== undefined && !(Number.isInteger(operation.cost) && operation.cost >= 1)) {
      wrong.push(`${at}: cost is not a whole number from 1`);
    }
    all.set(key, operation);
  }
  if (wrong.length) throw new PluginMistake(`plugin ${JSON.stringify(name ?? '')}: ${wrong.join('; ')}`);
  return {
    version: '', maxFrame: 16777216, maxStreams: 1000, window: 262144, ...plugin, operations: all,
    declarations: [...all].map(declaration),
  };
}

function declaration([name, operation]) {
  const { idempotent, access, cost, description, paramsSchema, resultSchema } = operation;
  const both = Boolean(operation.handler && operation.stream);
  const text = (schema) => (schema === undefined ? undefined : JSON.stringify(schema));
  return { // JSON leaves out what is undefined
    name, idempotent, cost, description, access: ACCESS[access],
    streaming: operation.stream && !both ? true : undefined, also_streaming: both || undefined,
    params_schema: text(paramsSchema), result_schema: text(resultSchema),
    stream_params_schema: both ? text(operation.streamParamsSchema) : undefined,
    stream_result_schema: both ? text(operation.streamResultSchema) : undefined,
  };
}

/** Parameters as an object. Throws PluginError for what is none. */
export function parameters({ params_json: text, params_raw: packed }) {
  if (packed) throw new PluginError(Status.INVALID_ARGUMENT, 'MessagePack is not understood: send JSON');
  if (!text) return {};
  try {
    return parseObject(text);
  } catch (error) {
    throw new PluginError(Status.INVALID_ARGUMENT, `the parameters are not one JSON object: ${error.message}`);
  }
}

const USER = /(^|[_.-])(user([_-]?(name|id))?|login|client[_-]?id)$/i; // no secrets
/** A function that takes the values of `credentials` out of text, plain or as URLs have them. */
export function redactor(credentials) {
  const values = Object.entries(credentials)
    .filter(([key, value]) => value !== '' && !USER.test(key))
    .flatMap(([, value]) => [value, encodeURIComponent(value), JSON.stringify(value).slice(1, -1),
      Buffer.from(value).toString('base64')])
    .sort((a, b) => b.length - a.length);
  return (text) => values.reduce((clean, value) => clean.replaceAll(value, '[redacted]'), text);
}
