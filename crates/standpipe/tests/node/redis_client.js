// node-redis, unmodified, against the RESP door: what an application does.
const assert = require("node:assert");
const { createClient } = require("redis");

(async () => {
  const [host, port] = process.argv.slice(2);
  for (const RESP of [2, 3]) {
    const client = createClient({ socket: { host, port: Number(port) }, RESP, name: "test" });
    client.on("error", (error) => { throw error; });
    await client.connect();
    const base = `node${RESP}`;
    assert.strictEqual(await client.ping(), "PONG");
    assert.strictEqual(await client.set(`${base}/a`, "hello"), "OK");
    assert.strictEqual(await client.get(`${base}/a`), "hello");
    assert.strictEqual(await client.incr(`${base}/n`), 1);
    await client.hSet(`${base}/h`, { one: "1", two: "2" });
    assert.deepStrictEqual({ ...(await client.hGetAll(`${base}/h`)) }, { one: "1", two: "2" });
    assert.deepStrictEqual(await client.multi().set(`${base}/m`, "1").incr(`${base}/m`).get(`${base}/m`).exec(), ["OK", 2, "2"]);
    const keys = [];
    for await (const found of client.scanIterator({ MATCH: `${base}/*`, COUNT: 2 })) keys.push(...found);
    assert.strictEqual(keys.length, 5);
    const subscriber = client.duplicate();
    subscriber.on("error", (error) => { throw error; });
    await subscriber.connect();
    const messages = [];
    let arrived;
    const both = new Promise((resolve) => { arrived = resolve; });
    const take = (message) => { messages.push(message); if (messages.length === 2) arrived(); };
    await subscriber.subscribe("channel", take);
    await subscriber.subscribe(`__keyvalue@0__:${base}/watched`, take);
    await client.publish("channel", "hello");
    await client.set(`${base}/watched`, "7");
    await both;
    assert.deepStrictEqual(messages.sort(), ["7", "hello"]);
    await assert.rejects(client.lPush("list", "1"), /unknown command/);
    await subscriber.close();
    await client.close();
  }
  console.log("done");
})();
