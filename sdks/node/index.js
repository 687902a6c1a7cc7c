// Prism's SDK for plugins in Node: see README.md, and index.d.ts for what each thing is.
export { serve } from './lib/serve.js';
export { PluginError, Status, positioned, raw } from './lib/plugin.js';
export { log, logger } from './lib/log.js';
