// Clients of `server-everything` behind whatever URL is given, with the TypeScript SDK, version 1 or 2:
// node everything_client.mjs VERSION URL CLIENTS MODE. Each client checks that what comes back is its own; prints `ok CASE` for each case that all passed.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const [version, url, count, mode] = [process.argv[2], process.argv[3], Number(process.argv[4]), process.argv[5]];
// Resolved where the packages are installed, which is not where this script is.
const require = createRequire(`${process.env.STANDPIPE_TOOLS}/`);
// The WebSocket transport wants one, which Node has from 22 on.
globalThis.WebSocket ??= require('ws');
const sdk = {
  1: () => {
    const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
    const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
    const { SSEClientTransport } = require('@modelcontextprotocol/sdk/client/sse.js');
    const { WebSocketClientTransport } = require('@modelcontextprotocol/sdk/client/websocket.js');
    const types = require('@modelcontextprotocol/sdk/types.js');
    const schemas = {
      'sampling/createMessage': types.CreateMessageRequestSchema,
      'elicitation/create': types.ElicitRequestSchema,
      'roots/list': types.ListRootsRequestSchema,
    };
    const handle = (client, method, handler) => client.setRequestHandler(schemas[method], handler);
    const call = (client, params, options) => client.callTool(params, undefined, options);
    const older = url.startsWith('ws:') ? WebSocketClientTransport : url.endsWith('/sse') && SSEClientTransport;
    return { Client, Transport: older || StreamableHTTPClientTransport, handle, call };
  },
  2: () => {
    const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');
    const handle = (client, method, handler) => client.setRequestHandler(method, handler);
    const call = (client, params, options) => client.callTool(params, options);
    return { Client, Transport: StreamableHTTPClientTransport, handle, call };
  },
};
const { Client, Transport, handle, call } = sdk[version]();

async function open(number) {
  const capabilities = { sampling: {}, elicitation: {}, roots: {} };
  const client = new Client({ name: `client-${number}`, version: '1.0.0' }, { capabilities });
  handle(client, 'sampling/createMessage', async () => ({
    role: 'assistant',
    model: 'none',
    content: { type: 'text', text: `sampled by ${number}` },
  }));
  handle(client, 'elicitation/create', async () => ({ action: 'accept', content: { name: `name ${number}` } }));
  handle(client, 'roots/list', async () => ({ roots: [{ uri: `file:///root-${number}`, name: 'root' }] }));
  await client.connect(new Transport(new URL(url)));
  return client;
}

const textOf = (result) => result.content.map((part) => part.text ?? '').join('\n');

const cases = {
  'list tools, prompts, resources': async (client) => {
    const { tools } = await client.listTools();
    assert.ok(tools.some(({ name }) => name === 'echo'));
    assert.ok((await client.listPrompts()).prompts.length >= 4);
    assert.ok((await client.listResources()).resources.length >= 7);
    assert.ok((await client.listResourceTemplates()).resourceTemplates.length >= 2);
  },
  'calls at once': async (client, number) => {
    const calls = Array.from({ length: 20 }, async (_, call_) => {
      const message = `client ${number} call ${call_} ${'x'.repeat(call_ * 100)}`;
      assert.equal(textOf(await call(client, { name: 'echo', arguments: { message } })), `Echo: ${message}`);
    });
    await Promise.all(calls);
    const sum = await call(client, { name: 'get-sum', arguments: { a: number, b: 1000 } });
    assert.match(textOf(sum), new RegExp(`\\b${number + 1000}\\b`));
  },
  'structured content': async (client) => {
    const result = await call(client, { name: 'get-structured-content', arguments: { location: 'Chicago' } });
    assert.equal(typeof result.structuredContent.temperature, 'number');
  },
  'an image': async (client) => {
    const { content } = await call(client, { name: 'get-tiny-image', arguments: {} });
    assert.ok(content.some(({ type, data }) => type === 'image' && data.length > 100));
  },
  'an error of a tool': async (client) => {
    const result = await call(client, { name: 'get-sum', arguments: { a: 'no number', b: 1 } }).catch((error) => error);
    assert.ok(result.isError || result.code === -32602, JSON.stringify(result));
  },
  progress: async (client) => {
    const seen = [];
    const onprogress = ({ progress }) => seen.push(progress);
    const name = 'trigger-long-running-operation';
    // Where the reply comes in the same piece as the last progress, version 1 has forgotten the token before it looks.
    client.onerror = ({ message }) => seen.push(Number(/unknown token.*"progress":(\d)/.exec(message)?.[1]));
    await call(client, { name, arguments: { duration: 0.4, steps: 4 } }, { onprogress });
    await new Promise((done) => setTimeout(done));
    assert.deepEqual(seen, [1, 2, 3, 4]);
  },
  resources: async (client) => {
    const { contents } = await client.readResource({ uri: 'demo://resource/dynamic/text/7' });
    assert.match(contents[0].text, /7/);
    await assert.rejects(client.readResource({ uri: 'demo://resource/nowhere' }));
  },
  prompts: async (client) => {
    const { messages } = await client.getPrompt({ name: 'args-prompt', arguments: { city: 'Bern' } });
    assert.match(JSON.stringify(messages), /Bern/);
    const ref = { type: 'ref/prompt', name: 'completable-prompt' };
    const { completion } = await client.complete({ ref, argument: { name: 'department', value: 'E' } });
    assert.ok(completion.values.includes('Engineering'));
  },
  ping: async (client) => client.ping(),
  // What a server asks can only be brought to the right client where it has a process of its own, or is alone.
  'what the server asks': async (client, number) => {
    if (mode === 'shared' && count > 1) return;
    const sampled = await call(client, { name: 'trigger-sampling-request', arguments: { prompt: 'x', maxTokens: 10 } });
    assert.match(textOf(sampled), new RegExp(`sampled by ${number}\\b`));
    const elicited = await call(client, { name: 'trigger-elicitation-request', arguments: {} });
    assert.match(textOf(elicited), new RegExp(`name ${number}\\b`));
  },
};

// One after the other: the first client of a shared server is the one whose capabilities it is told.
const clients = [];
for (let number = 0; number < count; number++) clients.push(await open(number));
// The server offers some tools only once it knows the roots of its client.
await new Promise((done) => setTimeout(done, 500));
for (const [name, play] of Object.entries(cases)) {
  await Promise.all(clients.map((client, number) => play(client, number)));
  console.log(`ok ${name}`);
}
await Promise.all(clients.map((client) => client.close()));
process.exit(0);
