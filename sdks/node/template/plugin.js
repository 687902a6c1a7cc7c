// What my-plugin is; main.js serves it, plugin.test.js tests it.
import { PluginError, Status } from './prism/index.js';

/** @type {import('./prism/index.js').Plugin} */
export const plugin = {
  name: 'my-plugin',
  version: '0.1.0',
  operations: {
    greet: {
      idempotent: true,
      access: 'read',
      description: 'Greet somebody.',
      paramsSchema: { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] },
      resultSchema: { type: 'object', properties: { text: { type: 'string' } } },
      async handler({ name }) {
        if (typeof name !== 'string') throw new PluginError(Status.INVALID_ARGUMENT, 'name is missing');
        return { text: `Hello, ${name}!` };
      },
    },
  },
};
