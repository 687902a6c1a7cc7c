// The operations that the kit of every language has for its tests (../../README.md).
import { PluginError, Status, log, raw, serve } from '../index.js';

let cancelled = 0;

/** A parameter that has to be a number. */
function number(params, name, otherwise) {
  const value = params[name] ?? otherwise;
  if (typeof value === 'number') return value;
  throw new PluginError(Status.INVALID_ARGUMENT, `expected a number - at \`$.${name}\``);
}

serve({
  name: 'kit',
  version: '1.0.0',
  start: ({ credentials }) => ({ hasPassword: Boolean(credentials.password) }),
  health: () => ({ status: 'healthy', message: 'ready', details: { cancelled } }),
  operations: {
    echo: {
      handler: (_, call) => raw(call.paramsText), // byte for byte, as it came
      idempotent: true,
      access: 'read',
      description: 'Say it again.',
      paramsSchema: { type: 'object' },
      resultSchema: { type: 'object' },
    },
    fail: {
      handler({ code, message }) { throw new PluginError(code, message); },
      access: 'read',
    },
    panic: {
      async handler() { throw new Error('the handler crashed'); },
      access: 'read',
    },
    sleep: {
      handler: (params, { signal }) => new Promise((resolve, reject) => {
        const timer = setTimeout(resolve, number(params, 'seconds') * 1000);
        signal.addEventListener('abort', () => {
          cancelled += 1;
          clearTimeout(timer);
          reject(signal.reason);
        });
      }),
      access: 'read',
    },
    cancelled: { handler: () => ({ count: cancelled }), access: 'read' },
    count: {
      async *stream(params) {
        const to = number(params, 'to'), size = number(params, 'size', 0);
        const padding = size > 0 ? { padding: 'x'.repeat(size) } : {};
        for (let n = 1; n <= to; n += 1) yield { n, ...padding };
      },
      access: 'read',
    },
    sum: {
      async *stream(params, call) {
        let sum = number(params, 'n', 0);
        for await (const message of call.messages) sum += number(message, 'n');
        yield { sum };
      },
      access: 'read',
    },
    big: { handler: (params) => ({ data: 'x'.repeat(number(params, 'bytes')) }), access: 'read' },
    whoami: {
      handler: (_, { principal, requestId, namespace, metadata }) => ({
        principal, request_id: requestId, namespace, metadata,
      }),
      access: 'read',
    },
    secret: { handler: (_, call) => ({ password: call.state.hasPassword }), access: 'read' },
    log({ message, level = 'INFO' }) {
      const levels = { DEBUG: 'debug', INFO: 'info', WARNING: 'warn', ERROR: 'error' };
      if (!Object.hasOwn(levels, level)) throw new PluginError(Status.INVALID_ARGUMENT, `no such level: ${level}`);
      log[levels[level]](message);
    },
  },
});
