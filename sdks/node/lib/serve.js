// The whole main program of a plugin: how it meets its host, and when it ends.
import { lstatSync, readFileSync, unlinkSync } from 'node:fs';
import net from 'node:net';
import tls from 'node:tls';
import { parseArgs } from 'node:util';
import { configureLog, printRest, sdkLog } from './log.js';
import { PluginMistake, checked } from './plugin.js';
import { Session } from './session.js';

const FIRST_RETRY = 100, LAST_RETRY = 5000; // milliseconds between attempts to dial, doubled each time
const MAX_PATH = 107; // bytes of a Unix socket's path that Linux takes
const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|::1)$/;
const LEVELS = ['DEBUG', 'INFO', 'WARNING', 'ERROR'];
const USAGE = `Started by Prism (PRISM_PLUGIN_FD), a plugin needs no arguments; otherwise say where its proxy is:
  --connect unix:PATH        dial the proxy's Unix socket, again and again (default: $PLUGIN_SOCKET)
  --listen ADDRESS           wait for a proxy to connect, on unix:PATH or tcp:HOST:PORT
  --tls-cert FILE --tls-key FILE --tls-client-ca FILE
                             for tcp: certificate, its key, and the authority of proxies (PEM)
  --insecure                 TCP without TLS, on loopback only
  --log-level LEVEL          ${LEVELS.join(', ')} (default: INFO)`;

/** There is no way to meet a host; the message says why. */
class UsageError extends Error {}

function address(text) {
  const [, kind, rest] = /^(unix|tcp):(.+)$/s.exec(text) ?? [];
  if (kind === 'unix') {
    if (Buffer.byteLength(rest) > MAX_PATH) throw new UsageError(`a socket's path has at most ${MAX_PATH} bytes: ${rest}`);
    return { path: rest };
  }
  const [, host, port] = /^(.+):(\d{1,5})$/.exec(rest ?? '') ?? [];
  if (!host || Number(port) > 65535) throw new UsageError(`${text} is not an address: write unix:PATH or tcp:HOST:PORT`);
  return { host: host.replace(/^\[|\]$/g, ''), port: Number(port) };
}

function options(argv, env) {
  const text = { type: 'string' };
  let found;
  try {
    found = parseArgs({ args: argv, options: {
      connect: text, listen: text, 'tls-cert': text, 'tls-key': text, 'tls-client-ca': text,
      insecure: { type: 'boolean' }, 'log-level': text, help: { type: 'boolean' },
    } }).values;
  } catch (error) {
    throw new UsageError(error.message);
  }
  const { connect, listen, insecure } = found;
  const files = [found['tls-cert'], found['tls-key'], found['tls-client-ca']];
  const level = found['log-level'] ?? 'INFO';
  if (!LEVELS.includes(level)) throw new UsageError(`--log-level ${level}: take one of ${LEVELS.join(', ')}`);
  const use = { help: found.help, level };
  if (connect && listen) throw new UsageError('take either --connect or --listen');
  if (listen) {
    const where = address(listen), secure = files.some(Boolean);
    if (secure && (where.path || files.includes(undefined))) {
      throw new UsageError('--tls-cert, --tls-key and --tls-client-ca belong together, and to --listen tcp:…');
    }
    if (where.host && !secure && !(insecure && LOOPBACK.test(where.host))) {
      throw new UsageError(`refusing to listen on ${listen} without TLS: give --tls-cert, --tls-key and ` +
        '--tls-client-ca, or --insecure on a loopback address');
    }
    return { ...use, listen: where, files: secure ? files : null };
  }
  if (files.some(Boolean)) throw new UsageError('the TLS options are for --listen tcp:…');
  const path = connect ? address(connect).path : undefined;
  if (connect && !path) throw new UsageError('plugins dial Unix sockets only; over TCP they listen');
  if (path) return { ...use, dial: path };
  if (env.PRISM_PLUGIN_FD) {
    if (!/^\d+$/.test(env.PRISM_PLUGIN_FD)) {
      throw new UsageError(`PRISM_PLUGIN_FD=${env.PRISM_PLUGIN_FD} is not a file descriptor`);
    }
    return { ...use, descriptor: Number(env.PRISM_PLUGIN_FD) };
  }
  if (env.PLUGIN_SOCKET) return { ...use, dial: address(`unix:${env.PLUGIN_SOCKET}`).path };
  if (use.help) return use;
  throw new UsageError('nothing says where the proxy is: use --connect or --listen, set PLUGIN_SOCKET, ' +
    'or let Prism start this plugin (command:)');
}

/** Serve `plugin` until there is nothing more to serve, or a signal says so; then end the process:
 *  status 0 after a clean end, 1 where no host can be served, 2 for wrong arguments. */
export async function serve(plugin, { argv = process.argv.slice(2), env = process.env } = {}) {
  let status = 0;
  try {
    const use = options(argv, env);
    if (use.help) console.log(USAGE);
    else status = await new Server(checked(plugin), use, env.PRISM_TRACE === '1').run();
  } catch (error) {
    if (!(error instanceof UsageError || error instanceof PluginMistake)) throw error;
    process.stderr.write(`${error.message}\n`);
    status = 2;
  }
  printRest();
  process.exit(status);
}

class Server {
  #plugin; #use; #trace;
  #sessions = new Set();
  #stopping = false;
  #stop; #stopped;

  constructor(plugin, use, trace) {
    this.#plugin = plugin;
    this.#use = use;
    this.#trace = trace ? (line) => process.stderr.write(`${line}\n`) : null;
    this.#stopped = new Promise((resolve) => { this.#stop = resolve; });
  }

  async run() {
    const { level, descriptor, dial } = this.#use;
    configureLog(level, descriptor === undefined);
    delete process.env.PRISM_PLUGIN_FD; // nor may a program that the plugin starts look for it
    for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => this.#onSignal(signal));
    // A promise that nobody awaits is one call's fault: others go on. After an exception outside
    // of any promise, Node itself may be in disorder: the process ends, as it would without us.
    process.on('unhandledRejection', (error) => sdkLog.error(`a promise was rejected and not awaited\n${error?.stack ?? error}`));
    process.on('uncaughtException', (error) => this.#crash(error));
    const alive = setInterval(() => {}, 2 ** 30); // while only unfinished promises are left
    try {
      if (descriptor !== undefined) return await this.#serveInherited(descriptor);
      if (dial) return await this.#serveDialled(dial);
      return await this.#serveAccepted();
    } finally {
      clearInterval(alive);
    }
  }

  #onSignal(signal) {
    if (this.#stopping) process.exit(1);
    sdkLog.info(`stopping on ${signal}`);
    this.#stopping = true;
    this.#stop();
    for (const session of this.#sessions) void session.drain('the plugin\'s process was asked to stop');
  }

  async #crash(error) {
    sdkLog.error(`an exception outside of any call ends this process\n${error?.stack ?? error}`);
    for (const session of this.#sessions) session.crash('the plugin\'s process failed, and ends');
    await Promise.race([
      Promise.all([...this.#sessions].map(({ over }) => over)), new Promise((resolve) => { setTimeout(resolve, 2000); }),
    ]);
    printRest();
    process.exit(1);
  }

  /** Serve one host to its end. */
  async #serve(socket) {
    const session = new Session(socket, this.#plugin, { trace: this.#trace });
    this.#sessions.add(session);
    if (this.#stopping) void session.drain('the plugin\'s process was asked to stop');
    const outcome = await session.over;
    this.#sessions.delete(session);
    if (outcome.kind === 'refused') sdkLog.error(outcome.reason);
    return outcome;
  }

  async #serveInherited(fd) {
    let socket;
    try {
      socket = new net.Socket({ fd, readable: true, writable: true });
    } catch (error) {
      throw new UsageError(`PRISM_PLUGIN_FD=${fd} is not a connected socket (${error.code ?? error.message}); ` +
        'only Prism sets this variable, when it starts a plugin');
    }
    const { kind } = await this.#serve(socket);
    return ['refused', 'broken', 'crashed'].includes(kind) ? 1 : 0;
  }

  async #serveDialled(path) {
    let pause = FIRST_RETRY, told = false;
    while (!this.#stopping) {
      const socket = net.connect(path);
      const error = await new Promise((resolve) => {
        socket.once('connect', () => resolve(null)).once('error', resolve);
      });
      if (error === null) {
        socket.removeAllListeners('error');
        sdkLog.info(`dialled ${path}; one plugin at a time is answered there`);
        const { kind } = await this.#serve(socket);
        if (kind === 'replaced') {
          sdkLog.info('another process has taken this one\'s place; ending');
          return 0;
        }
        told = false;
        pause = kind === 'refused' || kind === 'broken' ? LAST_RETRY : FIRST_RETRY;
      } else if (!told) {
        sdkLog.info(`waiting for the proxy at ${path} (${error.code})`);
        told = true;
      }
      await Promise.race([this.#stopped, new Promise((resolve) => { setTimeout(resolve, pause).unref(); })]);
      pause = Math.min(2 * pause, LAST_RETRY);
    }
    return 0;
  }

  async #serveAccepted() {
    const { listen, files } = this.#use;
    const server = files ? tls.createServer(tlsOptions(files)) : net.createServer();
    server.on(files ? 'secureConnection' : 'connection', (socket) => void this.#serve(socket));
    server.on('tlsClientError', (error) => sdkLog.warn(`a TLS handshake failed: ${error.message}`));
    if (listen.path) await bindUnix(server, listen.path);
    else await bind(server, () => server.listen(listen.port, listen.host));
    const at = server.address();
    sdkLog.info(`listening on ${listen.path ? `unix:${at}` : `tcp:${listen.host.includes(':') ? `[${at.address}]` : at.address}:${at.port}`}`);
    await this.#stopped;
    server.close();
    await Promise.all([...this.#sessions].map(({ over }) => over));
    return 0;
  }
}

function tlsOptions([cert, key, ca]) {
  try {
    const files = { cert: readFileSync(cert), key: readFileSync(key), ca: readFileSync(ca) };
    tls.createSecureContext(files);
    return { ...files, requestCert: true, rejectUnauthorized: true, minVersion: 'TLSv1.2', pauseOnConnect: false };
  } catch (error) {
    throw new UsageError(`cannot use the TLS files (${cert}, ${key}, ${ca}): ${error.message}`);
  }
}

function bind(server, listen) {
  return new Promise((resolve, reject) => {
    server.once('error', (error) => reject(new UsageError(`cannot listen: ${error.message}`, { cause: error })));
    server.once('listening', resolve);
    listen();
  });
}

/** Bind so that the socket is never, not even briefly, open to others. */
async function bindUnix(server, path) {
  const listen = () => {
    const mask = process.umask(0o177);
    server.listen(path);
    process.umask(mask);
  };
  try {
    await bind(server, listen);
  } catch (error) {
    if (error.cause.code !== 'EADDRINUSE' || !(await isStale(path))) throw error;
    unlinkSync(path);
    await bind(server, listen);
  }
}

/** A socket of ours on which nobody listens any more? */
async function isStale(path) {
  const found = lstatSync(path);
  if (!found.isSocket() || found.uid !== process.geteuid()) return false;
  return new Promise((resolve) => {
    const probe = net.connect(path);
    probe.once('connect', () => resolve(false)).once('error', ({ code }) => resolve(code === 'ECONNREFUSED'));
    probe.once('connect', () => probe.destroy());
  });
}
