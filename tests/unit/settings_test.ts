/** Where values come from, and each way to give a wrong one. */
import assert from "node:assert/strict";
import { readConfig } from "../../lib/config.ts";
import { Fatal } from "../../lib/errors.ts";
import { type Flags, readSettings } from "../../lib/settings/read.ts";
import { sourceText } from "../../lib/settings/source.ts";
import { type Name, NAMES, setting } from "../../lib/settings/table.ts";
import { runProgram } from "../support/program.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

/** Files by their names in a folder of its own, which is gone after the test. */
async function folder(files: Record<string, string>) {
  const path = await Deno.makeTempDir();
  for (const [name, text] of Object.entries(files)) await Deno.writeTextFile(`${path}/${name}`, text);
  return {
    path,
    file: (name: string) => `${path}/${name}`,
    [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }),
  };
}

function assertRefused(work: () => unknown, line: string): void {
  assert.throws(work, (error: Fatal) => {
    assert.ok(error instanceof Fatal, String(error));
    assert.equal(error.kind, "configuration");
    assert.equal(error.message, line);
    return true;
  });
}

Deno.test("flags, then variables, then the file, then defaults; each value says which", strict, async () => {
  await using dir = await folder({
    "s.yaml": "# of the team\nstream: of-file\nmax-deletes: 7\n\nlog-level: debug\noversize: refuse\n",
  });
  const settings = readSettings({ config: dir.file("s.yaml"), stream: "of-flag" }, {
    ETCD_PG_SYNC_STREAM: "of-variable",
    ETCD_PG_SYNC_MAX_DELETES: "8",
    ETCD_PG_SYNC_LOG_LEVEL: "", // as one that is not set
  });
  const found = (name: Name) => [settings[name].value, sourceText(settings[name].source)];
  assert.deepEqual(found("stream"), ["of-flag", "--stream"]);
  assert.deepEqual(found("max-deletes"), [8, "ETCD_PG_SYNC_MAX_DELETES"]);
  assert.deepEqual(found("log-level"), ["debug", `${dir.file("s.yaml")}:5`]);
  assert.deepEqual(found("oversize"), ["refuse", `${dir.file("s.yaml")}:6`]);
  assert.deepEqual(found("schema"), ["public", "default"]);
  assert.deepEqual(found("postgres-dsn"), [undefined, "default"]);
});

Deno.test(
  "the file can be named by a variable, and is YAML: quotes, numbers, truth values, comments",
  strict,
  async () => {
    await using dir = await folder({
      "s.yaml":
        `"stream": 'a b'\nmax-txn-ops: 64 # etcd's\none-way: true\nrescan-after: never\nschema: "12"\n`,
      "empty.yaml": "# nothing yet\n",
    });
    const config = (name: string) => readSettings({}, { ETCD_PG_SYNC_CONFIG: dir.file(name) });
    const values = config("s.yaml");
    assert.equal(values.stream.value, "a b");
    assert.equal(values["max-txn-ops"].value, 64);
    assert.equal(values["one-way"].value, true);
    assert.equal(values["rescan-after"].value, null);
    assert.equal(values.schema.value, "12");
    assert.equal(config("empty.yaml").stream.value, "default");
  },
);

/** What stands in the file, the line of the mistake, and what is said of it. */
const wrongFiles: [text: string, line: number, what: string][] = [
  ["stream: a\nmax-txn-op: 5\n", 2, "there is no setting 'max-txn-op'; did you mean 'max-txn-ops'?"],
  ["strema: a\n", 1, "there is no setting 'strema'; did you mean 'stream'?"],
  ["nothing-like-it: a\n", 1, "there is no setting 'nothing-like-it'"],
  ["config: other.yaml\n", 1, "there is no setting 'config'"],
  ["hunter2 hunter2: a\n", 1, "wanted the name of a setting before the colon"],
  ["stream: a\nstream: b\n", 2, "it is not YAML (duplicate key)"],
  ["stream: *hunter2\n", 1, "'stream' wants 1 to 63 bytes, got a list, a map or a reference"],
  ["stream: 'a\nschema: b\n", 3, "it is not YAML (missing char)"],
  ["stream:\n\tb: 1\n", 2, "it is not YAML (tab as indent)"],
  ["- stream: a\n", 1, "wanted lines of 'setting: value'"],
  ["postgres://me:hunter2@db/app\n", 1, "wanted lines of 'setting: value'"],
  ["stream:\n", 1, "'stream' wants 1 to 63 bytes, got nothing"],
  [
    "\nmax-deletes: [1, 2]\n",
    2,
    "'max-deletes' wants an integer from 0 to 2147483647, got a list, a map or a reference",
  ],
];

for (const [text, line, what] of wrongFiles) {
  Deno.test(`a file with ${JSON.stringify(text)} is refused with its line`, strict, async () => {
    await using dir = await folder({ "s.yaml": text });
    const path = dir.file("s.yaml");
    assertRefused(() => readSettings({ config: path }, {}), `Cannot read '${path}:${line}': ${what}`);
  });
}

/** For each setting that can be wrong: a value that is, and what the line ends with. */
const wrongValues: Partial<Record<Name, string>> = {
  "postgres-dsn": "",
  "postgres-dsn-file": "/no/such",
  "etcd-dsn": "",
  "etcd-dsn-file": "/no/such",
  stream: "x".repeat(64),
  schema: "x".repeat(64),
  "log-level": "loud",
  "log-format": "xml",
  "one-way": "yes",
  "max-txn-ops": "1",
  oversize: "drop",
  "max-deletes": "-1",
  "rescan-after": "soon",
  "fresh-timeout": "10",
  "wal-retention": "0d",
  "history-retention": "1 day",
  "event-retention": "always",
  "wal-limit": "5",
  "verify-every": "often",
  listen: "somewhere",
  "page-values": "some",
};

Deno.test("each setting says, from each source, what is wanted, and quotes what it got", strict, async () => {
  for (const name of NAMES) {
    const text = wrongValues[name];
    assert.ok(text !== undefined, `${name}: no wrong value is known to this test`);
    await using dir = await folder({ "s.yaml": `\n${name}: '${text}'\n` });
    const variable = `ETCD_PG_SYNC_${name.toUpperCase().replaceAll("-", "_")}`;
    const property = name.replace(/-(\w)/g, (_, letter) => letter.toUpperCase());
    const sources: [string, Flags, Record<string, string>][] = [
      [`--${name}`, { [property]: text }, {}],
      [variable, {}, { [variable]: text }],
      [`${dir.file("s.yaml")}:2`, { config: dir.file("s.yaml") }, {}],
    ];
    for (const [source, flags, env] of sources) {
      if (source === variable && text === "") continue; // not set
      const { description } = setting(name).type;
      const reason = name.endsWith("-file") ? " (NotFound)" : "";
      const line = `Cannot read '${name}' from ${source}: wanted ${description}${reason}, got '${text}'`;
      assertRefused(() => readSettings(flags, env), line);
    }
  }
});

Deno.test("a file of settings that cannot be read", strict, () => {
  const line = (from: string) =>
    `Cannot read 'config' from ${from}: wanted a file that can be read (NotFound), got '/no/such.yaml'`;
  assertRefused(() => readSettings({ config: "/no/such.yaml" }, {}), line("--config"));
  assertRefused(
    () => readSettings({}, { ETCD_PG_SYNC_CONFIG: "/no/such.yaml" }),
    line("ETCD_PG_SYNC_CONFIG"),
  );
});

Deno.test("a variable that is no setting is refused with the nearest name", strict, () => {
  assertRefused(
    () => readSettings({}, { ETCD_PG_SYNC_MAX_TXN_OP: "5" }),
    "Cannot use the variable ETCD_PG_SYNC_MAX_TXN_OP: there is no such setting; did you mean 'ETCD_PG_SYNC_MAX_TXN_OPS'?",
  );
  assertRefused(
    () => readSettings({}, { ETCD_PG_SYNC_POSTGRES_PORT: "5432" }),
    "Cannot use the variable ETCD_PG_SYNC_POSTGRES_PORT: there is no such setting; did you mean 'ETCD_PG_SYNC_POSTGRES_DSN'?",
  );
  assertRefused(
    () => readSettings({}, { ETCD_PG_SYNC_POSTGRES_PASSWORD_OF_OURS: "hunter2" }),
    "Cannot use the variable ETCD_PG_SYNC_POSTGRES_PASSWORD_OF_OURS: there is no such setting",
  );
});

Deno.test("variables that others set under our name are left alone", strict, () => {
  readSettings({}, {
    // what Kubernetes gives for services named etcd-pg-sync and etcd-pg-sync-metrics
    ETCD_PG_SYNC_SERVICE_HOST: "10.0.0.1",
    ETCD_PG_SYNC_SERVICE_PORT: "9090",
    ETCD_PG_SYNC_SERVICE_PORT_METRICS: "9090",
    ETCD_PG_SYNC_PORT: "tcp://10.0.0.1:9090",
    ETCD_PG_SYNC_PORT_9090_TCP: "tcp://10.0.0.1:9090",
    ETCD_PG_SYNC_PORT_9090_TCP_PROTO: "tcp",
    ETCD_PG_SYNC_PORT_9090_TCP_PORT: "9090",
    ETCD_PG_SYNC_PORT_9090_TCP_ADDR: "10.0.0.1",
    ETCD_PG_SYNC_METRICS_SERVICE_HOST: "10.0.0.2",
    ETCD_PG_SYNC_METRICS_PORT_80_TCP: "tcp://10.0.0.2:80",
    ETCD_PG_SYNC_ETCD: "/usr/bin/etcd",
    ETCD_PG_SYNC_STACK: "1",
    ETCD_PG_SYNC_TEST_SEED: "1",
    ETCD_PG_SYNCHRONOUS: "not ours",
  });
});

Deno.test("the file of settings is read once: it may be a pipe", strict, async () => {
  await using dir = await folder({});
  const pipe = dir.file("pipe");
  assert.ok((await new Deno.Command("mkfifo", { args: [pipe] }).output()).success);
  const command = ["start", "--config", pipe, "-e", "etcd://127.0.0.1:1/"];
  const ended = runProgram(command); // before the pipe is opened to write, which waits for a reader
  await Deno.writeTextFile(pipe, "postgres-dsn: postgres://127.0.0.1:1/db\n");
  assert.match((await ended).stderr, /Cannot use PostgreSQL at 'postgres:\/\/127.0.0.1:1\/db': /);
});

Deno.test("a DSN can stand in a file, whose line break does not count", strict, async () => {
  await using dir = await folder({
    pg: "postgres://me:hunter2@db/app\n",
    etcd: "etcd://me:hunter2@etcd/app/",
  });
  const config = readConfig({ postgresDsnFile: dir.file("pg") }, {
    ETCD_PG_SYNC_ETCD_DSN_FILE: dir.file("etcd"),
  });
  assert.equal(config.postgresDsn, "postgres://me:hunter2@db/app");
  assert.equal(config.etcd.password, "hunter2");
  const { source } = config.settings["postgres-dsn"];
  assert.equal(sourceText(source), `${dir.file("pg")} (named by --postgres-dsn-file)`);
});

Deno.test(
  "of a DSN and a file of it the stronger source counts; two that are as strong are refused",
  strict,
  async () => {
    await using dir = await folder({ pg: "postgres://of-file/app", "s.yaml": "" });
    await Deno.writeTextFile(dir.file("s.yaml"), `postgres-dsn-file: ${dir.file("pg")}\n`);
    const of = (flags: Flags, env = {}) => readSettings(flags, env)["postgres-dsn"].value;
    const config = dir.file("s.yaml");
    assert.equal(of({ config }), "postgres://of-file/app");
    assert.equal(of({ config, postgresDsn: "postgres://of-flag/app" }), "postgres://of-flag/app");
    assert.equal(
      of({ postgresDsnFile: dir.file("pg") }, { ETCD_PG_SYNC_POSTGRES_DSN: "postgres://of-variable/" }),
      "postgres://of-file/app",
    );
    assertRefused(
      () => of({ postgresDsn: "postgres://db/", postgresDsnFile: dir.file("pg") }),
      "Cannot use both 'postgres-dsn' from --postgres-dsn and 'postgres-dsn-file' from --postgres-dsn-file: give one",
    );
  },
);

Deno.test("what stands in a file of secrets is not shown where it is wrong", strict, async () => {
  await using dir = await folder({
    empty: "\n",
    password: "hunter2",
    lines: "postgres://db\nhunter2",
    dsn: "x://me:hunter2@db/",
  });
  const refused = (name: string, line: string) =>
    assertRefused(() => readConfig({ postgresDsnFile: dir.file(name), etcdDsn: "etcd://h/" }, {}), line);
  const from = (name: string) =>
    `Cannot read 'postgres-dsn' from ${dir.file(name)} (named by --postgres-dsn-file)`;
  const shape = "wanted postgres://user@host:port[,host:port]/database";
  refused("empty", `${from("empty")}: ${shape}, got ''`);
  refused("password", `${from("password")}: ${shape}, got '…'`);
  refused(
    "lines",
    `Cannot read 'postgres-dsn-file' from --postgres-dsn-file: wanted a file of one line, got '${
      dir.file("lines")
    }'`,
  );
  refused("dsn", `${from("dsn")}: scheme must be 'postgres' or 'postgresql', got 'x://me@db/'`);
});
