// A Prism plugin in plain Node, written from docs/protocol.md: an echo and a store in memory.
// Prism starts it (PRISM_PLUGIN_FD), or it dials in: PLUGIN_SOCKET=/path node echo.js
'use strict';
const net = require('node:net');
const [HELLO, OPEN, CLOSE, CANCEL, CREDIT, PING, GOAWAY, NOTE] = [1, 2, 4, 5, 6, 7, 8, 9];
const [INITIALIZE, HEALTH_CHECK, EXECUTE, EXECUTE_STREAM, SHUTDOWN] = [1, 2, 3, 4, 5];
const STATUS = { OK: 0, INVALID_ARGUMENT: 3, EXHAUSTED: 8, PRECONDITION: 9, UNIMPLEMENTED: 12 };
const [READ, WRITE] = [1, 2]; // what an operation takes of its caller
const HEADER = 16, JSON_CODEC = 1, ACK = 4, TOO_LARGE = 8, MAX_FRAME = 4194304;
const utf8 = new TextDecoder('utf-8', { fatal: true });

const callError = (status, message) => Object.assign(new Error(message), { status });
function invalid(why) { throw callError(STATUS.INVALID_ARGUMENT, why); }

// -- the operations: parameters in, result out as JSON text -------------------
const store = new Map();
const keyOf = ({ key }) => typeof key === 'string' ? key : invalid('key must be a string');
const operations = {
  echo: (params, text) => text,
  get(params) {
    const key = keyOf(params); // JSON leaves out the value of a missing key
    return JSON.stringify({ found: store.has(key), value: store.get(key) });
  },
  set(params) {
    store.set(keyOf(params), 'value' in params ? params.value : invalid('value is missing'));
    return '{"stored":true}';
  },
};

// What clients are told of them: words, and which parameters there must be.
const told = { echo: ['Say it again.'], get: ['Read a key.', 'key'], set: ['Set a key.', 'key', 'value'] };
const schemaOf = (required) => JSON.stringify({ type: 'object', required });

function execute({ operation, params_json, params_raw }) {
  const text = params_json || '{}';
  if (!Object.hasOwn(operations, operation)) throw callError(STATUS.UNIMPLEMENTED, 'no such operation');
  if (params_raw) invalid('MessagePack is not understood');
  let params;
  try { params = parseObject(text); } catch (error) { invalid(`parameters: ${error.message}`); }
  return { success: true, result_json: operations[operation](params, text) };
}

function parseObject(text) {
  const value = JSON.parse(text);
  if (Object.prototype.toString.call(value) !== '[object Object]') throw new Error('not an object');
  return value;
}

// -- one connection -----------------------------------------------------------
function frame(type, { stream = 0, flags = 0, aux = 0, message = null } = {}) {
  const payload = Buffer.from(message === null ? '' : JSON.stringify(message));
  const header = Buffer.alloc(HEADER);
  header.writeUInt32BE(payload.length, 0);
  header.writeUInt32BE(stream, 4);
  header.set([type, flags, payload.length ? JSON_CODEC : 0], 8);
  header.writeUInt32BE(aux, 12);
  return Buffer.concat([header, payload]);
}

function check(header) { // before anything is kept for the payload
  const length = header.readUInt32BE(0), type = header[8];
  const ofConnection = [HELLO, PING, GOAWAY, NOTE].includes(type);
  if (type < HELLO || type > NOTE) throw new Error(`unknown frame type ${type}`);
  if (length > ([CANCEL, CREDIT, PING].includes(type) ? 0 : MAX_FRAME)) throw new Error('too long');
  if (ofConnection !== (header.readUInt32BE(4) === 0)) throw new Error('wrong stream');
  return header;
}

function serve(socket, over) { // over(status, stays) is called once, when the connection has ended
  let hadHello = false, initialized = false, stays = true, maxAnswer = 0, lastStream = 0;
  let chunks = [], have = 0, header = null, status = 0;

  function answer(method, request) {
    if (method === SHUTDOWN) return { success: true };
    if (method === HEALTH_CHECK) return { status: initialized ? 0 : 2 };
    const inTurn = initialized !== (method === INITIALIZE);
    if (!inTurn) throw callError(STATUS.PRECONDITION, 'Initialize comes once, and first');
    if (method === EXECUTE_STREAM) throw callError(STATUS.UNIMPLEMENTED, 'there are no streams');
    if (method === EXECUTE) return execute(request);
    if (request.cache) invalid('results are not kept here: leave out `cache`');
    initialized = true;
    const names = Object.keys(operations);
    const declared = names.map((name) => {
      const [description, ...required] = told[name];
      const promised = name === 'set' ? { access: WRITE } : { idempotent: true, access: READ };
      return { name, description, params_schema: schemaOf(required), ...promised };
    });
    return { success: true, supported_operations: names, operations: declared };
  }

  function open(stream, method, request) {
    if (stream % 2 === 0 || stream <= lastStream) throw new Error(`OPEN for ${stream}`);
    if (method < INITIALIZE || method > SHUTDOWN) throw new Error(`method ${method}`);
    lastStream = stream;
    let aux = STATUS.OK, message;
    try { message = answer(method, request); } catch (error) {
      aux = error.status ?? 13;
      message = { error: error.message, error_code: aux };
    }
    const data = frame(CLOSE, { stream, aux, message }), fits = data.length - HEADER <= maxAnswer;
    socket.write(fits ? data : frame(CLOSE, { stream, aux: STATUS.EXHAUSTED, flags: TOO_LARGE }));
    if (method === SHUTDOWN) {
      stays = request.reason !== 'replaced';
      socket.end(() => socket.destroy());
    }
  }

  // Each call is closed before the next frame is read, so CANCEL, CREDIT and DATA come too late.
  function handle(header, payload) {
    const [type, flags, codec, method] = header.subarray(8);
    const stream = header.readUInt32BE(4), aux = header.readUInt32BE(12);
    if (payload.length && codec !== JSON_CODEC) throw new Error(`payload in codec ${codec}`);
    const message = payload.length ? parseObject(utf8.decode(payload)) : {};
    if (type === HELLO) {
      if (hadHello || message.codec !== 'json' || aux !== 1) throw new Error('wrong HELLO');
      maxAnswer = message.max_frame ?? 1048576;
      hadHello = true;
    } else if (!hadHello) {
      throw new Error(type === GOAWAY ? `refused: ${message.reason}` : 'no HELLO');
    } else if (type === GOAWAY) {
      console.error(`the host goes: ${message.reason ?? ''}`);
    } else if (type === OPEN) {
      open(stream, method, message);
    } else if (type === PING && !(flags & ACK)) {
      socket.write(frame(PING, { flags: ACK, aux }));
    } else if (stream > lastStream) {
      throw new Error(`frame for call ${stream}, which was never opened`);
    }
  }

  function take(size) { // chunks are joined only when there are enough of them
    const all = Buffer.concat(chunks, have);
    [chunks, have] = [[all.subarray(size)], have - size];
    return all.subarray(0, size);
  }

  function read(chunk) {
    have += chunks[chunks.push(chunk) - 1].length;
    while (have >= (header === null ? HEADER : header.readUInt32BE(0))) {
      const done = header;
      header = done === null ? check(take(HEADER)) : null;
      if (done !== null) handle(done, take(done.readUInt32BE(0)));
    }
  }

  function goodbye({ message: reason }) {
    console.error(`the host broke the protocol: ${reason}`);
    status = 1;
    socket.removeAllListeners('data');
    socket.end(frame(GOAWAY, { aux: lastStream, message: { reason } }), () => socket.destroy());
  }
  socket.on('data', (chunk) => { try { read(chunk); } catch (error) { goodbye(error); } });
  function stop() { // SIGTERM: what was read is answered by now
    socket.end(frame(GOAWAY, { aux: lastStream, message: { reason: 'SIGTERM' } }), () => process.exit());
  }
  process.on('SIGTERM', stop);
  socket.on('end', () => socket.destroy()).on('error', () => {}).on('close', () => {
    process.off('SIGTERM', stop);
    over(status, stays);
  });
  socket.write(frame(HELLO, { aux: 1, message: { name: 'echo', version: '1.0.0', max_frame: MAX_FRAME } }));
}

function dial(path, pause) { // as a new plugin each time; one that was refused waits longest
  const again = (wait) => setTimeout(dial, wait, path, Math.min(2 * wait, 5000));
  const socket = net.connect(path, () => {
    socket.off('error', failed).off('close', tried);
    serve(socket, (status, stays) => stays ? again(status ? 5000 : 100) : process.exit());
  });
  const failed = () => {}, tried = () => again(pause);
  socket.on('error', failed).on('close', tried);
}

const { PRISM_PLUGIN_FD: fd, PLUGIN_SOCKET: path } = process.env;
if (fd) serve(new net.Socket({ fd: Number(fd), readable: true, writable: true }), (status) => process.exit(status));
else if (path) dial(path, 100);
else process.exitCode = 2, console.error('set PLUGIN_SOCKET, or let Prism start this plugin');
