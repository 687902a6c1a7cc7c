// A plugin in TypeScript: `npm run types` checks it. Node 22.18 and newer runs it as it is.
import { PluginError, Status, positioned, serve, type Call, type Plugin, type Setup } from 'prism-plugin-sdk';

interface Ledger {
  balances: Map<string, bigint>;
}

async function connect({ config, credentials, metrics }: Setup): Promise<Ledger> {
  if (typeof config.url !== 'string') throw new PluginError(Status.INVALID_ARGUMENT, '`$.url` is missing');
  metrics.connectionsIdle = credentials.password ? 1 : 0;
  return { balances: new Map([['alice', 30n]]) };
}

const ledger: Plugin<Ledger> = {
  name: 'ledger',
  version: '1.0.0',
  start: connect,
  stop: ({ balances }) => balances.clear(),
  health: ({ balances }) => (balances.size ? { status: 'healthy' } : { status: 'degraded', message: 'no accounts' }),
  operations: {
    balance: {
      idempotent: true,
      access: 'read',
      description: 'What an account holds.',
      paramsSchema: { type: 'object', properties: { id: { type: 'string' } }, required: ['id'] },
      async handler({ id }: { id: string }, call: Call<Ledger>) {
        const balance = call.state.balances.get(id);
        if (balance === undefined) throw new PluginError(Status.NOT_FOUND, `there is no account ${id}`);
        return { balance: Number(balance), left: call.timeLeft(), aborted: call.signal.aborted };
      },
    },
    accounts: {
      access: 'read',
      async *stream(_params: object, { state, resumeAfter }: Call<Ledger>) {
        for (const id of state.balances.keys()) if (id > resumeAfter) yield positioned({ id }, id);
      },
    },
  },
};

// @ts-expect-error an operation has a handler, a stream, or both
const wrong: Plugin = { name: 'wrong', operations: { nothing: { idempotent: true } } };
void wrong;

await serve(ledger);
