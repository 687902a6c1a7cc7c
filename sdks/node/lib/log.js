// Log records on their way to the proxy, which gets them in NOTEs.
import { redactor } from './plugin.js';

const MAX_PENDING = 1000; // records kept for the host; beyond it the oldest are dropped and counted
const MAX_RECORDS = 100; // in one NOTE
const MAX_TEXT = 16384; // characters in one NOTE, whose frame a host may want small
const MAX_MESSAGE = 8192;
const LEVELS = ['DEBUG', 'INFO', 'WARNING', 'ERROR'];

const pending = [];
const redactors = new Map(); // by the credentials: a host that comes again adds none
let dropped = 0;
let least = 1;
let toConsole = false;
export const urgent = new Set(); // functions that send at once what is pending

/** Hide these values in all that is logged or told from now on. */
export function keepSecret(credentials) {
  redactors.set(JSON.stringify(credentials), redactor(credentials));
}

/** Text without the credentials that have come. */
export function clean(text) {
  for (const redact of redactors.values()) text = redact(text);
  return text;
}

/** `level`: the lowest that is kept. `echo`: write each to standard error, too. */
export function configureLog(level, echo) {
  least = LEVELS.indexOf(level);
  toConsole = echo;
}

function add(level, message, logger) {
  if (LEVELS.indexOf(level) < least) return;
  const text = message instanceof Error ? message.stack : String(message);
  const record = { message: clean(text).slice(0, MAX_MESSAGE), level, logger, time: Date.now() / 1000 };
  if (toConsole) print(record);
  if (pending.push(record) > MAX_PENDING) {
    pending.shift();
    dropped += 1;
  }
  if (level === 'ERROR') for (const send of urgent) send(); // it may be a process's last words
}

const print = ({ level, logger, message }) => process.stderr.write(`${level} ${logger}: ${message}\n`);

/** The oldest records, as many as one NOTE takes. */
export function takeRecords() {
  const records = [];
  for (let size = 0; pending.length && records.length < MAX_RECORDS && size < MAX_TEXT;) {
    records.push(pending.shift());
    size += records.at(-1).message.length;
  }
  if (dropped) {
    const message = `${dropped} log records were dropped: too many at once`;
    records.push({ message, level: 'WARNING', logger: 'prism.sdk', time: Date.now() / 1000 });
    dropped = 0;
  }
  return records;
}

/** Write to standard error what no host has taken. */
export function printRest() {
  if (!toConsole) takeRecords().forEach(print);
}

/** A logger whose records travel to the proxy's log under `name`. */
export const logger = (name) => ({
  debug: (message) => add('DEBUG', message, name),
  info: (message) => add('INFO', message, name),
  warn: (message) => add('WARNING', message, name),
  error: (message) => add('ERROR', message, name),
});
export const log = logger('plugin');
export const sdkLog = logger('prism.sdk');
