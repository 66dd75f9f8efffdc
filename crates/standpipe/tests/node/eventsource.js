// Follows a URL with the EventSource of browsers (npm package `eventsource`) and prints a line of
// JSON for each event. Started by tests/it/eventsource.rs.

const { EventSource } = require("eventsource");

const source = new EventSource(process.argv[2]);
const print = (line) => console.log(JSON.stringify(line));
for (const name of ["put", "patch", "reset"]) {
  source.addEventListener(name, (event) => print({ name, id: event.lastEventId, ...JSON.parse(event.data) }));
}
source.addEventListener("error", (event) => print({ name: "error", code: event.code ?? null, closed: source.readyState === 2 }));
