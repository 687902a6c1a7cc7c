// A client as Node programs have it: node:http2, or fetch for HTTP/1.1.
//
// Usage: node http2_client.js (http1|http2) URL CALLS < BODY
//
// Posts the body CALLS times at once, and prints one line for each different
// outcome: how often, status, body.
'use strict';
const { readFileSync } = require('node:fs');
const http2 = require('node:http2');

const [kind, address, calls] = process.argv.slice(2);
const body = readFileSync(0);
const url = new URL(address);

async function http1() {
  const headers = { 'content-type': 'application/json' };
  const response = await fetch(url, { method: 'POST', headers, body });
  return `${response.status} ${await response.text()}`;
}

function call(session) {
  return new Promise((resolve) => {
    const request = session.request({
      ':method': 'POST',
      ':path': url.pathname,
      'content-type': 'application/json',
    });
    let status;
    let received = '';
    request.setEncoding('utf8');
    request.on('response', (headers) => { status = headers[':status']; });
    request.on('data', (chunk) => { received += chunk; });
    request.on('end', () => resolve(`${status} ${received}`));
    request.on('error', (error) => resolve(String(error)));
    request.end(body);
  });
}

async function main() {
  const session = kind === 'http2'
    ? http2.connect(url.origin, { rejectUnauthorized: false })
    : null;
  const many = Array.from({ length: Number(calls) }, () => (session ? call(session) : http1()));
  const outcomes = new Map();
  for (const outcome of await Promise.all(many)) {
    outcomes.set(outcome, (outcomes.get(outcome) || 0) + 1);
  }
  for (const [outcome, count] of outcomes) console.log(count, outcome);
  if (session) session.close();
}

main();
