import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { Flag, Method, Type, encode } from '../lib/frames.js';
import { PluginError, Status, log, positioned, raw } from '../index.js';
import { Host, runPlugin } from '../testing.js';

const gate = () => {
  const made = {};
  made.opened = new Promise((resolve) => { made.open = resolve; });
  return made;
};

test('results, errors and what a call knows', async () => {
  const plugin = await runPlugin({
    name: 'p',
    version: '1.2.3',
    start: ({ config, credentials }) => ({ size: config.size, password: credentials.password }),
    health: (state) => ({ status: 'degraded', message: `size ${state.size}` }),
    operations: {
      echo: (params) => params,
      nothing: () => {},
      exact: { handler: (_, call) => raw(`{"same":${call.paramsText}}`), idempotent: true },
      who: (_, call) => ({ who: call.principal, in: call.namespace, left: call.timeLeft() > 1000 }),
      refuse: () => { throw new PluginError(Status.NOT_FOUND, 'no such row'); },
      leak: (_, call) => { throw new PluginError(Status.UNAVAILABLE, `login ${call.state.password} failed`); },
      bug: async () => { throw new Error('internal'); },
      cyclic: () => { const a = {}; a.a = a; return a; },
      functional: () => () => {},
    },
  }, { config: { size: 3 }, credentials: { password: 's3cr3t' }, metadata: { 'prism-principal': 'ada' } });
  assert.deepEqual(await plugin.call('echo', { a: [1, 'ü'] }), { a: [1, 'ü'] });
  assert.deepEqual(await plugin.call('nothing'), {});
  assert.deepEqual(await plugin.call('exact', {}), { same: {} });
  assert.deepEqual(await plugin.call('who', {}, { timeout: 60000 }), { who: 'ada', in: 'test', left: true });
  await assert.rejects(plugin.call('refuse'), { status: Status.NOT_FOUND, message: 'no such row' });
  await assert.rejects(plugin.call('leak'), { message: 'login [redacted] failed' });
  await assert.rejects(plugin.call('bug'), { status: Status.INTERNAL, message: /error id [0-9a-f]{8}$/ });
  await assert.rejects(plugin.call('cyclic'), { status: Status.INTERNAL });
  await assert.rejects(plugin.call('functional'), { status: Status.INTERNAL });
  await assert.rejects(plugin.call('fly'), { status: Status.UNIMPLEMENTED });
  await assert.rejects(plugin.call('toString'), { status: Status.UNIMPLEMENTED });
  const health = await plugin.health();
  assert.equal(health.status, 1);
  assert.equal(health.metrics.requests_total, 11);
  assert.equal(health.metrics.requests_failed, 7);
  await plugin.close();
});

test('a setting that start refuses, and a cache that nobody keeps', async () => {
  const start = ({ config }) => {
    if (!config.url) throw new PluginError(Status.INVALID_ARGUMENT, 'url is missing');
    throw new Error(`cannot reach ${config.url}`);
  };
  const plugin = { name: 'p', operations: { echo: (params) => params }, start };
  await assert.rejects(runPlugin(plugin), { status: Status.INVALID_ARGUMENT, message: 'url is missing' });
  await assert.rejects(runPlugin(plugin, { config: { url: 'x' } }), { message: /start failed: .*cannot reach x/ });
  const { host } = Host.serve({ ...plugin, start: undefined });
  await host.handshake();
  const refused = await host.call(Method.INITIALIZE, { cache: { operations: ['echo'] } });
  assert.equal(refused.aux, Status.INVALID_ARGUMENT);
  assert.match(refused.message.error, /keeps no cache/);
  const early = await host.call(Method.EXECUTE, { operation: 'echo' });
  assert.equal(early.aux, Status.FAILED_PRECONDITION);
  assert.equal((await host.call(Method.HEALTH_CHECK, {})).message.status, 2);
  host.stream.end();
});

test('mistakes of the author are told together, before any proxy is met', () => {
  const wrong = { name: '', operations: { 'no-call': () => {}, empty: {}, typo: { handler() {}, idempotnet: true } } };
  assert.throws(() => Host.serve(wrong), (error) => {
    for (const part of ['no name', '"no-call": no client', 'such as "no_call"', '"empty": it has neither', 'idempotnet is unknown']) {
      assert.ok(error.message.includes(part), error.message);
    }
    return true;
  });
});

test('streams: both forms, messages, positions, errors, the wrong method', async () => {
  const plugin = await runPlugin({
    name: 'p',
    operations: {
      count: { async *stream({ upto }) { for (let n = 0; n < upto; n += 1) yield n; } },
      both: { handler: () => 'unary', *stream() { yield 'stream'; } },
      double: { async *stream(params, call) {
        yield params.n * 2;
        for await (const message of call.messages) yield message.n * 2;
      } },
      fails: { async *stream() { yield 1; throw new PluginError(Status.DATA_LOSS, 'gone'); } },
      placed: { async *stream(_, call) { yield positioned(call.resumeAfter, 'seven'); } },
    },
  }, { metadata: { 'prism-last-event-id': 'six' } });
  const all = async (stream) => { const found = []; for await (const one of stream) found.push(one); return found; };
  assert.deepEqual(await all(plugin.stream('count', { upto: 3 })), [0, 1, 2]);
  assert.equal(await plugin.call('both'), 'unary');
  assert.deepEqual(await all(plugin.stream('both')), ['stream']);
  assert.deepEqual(await all(plugin.stream('double', { n: 1 }, { n: 2 }, { n: 3 })), [2, 4, 6]);
  const fails = plugin.stream('fails');
  assert.equal((await fails.next()).value, 1);
  await assert.rejects(fails.next(), { status: Status.DATA_LOSS });
  assert.deepEqual(await all(plugin.stream('placed')), ['six']);
  await assert.rejects(plugin.call('count'), { status: Status.UNIMPLEMENTED });
  await assert.rejects(all(plugin.stream('none')), { status: Status.UNIMPLEMENTED });
  await plugin.close();
});

/** A plugin that is ready, and its host. */
async function ready(operations, limits = {}, more = {}) {
  const { host, session } = Host.serve({ name: 'p', operations, ...more });
  await host.handshake(limits);
  assert.equal((await host.call(Method.INITIALIZE, { namespace: 'n' })).aux, 0);
  return { host, session };
}

test('a stream sends no more than it has credit for', async () => {
  let sent = 0, ended = false;
  const { host } = await ready({ many: { async *stream() {
    try { for (;;) { sent += 1; yield 'x'.repeat(100); } } finally { ended = true; }
  } } }, { window: 300 });
  const stream = host.open(Method.EXECUTE_STREAM, { operation: 'many' });
  const first = await host.next(stream);
  const size = 16 + first.payload.length;
  const count = Math.ceil(300 / size); // it may send while its credit is above 0
  for (let n = 1; n < count; n += 1) assert.equal((await host.next(stream)).type, Type.DATA);
  host.send(Type.PING, { aux: 5 });
  await host.receive(({ type }) => type === Type.PING);
  assert.equal(host.frames.filter((frame) => frame.stream === stream).length, 0);
  assert.equal(sent, count + 1); // the next one is made, and waits
  host.send(Type.CREDIT, { stream, aux: size * count });
  for (let n = 0; n < count; n += 1) assert.equal((await host.next(stream)).type, Type.DATA);
  host.send(Type.CANCEL, { stream, aux: Status.CANCELLED });
  const close = await host.next(stream);
  assert.equal(close.type, Type.CLOSE);
  assert.equal(close.aux, Status.CANCELLED);
  assert.ok(ended, 'its finally has run');
  host.stream.end();
});

test('what is read is given back, and what is beyond the credit ends the call', async () => {
  const go = gate();
  const { host } = await ready({
    sum: { async *stream(_, call) {
      await go.opened;
      let sum = 0;
      for await (const { n } of call.messages) sum += n;
      yield sum;
    } },
    deaf: { async *stream(_, call) { await new Promise((resolve) => { call.signal.onabort = resolve; }); } },
  }, {}, { window: 64 });
  const message = { params_json: '{"n":1}' }, size = 16 + JSON.stringify(message).length;
  const stream = host.open(Method.EXECUTE_STREAM, { operation: 'sum' }, { end: false });
  host.send(Type.DATA, { stream }, message);
  host.send(Type.DATA, { stream }, message);
  go.open();
  const credit = await host.next(stream);
  assert.deepEqual([credit.type, credit.aux], [Type.CREDIT, size]); // more than half of 64
  host.send(Type.DATA, { stream, flags: Flag.END });
  const answer = await host.receive((frame) => frame.stream === stream && frame.type === Type.DATA);
  assert.equal(answer.message.result_json, '2');
  assert.equal((await host.receive(({ type }) => type === Type.CLOSE)).aux, 0);

  const deaf = host.open(Method.EXECUTE_STREAM, { operation: 'deaf' }, { end: false });
  for (let n = 0; n < 9; n += 1) host.send(Type.DATA, { stream: deaf }, message);
  const overrun = await host.receive((frame) => frame.stream === deaf && frame.type === Type.CLOSE);
  assert.equal(overrun.aux, Status.CANCELLED);
  assert.equal((await host.call(Method.HEALTH_CHECK, {})).message.status, 0);
  host.stream.end();
});

test('exactly one CLOSE: cancelled before, while and after; deadlines; handlers that do not watch', async () => {
  const watched = gate();
  let reason;
  const { host } = await ready({
    watches: (_, { signal }) => new Promise((_resolve, reject) => {
      signal.onabort = () => { reason = signal.reason; reject(signal.reason); };
      watched.open();
    }),
    ignores: () => new Promise(() => {}),
    quick: () => 1,
  });
  const first = host.open(Method.EXECUTE, { operation: 'watches' });
  await watched.opened;
  host.send(Type.CANCEL, { stream: first, aux: Status.CANCELLED });
  host.send(Type.CANCEL, { stream: first, aux: Status.CANCELLED });
  assert.equal((await host.next(first)).aux, Status.CANCELLED);
  assert.equal(reason.status, Status.CANCELLED);
  const late = host.open(Method.EXECUTE, { operation: 'quick' });
  assert.equal((await host.next(late)).aux, 0);
  host.send(Type.CANCEL, { stream: late, aux: Status.CANCELLED });
  const timed = await host.call(Method.EXECUTE, { operation: 'watches' }, { timeout: 30 });
  assert.equal(timed.aux, Status.DEADLINE_EXCEEDED);
  const ignores = host.open(Method.EXECUTE, { operation: 'ignores' });
  host.send(Type.CANCEL, { stream: ignores, aux: Status.DEADLINE_EXCEEDED });
  assert.equal((await host.next(ignores)).aux, Status.DEADLINE_EXCEEDED);
  assert.equal((await host.call(Method.EXECUTE, { operation: 'quick' })).message.result_json, '1');
  assert.equal(host.frames.length, 0);
  host.stream.end();
});

test('answers that are too large for the host', async () => {
  const big = 'x'.repeat(2000);
  const { host } = await ready({ big: () => big, stream: { *stream() { yield 1; yield big; } } }, { max_frame: 1000 });
  const unary = await host.call(Method.EXECUTE, { operation: 'big' });
  assert.deepEqual([unary.aux, unary.flags], [Status.RESOURCE_EXHAUSTED, Flag.TOO_LARGE]);
  const stream = await host.call(Method.EXECUTE_STREAM, { operation: 'stream' });
  assert.deepEqual([stream.aux, stream.flags], [Status.RESOURCE_EXHAUSTED, Flag.TOO_LARGE]);
  host.stream.end();
});

test('a drain: what runs ends, what crosses it was not started', async () => {
  const go = gate(), begun = gate();
  let stopped = false;
  const { host, session } = await ready(
    { wait: async () => { begun.open(); await go.opened; return 'done'; } }, {}, { stop: () => { stopped = true; } },
  );
  const running = host.open(Method.EXECUTE, { operation: 'wait' });
  await begun.opened;
  const drained = session.drain('stop');
  const goaway = await host.receive(({ type }) => type === Type.GOAWAY);
  assert.equal(goaway.aux, running);
  const ping = await host.receive(({ type }) => type === Type.PING);
  const crossed = await host.call(Method.EXECUTE, { operation: 'wait' });
  assert.deepEqual([crossed.aux, crossed.flags], [Status.UNAVAILABLE, Flag.NOT_STARTED]);
  host.send(Type.PING, { flags: Flag.ACK, aux: ping.aux });
  go.open();
  assert.equal((await host.next(running)).message.result_json, '"done"');
  await drained;
  assert.equal(await host.receive(({ type }) => type !== Type.NOTE), null);
  assert.ok(stopped);
});

test('Shutdown refuses, waits, and closes what is left', async () => {
  const { host, session } = await ready({ wait: () => new Promise(() => {}) });
  const stuck = host.open(Method.EXECUTE, { operation: 'wait' });
  const shutdown = host.open(Method.SHUTDOWN, { timeout_seconds: 1, reason: 'replaced' });
  const refused = await host.call(Method.EXECUTE, { operation: 'wait' });
  assert.equal(refused.flags, Flag.NOT_STARTED);
  assert.equal((await host.next(stuck)).aux, Status.UNAVAILABLE);
  assert.equal((await host.next(shutdown)).message.success, true);
  assert.equal((await session.over).kind, 'replaced');
});

test('a crash answers what runs', async () => {
  const { host, session } = await ready({ wait: () => new Promise(() => {}) });
  const running = host.open(Method.EXECUTE, { operation: 'wait' });
  host.send(Type.PING, { aux: 1 });
  await host.receive(({ type }) => type === Type.PING);
  session.crash('it failed');
  assert.equal((await host.next(running)).aux, Status.INTERNAL);
  assert.equal(await host.receive(({ type }) => type === Type.GOAWAY), null);
});

test('logs and health are told by NOTE, without secrets', async () => {
  let setup;
  const { host } = Host.serve({ name: 'p', operations: { echo: (p) => p }, start: (given) => { setup = given; } });
  await host.handshake();
  await host.call(Method.INITIALIZE, { namespace: 'n', credentials: { password: 'tell-no1', username: 'ada' } });
  log.error('ada used tell-no1'); // of level ERROR: at once
  const note = await host.receive(({ type }) => type === Type.NOTE);
  const [{ message, level, logger, time }] = note.message.logs;
  assert.deepEqual([message, level, logger], ['ada used [redacted]', 'ERROR', 'plugin']);
  assert.ok(Math.abs(time - Date.now() / 1000) < 60);
  setup.tellHealth({ status: 'degraded', message: 'replica lags', details: { lag: 3 } });
  const health = (await host.receive(({ type }) => type === Type.NOTE)).message.health;
  assert.deepEqual(health, { status: 1, message: 'replica lags', details: { lag: '3' } });
  host.stream.end();
});

test('the trace shows frames, and no credentials', async () => {
  const lines = [];
  const { host } = Host.serve({ name: 'p', operations: { echo: (p) => p } }, { trace: (line) => lines.push(line) });
  await host.handshake();
  await host.call(Method.INITIALIZE, { namespace: 'n', credentials: { password: 'hunter2' } });
  await host.call(Method.EXECUTE, { operation: 'echo', params_json: '{"a":"hunter2"}' });
  assert.match(lines[0], /^-> HELLO stream=0 flags=0 aux=1 length=\d+ \{"name":"p"/);
  assert.ok(lines.some((line) => line.startsWith('<- OPEN Execute stream=3 flags=1 ')), lines.join('\n'));
  assert.ok(!lines.join('\n').includes('hunter2'));
  assert.match(lines[2], /"credentials":"\(hidden\)"/);
  host.stream.end();
});

// -- the vectors -----------------------------------------------------------------

const VECTORS = new URL('../../../schemas/vectors/', import.meta.url);
const cases = (file) => JSON.parse(readFileSync(new URL(file, VECTORS))).cases;
const pieces = { whole: (bytes) => [bytes], 'byte by byte': (bytes) => [...bytes].map((byte) => Buffer.from([byte])) };

// Frames that come when the call is over here, since its operation is unknown and answered at once.
const OVER = new Set(['data for a unary call', 'data after END', 'close from the caller', 'the stream ends in the middle of a frame']);

for (const [how, cut] of Object.entries(pieces)) {
  for (const { name, to, codec, state, hex } of cases('errors.json')) {
    if (to !== 'plugin' || codec !== 'json') continue;
    test(`broken, ${how}: ${name}`, async () => {
      const { host, session } = Host.serve({ name: 'x', operations: { echo: () => new Promise(() => {}) } });
      if (state === 'ready') await host.handshake();
      for (const piece of cut(Buffer.from(hex, 'hex'))) host.stream.write(piece);
      if (OVER.has(name)) host.stream.end();
      const { kind } = await session.over;
      assert.equal(kind, OVER.has(name) ? 'ended' : 'broken');
      const goaway = await host.receive(({ type }) => type === Type.GOAWAY);
      assert.equal(goaway === null, OVER.has(name));
    });
  }
  for (const { name, codec, hex, events } of cases('tolerance.json')) {
    if (codec !== 'json') continue;
    test(`tolerated, ${how}: ${name}`, async () => {
      const { host, session } = Host.serve({ name: 'x', operations: { get: () => 1 } });
      await host.handshake();
      for (const piece of cut(Buffer.from(hex, 'hex'))) host.stream.write(piece);
      for (const { event, stream } of events) {
        if (event === 'Open') assert.equal((await host.next(stream)).aux, Status.FAILED_PRECONDITION);
      }
      host.send(Type.PING, { aux: 9 });
      assert.equal((await host.receive(({ type }) => type === Type.PING)).aux, 9);
      host.stream.end();
      assert.equal((await session.over).kind, 'ended');
    });
  }
  for (const { name, codec, steps } of cases('conversations.json')) {
    if (codec !== 'json') continue;
    test(`conversation, ${how}: ${name}`, async () => {
      const { host, session } = Host.serve({ name: 'echo', version: '1.0.0', window: 64, operations: actors() });
      for (const [index, { sender, hex, events }] of steps.entries()) {
        if (steps[index + 1]?.events.some(({ event }) => event === 'GoAway') && sender === 'host') {
          void session.drain('leaving'); // it crosses what the host sends now
        }
        if (sender === 'host') for (const piece of cut(Buffer.from(hex, 'hex'))) host.stream.write(piece);
        else for (const wanted of events) await matches(host, wanted);
      }
      assert.deepEqual(host.frames.filter(({ type }) => type === Type.CLOSE), []);
      host.stream.end();
      await session.over;
    });
  }
}

/** Operations that act as the conversations tell. */
function actors() {
  const held = [];
  return {
    echo: (params) => params,
    get: (_, call) => new Promise((resolve, reject) => { // two at a time, answered out of order
      call.signal.onabort = () => reject(call.signal.reason);
      if (held.push(resolve) === 2) held.reverse().forEach((answer, index) => setImmediate(answer, 5 - 2 * index));
    }),
    chat: { async *stream(_, call) { for await (const { text } of call.messages) yield text; } },
  };
}

async function matches(host, wanted) {
  const { event, stream = 0 } = wanted;
  const type = Type[event.toUpperCase()];
  const frame = await host.receive((one) => one.stream === stream && one.type === type);
  if (event === 'Credit') assert.equal(frame.aux, wanted.size);
  if (event === 'Ping') assert.deepEqual([frame.aux, frame.flags], [wanted.token, Flag.ACK]);
  if (event === 'GoAway') assert.deepEqual([frame.aux, frame.message.reason], [wanted.last_stream, wanted.reason]);
  if (event === 'Data') assert.equal(frame.message.result_json, wanted.message.result_json);
  if (event !== 'Close') return;
  const statuses = wanted.status === 'CANCELLED' ? [Status.CANCELLED, Status.DEADLINE_EXCEEDED] : [Status[wanted.status]];
  assert.ok(statuses.includes(frame.aux), `${frame.aux} is not ${wanted.status}`);
  assert.equal((frame.flags & Flag.NOT_STARTED) !== 0, wanted.not_started);
  const { success, result_json: result, status } = wanted.message ?? {};
  if (success) assert.deepEqual([frame.message.success, frame.message.result_json], [true, result]);
  if (status === 0) assert.equal(frame.message.status, 0);
}

for (const { name, sender, codec = 'json', hex, event } of cases('frames-json.json')) {
  if (sender !== 'plugin' || codec !== 'json') continue;
  test(`what a plugin sends is read alike: ${name}`, async () => {
    const bytes = Buffer.from(hex, 'hex');
    const [type, flags, , method] = bytes.subarray(8);
    const again = encode(type, { stream: bytes.readUInt32BE(4), flags, method, aux: bytes.readUInt32BE(12) }, bytes.subarray(16).toString());
    assert.equal(again.toString('hex'), hex, event.event);
  });
}
