/** TLS to PostgreSQL: what each sslmode takes and refuses, by name and by address. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { serverAccount } from "../../lib/embedded/account.ts";
import { quiet } from "../support/history.ts";
import { type OwnPostgres, ownPostgres } from "../support/own_postgres.ts";
import { refusal } from "../support/program.ts";
import { streaming, strict } from "../support/run.ts";
import { tempDir } from "../support/servers.ts";
import { type Authority, type Certificate, makeAuthority } from "../support/tls.ts";
import { eventually, makeWorld, type World } from "../support/world.ts";

interface SecurePostgres extends AsyncDisposable {
  server: OwnPostgres;
  dir: string;
  authority: Authority;
  dsn(host: string, query: string): string;
}

/** PostgreSQL with TLS; `hba` replaces what it lets in from 127.0.0.1 and ::1 by TLS and without. */
async function securePostgres({ altNames = "DNS:localhost,IP:127.0.0.1", hba = "" } = {}) {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir()).path;
  const authority = await makeAuthority(dir);
  const mine = await authority.issue("server", altNames);
  await give(mine);
  const server = stack.use(
    await ownPostgres({
      ssl: "on",
      ssl_cert_file: mine.cert,
      ssl_key_file: mine.key,
      ssl_ca_file: authority.ca,
      listen_addresses: "127.0.0.1",
    }),
  );
  if (hba) {
    await Deno.writeTextFile(
      join(server.data, "pg_hba.conf"),
      `${hba}\nhost all all 127.0.0.1/32 scram-sha-256\n`,
    );
    await server.sql("select pg_reload_conf()");
    await eventually(async () =>
      (await server.sql("select count(*)::integer as rules from pg_hba_file_rules"))[0].rules <= 3
    );
  }
  const { password } = new URL(server.dsn);
  const all = stack.move();
  return {
    server,
    dir,
    authority,
    dsn: (host, query) => `postgres://postgres:${password}@${host}:${server.port}/postgres?${query}`,
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  } as SecurePostgres;
}

/** PostgreSQL reads its key only where it alone, or root, can. */
async function give({ key }: Certificate): Promise<void> {
  const account = serverAccount();
  await Deno.chmod(key, 0o600);
  if (account) await Deno.chown(key, account.uid, account.gid);
}

/** Whether the program's sessions use it. */
async function overTls(world: World): Promise<boolean> {
  const tls = await eventually(async () => {
    const rows = await world.sql(
      "select s.ssl from pg_stat_ssl s join pg_stat_activity a using (pid) where a.application_name = 'etcd-pg-sync default'",
    );
    return rows.length >= 3 ? rows : undefined;
  });
  return tls.every(({ ssl }) => ssl);
}

async function assertRefused(world: World, dsn: string, line: RegExp, code = 2): Promise<void> {
  const ended = await world.run("start", ["-p", dsn]);
  assert.match(refusal(ended.stderr), line);
  assert.equal(ended.code, code);
}

Deno.test("each sslmode that a good certificate satisfies, by name and by address", strict, async () => {
  await using secure = await securePostgres();
  await using outer = await makeWorld();
  await using world = outer.on({ postgresDsn: secure.server.dsn });
  const ca = `sslrootcert=${secure.authority.ca}`;
  const cases: [string, string, boolean][] = [
    ["localhost", ca, true],
    ["127.0.0.1", ca, true],
    ["localhost", `${ca}&sslmode=verify-ca`, true],
    ["127.0.0.1", `${ca}&sslmode=require`, true],
    ["127.0.0.1", "sslmode=require", true],
    ["127.0.0.1", "", true],
    ["127.0.0.1", "sslmode=allow", false],
    ["127.0.0.1", "sslmode=disable", false],
  ];
  for (const [host, query, tls] of cases) {
    await using program = await streaming(world, ["-p", secure.dsn(host, query)]);
    assert.equal(await overTls(world), tls, `${host} ${query}`);
    program.kill("SIGTERM");
  }
});

Deno.test("a certificate of another authority, or of another server, is refused", strict, async () => {
  await using secure = await securePostgres({ altNames: "DNS:elsewhere.example,IP:10.0.0.1" });
  await using outer = await makeWorld();
  await using world = outer.on({ postgresDsn: secure.server.dsn });
  const other = await makeAuthority(secure.dir, "other");
  for (const host of ["localhost", "127.0.0.1"]) {
    for (const mode of ["verify-full", "verify-ca", "require"]) {
      const dsn = secure.dsn(host, `sslrootcert=${other.ca}&sslmode=${mode}`);
      await assertRefused(
        world,
        dsn,
        /: (unable to verify the first certificate|self-signed certificate in certificate chain|.*UnknownIssuer)$/,
      );
    }
    await assertRefused(
      world,
      secure.dsn(host, `sslrootcert=${secure.authority.ca}`),
      /: .*(altnames|not valid for name)/,
    );
  }
  await using _ = await streaming(world, [
    "-p",
    secure.dsn("localhost", `sslrootcert=${secure.authority.ca}&sslmode=verify-ca`),
  ]);
});

Deno.test("a certificate for a name is none for its address, nor the other way round", strict, async () => {
  const sides = [["localhost", "DNS:localhost"], ["127.0.0.1", "IP:127.0.0.1"]];
  for (const [[host, altNames], [other]] of [sides, sides.toReversed()]) {
    await using secure = await securePostgres({ altNames });
    await using outer = await makeWorld();
    await using world = outer.on({ postgresDsn: secure.server.dsn });
    const ca = `sslrootcert=${secure.authority.ca}`;
    await assertRefused(world, secure.dsn(other, ca), /: .*(altnames|not valid for name|not cert's CN)/);
    await streaming(world, ["-p", secure.dsn(host, ca)]);
  }
});

Deno.test(
  "a server without TLS is refused where TLS is wanted, and taken where it is only preferred",
  strict,
  async () => {
    await using world = await makeWorld();
    const tls = (await world.sql("show ssl"))[0].ssl === "on";
    const dsn = new URL(world.postgresDsn);
    dsn.search = "?sslmode=require";
    if (!tls) await assertRefused(world, dsn.href, /: The server does not support SSL connections$/);
    dsn.search = "?sslmode=prefer";
    await streaming(world, ["-p", dsn.href]);
  },
);

Deno.test("a client's certificate, renewed while the program runs", strict, async () => {
  await using secure = await securePostgres({
    hba: "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca",
  });
  await using outer = await makeWorld();
  // the test's own sessions come without TLS
  await using world = outer.on({ postgresDsn: secure.server.dsn });
  const { ca } = secure.authority;
  await assertRefused(
    world,
    secure.dsn("127.0.0.1", `sslrootcert=${ca}`),
    /: connection requires a valid client certificate$/,
    3,
  );
  const client = await secure.authority.issue("client", "DNS:client");
  const mine = { cert: join(secure.dir, "mine.pem"), key: join(secure.dir, "mine.key") };
  await Deno.copyFile(client.cert, mine.cert);
  await Deno.copyFile(client.key, mine.key);
  const query = `sslrootcert=${ca}&sslcert=${mine.cert}&sslkey=${mine.key}`;
  const program = await streaming(world, ["-p", secure.dsn("127.0.0.1", query), "--log-level", "debug"]);
  assert.equal(await overTls(world), true);
  // the old one is no longer taken
  const next = await makeAuthority(secure.dir, "next");
  await Deno.writeTextFile(ca, await Deno.readTextFile(ca) + await Deno.readTextFile(next.ca));
  const strange = await (await makeAuthority(secure.dir, "strange")).issue("client", "DNS:client");
  await Deno.copyFile(strange.cert, mine.cert);
  await Deno.copyFile(strange.key, mine.key);
  await world.sql("select pg_reload_conf()");
  await world.sql(
    "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'etcd-pg-sync default'",
  );
  const seen = program.logs.length;
  await program.until(() => program.logs.slice(seen).filter(({ msg }) => msg === "begins anew").length > 1);
  const renewed = await next.issue("client", "DNS:client");
  await Deno.copyFile(renewed.cert, mine.cert);
  await Deno.copyFile(renewed.key, mine.key);
  await world.etcd.put(world.key("a"), "1");
  await quiet(world);
  assert.equal(await overTls(world), true);
});
