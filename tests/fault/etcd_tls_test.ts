/** TLS to etcd: by name and by address, verified, with a client's certificate, renewed. */
import assert from "node:assert/strict";
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
