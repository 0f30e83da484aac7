/** TLS to etcd: by name and by address, verified, with a client's certificate, renewed. */
import assert from "node:assert/strict";
import { encodeTxn } from "../../lib/etcd/encode.ts";
import { Endpoint, type TlsFiles } from "../../lib/etcd/endpoint.ts";
import { EtcdError } from "../../lib/etcd/error.ts";
import { callRpc } from "../../lib/etcd/rpc.ts";
import { decodeTxnResponse } from "../../lib/etcd/wire.ts";
import { freePort } from "../../lib/embedded/ready.ts";
import { prefixPath } from "../support/etcd.ts";
import { quiet } from "../support/history.ts";
import { streaming, strict } from "../support/run.ts";
import { type OwnEtcd, ownEtcd, tempDir } from "../support/servers.ts";
import { type Authority, type Certificate, makeAuthority } from "../support/tls.ts";
import { eventually, makeWorld, type World } from "../support/world.ts";

/** Plain text on `dsn`, for the test, and TLS on another port, for the program. */
interface SecureEtcd extends OwnEtcd {
  dir: string;
  port: number;
  authority: Authority;
}

async function secureEtcd({ altNames = "DNS:localhost,IP:127.0.0.1", clients = false } = {}) {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir()).path;
  const authority = await makeAuthority(dir);
  const server = await authority.issue("server", altNames);
  const port = freePort();
  const listen = (plain: number) => `http://127.0.0.1:${plain},https://127.0.0.1:${port}`;
  const etcd = stack.use(
    await ownEtcd((plain) => [
      ...["--listen-client-urls", listen(plain), "--advertise-client-urls", listen(plain)],
      ...["--cert-file", server.cert, "--key-file", server.key],
      ...(clients ? ["--client-cert-auth", "--trusted-ca-file", authority.ca] : []),
    ]),
  );
  const all = stack.move();
  return { ...etcd, dir, port, authority, [Symbol.asyncDispose]: () => all.disposeAsync() } as SecureEtcd;
}

function dsn(world: World, { port }: SecureEtcd, host: string, ca: string, client?: Certificate): string {
  const own = client ? `&cert=${client.cert}&key=${client.key}` : "";
  return `etcd://${host}:${port}${prefixPath(world.prefix)}?cacert=${ca}${own}`;
}

async function assertRefused(world: World, etcdDsn: string, line: RegExp): Promise<void> {
  const { code, stderr } = await world.run("start", ["-e", etcdDsn]);
  const lines = stderr.trimEnd().split("\n").filter((text) => !text.startsWith("{"));
  assert.equal(lines.length, 1, stderr);
  assert.match(lines[0], line);
  assert.equal(code, 2);
}

for (const host of ["localhost", "127.0.0.1"]) {
  Deno.test(`etcd by TLS at ${host}, both ways`, strict, async () => {
    await using etcd = await secureEtcd();
    await using outer = await makeWorld();
    await using world = outer.on(etcd);
    await etcd.etcd.put(world.key("a"), "1");
    await streaming(world, ["-e", dsn(world, etcd, host, etcd.authority.ca)]);
    await world.sql("select etcd_set($1, '2')", [world.key("b")]);
    await quiet(world);
    assert.equal((await world.sql("select 1 from etcd")).length, 2);
    assert.equal(String((await etcd.etcd.get(world.key("b")))?.value), "2");
  });
}

/** A transaction on a connection of our own (lib/etcd/http2.ts). */
async function writeDirectly(host: string, { port }: SecureEtcd, files: TlsFiles): Promise<boolean> {
  const endpoint = new Endpoint(`${host}:${port}`, files);
  try {
    const write = { key: new TextEncoder().encode("a"), value: new Uint8Array(37_000), keepLease: false };
    const options = { metadata: [], decode: decodeTxnResponse, timeoutMs: 10_000 };
    const txn = encodeTxn({ compares: [], writes: [write] });
    return (await callRpc(await endpoint.connected(), "/etcdserverpb.KV/Txn", txn, options)).succeeded;
  } finally {
    endpoint.reset();
  }
}

Deno.test(
  "a connection of our own: by name and address, with a client's certificate and without",
  strict,
  async () => {
    await using etcd = await secureEtcd();
    await using picky = await secureEtcd({ clients: true });
    const client = await picky.authority.issue("client", "DNS:client");
    for (const host of ["localhost", "127.0.0.1"]) {
      assert.equal(await writeDirectly(host, etcd, { ca: etcd.authority.ca }), true);
      assert.equal(await writeDirectly(host, picky, { ca: picky.authority.ca, ...client }), true);
      // by TLS 1.3 this comes only after the handshake, when the call may be on its way
      await assert.rejects(writeDirectly(host, picky, { ca: picky.authority.ca }), EtcdError);
    }
  },
);

Deno.test("a connection of our own: a wrong certificate shows before anything is sent", strict, async () => {
  await using etcd = await secureEtcd({ altNames: "DNS:elsewhere.example,IP:10.0.0.1" });
  const other = await makeAuthority(etcd.dir, "other");
  for (const host of ["localhost", "127.0.0.1"]) {
    for (const files of [{ ca: etcd.authority.ca }, { ca: other.ca }, {}]) {
      await assert.rejects(
        writeDirectly(host, etcd, files),
        (error) => error instanceof EtcdError && error.unsent,
      );
    }
  }
});

Deno.test("a certificate of another authority, or of another server, is refused", strict, async () => {
  await using etcd = await secureEtcd({ altNames: "DNS:elsewhere.example,IP:10.0.0.1" });
  await using outer = await makeWorld();
  await using world = outer.on(etcd);
  const other = await makeAuthority(etcd.dir, "other");
  for (const host of ["localhost", "127.0.0.1"]) {
    const at = `${host}:${etcd.port}`;
    await assertRefused(
      world,
      dsn(world, etcd, host, other.ca),
      new RegExp(
        `^etcd-pg-sync: Cannot use etcd at '${at}': ${at}: (unable to verify the first certificate|self-signed certificate in certificate chain|.*UnknownIssuer)`,
      ),
    );
    await assertRefused(
      world,
      dsn(world, etcd, host, etcd.authority.ca),
      new RegExp(`^etcd-pg-sync: Cannot use etcd at '${at}': ${at}: .*(altnames|not valid for name).*`),
    );
  }
});

// before Deno 2.7 node:tls looks for "localhost" where an address is given and the server's name is empty
Deno.test("a certificate for a name is none for its address, nor the other way round", strict, async () => {
  const sides = [["localhost", "DNS:localhost"], ["127.0.0.1", "IP:127.0.0.1"]];
  for (const [[host, altNames], [other]] of [sides, sides.toReversed()]) {
    await using etcd = await secureEtcd({ altNames });
    await using outer = await makeWorld();
    await using world = outer.on(etcd);
    const { ca } = etcd.authority;
    await assertRefused(
      world,
      dsn(world, etcd, other, ca),
      /: .*(altnames|not valid for name|not cert's CN)/,
    );
    await streaming(world, ["-e", dsn(world, etcd, host, ca)]);
  }
});

Deno.test("etcd wants a client's certificate: with one it works, without it is refused", strict, async () => {
  await using etcd = await secureEtcd({ clients: true });
  await using outer = await makeWorld();
  await using world = outer.on(etcd);
  const { ca } = etcd.authority;
  await assertRefused(
    world,
    dsn(world, etcd, "localhost", ca),
    /^etcd-pg-sync: Cannot use etcd at 'localhost:\d+': .*\(it may want a client's certificate\) \(EPS-21[12]\)$/,
  );
  const client = await etcd.authority.issue("client", "DNS:client");
  await streaming(world, ["-e", dsn(world, etcd, "localhost", ca, client)]);
});

Deno.test("certificates that were renewed count from the next connection on", strict, async () => {
  await using etcd = await secureEtcd({ clients: true });
  await using outer = await makeWorld();
  await using world = outer.on(etcd);
  const client = await etcd.authority.issue("client", "DNS:client");
  const mine = { ca: `${etcd.dir}/mine.pem`, cert: `${etcd.dir}/mine.cert`, key: `${etcd.dir}/mine.key` };
  const place = async (authority: Authority, { cert, key }: Certificate) => {
    await Deno.copyFile(authority.ca, mine.ca);
    await Deno.copyFile(cert, mine.cert);
    await Deno.copyFile(key, mine.key);
  };
  await place(etcd.authority, client);
  const program = await streaming(world, [
    "-e",
    dsn(world, etcd, "127.0.0.1", mine.ca, mine),
    "--log-level",
    "debug",
  ]);
  await quiet(world);

  // another authority for both sides
  await etcd.stop();
  const next = await makeAuthority(etcd.dir, "next");
  const server = await next.issue("server", "IP:127.0.0.1");
  await Deno.copyFile(next.ca, etcd.authority.ca);
  await Deno.copyFile(server.cert, `${etcd.dir}/ca-server.pem`);
  await Deno.copyFile(server.key, `${etcd.dir}/ca-server.key`);
  await etcd.start();
  await eventually(() => etcd.etcd.put(world.key("a"), "1"));
  await program.until((line) => /unable to verify|UnknownIssuer/.test(line.error));
  await place(next, await next.issue("client", "DNS:client"));
  await quiet(world);
  assert.equal((await world.sql("select 1 from etcd")).length, 1);
});
