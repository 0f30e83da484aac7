/** `config check`, etcd's side: nothing is written. */
import { type Config, identity } from "../config.ts";
import { isUnbounded, prefixEnd } from "../core/codec.ts";
import { etcdVersion } from "../core/version.ts";
import { kindOf, sentence } from "../errors.ts";
import { EtcdClient } from "../etcd/client.ts";
import { readKey } from "../etcd/kv.ts";
import { readOwnMarker } from "../etcd/marker.ts";
import { probeOperations, probeRead, probeRequestBytes, probeWrite, rolesOf } from "../etcd/probe.ts";
import { readMember } from "../etcd/status.ts";
import { markerKey, MAX_TXN_BYTES, prefixRange } from "../stream.ts";
import { broken, type Finding } from "./finding.ts";

const server = "etcd";

/** @param streamId of the stream that is installed, to know its marker */
export async function checkEtcd(config: Config, streamId?: string): Promise<Finding[]> {
  const reached = await Promise.all(config.etcd.endpoints.map((endpoint) => checkServer(config, endpoint)));
  const findings = reached.flatMap(({ findings }) => findings);
  if (!reached.some(({ answers }) => answers)) return findings;
  // one that answers is enough, the others are said all the same
  for (const finding of findings) {
    if (finding.kind === "connection") Object.assign(finding, { state: "advice", kind: undefined });
  }
  const client = new EtcdClient(config.etcd);
  try {
    return [...findings, ...await checkStream(client, config, streamId)];
  } catch (error) {
    return [...findings, broken(server, "", error)];
  } finally {
    client.close();
  }
}

async function checkServer(
  config: Config,
  endpoint: string,
): Promise<{ findings: Finding[]; answers: boolean }> {
  const client = new EtcdClient({ ...config.etcd, endpoints: [endpoint] });
  try {
    const { version, errors } = await readMember(client);
    const { supported, warnings } = etcdVersion(version);
    const first: Finding = supported
      ? { server, state: "ok", what: `version ${version} at '${endpoint}'` }
      : {
        server,
        state: "wrong",
        kind: "configuration",
        what: `version ${version} at '${endpoint}': the oldest supported version is 3.4`,
      };
    const known = warnings.map((bug) => `version ${version} has a known bug: ${bug}`);
    const advice = [...known, ...errors.map((error) => `'${endpoint}' says: ${error}`)];
    const findings = [first, ...advice.map((what): Finding => ({ server, state: "advice", what }))];
    return { findings, answers: supported };
  } catch (error) {
    const where = sentence(error).startsWith(`${endpoint}: `) ? "" : `at '${endpoint}'`;
    return {
      findings: [broken(server, where, error, loginRemedy(config, error))],
      answers: false,
    };
  } finally {
    client.close();
  }
}

function loginRemedy({ etcd }: Config, error: unknown): string[] | undefined {
  if (kindOf(error) !== "permission") return undefined;
  if (etcd.user === undefined) return ["etcd wants a user: etcd://user:password@…, or ETCDCTL_USER"];
  return [`etcdctl user passwd ${shell(etcd.user)}`];
}

async function checkStream(client: EtcdClient, config: Config, streamId?: string): Promise<Finding[]> {
  const { prefix } = config;
  const marker = markerKey(config.stream);
  const { from, to } = prefixRange(prefix);
  const { prefixText } = identity(config);
  const grant = await grants(client, config);
  const rights: [what: string, range: string, ask: () => Promise<unknown>][] = [
    [`read the keys under '${prefixText}'`, "prefix", () => probeRead(client, from, to)],
  ];
  if (!config.oneWay) { // else there is no marker
    rights.push(
      [`read the marker '${text(marker)}'`, "marker", () => readKey(client, marker)],
      [`write the keys under '${prefixText}'`, "prefix", () => probeWrite(client, edges(prefix))],
      [`write the marker '${text(marker)}'`, "marker", () => probeWrite(client, [marker])],
    );
  }
  const findings: Finding[] = [];
  for (const [what, range, ask] of rights) {
    findings.push(await right(what, ask, grant(range as "prefix" | "marker")));
  }
  if (findings.some(({ kind }) => kind === "permission") && config.etcd.user === undefined) {
    findings[0].remedy = [
      "etcd wants a user: etcd://user:password@…, or ETCDCTL_USER",
      ...findings[0].remedy ?? [],
    ];
  }
  if (config.oneWay) return findings;
  findings.push(await operations(client, config), await requestBytes(client));
  if (streamId) findings.push(...await ownMarker(client, marker, streamId));
  return findings;
}

async function right(what: string, ask: () => Promise<unknown>, remedy: string[]): Promise<Finding> {
  try {
    await ask();
    return { server, state: "ok", what: `it may ${what}` };
  } catch (error) {
    if (kindOf(error) !== "permission") return broken(server, `to ${what}`, error);
    return { server, state: "wrong", kind: "permission", what: `it may not ${what}`, remedy };
  }
}

/** The first key of the prefix and one far behind in it: a right that ends in between shows. */
function edges(prefix: Uint8Array): Uint8Array[] {
  const end = prefixEnd(prefix);
  const last = isUnbounded(end) ? Uint8Array.of(0xfe) : Uint8Array.of(...prefix, 0xff);
  return [prefix.length === 0 ? Uint8Array.of(0) : prefix, last];
}

async function operations(client: EtcdClient, { prefix, maxTxnOps }: Config): Promise<Finding> {
  const taken = await probeOperations(client, prefix, maxTxnOps);
  if (taken >= maxTxnOps) {
    return { server, state: "ok", what: `it takes ${maxTxnOps} operations in one transaction` };
  }
  return {
    server,
    state: "wrong",
    kind: "configuration",
    what: `it takes ${taken} operations in one transaction, and 'max-txn-ops' is ${maxTxnOps}`,
    remedy: [`etcd-pg-sync: --max-txn-ops ${taken}, or etcd: --max-txn-ops=${maxTxnOps}`],
  };
}

async function requestBytes(client: EtcdClient): Promise<Finding> {
  if (await probeRequestBytes(client, MAX_TXN_BYTES)) {
    return { server, state: "ok", what: `it takes requests of ${MAX_TXN_BYTES} bytes` };
  }
  return {
    server,
    state: "wrong",
    kind: "configuration",
    what: `it takes no requests of ${MAX_TXN_BYTES} bytes, which is below etcd's default`,
    remedy: ["etcd: --max-request-bytes=1572864"],
  };
}

async function ownMarker(client: EtcdClient, marker: Uint8Array, streamId: string): Promise<Finding[]> {
  try {
    await readOwnMarker(client, marker, streamId);
    return [];
  } catch (error) {
    return kindOf(error) === "permission" ? [] : [broken(server, "", error)]; // said above
  }
}

/** The commands that give the right, to a role that the user has, or to a new one. */
async function grants(
  client: EtcdClient,
  config: Config,
): Promise<(range: "prefix" | "marker") => string[]> {
  const user = config.etcd.user ?? "etcd-pg-sync";
  const roles = config.etcd.user === undefined ? [] : await rolesOf(client, user);
  const role = shell(roles[0] ?? "etcd-pg-sync");
  const first = roles.length > 0
    ? []
    : [`etcdctl role add ${role}`, `etcdctl user grant-role ${shell(user)} ${role}`];
  const kind = config.oneWay ? "read" : "readwrite";
  const keys = {
    prefix: `--prefix=true ${shell(identity(config).prefixText)}`,
    marker: shell(text(markerKey(config.stream))),
  };
  return (range) => [...first, `etcdctl role grant-permission ${role} ${kind} ${keys[range]}`];
}

function text(key: Uint8Array): string {
  return new TextDecoder().decode(key);
}

/** A word as a shell takes it. */
function shell(word: string): string {
  return /^[\w/.:@-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
