/** Bugs that were, in the channels to etcd. */
import assert from "node:assert/strict";
import net from "node:net";
import { kindOf } from "../../lib/errors.ts";
import { EtcdClient } from "../../lib/etcd/client.ts";
import { EtcdError, STATUS } from "../../lib/etcd/error.ts";
import { readKey } from "../../lib/etcd/kv.ts";
import { Session } from "../../lib/postgres/client.ts";
import { Proxy } from "../robustness/proxy.ts";
import { parseEtcdDsn } from "../support/etcd.ts";
import { eventually, pause } from "../support/eventually.ts";
import { runProgram } from "../support/program.ts";
import { makeWorld } from "../support/world.ts";

// grpc-js took a connection that was closed as soon as it was made for one that works, and repeated the call on it without
// a pause: the program stood still, and its memory grew until it was killed
Deno.test("connections that are closed as soon as they are made: the next one is used", async () => {
  await using world = await makeWorld();
  const [host] = parseEtcdDsn(world.etcdDsn).hosts;
  await using proxy = Proxy.listen(Number(host.split(":")[1]));
  const client = new EtcdClient({ endpoints: [`127.0.0.1:${proxy.port}`] });
  using _ = { [Symbol.dispose]: () => client.close() };
  const read = () => readKey(client, new TextEncoder().encode(world.key("a")));
  await read();
  for (let i = 0; i < 10; i++) {
    proxy.refuse();
    proxy.cut();
    for (let call = 0; call < 5; call++) {
      await read().catch(() => {});
      await pause(20); // grpc connects again meanwhile
    }
    proxy.heal();
    assert.ok(await eventually(() => read()));
  }
});

// it was taken for an error of the program (exit code 4), which a service manager need not try again
Deno.test("a PostgreSQL that closes connections as they are made is a connection error", async () => {
  await using world = await makeWorld();
  await using proxy = Proxy.listen(Number(new URL(world.postgresDsn).port));
  proxy.refuse();
  const dsn = new URL(world.postgresDsn);
  dsn.port = String(proxy.port);
  const { code, stderr } = await runProgram([
    "start",
    "--postgres-dsn",
    dsn.href,
    "--etcd-dsn",
    world.etcdDsn,
  ]);
  assert.equal(code, 2, stderr);
});

// the same, where it was closed between the login and the first statement: pg says so in words only
Deno.test("a PostgreSQL that closes a connection after any of its answers is a connection error", async () => {
  await using world = await makeWorld();
  const port = Number(new URL(world.postgresDsn).port);
  let whole = false;
  for (let answers = 1; !whole; answers++) {
    assert.ok(answers < 20, "a session never opens");
    await using relay = await closing(port, answers);
    const dsn = new URL(world.postgresDsn);
    dsn.port = String(relay.port);
    const options = { dsn: dsn.href, schema: "public", applicationName: "test" };
    try {
      await using session = await Session.open(options);
      await session.script("select 1");
      whole = true;
    } catch (error) {
      assert.equal(kindOf(error), "connection", `after ${answers} answers: ${error}`);
    }
  }
});

/** Closes a connection with its server's `answers`th answer. */
async function closing(port: number, answers: number): Promise<{ port: number } & AsyncDisposable> {
  const sockets: net.Socket[] = [];
  const server = net.createServer((client) => {
    const upstream = net.connect(port, "127.0.0.1");
    sockets.push(client, upstream);
    let left = answers;
    client.pipe(upstream);
    client.on("error", () => upstream.destroy());
    upstream.on("error", () => client.destroy());
    upstream.on(
      "data",
      (data) => --left > 0 ? client.write(data) : client.end(data, () => upstream.destroy()),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as net.AddressInfo).port,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

// the same of etcd: grpc calls it INTERNAL where the connection breaks under a call
Deno.test("a connection to etcd that breaks under a call is a connection error", () => {
  const kinds = [STATUS.INTERNAL, STATUS.UNAVAILABLE].map((code) => kindOf(new EtcdError(code, "")));
  assert.deepEqual(kinds, ["connection", "connection"]);
});
