// The tree with the TypeScript SDK, version 1 or 2: node tree_client.mjs VERSION URL. The SDK checks results against the tools' schemas.
// Prints `ok CASE` for each case.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const [version, url] = [process.argv[2], process.argv[3]];
// Resolved where the packages are installed, which is not where this script is.
const require = createRequire(`${process.env.STANDPIPE_TOOLS}/`);
const sdk = {
  1: () => {
    const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
    const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
    return { Client, Transport: StreamableHTTPClientTransport };
  },
  2: () => {
    const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');
    return { Client, Transport: StreamableHTTPClientTransport };
  },
};
const { Client, Transport } = sdk[version]();
const client = new Client({ name: 'tree', version: '1.0.0' }, { capabilities: {} });
await client.connect(new Transport(new URL(url)));

const here = `/ts${version}`;
const raw = (name, args) => client.callTool({ name, arguments: args });
const call = async (name, args) => {
  const result = await raw(name, args);
  assert.ok(!result.isError, JSON.stringify(result));
  assert.deepEqual(JSON.parse(result.content[0].text), result.structuredContent);
  return result.structuredContent;
};
const failure = async (name, args) => {
  const result = await raw(name, args);
  assert.equal(result.isError, true, JSON.stringify(result));
  return result._meta['dev.standpipe/error'];
};

const cases = {
  'who we are': async () => {
    assert.equal(client.getServerVersion().name, 'standpipe');
    assert.match(client.getInstructions(), /tree_list/);
    assert.equal(client.getServerCapabilities().prompts, undefined);
  },
  tools: async () => {
    const { tools } = await client.listTools();
    assert.ok(tools.length >= 7 && tools.every((tool) => tool.outputSchema && tool.annotations && tool.title));
  },
  'writing and reading': async () => {
    const { etag } = await call('tree_set', { path: here, value: { b: { c: [1, 2] }, 'ä ö': 'x', 10: 1, 9: 2 } });
    const got = await call('tree_get', { path: here });
    assert.equal(got.etag, etag);
    assert.deepEqual(got.value, { b: { c: [1, 2] }, 'ä ö': 'x', 10: 1, 9: 2 });
    const { children } = await call('tree_list', { path: here });
    assert.deepEqual(children.map(({ key }) => key), ['9', '10', 'b', 'ä ö']);
    assert.equal((await call('tree_get', { path: `${here}/%C3%A4%20%C3%B6` })).value, 'x');
    await call('tree_update', { path: here, values: { 'b/c': null, d: { n: 5 } } });
    const { items } = await call('tree_query', { path: here, order_by: 'n', equal_to: 5 });
    assert.deepEqual(items, [{ key: 'd', value: { n: 5 } }]);
    const { child_path } = await call('tree_push', { path: `${here}/list`, value: 'one' });
    assert.equal((await call('tree_get', { path: child_path })).value, 'one');
    assert.equal((await call('tree_delete', { path: `${here}/list` })).existed, true);
  },
  refusals: async () => {
    await call('tree_set', { path: `${here}/claim`, value: 1, if_etag: 'null_etag' });
    const error = await failure('tree_set', { path: `${here}/claim`, value: 2, if_etag: 'null_etag' });
    assert.equal(error.code, 'etag_mismatch');
    assert.equal(error.etag, (await call('tree_get', { path: `${here}/claim` })).etag);
    assert.equal((await failure('tree_get', { path: '/private' })).code, 'permission_denied');
    assert.equal((await failure('tree_get', { path: '/a.b' })).code, 'invalid_path');
    await assert.rejects(raw('nonsense', {}));
  },
  resources: async () => {
    const { resources } = await client.listResources();
    assert.ok(resources.some(({ uri }) => uri === `tree://${here}`));
    const { contents } = await client.readResource({ uri: `tree://${here}/claim` });
    assert.equal(contents[0].text, '1');
    await assert.rejects(client.readResource({ uri: 'tree:///board/nowhere' }));
  },
  completion: async () => {
    const ref = { type: 'ref/resource', uri: 'tree:///{+path}' };
    const { completion } = await client.complete({ ref, argument: { name: 'path', value: `${here}/cl` } });
    assert.deepEqual(completion.values, [`${here.slice(1)}/claim`]);
  },
};

for (const [name, test] of Object.entries(cases)) {
  await test();
  console.log(`ok ${name}`);
}
await client.close();
