import assert from 'node:assert/strict';
import { test } from 'node:test';
import { plugin } from './plugin.js';
import { Status } from './prism/index.js';
import { runPlugin } from './prism/testing.js';

test('greet', async () => {
  const running = await runPlugin(plugin);
  assert.deepEqual(await running.call('greet', { name: 'Ada' }), { text: 'Hello, Ada!' });
  await assert.rejects(running.call('greet'), { status: Status.INVALID_ARGUMENT });
  await running.close();
});
