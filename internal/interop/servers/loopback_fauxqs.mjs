// Starts fauxqs on the loopback interface. By itself it listens on all
// interfaces and has no option against that. Its queues' URLs have the address
// that was asked, where by itself they have a name that nothing resolves.
// Takes the folder node_modules and the port.
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, port] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(join(modules, "fauxqs/dist", path)));
const { buildApp } = await load("app.js");
const [{ SqsStore }, { SnsStore }, { S3Store }] = await Promise.all(["sqs/sqsStore.js", "sns/snsStore.js", "s3/s3Store.js"].map(load));
const stores = { sqsStore: new SqsStore(), snsStore: new SnsStore(), s3Store: new S3Store() };
stores.sqsStore.host = "";
await buildApp({ logger: false, stores }).listen({ port: Number(port), host: "127.0.0.1" });
