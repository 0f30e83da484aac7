/** etcd's DSN, and etcdctl's variables for what it leaves out. */
import { concat } from "../core/codec.ts";
import type { EtcdOptions } from "./client.ts";
import type { TlsFiles } from "./endpoint.ts";

/** As etcdctl reads them (its README, "Configuring etcdctl"). */
export const ETCDCTL_VARIABLES = [
  "ETCDCTL_ENDPOINTS",
  "ETCDCTL_USER",
  "ETCDCTL_PASSWORD",
  "ETCDCTL_CACERT",
  "ETCDCTL_CERT",
  "ETCDCTL_KEY",
  "ETCDCTL_INSECURE_TRANSPORT",
  "ETCDCTL_INSECURE_SKIP_TLS_VERIFY",
] as const;

type Variable = (name: (typeof ETCDCTL_VARIABLES)[number]) => string | undefined;
/** @param what in words without a secret */
type Wrong = (what: string) => never;

const SHAPE = "wanted etcd://[user:password@]host:port[,host:port]/prefix";
const HOST = /^(\[[0-9a-f:.]+\]|[^:@\s\[\]/?]+)(?::(\d+))?$/i;

export interface EtcdTarget {
  etcd: EtcdOptions;
  prefix: Uint8Array;
}

/**
 * `etcd://[user:pass@]host:port[,host:port]/prefix?tls=…&cacert=…&cert=…&key=…`; what it leaves open the environment says.
 * Paths of files are checked here, so that a mistake is found at once; they are read with each connection.
 */
export function readEtcdDsn(
  dsn: string,
  env: (name: string) => string | undefined,
  wrong: Wrong,
): EtcdTarget {
  // not by URL: several hosts are none, and it would resolve `..` in the prefix and cut it at `#`
  const parts = /^([a-z0-9+.-]+):\/\/(?:([^@/]*)@)?([^/?]*)([^?]*)(?:\?(.*))?$/is.exec(dsn);
  if (!parts) wrong(SHAPE);
  const [, scheme, login, hosts, path, query] = parts;
  // else a password that is not encoded would be taken for a host and a prefix, and shown
  if (path.includes("@")) wrong("an '@' in the password or the prefix must be written '%40'");
  if (scheme !== "etcd") wrong(`scheme must be 'etcd', got '${scheme}'`);
  // an empty variable is none, as to etcdctl
  const variable: Variable = (name) => env(name) || undefined;
  const { endpoints, secure } = hosts === ""
    ? readEndpoints(variable("ETCDCTL_ENDPOINTS"), wrong)
    : { endpoints: hosts.split(",").map((host) => endpoint(host, wrong)), secure: undefined };
  return {
    etcd: {
      endpoints,
      ...readLogin(login, variable, wrong),
      tls: readTls(new URLSearchParams(query), secure, variable, wrong),
    },
    prefix: readPrefix(path, wrong),
  };
}

function endpoint(host: string, wrong: Wrong): string {
  const address = readAddress(host);
  // the host is not quoted: it can be a part of a password
  return address ?? wrong("wanted host:port[,host:port]");
}

/** host:port; null where it is none. */
function readAddress(text: string): string | null {
  const match = HOST.exec(text);
  if (!match || (match[2] && Number(match[2]) > 65535)) return null;
  return `${match[1]}:${match[2] ?? "2379"}`;
}

/** `secure`: what their scheme asks for, https or http; undefined where they have none. */
function readEndpoints(text: string | undefined, wrong: Wrong): { endpoints: string[]; secure?: boolean } {
  if (text === undefined) wrong("no host, and ETCDCTL_ENDPOINTS is not set; wanted host:port[,host:port]");
  const bad = () => wrong("ETCDCTL_ENDPOINTS must be host:port or http(s)://host:port, separated by commas");
  const read = text.split(",").map((one) => {
    const [, scheme, host] = /^(?:(https?):\/\/)?(.*?)\/?$/s.exec(one.trim())!;
    return { scheme, address: readAddress(host) ?? bad() };
  });
  const [{ scheme }] = read;
  if (read.some((one) => one.scheme !== scheme)) wrong("the schemes in ETCDCTL_ENDPOINTS must be the same");
  return { endpoints: read.map(({ address }) => address), secure: scheme ? scheme === "https" : undefined };
}

/** As etcdctl, which takes the user as it is where the password stands by itself. */
function readLogin(
  login: string | undefined,
  variable: Variable,
  wrong: Wrong,
): { user?: string; password?: string } {
  const password = variable("ETCDCTL_PASSWORD");
  if (login !== undefined) {
    const [user, own] = login.split(/:(.*)/s).map((part) => decode(part, wrong));
    return { user, password: own ?? password };
  }
  const user = variable("ETCDCTL_USER");
  if (user === undefined || password !== undefined) return { user, password };
  const [name, own] = user.split(/:(.*)/s);
  return { user: name, password: own };
}

function decode(text: string, wrong: Wrong): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return wrong("user and password must be percent-encoded UTF-8");
  }
}

/** Percent-encoding gives any byte: `%ff`. */
function readPrefix(path: string, wrong: Wrong): Uint8Array {
  const parts = path.split(/%([0-9a-f]{2})/i).map((part, i) => {
    if (i % 2) return Uint8Array.of(parseInt(part, 16));
    if (part.includes("%")) wrong("'%' must be followed by two hex digits");
    return new TextEncoder().encode(part);
  });
  return concat(parts);
}

/**
 * The DSN's `tls` decides, then its files, then the endpoints' scheme, then what the environment has of files: etcdctl
 * too uses certificates with `https` and without a scheme, and leaves them aside with `http`.
 */
function readTls(
  query: URLSearchParams,
  secure: boolean | undefined,
  variable: Variable,
  wrong: Wrong,
): TlsFiles | undefined {
  for (const name of query.keys()) {
    if (!["tls", "cacert", "cert", "key"].includes(name)) {
      // one that does not look like a name can be a part of a password
      const which = /^[a-z_-]{1,30}$/i.test(name) ? `'${name}'` : "one";
      wrong(`parameters are tls, cacert, cert and key; ${which} is unknown`);
    }
  }
  const tls = query.get("tls");
  if (tls !== null && tls !== "true" && tls !== "false") wrong("tls must be 'true' or 'false'");
  const own = ["cacert", "cert", "key"].some((name) => query.has(name));
  if (tls === "false" || tls === null && !own && secure === false) return undefined;
  const file = (name: string, from: (typeof ETCDCTL_VARIABLES)[number]) =>
    query.has(name) ? readable(name, query.get(name)!, wrong) : readable(from, variable(from), wrong);
  const files = {
    ca: file("cacert", "ETCDCTL_CACERT"),
    cert: file("cert", "ETCDCTL_CERT"),
    key: file("key", "ETCDCTL_KEY"),
  };
  if ((files.cert === undefined) !== (files.key === undefined)) wrong("cert and key go together");
  const given = Object.values(files).some((path) => path !== undefined);
  if (tls === null && !given && !secure && isTrue("ETCDCTL_INSECURE_TRANSPORT", variable, wrong, true)) {
    return undefined;
  }
  if (files.ca === undefined && isTrue("ETCDCTL_INSECURE_SKIP_TLS_VERIFY", variable, wrong, false)) {
    wrong(
      "ETCDCTL_INSECURE_SKIP_TLS_VERIFY is set, but the server is always verified: give its authority as cacert",
    );
  }
  return files;
}

/** A path; the file is read with each connection, so a renewed one counts. */
function readable(name: string, path: string | undefined, wrong: Wrong): string | undefined {
  if (path === undefined) return undefined;
  try {
    Deno.readFileSync(path);
    return path;
  } catch (error) {
    return wrong(`${name} must be a file that can be read (${(error as Error).name}), got '${path}'`);
  }
}

/** As Go's strconv.ParseBool, which etcdctl reads it with. */
function isTrue(
  name: (typeof ETCDCTL_VARIABLES)[number],
  variable: Variable,
  wrong: Wrong,
  otherwise: boolean,
): boolean {
  const text = variable(name);
  if (text === undefined) return otherwise;
  if (/^(1|t|true)$/i.test(text)) return true;
  return /^(0|f|false)$/i.test(text) ? false : wrong(`${name} must be 'true' or 'false', got '${text}'`);
}
