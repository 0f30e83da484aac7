/** One server of the list, and the channel to it. */
import { Buffer } from "node:buffer";
import { isIP } from "node:net";
import tls from "node:tls";
import * as grpc from "@grpc/grpc-js";
import { EtcdError } from "./error.ts";
import { Http2Connection } from "./http2.ts";
import { OLD_HTTP2 } from "./old_http2.ts";
import { TlsRelay } from "./relay.ts";
import { CONNECT_TIMEOUT_MS, denoTls, openSocket, type PemTexts, type Where } from "./socket.ts";
import { unary } from "./unary.ts";

/** Paths of PEM files; without a CA the system's are trusted. */
export interface TlsFiles {
  ca?: string;
  cert?: string;
  key?: string;
}

/**
 * grpc's default of 4 MB is exceeded by one replayed watch message, which then fails for ever. A message stands in
 * memory several times over: with 256 MiB the program had more than 600 MiB. What is larger comes in fragments
 * (lib/watching.ts), or as smaller pages.
 */
export const MAX_RECEIVE_BYTES = 48 * 1024 * 1024;
const MAX_SEND_BYTES = 256 * 1024 * 1024;
/** Where there is no connection, grpc answers at once, and says why. */
const REASON_TIMEOUT_MS = 500;

const CHANNEL_OPTIONS: grpc.ChannelOptions = {
  // grpc-js repeats a call that cannot be started for ever and without a pause, where the connection died as it was made
  "grpc.enable_retries": 0,
  "grpc.max_receive_message_length": MAX_RECEIVE_BYTES,
  "grpc.max_send_message_length": MAX_SEND_BYTES,
  "grpc.use_local_subchannel_pool": 1,
  // the direct way goes by none either (lib/etcd/socket.ts): etcd is reached as it is named
  "grpc.enable_http_proxy": 0,
  // where a ping cannot be sent, grpc-js drops the connection for it; a dead one is found by deadlines and the watchdog
  ...(!OLD_HTTP2 && { "grpc.keepalive_time_ms": 10_000, "grpc.keepalive_timeout_ms": 5_000 }),
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1_000,
};

/** The channel is made when it is needed, and anew after a failure: the certificates' files are read then. */
export class Endpoint {
  #client: grpc.Client | undefined;
  #relay: TlsRelay | undefined;
  #direct: Promise<Http2Connection> | undefined;

  /** @param address host:port */
  constructor(readonly address: string, readonly tls: TlsFiles | undefined) {}

  /**
   * The client, connected.
   * @throws {EtcdError} `unsent`: there is no connection, and why
   */
  async connected(): Promise<grpc.Client> {
    const client = this.#client ??= this.#open();
    if (await isReady(client)) return client;
    const error = await whyNot(client);
    if (error === null) return client;
    this.reset();
    // the reason may end with the address, where that is no name
    const reason = readReason(error).replace(` ${this.address}`, "");
    throw new EtcdError(error.code, `${this.address}: ${reason}`, true);
  }

  /**
   * For calls that move much, on a connection of its own.
   * @throws {EtcdError} `unsent`
   */
  async direct(): Promise<Http2Connection> {
    const opening = this.#direct ??= this.#openDirect();
    try {
      const connection = await opening;
      if (connection.usable) return connection;
    } catch (error) {
      if (this.#direct === opening) this.#direct = undefined;
      throw new EtcdError(grpc.status.UNAVAILABLE, `${this.address}: ${(error as Error).message}`, true);
    }
    if (this.#direct === opening) this.#direct = undefined;
    return await this.direct();
  }

  /** Behind a relay grpc knows only that its connection ended; the relay knows why. */
  explain(error: EtcdError): EtcdError {
    const reason = this.#relay?.failure;
    if (!reason) return error;
    return new EtcdError(grpc.status.UNAVAILABLE, `${this.address}: ${reason}`, error.unsent);
  }

  /** The next use makes a new channel. Calls on the old one come to their end. */
  reset(): void {
    this.#client?.close();
    this.#client = undefined;
    this.#relay?.[Symbol.dispose]();
    this.#relay = undefined;
    this.#direct?.then((connection) => connection.retire(), () => {});
    this.#direct = undefined;
  }

  async #openDirect(): Promise<Http2Connection> {
    const socket = await openSocket(this.#where(), this.tls && readFiles(this.tls));
    return new Http2Connection(socket, this.tls ? "https" : "http", this.address);
  }

  #where(): Where {
    const [, hostname, port] = /^\[?(.*?)\]?:(\d+)$/.exec(this.address)!;
    return { hostname, port: Number(port) };
  }

  #open(): grpc.Client {
    if (!this.tls) return new grpc.Client(this.address, grpc.credentials.createInsecure(), CHANNEL_OPTIONS);
    const files = readFiles(this.tls);
    if (OLD_HTTP2) return this.#openRelay(files);
    const { hostname: host } = this.#where();
    return new grpc.Client(this.address, credentials(files, isIP(host) ? host : undefined), {
      ...CHANNEL_OPTIONS,
      // An address must not be sent as a server's name; that it is the certificate's is checked all the same.
      ...(isIP(host) && { "grpc.ssl_target_name_override": "etcd" }),
    });
  }

  #openRelay(files: PemTexts): grpc.Client {
    this.#relay = new TlsRelay({ ...this.#where(), ...denoTls(files) });
    return new grpc.Client(this.#relay.target, grpc.credentials.createInsecure(), CHANNEL_OPTIONS);
  }
}

function readFiles({ ca, cert, key }: TlsFiles): PemTexts {
  return { ca: readPem("cacert", ca), cert: readPem("cert", cert), key: readPem("key", key) };
}

function readPem(name: string, path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    const reason = `${name} '${path}' cannot be read (${(error as Error).name})`;
    throw new EtcdError(grpc.status.UNAVAILABLE, reason, true);
  }
}

function credentials({ ca, cert, key }: PemTexts, address: string | undefined): grpc.ChannelCredentials {
  const bytes = (text: string | undefined) => text === undefined ? null : Buffer.from(text);
  const verify = address === undefined ? undefined : {
    checkServerIdentity: (_: string, cert: tls.PeerCertificate) => tls.checkServerIdentity(address, cert),
  };
  return grpc.credentials.createSsl(bytes(ca), bytes(key), bytes(cert), verify);
}

/** false: the connection has failed, or was not there in time. */
async function isReady(client: grpc.Client): Promise<boolean> {
  const channel = client.getChannel();
  const deadline = Date.now() + CONNECT_TIMEOUT_MS;
  for (let first = true;; first = false) {
    const state = channel.getConnectivityState(true);
    if (state === grpc.connectivityState.READY) return true;
    if (state === grpc.connectivityState.SHUTDOWN || Date.now() >= deadline) return false;
    if (state === grpc.connectivityState.TRANSIENT_FAILURE && !first) return false;
    await new Promise<void>((resolve) => channel.watchConnectivityState(state, deadline, () => resolve()));
  }
}

/** Only a call tells why there is no connection. null: by now there is one. */
async function whyNot(client: grpc.Client): Promise<EtcdError | null> {
  try {
    await unary(client, "Maintenance", "Status", {}, { timeoutMs: REASON_TIMEOUT_MS });
    return null;
  } catch (error) {
    return error as EtcdError;
  }
}

function readReason({ code, message }: EtcdError): string {
  if (code === grpc.status.DEADLINE_EXCEEDED) return `no connection within ${CONNECT_TIMEOUT_MS / 1_000} s`;
  // grpc's words around the cause, and its time stamp
  return message.replace(/^No connection established\. Last error: /, "").replace(/ \([^()]*\)$/, "").trim();
}
