import assert from "node:assert/strict";
import { type Flags, identity, readConfig as readConfigOf, withoutSecrets } from "../../lib/config.ts";
import { Fatal } from "../../lib/errors.ts";
import { readEtcdDsn } from "../../lib/etcd/dsn.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };
const bytes = (text: string) => new TextEncoder().encode(text);

/** With no environment but what a test gives. */
const readConfig = (flags: Flags, env: Record<string, string> = {}) => readConfigOf(flags, env);

const right: Flags = {
  postgresDsn: "postgres://me:hunter2@db:5432/app",
  etcdDsn: "etcd://etcd:2379/app/",
  stream: "default",
  schema: "public",
  logLevel: "info",
  logFormat: "auto",
  maxTxnOps: "128",
  rescanAfter: "20000",
  oversize: "split",
  maxDeletes: "1000",
  freshTimeout: "10s",
  walRetention: "1d",
  historyRetention: "never",
  eventRetention: "90s",
  walLimit: "1000000",
  verifyEvery: "1d",
};

Deno.test("readConfig() reads what is right", strict, () => {
  const { settings: _, ...config } = readConfig(right);
  assert.deepEqual(config, {
    postgresDsn: right.postgresDsn,
    etcd: { endpoints: ["etcd:2379"], user: undefined, password: undefined, tls: undefined },
    prefix: bytes("/app/"),
    stream: "default",
    schema: "public",
    log: { level: "info", format: "auto" },
    maxTxnOps: 128,
    rescanAfter: 20_000,
    refuseOversize: false,
    maxDeletes: 1_000,
    freshTimeoutMs: 10_000,
    retention: { walMs: 86_400_000, historyMs: null, eventMs: 90_000 },
    walLimit: 1_000_000,
    listen: undefined,
    pageValues: false,
    oneWay: false,
    verifyEveryMs: 86_400_000,
  });
  assert.equal(readConfig({ ...right, walLimit: "never" }).walLimit, null);
  assert.equal(readConfig({ ...right, rescanAfter: "never" }).rescanAfter, null);
  assert.equal(readConfig({ ...right, oversize: "refuse" }).refuseOversize, true);
  assert.equal(readConfig({ ...right, postgresDsn: "postgresql:///app?host=/run" }).schema, "public");
});

/** Each way to be wrong: what was given, and the line that says so. */
const wrong: [Partial<Flags>, string][] = [
  [
    { postgresDsn: undefined },
    "Cannot start without 'postgres-dsn': give --postgres-dsn, ETCD_PG_SYNC_POSTGRES_DSN in the environment or 'postgres-dsn' in the file, or try 'start --embedded'",
  ],
  [
    { etcdDsn: undefined },
    "Cannot start without 'etcd-dsn': give --etcd-dsn, ETCD_PG_SYNC_ETCD_DSN in the environment or 'etcd-dsn' in the file, or try 'start --embedded'",
  ],
  [
    { etcdDsn: "" },
    "Cannot read 'etcd-dsn' from --etcd-dsn: wanted etcd://[user:password@]host:port[,host:port]/prefix, got ''",
  ],
  [
    { postgresDsn: "mysql://db/app" },
    "Cannot read 'postgres-dsn' from --postgres-dsn: scheme must be 'postgres' or 'postgresql', got 'mysql://db/app'",
  ],
  [
    { postgresDsn: "nonsense" },
    "Cannot read 'postgres-dsn' from --postgres-dsn: wanted postgres://user@host:port[,host:port]/database, got '…'",
  ],
  [
    { etcdDsn: "http://etcd:2379/" },
    "Cannot read 'etcd-dsn' from --etcd-dsn: scheme must be 'etcd', got 'http' in 'http://etcd:2379/'",
  ],
  [
    { etcdDsn: "etcd:2379" },
    "Cannot read 'etcd-dsn' from --etcd-dsn: wanted etcd://[user:password@]host:port[,host:port]/prefix in '…'",
  ],
  [
    { etcdDsn: "etcd:///app/" },
    "Cannot read 'etcd-dsn' from --etcd-dsn: no host, and ETCDCTL_ENDPOINTS is not set; wanted host:port[,host:port] in 'etcd:///app/'",
  ],
  [
    { etcdDsn: "etcd://a:1,/app/" },
    "Cannot read 'etcd-dsn' from --etcd-dsn: wanted host:port[,host:port] in 'etcd://a:1,/app/'",
  ],
  [
    { etcdDsn: "etcd://a:b/" },
    "Cannot read 'etcd-dsn' from --etcd-dsn: wanted host:port[,host:port] in 'etcd://a:b/'",
  ],
  [
    { etcdDsn: "etcd://a:65536/" },
    "Cannot read 'etcd-dsn' from --etcd-dsn: wanted host:port[,host:port] in 'etcd://a:65536/'",
  ],
  [
    { etcdDsn: "etcd://::1:2379/" },
    "Cannot read 'etcd-dsn' from --etcd-dsn: wanted host:port[,host:port] in 'etcd://::1:2379/'",
  ],
  [
    { etcdDsn: "etcd://a/%f" },
    "Cannot read 'etcd-dsn' from --etcd-dsn: '%' must be followed by two hex digits in 'etcd://a/%f'",
  ],
  [
    { etcdDsn: "etcd://a/%zz" },
    "Cannot read 'etcd-dsn' from --etcd-dsn: '%' must be followed by two hex digits in 'etcd://a/%zz'",
  ],
  [
    { etcdDsn: "etcd://a/b@c" },
    "Cannot read 'etcd-dsn' from --etcd-dsn: an '@' in the password or the prefix must be written '%40' in 'etcd://a/b@c'",
  ],
  [
    { postgresDsn: "postgres://me:x@y/z@db/app" },
    "Cannot read 'postgres-dsn' from --postgres-dsn: an '@' in the password or the database must be written '%40', got 'postgres://me@db/app'",
  ],
  [
    { etcdDsn: "etcd://a/?tsl=true" },
    "Cannot read 'etcd-dsn' from --etcd-dsn: parameters are tls, cacert, cert and key; 'tsl' is unknown in 'etcd://a/'",
  ],
  [
    { etcdDsn: "etcd://a/?tls=yes" },
    "Cannot read 'etcd-dsn' from --etcd-dsn: tls must be 'true' or 'false' in 'etcd://a/'",
  ],
  [
    { etcdDsn: "etcd://a/?cacert=/no/such.pem" },
    "Cannot read 'etcd-dsn' from --etcd-dsn: cacert must be a file that can be read (NotFound), got '/no/such.pem' in 'etcd://a/'",
  ],
  [{ stream: "" }, "Cannot read 'stream' from --stream: wanted 1 to 63 bytes, got ''"],
  [
    { schema: "é".repeat(32) },
    `Cannot read 'schema' from --schema: wanted 1 to 63 bytes, got '${"é".repeat(32)}'`,
  ],
  [
    { logLevel: "loud" },
    "Cannot read 'log-level' from --log-level: wanted one of 'debug', 'info', 'warn', 'error', got 'loud'",
  ],
  [
    { logFormat: "xml" },
    "Cannot read 'log-format' from --log-format: wanted one of 'auto', 'text', 'json', got 'xml'",
  ],
  [
    { maxTxnOps: "1" },
    "Cannot read 'max-txn-ops' from --max-txn-ops: wanted an integer from 2 to 10000, got '1'",
  ],
  [
    { maxTxnOps: "12x" },
    "Cannot read 'max-txn-ops' from --max-txn-ops: wanted an integer from 2 to 10000, got '12x'",
  ],
  [
    { maxTxnOps: "1e3" },
    "Cannot read 'max-txn-ops' from --max-txn-ops: wanted an integer from 2 to 10000, got '1e3'",
  ],
  [
    { rescanAfter: "-1" },
    "Cannot read 'rescan-after' from --rescan-after: wanted an integer from 0 to 9007199254740991, or 'never', got '-1'",
  ],
  [
    { rescanAfter: "" },
    "Cannot read 'rescan-after' from --rescan-after: wanted an integer from 0 to 9007199254740991, or 'never', got ''",
  ],
  [
    { oversize: "drop" },
    "Cannot read 'oversize' from --oversize: wanted one of 'split', 'refuse', got 'drop'",
  ],
  [
    { freshTimeout: "10" },
    "Cannot read 'fresh-timeout' from --fresh-timeout: wanted a duration such as '30s', '15m', '12h' or '7d', got '10'",
  ],
  [
    { walRetention: "7 days" },
    "Cannot read 'wal-retention' from --wal-retention: wanted a duration such as '30s', '15m', '12h' or '7d', or 'never', got '7 days'",
  ],
  [
    { historyRetention: "0d" },
    "Cannot read 'history-retention' from --history-retention: wanted a duration such as '30s', '15m', '12h' or '7d', or 'never', got '0d'",
  ],
  [
    { walLimit: "999" },
    "Cannot read 'wal-limit' from --wal-limit: wanted an integer from 1000 to 9007199254740991, or 'never', got '999'",
  ],
  [
    { maxDeletes: "2147483648" },
    "Cannot read 'max-deletes' from --max-deletes: wanted an integer from 0 to 2147483647, got '2147483648'",
  ],
];

for (const [flags, line] of wrong) {
  Deno.test(
    `readConfig() refuses ${JSON.stringify(flags).slice(0, 60)}: one line says what is wanted`,
    strict,
    () => {
      assert.throws(() => readConfig({ ...right, ...flags }), (error: Fatal) => {
        assert.ok(error instanceof Fatal, String(error));
        assert.equal(error.kind, "configuration");
        assert.equal(error.message, line);
        return true;
      });
    },
  );
}

Deno.test("no secret is shown, however wrong the DSN is", strict, () => {
  const secret = "hunter2";
  const dsns: Partial<Flags>[] = [
    { postgresDsn: `mysql://me:${secret}@db/app` },
    { postgresDsn: `postgres://me:${secret}@db:port/app` },
    { postgresDsn: `postgres://me:${secret}/x@db:port/app` },
    { postgresDsn: `postgres://me:a@${secret}@db:port/app` },
    { postgresDsn: `host=db user=me password=${secret}` },
    { postgresDsn: `host=db user=me password = '${secret} x'` },
    { postgresDsn: `mysql://db/app?password=${secret}` },
    { etcdDsn: `http://me:${secret}@etcd/` },
    { etcdDsn: `etcd://me:${secret}@etcd:x/` },
    { etcdDsn: `etcd://me:a@${secret}@etcd/` },
    { etcdDsn: `etcd://me:a/${secret}@etcd/` },
    { etcdDsn: `etcd://me:${secret}/a@etcd/` },
    { etcdDsn: `etcd://me:%zz${secret}@etcd/` },
    { etcdDsn: `etcd://me:${secret}@etcd/%` },
    { etcdDsn: `etcd://me:${secret}@etcd/?tls=${secret}x&key=${secret}` },
    { etcdDsn: `etcd://a/?${secret}=x` },
    { etcdDsn: secret },
    { postgresDsn: secret },
    { postgresDsn: `postgres://me:1?${secret}@db/app` },
    { postgresDsn: `postgres://db:x/app?password=a@${secret}` },
    { etcdDsn: `me:${secret}@etcd` },
  ];
  for (const flags of dsns) {
    assert.throws(() => readConfig({ ...right, ...flags }), (error: Fatal) => {
      assert.equal(error.kind, "configuration", error.message);
      assert.ok(!error.message.includes(secret), error.message);
      assert.ok(!error.message.includes("\n"));
      return true;
    }, JSON.stringify(flags));
  }
});

Deno.test("withoutSecrets() leaves what can be shown", strict, () => {
  assert.equal(withoutSecrets("postgres://me:pw@db:5432/app?sslkey=x"), "postgres://me@db:5432/app");
  assert.equal(withoutSecrets("postgres://me@db/app"), "postgres://me@db/app");
  assert.equal(withoutSecrets("etcd://a:1,b:2/app/"), "etcd://a:1,b:2/app/");
  assert.equal(withoutSecrets("hunter2"), "…");
  assert.equal(withoutSecrets("postgres://me:x@db/app?password=a@hunter2"), "postgres://me@…");
});

const fail = (what: string): never => assert.fail(what);
const etcd = (dsn: string, env: Record<string, string> = {}) =>
  readEtcdDsn(dsn, (name) => env[name], fail).etcd;
const prefix = (dsn: string) => readEtcdDsn(dsn, () => undefined, fail).prefix;

Deno.test(
  "an etcd DSN has one host or several, by name, IPv4 or IPv6; the port is 2379 if not given",
  strict,
  () => {
    const endpoints = (dsn: string) => etcd(dsn).endpoints;
    assert.deepEqual(endpoints("etcd://a"), ["a:2379"]);
    assert.deepEqual(endpoints("etcd://a:1,b,10.0.0.1:3/app/"), ["a:1", "b:2379", "10.0.0.1:3"]);
    assert.deepEqual(endpoints("etcd://[::1]:2379,[fe80::1]/"), ["[::1]:2379", "[fe80::1]:2379"]);
  },
);

Deno.test("an etcd DSN has user and password, percent-encoded where they must be", strict, () => {
  const login = (dsn: string) => [etcd(dsn).user, etcd(dsn).password];
  assert.deepEqual(login("etcd://me:p%40ss%2F:w@a/"), ["me", "p@ss/:w"]);
  assert.deepEqual(login("etcd://me@a/"), ["me", undefined]);
  assert.deepEqual(login("etcd://a/"), [undefined, undefined]);
});

Deno.test("an etcd DSN's path is the prefix, byte for byte", strict, () => {
  const cases: [string, Uint8Array][] = [
    ["etcd://a", bytes("")],
    ["etcd://a?tls=false", bytes("")],
    ["etcd://a/", bytes("/")],
    ["etcd://a/app", bytes("/app")],
    ["etcd://a/app/", bytes("/app/")],
    ["etcd://a//app//", bytes("//app//")],
    ["etcd://a/%ff", Uint8Array.of(0x2f, 0xff)],
    ["etcd://a/a%FFb%00", Uint8Array.of(0x2f, 0x61, 0xff, 0x62, 0)],
    ["etcd://a/%25%3F", bytes("/%?")],
    ["etcd://a/é😀", bytes("/é😀")],
    ["etcd://a/%C3%A9", bytes("/é")],
    ["etcd://a/a b", bytes("/a b")],
    ["etcd://a/a%40b:c", bytes("/a@b:c")],
    // nothing is resolved or cut off: a prefix is no path of the web
    ["etcd://a/x/../y/./z", bytes("/x/../y/./z")],
    ["etcd://a/x#y", bytes("/x#y")],
    ["etcd://a/x\\y", bytes("/x\\y")],
  ];
  for (const [dsn, wanted] of cases) assert.deepEqual(prefix(dsn), wanted, dsn);
});

Deno.test("an etcd DSN asks for TLS by itself, or by giving a file", strict, async () => {
  const file = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(file, "PEM");
    assert.deepEqual(etcd("etcd://a/?tls=true").tls, { ca: undefined, cert: undefined, key: undefined });
    assert.deepEqual(etcd(`etcd://a/?cacert=${file}`).tls?.ca, file);
    assert.equal(etcd(`etcd://a/?cacert=${file}&tls=false`).tls, undefined);
    assert.equal(etcd("etcd://a/").tls, undefined);
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("identity(): the prefix as SQL writes it, and as text where it is that by itself", strict, () => {
  const of = (prefix: Uint8Array) => identity({ stream: "s", prefix });
  assert.deepEqual(of(bytes("/é/")), {
    stream: "s",
    prefix: bytes("/é/"),
    prefixText: "/é/",
    plainPrefix: "/é/",
  });
  const raw = Uint8Array.of(0x2f, 0xff);
  assert.deepEqual(of(raw), { stream: "s", prefix: raw, prefixText: "/\\xff", plainPrefix: null });
  assert.deepEqual(of(bytes("\\x41")).plainPrefix, null);
});
