// A client that arms an onDisconnect, says so and stays: for a test that kills its process. No suite.
import { Case } from "./lib.mjs";
import { sdk } from "./client.mjs";

const [, , , ns, path] = process.argv;
const db = new Case("leaver", 0).client({ ns });
await sdk.onDisconnect(sdk.ref(db, path)).set(false);
await sdk.set(sdk.ref(db, path), true);
process.stdout.write("armed\n");
