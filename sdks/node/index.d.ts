/** Prism's SDK for plugins in Node. */

/** gRPC's statuses: how a call ended. */
export declare const Status: {
  readonly OK: 0; readonly CANCELLED: 1; readonly UNKNOWN: 2; readonly INVALID_ARGUMENT: 3;
  readonly DEADLINE_EXCEEDED: 4; readonly NOT_FOUND: 5; readonly ALREADY_EXISTS: 6;
  readonly PERMISSION_DENIED: 7; readonly RESOURCE_EXHAUSTED: 8; readonly FAILED_PRECONDITION: 9;
  readonly ABORTED: 10; readonly OUT_OF_RANGE: 11; readonly UNIMPLEMENTED: 12;
  readonly INTERNAL: 13; readonly UNAVAILABLE: 14; readonly DATA_LOSS: 15;
  readonly UNAUTHENTICATED: 16;
};
export type StatusCode = (typeof Status)[keyof typeof Status];

/**
 * What a handler throws for the client to read: no secrets, no internals. Anything else that it
 * throws is INTERNAL for the client, with an id under which the log has the stack.
 */
export declare class PluginError extends Error {
  constructor(status: Exclude<StatusCode, 0>, message: string, options?: { cause?: unknown });
  readonly status: StatusCode;
}

/** A result that is JSON text already and leaves as it is: integers beyond 2^53, say. */
export declare function raw(text: string): unknown;

/** A message of a stream, and the position (up to 1 KiB) after which a later stream can resume. */
export declare function positioned(value: unknown, position: string): unknown;

/** Records travel to the proxy's log; those of `error` leave at once. */
export interface Logger {
  debug(message: unknown): void;
  info(message: unknown): void;
  warn(message: unknown): void;
  error(message: unknown): void;
}
export declare const log: Logger;
/** A logger of its own name. */
export declare function logger(name: string): Logger;

/** Counters of the contract, kept by you but for the first three; counted since the start. */
export interface Metrics {
  requestsTotal: number;
  requestsFailed: number;
  latencyMs: number;
  connectionsActive: number;
  connectionsIdle: number;
  queriesExecuted: number;
  cacheHits: number;
  cacheMisses: number;
  custom: Record<string, number>;
}

/** What the namespace's configuration says. */
export interface Setup<Config = Record<string, unknown>> {
  readonly namespace: string;
  readonly backendType: string;
  /** The `config:` block. */
  readonly config: Config;
  /** The `credentials:` block with its secrets, which come only this way: do not log them. */
  readonly credentials: Readonly<Record<string, string>>;
  /** The `cache:` block; null without one. A plugin takes it that says `cache: true`. */
  readonly cache: {
    operations?: string[]; ttl_seconds?: number; max_bytes?: number; write_through?: boolean;
  } | null;
  readonly capabilities: { supports_metrics_push?: boolean; proxy_version?: string };
  readonly metrics: Metrics;
  /** Tell the proxy of a change at once; it asks `health` at intervals anyway. */
  tellHealth(health: Health): void;
}

/** A call, beside its parameters. */
export interface Call<State = unknown> {
  readonly operation: string;
  readonly namespace: string;
  /** What the plugin's `start` returned. */
  readonly state: State;
  readonly setup: Setup;
  /** All of the call's metadata. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Who calls, as authenticated by the proxy; empty for nobody. */
  readonly principal: string;
  readonly requestId: string;
  readonly traceparent: string;
  /** Of a stream: the position after which the client wants it; empty without a resume. */
  readonly resumeAfter: string;
  /** The parameters as they came, for integers beyond 2^53. */
  readonly paramsText: string;
  /** Aborted at the deadline, and when the caller no longer waits: hand it to `fetch`, a driver … */
  readonly signal: AbortSignal;
  /** Milliseconds until the deadline; Infinity without one. */
  timeLeft(): number;
  /** Of a stream: the client's further messages, in order. Throws when the call is cancelled. */
  readonly messages: AsyncIterable<any>;
}

export interface Declaration {
  /** Calling twice equals calling once: the proxy may repeat it when a connection breaks. */
  idempotent?: boolean;
  /** The permission that callers need where the proxy knows them; `write` without it. */
  access?: 'read' | 'write' | 'admin';
  /** What a call uses of a rate limit; 1 without it. */
  cost?: number;
  /** For the people who call it. */
  description?: string;
  /** JSON Schemas (2020-12), shown to clients; of a stream, of the first message and of each answer. */
  paramsSchema?: object;
  resultSchema?: object;
  /** Where an operation has both forms: those of the stream. */
  streamParamsSchema?: object;
  streamResultSchema?: object;
}
export type Handler<State = unknown> = (params: any, call: Call<State>) => unknown;
/** Usually an async generator: it waits when the client does not keep up. */
export type StreamHandler<State = unknown> = (
  params: any, call: Call<State>,
) => AsyncIterable<unknown> | Iterable<unknown>;
export type Operation<State = unknown> = Handler<State> | (Declaration & (
  | { handler: Handler<State>; stream?: StreamHandler<State> }
  | { handler?: Handler<State>; stream: StreamHandler<State> }
));

export interface Health {
  /** `degraded` keeps its traffic, `unhealthy` loses it. */
  status?: 'healthy' | 'degraded' | 'unhealthy';
  message?: string;
  details?: Record<string, unknown>;
}

export interface Plugin<State = unknown> {
  name: string;
  version?: string;
  /** By names of 1 to 64 lower-case letters, digits and underscores, a letter first. */
  operations: Record<string, Operation<State>>;
  /** Called before all calls: connect here. What it returns is `call.state`; what it throws
   *  refuses the plugin, and the operator reads why. A process that listens may serve several
   *  proxies at a time: each has its own. */
  start?(setup: Setup): State | Promise<State>;
  /** Called at the end, also where `start` failed half-way (with undefined then). */
  stop?(state: State): unknown;
  /** Asked at intervals; without it the plugin is healthy. Throwing counts as unhealthy. */
  health?(state: State): Health | undefined | Promise<Health | undefined>;
  /** Does it keep a cache, as `setup.cache` says? Without, a namespace with one is refused. */
  cache?: boolean;
  /** Longest message it accepts, in bytes (16 MiB). */
  maxFrame?: number;
  /** Calls that it accepts at a time (1000). */
  maxStreams?: number;
  /** Bytes of a stream's messages that wait to be read (256 KiB). */
  window?: number;
}

/**
 * The whole main program: meets the proxy (PRISM_PLUGIN_FD, PLUGIN_SOCKET, or `--connect` and
 * `--listen` on the command line), serves it, and ends the process: status 0 after a clean end,
 * 1 where no host can be served, 2 for wrong arguments or a wrong plugin.
 */
export declare function serve<State = unknown>(
  plugin: Plugin<State>, options?: { argv?: string[]; env?: Record<string, string | undefined> },
): Promise<never>;
