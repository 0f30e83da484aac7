/** What an etcd DSN leaves out, etcdctl's variables say. */
import assert from "node:assert/strict";
import { readConfig } from "../../lib/config.ts";
import { readEtcdDsn } from "../../lib/etcd/dsn.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };
const wrong = (what: string): never => {
  throw new Error(what);
};
const read = (dsn: string, env: Record<string, string>) => readEtcdDsn(dsn, (name) => env[name], wrong).etcd;

Deno.test("ETCDCTL_ENDPOINTS gives the hosts, with and without a scheme", strict, () => {
  const at = (endpoints: string, dsn = "etcd:///app/") => read(dsn, { ETCDCTL_ENDPOINTS: endpoints });
  assert.deepEqual(at("a:1, b ,[::1]:3").endpoints, ["a:1", "b:2379", "[::1]:3"]);
  assert.deepEqual(at("http://a:1,http://b:2/").endpoints, ["a:1", "b:2"]);
  assert.equal(at("http://a:1").tls, undefined);
  assert.deepEqual(at("https://a:1").tls, { ca: undefined, cert: undefined, key: undefined });
  assert.deepEqual(at("a:1", "etcd://own:5/app/").endpoints, ["own:5"]);
  assert.equal(
    at("https://a:1", "etcd://own:5/app/").tls,
    undefined,
    "the scheme is of hosts that are not used",
  );
  assert.throws(
    () => at("unix:///run/etcd"),
    /ETCDCTL_ENDPOINTS must be host:port or http\(s\):\/\/host:port/,
  );
  assert.throws(() => at("me:hunter2@a:1"), (error: Error) => !error.message.includes("hunter2"));
  assert.throws(() => at("http://a:1,https://b:2"), /schemes in ETCDCTL_ENDPOINTS must be the same/);
});

Deno.test("ETCDCTL_USER with the password behind a colon, or in ETCDCTL_PASSWORD", strict, () => {
  const login = (dsn: string, env: Record<string, string>) => {
    const { user, password } = read(dsn, env);
    return [user, password];
  };
  assert.deepEqual(login("etcd://h/", { ETCDCTL_USER: "me:a:b%" }), ["me", "a:b%"]);
  assert.deepEqual(login("etcd://h/", { ETCDCTL_USER: "me:x", ETCDCTL_PASSWORD: "pw" }), ["me:x", "pw"]);
  assert.deepEqual(login("etcd://own@h/", { ETCDCTL_USER: "me:x", ETCDCTL_PASSWORD: "pw" }), ["own", "pw"]);
  assert.deepEqual(login("etcd://own:p@h/", { ETCDCTL_PASSWORD: "pw" }), ["own", "p"]);
  assert.deepEqual(login("etcd://h/", {}), [undefined, undefined]);
});

Deno.test("ETCDCTL_CACERT, CERT and KEY, and what they mean for TLS", strict, async () => {
  const file = await Deno.makeTempFile();
  try {
    const env = { ETCDCTL_CACERT: file };
    assert.equal(read("etcd://h/", env).tls?.ca, file);
    assert.equal(read("etcd://h/?tls=false", env).tls, undefined);
    assert.equal(read("etcd:///", { ...env, ETCDCTL_ENDPOINTS: "http://h" }).tls, undefined);
    assert.equal(read("etcd:///", { ...env, ETCDCTL_ENDPOINTS: "https://h" }).tls?.ca, file);
    assert.equal(read("etcd:///?tls=true", { ...env, ETCDCTL_ENDPOINTS: "http://h" }).tls?.ca, file);
    assert.equal(read("etcd://h/?cacert=/dev/null", env).tls?.ca, "/dev/null");
    assert.deepEqual(read("etcd://h/", { ETCDCTL_CERT: file, ETCDCTL_KEY: file }).tls, {
      ca: undefined,
      cert: file,
      key: file,
    });
    assert.throws(() => read("etcd://h/", { ETCDCTL_CERT: file }), /cert and key go together/);
    assert.throws(
      () => read("etcd://h/", { ETCDCTL_CACERT: "/no/such" }),
      /ETCDCTL_CACERT must be a file that can be read \(NotFound\), got '\/no\/such'/,
    );
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("ETCDCTL_INSECURE_*: TLS without files, and never an unverified server", strict, () => {
  const tls = (name: string, value: string) => read("etcd://h/", { [`ETCDCTL_INSECURE_${name}`]: value }).tls;
  assert.deepEqual(tls("TRANSPORT", "false"), { ca: undefined, cert: undefined, key: undefined });
  assert.equal(tls("TRANSPORT", "1"), undefined);
  assert.throws(
    () => tls("TRANSPORT", "no"),
    /ETCDCTL_INSECURE_TRANSPORT must be 'true' or 'false', got 'no'/,
  );
  assert.equal(tls("SKIP_TLS_VERIFY", "true"), undefined, "no TLS, nothing to verify");
  assert.throws(
    () => read("etcd://h/?tls=true", { ETCDCTL_INSECURE_SKIP_TLS_VERIFY: "true" }),
    /the server is always verified/,
  );
});

Deno.test("without a DSN, ETCDCTL_ENDPOINTS do not say what to mirror", strict, () => {
  assert.throws(
    () => readConfig({ postgresDsn: "postgres://h" }, { ETCDCTL_ENDPOINTS: "a:1" }),
    /^Fatal: Cannot start without 'etcd-dsn': ETCDCTL_ENDPOINTS names the servers, but not what to mirror; give --etcd-dsn etcd:\/\/\/prefix\/ /,
  );
  const { etcd, prefix } = readConfig({ postgresDsn: "postgres://h", etcdDsn: "etcd:///app/" }, {
    ETCDCTL_ENDPOINTS: "a:1",
  });
  assert.deepEqual(etcd.endpoints, ["a:1"]);
  assert.equal(new TextDecoder().decode(prefix), "/app/");
});
