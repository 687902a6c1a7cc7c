// Calls and streams with what Node brings: fetch for a call, for lines of JSON and for
// server-sent events; a WebSocket, where there is one (Node 22, or 20 with
// --experimental-websocket).
//
// node examples/clients/node_client.js [http://127.0.0.1:50051]
'use strict';

const demo = `${process.argv[2] ?? 'http://127.0.0.1:50051'}/v1/demo`;

async function post(operation, params, headers = {}) {
  const response = await fetch(`${demo}/${operation}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(params),
  });
  if (!response.ok) throw new Error((await response.json()).detail);
  return response;
}

const call = async (operation, params) => (await post(operation, params)).json();

async function* textLines(response) {
  let rest = '';
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop();
    yield* lines;
  }
}

async function* lines(operation, params) {
  const response = await post(operation, params, { accept: 'application/x-ndjson' });
  for await (const line of textLines(response)) {
    const message = JSON.parse(line);
    if (message?.$error) throw new Error(message.$error.detail);
    yield message;
  }
}

async function* events(operation, params) {
  const response = await post(operation, params, { accept: 'text/event-stream' });
  let fields = {};
  for await (const line of textLines(response)) {
    if (line.startsWith(':')) continue;
    if (line) {
      const [, name, value] = line.match(/^(\w+): (.*)$/);
      fields[name] = value;
      continue;
    }
    if (fields.event === 'end') return;
    if (fields.event === 'error') throw new Error(JSON.parse(fields.data).detail);
    if (fields.data) yield JSON.parse(fields.data);
    fields = {};
  }
}

function webSocket(operation, params, onMessage) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`${demo.replace(/^http/, 'ws')}/${operation}`);
    socket.onopen = () => socket.send(JSON.stringify(params));
    socket.onmessage = (message) => onMessage(JSON.parse(message.data), socket);
    socket.onclose = (close) =>
      close.code === 1000 ? resolve() : reject(new Error(`closed with ${close.code}`));
  });
}

async function main() {
  console.log(await call('set', { key: 'user:123', value: { name: 'Ada' } }));
  console.log(await call('get', { key: 'user:123' }));
  for await (const message of lines('scan', { prefix: 'user:' })) console.log('scanned', message);
  for await (const change of events('watch', { prefix: 'user:', existing: true })) {
    console.log(change.event, change.key ?? '');
    if (change.event === 'ready') await call('delete', { key: 'user:123' });
    if (change.event === 'delete') break;
  }
  if (typeof WebSocket === 'undefined') return;
  await webSocket('watch', { prefix: 'user:', existing: true }, (change, socket) => {
    console.log('by WebSocket:', change.event);
    socket.close(1000);
  });
}

main();
