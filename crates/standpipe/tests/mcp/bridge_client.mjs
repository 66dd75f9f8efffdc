// A client of the legacy era (TypeScript SDK 1.x) of `bridge_server.py`, which knows only the modern one: bridge_client.mjs URL
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

// Resolved where the packages are installed, which is not where this script is.
const require = createRequire(`${process.env.STANDPIPE_TOOLS}/`);
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
const types = require('@modelcontextprotocol/sdk/types.js');

const until = async (what, holds) => {
  for (let tries = 0; !holds(); tries++) {
    assert.ok(tries < 600, `in time: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
};
const text = (result) => result.content.map((part) => part.text).join('\n');

const client = new Client(
  { name: 'legacy', version: '1' },
  { capabilities: { elicitation: {}, roots: { listChanged: true } } },
);
const asked = [];
client.setRequestHandler(types.ElicitRequestSchema, async (request) => {
  asked.push(request.params.message);
  return { action: 'accept', content: { name: 'Ada' } };
});
client.setRequestHandler(types.ListRootsRequestSchema, async () => {
  asked.push('roots');
  return { roots: [{ uri: 'file:///home' }] };
});
const news = [];
client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, (notice) => news.push(notice.params.uri));
client.setNotificationHandler(types.ToolListChangedNotificationSchema, () => news.push('tools'));

await client.connect(new StreamableHTTPClientTransport(new URL(process.argv[2])));
assert.deepEqual(client.getServerVersion(), { name: 'modern', version: '7' });
await client.ping();
const { tools } = await client.listTools();
assert.deepEqual(tools.map((tool) => tool.name).sort(), ['count', 'greet', 'touch']);

const greeted = await client.callTool({ name: 'greet', arguments: {} });
assert.equal(text(greeted), 'hello Ada of file:///home, first');
assert.deepEqual(asked.sort(), ['roots', 'who?']);

const steps = [];
const counted = await client.callTool({ name: 'count', arguments: {} }, undefined, { onprogress: (now) => steps.push(now.progress) });
assert.equal(text(counted), '2026-07-28', 'the server was asked in its own era');
assert.deepEqual(steps, [1, 2, 3]);

await assert.rejects(client.readResource({ uri: 'note:///2' }), (error) => error.code === -32002);
await client.subscribeResource({ uri: 'note:///1' });
await client.callTool({ name: 'touch', arguments: {} });
await until('notices of the resource and of the tools', () => news.includes('note:///1') && news.includes('tools'));
await client.unsubscribeResource({ uri: 'note:///1' });
await client.close();
console.log('ok');
process.exit(0);
