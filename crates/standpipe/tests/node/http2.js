// Plays requests over one HTTP/2 connection (prior knowledge): a line of JSON in, a line of JSON
// out, in order. Started by tests/it/script.rs.

const http2 = require("http2");
const lines = require("readline").createInterface({ input: process.stdin });

const session = http2.connect(process.argv[2]);
session.on("error", (error) => console.log(JSON.stringify({ error: error.message })));

function ask({ method, target, headers, body }) {
  return new Promise((resolve) => {
    const { host, ...rest } = headers;
    const authority = host ? { ":authority": host } : {};
    const stream = session.request({ ":method": method, ":path": target, ...authority, ...rest }, { endStream: body === "" });
    const answer = { status: 0, headers: {}, body: "" };
    stream.setEncoding("utf8");
    stream.on("response", ({ ":status": status, ...headers }) => Object.assign(answer, { status, headers }));
    stream.on("data", (piece) => (answer.body += piece));
    stream.on("error", (error) => (answer.error = error.message));
    stream.on("close", () => resolve(answer));
    if (body !== "") stream.end(body);
  });
}

(async () => {
  for await (const line of lines) console.log(JSON.stringify(await ask(JSON.parse(line))));
  session.close();
})();
