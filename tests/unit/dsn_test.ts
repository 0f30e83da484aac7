import assert from "node:assert/strict";
import { hostText, type PostgresTarget, readTarget } from "../../lib/postgres/dsn.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

function read(dsn: string, env: Record<string, string> = {}): PostgresTarget {
  return readTarget(dsn, (name) => env[name], (what) => {
    throw new Error(what);
  });
}

const hosts = (dsn: string, env?: Record<string, string>) => read(dsn, env).hosts.map(hostText);

Deno.test("readTarget() reads one host, and what it leaves open", strict, () => {
  assert.deepEqual(read("postgres://me:p%40ss:w@db:6000/app", { PGHOST: "other", PGPASSWORD: "no" }), {
    hosts: [{ host: "db", port: 6000 }],
    user: "me",
    database: "app",
    password: "p@ss:w",
    connectTimeoutMs: 10_000,
    tls: { mode: "prefer", rootCert: undefined, cert: undefined, key: undefined },
    options: undefined,
  });
  const { user, database, password } = read("postgres://", { USER: "me" });
  assert.deepEqual([user, database, password], ["me", "me", undefined]);
  assert.deepEqual(hosts("postgres://"), ["localhost:5432"]);
});

Deno.test("readTarget() reads several hosts in their order, as libpq does", strict, () => {
  assert.deepEqual(hosts("postgresql://a:1,b,[::1]:3/app"), ["a:1", "b:5432", "[::1]:3"]);
  assert.deepEqual(hosts("postgres:///app?host=a,b&port=7"), ["a:7", "b:7"]);
  assert.deepEqual(hosts("postgres:///app?host=a,b&port=7,8"), ["a:7", "b:8"]);
  assert.deepEqual(hosts("postgres://", { PGHOST: "a,b", PGPORT: "9" }), ["a:9", "b:9"]);
  assert.deepEqual(hosts("postgres://h/app?host=/run/sock"), ["/run/sock:5432"]);
  assert.deepEqual(hosts("postgres://%2Frun%2Fsock/app"), ["/run/sock:5432"]);
  assert.deepEqual(hosts("postgres://:7/app"), ["localhost:7"]);
});

Deno.test("readTarget() takes each PG* variable, the DSN first", strict, () => {
  const env = {
    PGHOST: "h",
    PGPORT: "1",
    PGUSER: "u",
    PGPASSWORD: "p",
    PGDATABASE: "d",
    PGCONNECT_TIMEOUT: "2",
    PGSSLMODE: "verify-ca",
    PGSSLROOTCERT: "ca",
    PGSSLCERT: "c",
    PGSSLKEY: "k",
    PGTARGETSESSIONATTRS: "read-write",
    PGOPTIONS: "-c x=y",
  };
  assert.deepEqual(read("postgres://", env), {
    hosts: [{ host: "h", port: 1 }],
    user: "u",
    database: "d",
    password: "p",
    connectTimeoutMs: 2_000,
    tls: { mode: "verify-ca", rootCert: "ca", cert: "c", key: "k" },
    options: "-c x=y",
  });
  assert.equal(read("postgres:///?sslmode=disable&connect_timeout=0", env).tls.mode, "disable");
});

Deno.test("certificates without a mode are to be used: verify-full", strict, () => {
  assert.equal(read("postgres://h/?sslrootcert=ca").tls.mode, "verify-full");
  assert.equal(read("postgres://h/?sslcert=c&sslkey=k").tls.mode, "verify-full");
  assert.equal(read("postgres://h/?sslrootcert=ca&sslmode=require").tls.mode, "require");
});

Deno.test("any server that takes writes will do, and no other", strict, () => {
  for (const attrs of ["any", "read-write", "primary", "prefer-standby"]) {
    assert.equal(hosts(`postgres://h/?target_session_attrs=${attrs}`).length, 1);
  }
});

/** Each way to be wrong, and the words that say so. */
const wrong: [string, string][] = [
  ["host=h password=hunter2", "wanted postgres://user@host:port[,host:port]/database"],
  ["postgres://me:hunter2@a@b/", "wanted postgres://user@host:port[,host:port]/database"],
  ["postgres://me:hunter2/x@h/", "an '@' in the password or the database must be written '%40'"],
  ["postgres://::1:2/", "wanted postgres://user@host:port[,host:port]/database"],
  ["mysql://h/", "scheme must be 'postgres' or 'postgresql'"],
  ["postgres://h:0/", "port must be from 1 to 65535, got '0'"],
  ["postgres://h:65536/", "port must be from 1 to 65535, got '65536'"],
  ["postgres:///?host=a,b,c&port=1,2", "wanted one port, or one for each of 3 hosts, got 2"],
  ["postgres://%zz@h/", "it must be percent-encoded UTF-8"],
  ["postgres://h/?connect_timeout=soon", "connect_timeout must be a number of seconds, got 'soon'"],
  [
    "postgres://h/?sslmode=yes",
    "sslmode must be one of 'disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full', got 'yes'",
  ],
  ["postgres://h/?sslcert=c", "sslcert and sslkey go together"],
  [
    "postgres://h/?target_session_attrs=standby",
    "target_session_attrs must name a server that takes writes, got 'standby'",
  ],
  [
    "postgres://h/?target_session_attrs=x",
    "target_session_attrs must be 'any', 'read-write', 'primary' or 'prefer-standby', got 'x'",
  ],
];

for (const [dsn, message] of wrong) {
  Deno.test(`readTarget() refuses '${dsn}'`, strict, () => {
    assert.throws(() => read(dsn), (error: Error) => {
      assert.equal(error.message, message);
      return true;
    });
  });
}

Deno.test("readTarget() refuses a parameter that it does not know", strict, () => {
  assert.throws(
    () => read("postgres://h/?channel_binding=require"),
    /^Error: parameters are host, .*; 'channel_binding' is unknown$/,
  );
});
