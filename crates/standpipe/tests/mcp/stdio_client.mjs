// The tree of Standpipe over stdin and stdout, with the TypeScript SDK, version 1 or 2: node stdio_client.mjs VERSION COMMAND ARGUMENTS…
// The SDK starts the command. Prints `ok` at the end.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const [version, command, ...args] = process.argv.slice(2);
const require = createRequire(`${process.env.STANDPIPE_TOOLS}/`);
const sdk = {
  1: () => {
    const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
    const { StdioClientTransport } = require('@modelcontextprotocol/sdk/client/stdio.js');
    return { Client, StdioClientTransport };
  },
  2: () => {
    const { Client } = require('@modelcontextprotocol/client');
    const { StdioClientTransport } = require('@modelcontextprotocol/client/stdio');
    return { Client, StdioClientTransport };
  },
};
const { Client, StdioClientTransport } = sdk[version]();
const env = { PATH: process.env.PATH };
for (const name of ['STANDPIPE_TOKEN', 'XDG_STATE_HOME']) if (process.env[name]) env[name] = process.env[name];
const client = new Client({ name: 'test', version: '1.0.0' }, { capabilities: {} });
const transport = new StdioClientTransport({ command, args, env, stderr: 'inherit' });
await client.connect(transport);

const { tools } = await client.listTools();
assert.ok(tools.some(({ name }) => name === 'tree_get'), JSON.stringify(tools));
const call = async (name, input) => {
  const result = await client.callTool({ name, arguments: input });
  assert.ok(!result.isError, JSON.stringify(result));
  return result.structuredContent;
};
const writes = Array.from({ length: 20 }, async (_, number) => {
  const value = { number, text: 'x'.repeat(number * 500) };
  await call('tree_set', { path: `/test/${number}`, value });
  assert.deepEqual((await call('tree_get', { path: `/test/${number}` })).value, value);
});
await Promise.all(writes);
assert.ok((await client.readResource({ uri: 'tree:///test/3/number' })).contents[0].text.includes('3'));
const wrong = await client.callTool({ name: 'tree_get', arguments: { path: 7 } });
assert.ok(wrong.isError, JSON.stringify(wrong));
const pid = transport.pid;
const began = Date.now();
await client.close();
assert.ok(Date.now() - began < 4000, 'it does not end by itself');
assert.throws(() => process.kill(pid, 0), 'it is still there');
console.log('ok');
