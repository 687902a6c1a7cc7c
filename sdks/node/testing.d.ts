import type { Plugin } from './index.js';

/** A plugin that runs in this process, behind frames. */
export interface RunningPlugin {
  /** Call an operation, and return its result. Throws PluginError with the call's status. */
  call(operation: string, params?: object, options?: { timeout?: number }): Promise<any>;
  /** Open a stream with the first of `messages`, send the others, and yield what comes. */
  stream(operation: string, ...messages: object[]): AsyncGenerator<any, void, void>;
  /** What `health` says; the status is 0 healthy, 1 degraded, 2 unhealthy. */
  health(): Promise<{ status: 0 | 1 | 2; message?: string; details?: Record<string, string> }>;
  /** Shut it down; its `stop` has run then. */
  close(): Promise<void>;
}

/** Start a plugin, as a namespace with these settings would. Throws what `start` refuses with. */
export declare function runPlugin<State>(plugin: Plugin<State>, settings?: {
  namespace?: string;
  config?: object;
  credentials?: Record<string, string>;
  metadata?: Record<string, string>;
}): Promise<RunningPlugin>;
